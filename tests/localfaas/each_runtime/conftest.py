"""A gateway of each runtime in turn, and one function that every runtime has: `containers/probe.sh`."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from docker_images import CONTEXT, busybox_image, require_docker
from each_runtime import wait_available


@pytest.fixture(scope="module")
def docker_image() -> Iterator[str]:
    require_docker()
    with busybox_image() as name:
        yield name


@pytest.fixture(params=["process", "docker"])
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def image(runtime: str, request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("docker_image")) if runtime == "docker" else "test/probe"


@pytest.fixture
def gateway(runtime: str, image: str, make_gateway: Callable[..., Any]) -> Any:
    """A gateway of one runtime that knows the probe's image."""
    live = make_gateway("--runtime", runtime, "--pull-policy", "never")
    if runtime == "process":
        command = f"sh {CONTEXT / 'probe.sh'}"
        live.run("image", "add", image, "--command", command, "--env", "from_image=yes", "--mode", "classic")
    return live


@pytest.fixture
def deploy(gateway: Any, image: str) -> Callable[..., None]:
    """Deploy the probe as `fn`, and wait for its replicas."""

    def do(method: str = "POST", **fields: Any) -> None:
        body = {"service": "fn", "image": image, **fields}
        reply = gateway.system(method, "functions", json=body)
        assert reply.status_code == 202, reply.text
        replicas = int(fields.get("labels", {}).get("com.openfaas.scale.min", 1))
        wait_available(gateway, replicas)

    return do
