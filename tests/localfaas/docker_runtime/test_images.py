"""Images that are pulled, or not."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from docker_images import busybox_image, docker
from docker_registry import ImageRegistry

pytestmark = pytest.mark.slow


@pytest.fixture
def registry() -> Iterator[ImageRegistry]:
    with ImageRegistry() as registry:
        yield registry


@pytest.fixture
def pulled(registry: ImageRegistry, image: str) -> Iterator[str]:
    """The name of an image that the registry has and the daemon has not."""
    name = registry.put("team/fn", "1", image)
    yield name
    docker("image", "rm", "--force", name)


@pytest.fixture
def newer_image(image: str) -> Iterator[str]:
    with busybox_image(f"FROM {image}\nENV from_image=newer\n") as name:
        yield name


def deploy(gateway: Any, method: str, image: str, version: str) -> Any:
    body = {"service": "fn", "image": image, "envVars": {"version": version}}
    return gateway.system(method, "functions", json=body, timeout=120)


def test_missing_image_is_pulled_once(
    make_gateway: Callable[..., Any], registry: ImageRegistry, pulled: str, newer_image: str
) -> None:
    gateway = make_gateway("--runtime", "docker")

    assert deploy(gateway, "POST", pulled, "1").status_code == 202
    assert "from_image=yes" in gateway.call("fn", env="").text
    num_requests = registry.num_requests
    registry.put("team/fn", "1", newer_image)
    assert deploy(gateway, "PUT", pulled, "2").status_code == 202
    gateway.until(lambda: "version=2" in gateway.call("fn", env="").text, "the update")

    assert num_requests > 0 and registry.num_requests == num_requests
    assert "from_image=yes" in gateway.call("fn", env="").text


def test_image_that_is_always_pulled_is_the_newest(
    make_gateway: Callable[..., Any], registry: ImageRegistry, pulled: str, newer_image: str
) -> None:
    gateway = make_gateway("--runtime", "docker", "--pull-policy", "always")
    assert deploy(gateway, "POST", pulled, "1").status_code == 202
    assert "from_image=yes" in gateway.call("fn", env="").text

    registry.put("team/fn", "1", newer_image)
    assert deploy(gateway, "PUT", pulled, "2").status_code == 202

    gateway.until(lambda: "from_image=newer" in gateway.call("fn", env="").text, "the newer image")


def test_image_that_is_never_pulled_has_to_be_here(
    make_gateway: Callable[..., Any], registry: ImageRegistry, pulled: str
) -> None:
    gateway = make_gateway("--runtime", "docker", "--pull-policy", "never")

    reply = deploy(gateway, "POST", pulled, "1")

    assert reply.status_code == 400 and "--pull-policy is never" in reply.text
    assert registry.num_requests == 0


@pytest.mark.parametrize("policy", ["missing", "always"])
def test_image_that_cannot_be_pulled_is_refused(
    make_gateway: Callable[..., Any], image: str, policy: str
) -> None:
    gateway = make_gateway("--runtime", "docker", "--pull-policy", policy)
    # Nobody listens at this registry.
    absent = {"service": "fn", "image": "127.0.0.1:1/no/such:1"}

    reply = gateway.system("POST", "functions", json=absent, timeout=120)

    assert reply.status_code == 400
    assert "127.0.0.1:1/no/such:1" in reply.text and "cannot be pulled" in reply.text
    local = gateway.system("POST", "functions", json={"service": "fn", "image": image}, timeout=120)
    assert local.status_code == 202, local.text
    assert gateway.call("fn").status_code == 200
