"""Requests to `/function/<name>`, through a real gateway to real replicas."""

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_call_with_any_verb_reaches_the_handler_whole(gateway: Any, method: str) -> None:
    url = f"{gateway.url}/function/probe/a%20b/c?x=1&y=%26"

    reply = requests.request(method, url, data=b"body", headers={"X-Mine": "yes"}, timeout=10)

    seen = reply.json()
    assert (seen["method"], seen["path"], seen["length"]) == (method, "/a b/c", 4)
    assert seen["query"] == {"x": "1", "y": "&"}
    assert seen["headers"]["x-mine"] == "yes"
    assert seen["headers"]["x-forwarded-for"] == "127.0.0.1"
    assert seen["headers"]["x-call-id"] == reply.headers["X-Call-Id"]
    assert float(reply.headers["X-Duration-Seconds"]) > 0
    assert abs(int(reply.headers["X-Start-Time"]) / 1e9 - time.time()) < 60
    assert reply.headers["X-Replica"] == seen["replica"]


def test_call_head_has_headers_and_no_body(gateway: Any) -> None:
    for _ in range(3):
        reply = requests.head(f"{gateway.url}/function/probe?size=1000", timeout=10)

        assert (reply.status_code, reply.headers["Content-Length"], reply.content) == (200, "1000", b"")


def test_call_with_an_id_keeps_it(gateway: Any) -> None:
    reply = requests.get(f"{gateway.url}/function/probe", headers={"X-Call-Id": "mine-1"}, timeout=10)

    assert reply.headers["X-Call-Id"] == reply.json()["headers"]["x-call-id"] == "mine-1"


def test_call_redirect_is_passed_back(gateway: Any) -> None:
    reply = gateway.call("probe", redirect="http://elsewhere/")

    assert (reply.status_code, reply.headers["Location"]) == (302, "http://elsewhere/")


def test_call_that_raises_is_a_typed_500(gateway: Any) -> None:
    reply = gateway.call("probe", **{"raise": 1})

    assert reply.status_code == 500
    assert reply.json() == {"error": "internal", "message": "ValueError: as asked"}
    assert "Traceback" in gateway.system("GET", "logs?name=probe").text


@pytest.mark.parametrize("num_bytes", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5_000_000])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_call_body_of_any_length_arrives_whole(gateway: Any, num_bytes: int, is_chunked: bool) -> None:
    body = b"x" * num_bytes
    pieces: Iterator[bytes] = (body[start : start + 70_000] for start in range(0, num_bytes, 70_000))

    reply = requests.post(f"{gateway.url}/function/probe", data=pieces if is_chunked else body, timeout=30)

    assert reply.json()["length"] == num_bytes


def test_call_large_reply_arrives_whole(gateway: Any) -> None:
    reply = gateway.call("probe", size=20_000_000)

    assert hashlib.sha256(reply.content).digest() == hashlib.sha256(b"x" * 20_000_000).digest()


def test_call_streaming_reply_comes_piece_by_piece(gateway: Any) -> None:
    url = f"{gateway.url}/function/probe?stream=5&pause=0.1"

    started = time.monotonic()
    with requests.get(url, stream=True, timeout=10) as reply:
        lines = reply.iter_lines(chunk_size=1)
        first = next(lines)
        first_seconds = time.monotonic() - started
        rest = list(lines)

    assert (first, rest) == (b"0", [b"1", b"2", b"3", b"4"])
    assert reply.headers["Content-Type"].startswith("text/x-pieces")
    assert first_seconds < 0.35 < time.monotonic() - started


def test_calls_in_parallel_are_all_answered_one_at_a_time_a_replica(gateway: Any) -> None:
    with ThreadPoolExecutor(100) as threads:
        replies = list(threads.map(lambda _: gateway.call("probe", sleep=0.01), range(100)))

    assert [reply.status_code for reply in replies] == [200] * 100
    assert len({reply.json()["pid"] for reply in replies}) == 2


def test_idle_replica_that_was_slow_is_left_to_a_faster_one(gateway: Any) -> None:
    def replica(seconds: float) -> str:
        name: str = gateway.call("probe", sleep=seconds).json()["replica"]
        return name

    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(replica, 1.0)
        fast = threads.submit(replica, 0.1)

    assert slow.result() != fast.result()
    assert replica(0.1) == fast.result()


def test_calls_that_wait_are_served_in_their_order(gateway: Any, until: Callable[..., Any]) -> None:
    gateway.system("POST", "functions", json={"service": "single", "image": "test/probe:latest"})
    gateway.wait_available("single", 1)
    served: list[int] = []

    def call(number: int) -> None:
        gateway.call("single", sleep=0.05)
        served.append(number)

    threads = []
    for number in range(8):
        threads.append(threading.Thread(target=call, args=(number,)))
        threads[-1].start()
        until(
            lambda n=number: (
                gateway.metric("localfaas_requests_in_flight", function_name="single.openfaas-fn")
                + len(served)
                > n
            ),
            "it waits",
        )
    for thread in threads:
        thread.join()

    assert served == list(range(8))
    gateway.system("DELETE", "functions", json={"functionName": "single"})


def test_call_beyond_the_queue_bound_is_429(
    make_gateway: Callable[..., Any], project: Any, until: Callable[..., Any]
) -> None:
    project.add("probe")
    gateway = make_gateway("--max-waiting", "2")
    gateway.deploy()

    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(gateway.call, "probe", sleep=0.5) for _ in range(3)]
        until(lambda: gateway.metric("localfaas_requests_waiting") == 2, "two requests wait")
        refused = gateway.call("probe")

    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert refused.json()["error"] == "queue_full"
    assert [each.result().status_code for each in waiting] == [200] * 3


def open_call(gateway: Any, request: bytes) -> socket.socket:
    parts = urlsplit(gateway.url)
    connection = socket.create_connection((parts.hostname, parts.port or 80), timeout=10)
    connection.sendall(request)
    return connection


def test_client_gone_while_waiting_leaves_the_queue(gateway: Any, until: Callable[..., Any]) -> None:
    request = b"POST /function/probe?sleep=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    connections = [open_call(gateway, request) for _ in range(6)]
    until(
        lambda: gateway.metric("localfaas_requests_waiting", function_name="probe.openfaas-fn") == 4,
        "four wait",
    )

    for connection in connections:
        connection.close()

    until(lambda: gateway.metric("localfaas_requests_in_flight") == 0, "nothing in flight", 2.5)
    assert gateway.metric("gateway_function_invocation_total", code="499") == 4
    assert gateway.status("probe")["availableReplicas"] == 2


def test_client_gone_within_a_long_body_costs_the_replica_and_no_more(
    gateway: Any, until: Callable[..., Any]
) -> None:
    before = gateway.metric("localfaas_replicas_lost_total", function_name="probe.openfaas-fn")
    connection = open_call(
        gateway,
        b"POST /function/probe HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 2_000_000,
    )
    until(lambda: gateway.metric("localfaas_requests_in_flight") == 1, "it is being passed on")

    connection.close()

    until(
        lambda: (
            gateway.metric("localfaas_replicas_lost_total", function_name="probe.openfaas-fn") == before + 1
        ),
        "lost",
    )
    gateway.wait_available("probe", 2)
    assert gateway.call("probe").status_code == 200


def test_call_beyond_its_exec_timeout_is_504_and_a_fresh_replica_follows(gateway: Any) -> None:
    body = {"service": "slow", "image": "test/probe:latest", "envVars": {"exec_timeout": "300ms"}}
    gateway.system("POST", "functions", json=body)
    gateway.wait_available("slow", 1)

    late = gateway.call("slow", sleep=30)

    assert (late.status_code, late.json()["error"], late.json()["exec_timeout_seconds"]) == (
        504,
        "timeout",
        0.3,
    )
    after = gateway.call("slow")
    assert (after.status_code, after.headers["X-Cold-Start"]) == (200, "1")
    assert "X-Cold-Start" not in gateway.call("slow").headers
    gateway.system("DELETE", "functions", json={"functionName": "slow"})


@pytest.mark.parametrize(
    "name", ["..", ".", "%2e%2e", "probe%00", "PROBE", "probe.other", "", "probe%2f..", "a b"]
)
def test_call_hostile_name_is_not_found(gateway: Any, name: str) -> None:
    connection = open_call(
        gateway, f"GET /function/{name.replace(' ', '%20')} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    )
    with connection:
        assert b" 404 " in connection.makefile("rb").readline()


def test_removed_function_ends_its_running_call_first(gateway: Any, until: Callable[..., Any]) -> None:
    gateway.system("POST", "functions", json={"service": "leaving", "image": "test/probe:latest"})
    gateway.wait_available("leaving", 1)
    with ThreadPoolExecutor(2) as threads:
        running = threads.submit(gateway.call, "leaving", sleep=3)
        until(
            lambda: gateway.metric("localfaas_requests_in_flight", function_name="leaving.openfaas-fn") == 1,
            "it runs",
        )
        waiting = threads.submit(gateway.call, "leaving")
        until(
            lambda: gateway.metric("localfaas_requests_waiting", function_name="leaving.openfaas-fn") == 1,
            "it waits",
        )

        gateway.system("DELETE", "functions", json={"functionName": "leaving"})

        assert (waiting.result().status_code, waiting.result().headers["Retry-After"]) == (503, "1")
        assert running.result().status_code == 200
    assert gateway.replica_pids("leaving", 0) == []


def test_redeployed_function_serves_the_new_code(make_gateway: Callable[..., Any], project: Any) -> None:
    project.add("probe", "def handle(event, context):\n    return 'old'\n")
    gateway = make_gateway()
    gateway.deploy()
    assert gateway.call("probe").text == "old"

    (project.directory / "functions" / "probe" / "handler.py").write_text(
        "def handle(e, c):\n    return 'new'\n"
    )
    gateway.deploy()

    assert gateway.call("probe").text == "new"


def test_function_logs_are_streamed_while_followed(gateway: Any) -> None:
    gateway.call("probe", print="earlier")
    path = f"{gateway.url}/system/logs?name=probe&follow=true&tail=1"

    with requests.get(path, auth=gateway.auth, stream=True, timeout=10) as reply:
        lines = reply.iter_lines(chunk_size=1)
        first = next(lines)
        gateway.call("probe", print="later")
        second = next(lines)

    assert reply.headers["Content-Type"] == "application/x-ndjson"
    assert b'"text": "earlier"' in first
    assert b'"text": "later"' in second
    assert b'"instance": "probe-' in second


@pytest.mark.parametrize("query", ["tail=x", "since=yesterday", "since=2026-01-01T00:00:00"])
def test_function_logs_with_a_nonsense_query_are_400(gateway: Any, query: str) -> None:
    assert gateway.system("GET", f"logs?name=probe&{query}").status_code == 400
