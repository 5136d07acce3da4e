"""`peerless up --runtime docker`: the platform with stand-ins for the functions, in real containers.

That the real ones compute there what they compute elsewhere is shown in test_function_images.py.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
import requests
import torch
from docker_images import CONTEXT, containers, docker, networks, require_docker
from harness import LocalPlatform

from localfaas.config import StatePaths
from peer.errors import PlatformError
from peer.local.platform import FUNCTIONS
from peer.store.s3 import Store

pytestmark = pytest.mark.slow

ARGUMENTS = "\nARG TORCH_VERSION NOTE\nENV torch=${TORCH_VERSION} note=${NOTE}\n"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Path]:
    """A stack file whose functions are probes with a Dockerfile."""
    require_docker()
    handler = tmp_path / "probe"
    shutil.copytree(CONTEXT, handler)
    shutil.copy("/bin/busybox", handler)
    with (handler / "Dockerfile").open("a") as file:
        file.write(ARGUMENTS)
    prefix = f"peerless-test-{uuid4().hex[:12]}"
    functions = {
        name: {"lang": "dockerfile", "handler": "./probe", "image": f"{prefix}/{name}:1"}
        for name in FUNCTIONS
    }
    path = tmp_path / "stack.yml"
    path.write_text(json.dumps({"provider": {"name": "openfaas"}, "functions": functions}))
    yield path
    for name in FUNCTIONS:
        docker("image", "rm", "--force", f"{prefix}/{name}:1")


@pytest.fixture
def platform(stack: Path, tmp_path: Path) -> Iterator[LocalPlatform]:
    platform = LocalPlatform(tmp_path, "nanio")
    platform.options = replace(
        platform.options, stack=stack, runtime="docker", build_args=("NOTE=from the command line",)
    )
    yield platform
    platform.down()


def call(platform: LocalPlatform, query: str, body: str = "") -> str:
    url = f"{platform.gateway.url}/function/gradient?{query}"
    reply = requests.post(url, data=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.text


def test_functions_in_containers_reach_the_store_and_nothing_is_left(platform: LocalPlatform) -> None:
    identity = StatePaths(platform.directory / "state" / "localfaas").identity
    platform.up()
    with_store = Store(platform.store_address)
    with_store.put("runs/test/weights", [b"weights"], 7)
    url = with_store.sign_get("runs/test/weights", 600)
    with_store.close()

    assert call(platform, "fetch=", url) == "weights"
    environment = call(platform, "env=").splitlines()
    assert f"torch={torch.__version__.partition('+')[0]}" in environment
    assert "note=from the command line" in environment
    assert len(containers(identity)) == 1 + len(FUNCTIONS)

    platform.down()
    assert not containers(identity) and not networks(identity)


def test_up_keeps_the_runtime_and_refuses_another(platform: LocalPlatform) -> None:
    platform.up()
    wanted = replace(platform.options, runtime="process")

    with pytest.raises(PlatformError, match="has the docker runtime: `peerless down` first"):
        platform.platform.up(wanted, print)
    platform.kill("gateway")
    platform.platform.up(replace(platform.options, runtime=None), print)

    state = platform.platform.state()
    assert state.gateway is not None and state.gateway.runtime == "docker"
    assert "http_method" in call(platform, "").lower()


def test_image_that_cannot_be_built_ends_with_dockers_last_words(
    platform: LocalPlatform, stack: Path
) -> None:
    with (stack.parent / "probe" / "Dockerfile").open("a") as file:
        file.write('RUN ["sh", "-c", "echo no such wheel >&2; exit 9"]\n')

    with pytest.raises(PlatformError, match=r"no such wheel(.|\n)*returned a non-zero code: 9"):
        platform.up()
