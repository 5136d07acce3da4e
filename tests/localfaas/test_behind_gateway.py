"""What an OpenFaaS gateway asks of a provider, beyond what its own clients ask."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def provider(make_gateway: Callable[..., Any]) -> Any:
    live = make_gateway("--behind-gateway")
    live.run("image", "add", "my/cat", "--command", "cat")
    return live


def chunked(body: object) -> Iterator[bytes]:
    """Yield JSON in pieces: requests sends it without a Content-Length."""
    text = json.dumps(body).encode()
    yield text[:5]
    yield text[5:]


def test_info_is_a_providers_own(provider: Any) -> None:
    info = provider.system("GET", "info").json()

    assert (info["provider"], info["orchestration"]) == ("localfaas", "process")
    assert set(info["version"]) == {"release", "sha"}


def test_every_body_may_come_in_chunks(provider: Any) -> None:
    secret = {"name": "token", "value": "s"}
    deployment = {"service": "fn", "image": "my/cat", "secrets": ["token"]}
    for method, path, body, status in [
        ("POST", "secrets", secret, 201),
        ("PUT", "secrets", secret, 202),
        ("POST", "namespace/", {"name": "team"}, 201),
        ("POST", "functions", deployment, 202),
        ("PUT", "functions", deployment, 202),
        ("POST", "scale-function/fn", {"serviceName": "fn", "replicas": 2}, 202),
    ]:
        reply = provider.system(method, path, data=chunked(body))

        assert reply.status_code == status, f"{method} {path}: {reply.text}"
    provider.wait_available("fn", 2)
    reply = provider.system("POST", "functions", data=iter([b" " * (1 << 20)] * 5))
    assert reply.status_code == 413
    for path, body in [("functions", {"functionName": "fn"}), ("secrets", {"name": "token"})]:
        assert provider.system("DELETE", path, data=chunked(body)).status_code == 202


def test_scaling_names_its_namespace_in_the_query(provider: Any) -> None:
    provider.system("POST", "namespace/", json={"name": "team"})
    provider.system("POST", "functions", json={"service": "fn", "image": "my/cat", "namespace": "team"})

    body = {"serviceName": "fn", "replicas": 2}
    reply = provider.system("POST", "scale-function/fn?namespace=team", data=chunked(body))

    assert reply.status_code == 202
    status = provider.system("GET", "function/fn?namespace=team&usage=false").json()
    assert status["replicas"] == 2
