"""Several requests at once in one replica, by `max_inflight`."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ONE = {"com.openfaas.scale.min": "1", "com.openfaas.scale.max": "1"}
MEETING = """
import os, threading, time

both = threading.Barrier(2)
state = {"now": 0, "most": 0}
lock = threading.Lock()

def handle(event, context):
    with lock:
        state["now"] += 1
        state["most"] = max(state["most"], state["now"])
    try:
        if "meet" in event.query:
            both.wait(30)
        time.sleep(float(event.query.get("sleep", 0)))
        if "exit" in event.query:
            os._exit(1)
        return {"body": {"most": state["most"]}}
    finally:
        with lock:
            state["now"] -= 1
"""


@pytest.fixture
def meeting(make_gateway: Callable[..., Any], project: Any) -> Callable[..., Any]:
    def start(max_inflight: str, **environment: str) -> Any:
        variables = {"max_inflight": max_inflight, **environment}
        project.add("fn", MEETING, labels=ONE, environment=variables)
        gateway = make_gateway()
        gateway.deploy()
        return gateway

    return start


def test_replica_has_so_many_requests_and_no_more(meeting: Callable[..., Any]) -> None:
    gateway = meeting("2")

    with ThreadPoolExecutor(8) as threads:
        met = list(threads.map(lambda _: gateway.call("fn", meet=""), range(2)))
        rest = list(threads.map(lambda _: gateway.call("fn", sleep=0.1), range(8)))

    assert [reply.status_code for reply in met + rest] == [200] * 10
    assert len({reply.headers["X-Replica"] for reply in met + rest}) == 1
    assert {reply.json()["most"] for reply in met + rest} == {2}


def test_update_and_scale_to_zero_let_every_running_request_end(meeting: Callable[..., Any]) -> None:
    gateway = meeting("4")
    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(gateway.call, "fn", sleep=3) for _ in range(2)]
        gateway.until(lambda: gateway.metric("localfaas_requests_in_flight") >= 2, "both run")

        gateway.system("PUT", "functions", json={"service": "fn", "image": "test/fn:latest"})
        other = gateway.call("fn").headers["X-Replica"]
        gateway.system("POST", "scale-function/fn", json={"replicas": 0})

        replies = [each.result() for each in running]
    assert [reply.status_code for reply in replies] == [200, 200]
    assert {reply.headers["X-Replica"] for reply in replies}.isdisjoint({other})
    gateway.until(lambda: gateway.replica_pids("fn", 0) == [], "no replica")


def test_timeout_of_one_request_leaves_the_others_and_replaces_the_replica(
    meeting: Callable[..., Any],
) -> None:
    gateway = meeting("4", exec_timeout="3s")
    results: list[Any] = []
    late = threading.Thread(target=lambda: results.append(gateway.call("fn", sleep=60)))
    late.start()
    gateway.until(lambda: gateway.metric("localfaas_requests_in_flight") >= 1, "one runs")
    time.sleep(1.5)

    other = gateway.call("fn", sleep=2)
    late.join()

    assert (results[0].status_code, results[0].json()["error"]) == (504, "timeout")
    assert other.status_code == 200
    gateway.until(
        lambda: gateway.call("fn").headers["X-Replica"] != other.headers["X-Replica"], "a new replica"
    )
    gateway.until(lambda: len(gateway.replica_pids("fn", 1)) == 1, "the other has ended")


def test_death_of_a_replica_is_told_to_all_its_requests(meeting: Callable[..., Any]) -> None:
    gateway = meeting("4")

    with ThreadPoolExecutor(4) as threads:
        others = [threads.submit(gateway.call, "fn", sleep=20) for _ in range(2)]
        gateway.until(lambda: gateway.metric("localfaas_requests_in_flight") >= 2, "they run")
        gateway.call("fn", exit="")
        replies = [each.result() for each in others]

    assert [(reply.status_code, reply.json()["error"]) for reply in replies] == [(502, "replica_lost")] * 2
    assert gateway.call("fn").status_code == 200


@pytest.mark.parametrize("value", ["-1", "x", "1.5"])
def test_impossible_max_inflight_is_a_400(meeting: Callable[..., Any], value: str) -> None:
    gateway = meeting("1")

    body = {"service": "fn", "image": "test/fn:latest", "envVars": {"max_inflight": value}}
    reply = gateway.system("PUT", "functions", json=body)

    assert (reply.status_code, "max_inflight" in reply.text) == (400, True)
