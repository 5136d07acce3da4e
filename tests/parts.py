"""Parts of the surroundings that a machine may lack: a test without one is skipped, in CI it fails."""

import os
import shutil
from typing import NoReturn

import pytest

from localfaas.errors import ConfigurationError
from localfaas.memory import choose_memory_controller


def missing(reason: str) -> NoReturn:
    """End the test: skipped, or failed where everything has to be there (`PEERLESS_REQUIRE_ALL=1`)."""
    if os.environ.get("PEERLESS_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def memory_cgroup() -> None:
    """Return if a control group for memory can be made here; without one the test ends."""
    try:
        choose_memory_controller("cgroup", "probe-of-tests").close()
    except ConfigurationError as error:
        missing(str(error))


def program(name: str, remedy: str) -> str:
    """Return the path of a program; without it the test ends, with the remedy in its reason."""
    path = shutil.which(name)
    if path is None:
        missing(f"no {name} program: {remedy}")
    return path
