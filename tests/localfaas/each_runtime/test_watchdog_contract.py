"""What a function's environment asks of the gateway, which stands where a watchdog would, on each runtime."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.slow

ONE_REPLICA = {"com.openfaas.scale.max": "1"}


@pytest.mark.parametrize(
    ("name", "other"), [("exec_timeout", "write_timeout"), ("write_timeout", "exec_timeout")]
)
def test_call_beyond_its_tighter_timeout_is_a_504_and_its_replica_is_replaced(
    gateway: Any, deploy: Callable[..., None], name: str, other: str
) -> None:
    deploy(envVars={name: "2s", other: "90s"}, labels=ONE_REPLICA)
    before = gateway.call("fn")

    reply = gateway.call("fn", sleep="80")

    assert (reply.status_code, reply.json()["error"]) == (504, "timeout")
    assert reply.json()[f"{name}_seconds"] == 2
    after = gateway.call("fn")
    assert (before.status_code, after.status_code) == (200, 200)
    assert after.headers["X-Replica"] != before.headers["X-Replica"], "what it still does is ended"


@pytest.mark.parametrize("num_bytes", [100, 3 << 20])
def test_request_that_does_not_come_within_read_timeout_is_a_408(
    gateway: Any, deploy: Callable[..., None], num_bytes: int
) -> None:
    deploy(envVars={"read_timeout": "1s"}, labels=ONE_REPLICA)
    parts = urlsplit(gateway.url)

    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        head = f"POST /function/fn HTTP/1.1\r\nHost: x\r\nContent-Length: {num_bytes + 1}\r\n\r\n"
        connection.sendall(head.encode() + b"x" * num_bytes)
        reply = connection.makefile("rb").read()

    assert reply.startswith(b"HTTP/1.1 408 ") and b"read_timeout of 1 s" in reply
    gateway.until(lambda: gateway.call("fn", b"whole").text.endswith("body=whole\n"), "it serves others")


@pytest.mark.parametrize(("max_inflight", "num_waiting"), [("1", 2), ("2", 1), ("0", 0)])
def test_replica_has_as_many_calls_as_max_inflight_says_and_the_rest_wait(
    gateway: Any, deploy: Callable[..., None], max_inflight: str, num_waiting: int
) -> None:
    deploy(envVars={"max_inflight": max_inflight}, labels=ONE_REPLICA)

    with ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(gateway.call, "fn", sleep="4") for _ in range(3)]
        gateway.until(lambda: seen(gateway) == (3, num_waiting), f"three calls, {num_waiting} of them wait")
        replies = [call.result() for call in calls]

    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.headers["X-Replica"] for reply in replies}) == 1


def seen(gateway: Any) -> tuple[float, float]:
    """Return how many calls have come, and how many of them wait."""
    return gateway.metric("localfaas_requests_in_flight"), gateway.metric("localfaas_requests_waiting")


def test_upstream_url_is_for_the_watchdog_in_front_of_the_function(
    gateway: Any, deploy: Callable[..., None]
) -> None:
    # Of a container's watchdog, or of a mode without an upstream: neither is the gateway's to follow.
    deploy(envVars={"upstream_url": "http://127.0.0.1:5000"})

    reply = gateway.call("fn", env="")

    assert reply.status_code == 200
    assert "upstream_url=http://127.0.0.1:5000" in reply.text.splitlines()
