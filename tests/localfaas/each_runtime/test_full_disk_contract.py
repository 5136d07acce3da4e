"""A state directory without a free byte, on each runtime."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from disks import fill, small_disk
from each_runtime import is_nothing_left, wait_available

pytestmark = pytest.mark.slow

DISK_BYTES = 4 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "state", DISK_BYTES) as path:
        yield path


@pytest.fixture
def gateway(disk: Path, gateway: Any) -> Any:
    """The runtime's gateway, with its state on a small disk."""
    assert gateway.state_dir == disk
    return gateway


def test_full_disk_neither_ends_a_function_nor_keeps_it_from_coming_back(
    gateway: Any, image: str, deploy: Callable[..., None], runtime: str
) -> None:
    gateway.system("POST", "secrets", json={"name": "one", "value": "v"})
    deploy(secrets=["one"], limits={"memory": "48Mi"}, labels={"com.openfaas.scale.max": "1"})

    fill(gateway.state_dir)

    assert gateway.call("fn", secret="one").text == "v"
    assert gateway.call("fn", hungry=str(200 << 20)).status_code == 507
    assert gateway.call("fn", secret="one").text == "v", "another replica has its secrets, too"
    refused = gateway.system("PUT", "functions", json={"service": "fn", "image": image})
    assert (refused.status_code, "no room for" in refused.text) == (507, True)

    gateway.kill()
    gateway.start()

    wait_available(gateway, 1)
    assert gateway.call("fn", secret="one").text == "v"
    assert gateway.system("DELETE", "functions", json={"functionName": "fn"}).status_code == 202
    gateway.until(lambda: is_nothing_left(gateway.state_dir, runtime), "nothing is left")
    assert not list((gateway.state_dir / "mounts").iterdir())
