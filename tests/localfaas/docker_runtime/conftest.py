"""A gateway whose replicas are containers, and one function in it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from docker_images import busybox_image, require_docker

from localfaas.config import StatePaths


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    require_docker()
    with busybox_image() as name:
        yield name


@pytest.fixture(scope="session")
def root_image(image: str) -> Iterator[str]:
    """The same, but nobody's rights are in the way of what a container may not do."""
    with busybox_image(f"FROM {image}\nUSER 0\nVOLUME /kept\n") as name:
        yield name


@pytest.fixture
def gateway(image: str, make_gateway: Callable[..., Any]) -> Any:
    return make_gateway("--runtime", "docker", "--pull-policy", "never")


@pytest.fixture
def identity(gateway: Any) -> str:
    return StatePaths(gateway.state_dir).identity


@pytest.fixture
def deploy(gateway: Any, image: str) -> Callable[..., None]:
    """Deploy `fn` and wait for its replicas."""

    def do(method: str = "POST", *, is_awaited: bool = True, **fields: Any) -> None:
        reply = gateway.system(method, "functions", json={"service": "fn", "image": image, **fields})
        assert reply.status_code == 202, reply.text
        replicas = int(fields.get("labels", {}).get("com.openfaas.scale.min", 1))
        if is_awaited:
            gateway.until(lambda: gateway.status("fn")["availableReplicas"] == replicas, "replicas of fn")

    return do
