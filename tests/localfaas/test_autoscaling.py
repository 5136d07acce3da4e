"""Replicas that come and go by themselves, in a real gateway."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

PREFIX = "com.openfaas.scale."


@pytest.fixture
def scaled(make_gateway: Callable[..., Any], project: Any) -> Callable[..., Any]:
    """Return a function that starts a gateway with the function `probe` of some labels and settings."""

    def start(labels: dict[str, str], **settings: Any) -> Any:
        project.add("probe", labels={PREFIX + name: value for name, value in labels.items()}, **settings)
        gateway = make_gateway()
        gateway.deploy()
        return gateway

    return start


def test_capacity_adds_replicas_while_requests_wait(
    scaled: Callable[..., Any], until: Callable[..., Any]
) -> None:
    gateway = scaled({"type": "capacity", "target": "1", "max": "3"})

    with ThreadPoolExecutor(5) as threads:
        calls = [threads.submit(gateway.call, "probe", sleep=1.3) for _ in range(5)]
        gateway.wait_available("probe", 3)

        assert {call.result().status_code for call in calls} == {200}
    assert len({call.result().headers["X-Replica"] for call in calls}) == 3
    assert "3 replicas instead of 1: 5 requests in flight, a replica for 1" in gateway.errors
    assert gateway.metric("gateway_service_count", function_name="probe.openfaas-fn") == 3


@pytest.mark.slow
def test_capacity_does_not_add_what_the_cores_cannot_carry(
    scaled: Callable[..., Any], until: Callable[..., Any]
) -> None:
    gateway = scaled({"type": "capacity", "target": "1"}, limits={"cpu": "1000"})

    with ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(gateway.call, "probe", sleep=1.2) for _ in range(3)]

        assert {call.result().status_code for call in calls} == {200}
    assert gateway.status("probe")["replicas"] == 1
    assert "replicas instead of" not in gateway.errors


@pytest.mark.slow
def test_idle_function_sleeps_until_a_request_that_waits_for_it(
    scaled: Callable[..., Any], until: Callable[..., Any]
) -> None:
    gateway = scaled({"zero": "true", "zero-duration": "1s", "min": "2"})

    gateway.wait_available("probe", 0)
    assert gateway.status("probe")["replicas"] == 0
    assert gateway.metric("gateway_function_invocation_total") == 0
    assert gateway.call("probe").status_code == 200

    gateway.wait_available("probe", 2)
    gateway.wait_available("probe", 0)
    stored = json.loads((gateway.state_dir / "functions" / "probe.json").read_text())
    assert stored["replicas"] == 0


@pytest.mark.slow
def test_idling_never_cuts_a_running_request(scaled: Callable[..., Any], until: Callable[..., Any]) -> None:
    gateway = scaled({"zero": "true", "zero-duration": "1s"})

    reply = gateway.call("probe", sleep=2.5)

    assert reply.status_code == 200
    gateway.wait_available("probe", 0)


def test_what_an_operator_asked_for_survives_a_restart(scaled: Callable[..., Any]) -> None:
    gateway = scaled({"type": "capacity"})
    gateway.system("POST", "scale-function/probe", json={"replicas": 2})
    gateway.wait_available("probe", 2)

    gateway.kill()
    gateway.start()

    gateway.wait_available("probe", 2)
    stored = json.loads((gateway.state_dir / "functions" / "probe.json").read_text())
    assert (stored["replicas"], stored["floor"]) == (2, 2)
