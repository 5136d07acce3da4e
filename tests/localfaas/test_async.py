"""Calls that are answered later: each at least once, whatever is killed meanwhile."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from callbacks import Receiver

from localfaas.async_store import AsyncCall, CallResult, CallStore
from localfaas.callback import check_callback_url
from localfaas.errors import BadRequest, ConfigurationError

SLOW = {"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "2"}


def send(gateway: Any, body: bytes = b"", *, path: str = "probe", **headers: str) -> requests.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.post(f"{gateway.url}/async-function/{path}", data=body, headers=names, timeout=30)


def depth(gateway: Any) -> float:
    return gateway.metric("localfaas_async_queue_depth")


def test_call_is_taken_and_its_result_called_back(
    gateway: Any, receiver: Receiver, until: Callable[..., Any]
) -> None:
    reply = send(gateway, b"abc", path="probe/a%20b?x=1", X_Callback_Url=receiver.url, X_Own="kept")

    assert (reply.status_code, reply.content) == (202, b"")
    call_id = reply.headers["X-Call-Id"]
    until(lambda: receiver.taken, "the callback has come")
    headers, body = receiver.taken[0]
    assert (headers["x-call-id"], headers["x-function-status"]) == (call_id, "200")
    assert (headers["x-function-name"], headers["content-type"]) == ("probe", "application/json")
    assert float(headers["x-duration-seconds"]) > 0
    seen = requests.models.complexjson.loads(body)
    assert (seen["length"], seen["path"], seen["query"]) == (3, "/a b", {"x": "1"})
    assert (seen["headers"]["x-call-id"], seen["headers"]["x-own"]) == (call_id, "kept")
    assert "x-callback-url" not in seen["headers"]
    until(lambda: depth(gateway) == 0, "the queue is empty")


def test_call_keeps_the_id_it_came_with(gateway: Any, receiver: Receiver, until: Callable[..., Any]) -> None:
    reply = send(gateway, X_Call_Id="mine", X_Callback_Url=receiver.url)

    assert reply.headers["X-Call-Id"] == "mine"
    until(lambda: receiver.ids == ["mine"], "the callback has come")


def test_call_that_cannot_be_taken_says_why(gateway: Any) -> None:
    assert send(gateway, path="nobody").status_code == 404
    assert send(gateway, X_Callback_Url="file:///etc/passwd").status_code == 400
    assert send(gateway, X_Call_Id="x" * 201).status_code == 400
    too_large = send(gateway, b"x" * ((4 << 20) + 1))
    assert (too_large.status_code, too_large.json()["error"]) == (413, "payload_too_large")
    assert "--max-async-body-bytes" in too_large.json()["message"]
    chunked = requests.post(
        f"{gateway.url}/async-function/probe", data=(b"x" * (1 << 20) for _ in range(5)), timeout=30
    )
    assert chunked.status_code == 413
    assert depth(gateway) == 0


@pytest.mark.parametrize(
    "url", ["", "/path", "ftp://host/", "http://", "http://a b/", "http://h:x/", "http://h/\n"]
)
def test_check_callback_url_unusable_is_refused(url: str) -> None:
    with pytest.raises(BadRequest):
        check_callback_url(url)


def test_queue_that_is_full_is_429(make_gateway: Callable[..., Any], project: Any) -> None:
    project.add("probe")
    gateway = make_gateway("--max-async-waiting", "1")
    gateway.deploy()

    assert send(gateway, path="probe?sleep=1").status_code == 202
    refused = send(gateway)

    assert (refused.status_code, refused.json()["error"]) == (429, "queue_full")
    assert refused.headers["Retry-After"] == "1"


def test_failed_call_and_failed_callback_are_tried_again(
    make_gateway: Callable[..., Any], project: Any, receiver: Receiver, until: Callable[..., Any]
) -> None:
    project.add("probe", FAILS_ONCE)
    gateway = make_gateway()
    gateway.deploy()
    receiver.num_to_refuse = 1

    send(gateway, X_Callback_Url=receiver.url)

    until(lambda: receiver.taken, "the callback has come")
    headers, body = receiver.taken[0]
    assert (headers["x-function-status"], body) == ("200", b"2")
    assert "is tried again in 1 s: status 500" in gateway.errors
    assert "its callback failed: status 302" in gateway.errors
    until(lambda: depth(gateway) == 0, "the queue is empty")
    assert len(receiver.taken) == 1


FAILS_ONCE = """
from pathlib import Path

def handle(event, context):
    with open("attempts", "a") as file:
        file.write("x")
    attempts = len(Path("attempts").read_text())
    if attempts == 1:
        raise ValueError("the first time")
    return str(attempts)
"""


def test_answer_that_is_no_passing_failure_is_called_back_at_once(
    gateway: Any, receiver: Receiver, until: Callable[..., Any]
) -> None:
    send(gateway, path="probe?redirect=/x", X_Callback_Url=receiver.url)

    until(lambda: receiver.taken, "the callback has come")
    assert receiver.taken[0][0]["x-function-status"] == "302"


def test_call_of_a_function_removed_meanwhile_is_called_back_with_404(
    make_gateway: Callable[..., Any], project: Any, receiver: Receiver, until: Callable[..., Any]
) -> None:
    project.add("probe", labels={"com.openfaas.scale.max": "1"})
    gateway = make_gateway("--grace-seconds", "5")
    gateway.deploy()
    for _ in range(2):
        send(gateway, path="probe?sleep=1", X_Callback_Url=receiver.url)
    until(lambda: gateway.metric("localfaas_requests_in_flight") == 1, "the first runs")

    gateway.system("DELETE", "functions", json={"functionName": "probe"})

    until(lambda: len(receiver.taken) == 2, "both are answered")
    assert sorted(headers["x-function-status"] for headers, _ in receiver.taken) == ["200", "404"]


APPENDS = """
import os, time

def handle(event, context):
    call_id = event.headers["X-Call-Id"]
    running = f"{call_id}.running"
    os.close(os.open(running, os.O_CREAT | os.O_EXCL))
    time.sleep(0.02)
    os.unlink(running)
    return call_id
"""


def test_hundred_calls_with_a_kill_in_between_are_called_back_once_each(
    make_gateway: Callable[..., Any], project: Any, receiver: Receiver, until: Callable[..., Any]
) -> None:
    project.add("probe", APPENDS, labels=SLOW)
    gateway = make_gateway()
    gateway.deploy()
    folder = gateway.state_dir / "build" / "probe"
    with ThreadPoolExecutor(8) as threads:
        replies = list(
            threads.map(
                lambda n: send(gateway, b"x", X_Callback_Url=receiver.url, X_Call_Id=f"c{n}"), range(100)
            )
        )
    assert {reply.status_code for reply in replies} == {202}
    until(lambda: len(receiver.taken) >= 10, "some are answered")

    gateway.kill()

    num_before = len(receiver.taken)
    assert num_before < 100, "the kill came in between"
    for cut_off in folder.glob("*.running"):
        cut_off.unlink()
    gateway.start()
    until(lambda: len(set(receiver.ids)) == 100 and depth(gateway) == 0, "all are answered", 60)
    assert set(receiver.ids) == {f"c{number}" for number in range(100)}
    # One that was being sent when the kill came may come again: its id says so.
    assert len(receiver.ids) <= 104
    assert {headers["x-function-status"] for headers, _ in receiver.taken} == {"200"}
    assert all(body.decode() == headers["x-call-id"] for headers, body in receiver.taken)


@pytest.mark.slow
def test_calls_survive_a_stop(
    make_gateway: Callable[..., Any], project: Any, receiver: Receiver, until: Callable[..., Any]
) -> None:
    project.add("probe", labels={"com.openfaas.scale.max": "1"})
    gateway = make_gateway()
    gateway.deploy()
    ids = [
        send(gateway, path="probe?sleep=0.5", X_Callback_Url=receiver.url).headers["X-Call-Id"]
        for _ in range(3)
    ]
    until(lambda: gateway.metric("localfaas_requests_in_flight") == 1, "one runs")
    assert depth(gateway) == 3
    assert gateway.metric("localfaas_async_queue_oldest_seconds") > 0

    assert gateway.stop() == 0

    gateway.start()
    until(lambda: sorted(receiver.ids) == sorted(ids), "all are answered, each once")


def test_store_keeps_calls_and_results_as_they_were(tmp_path: Path) -> None:
    call = AsyncCall(
        "id", "fn", "PUT", b"/\xff?x", [(b"a", b"\xe9"), (b"a", b"2")], bytes(range(256)), "http://h/"
    )
    result = CallResult(201, [(b"b", b"\xff")], b"\0done")

    async def write() -> None:
        store = CallStore(tmp_path / "calls.sqlite")
        first, second = await store.add(call, 1.0), await store.add(call, 2.0)
        second.num_attempts, second.due_at = 3, 9.0
        await store.postpone(second)
        await store.finish(first.number, result)
        await store.remove((await store.add(call, 3.0)).number)
        await store.close()

    async def read() -> list[Any]:
        store = CallStore(tmp_path / "calls.sqlite")
        entries = await store.entries()
        found = [(entry, *await store.read(entry.number)) for entry in entries]
        await store.close()
        return found

    asyncio.run(write())
    (first, _, first_result), (second, second_call, second_result) = asyncio.run(read())

    assert (first.has_result, first_result) == (True, result)
    assert (second.enqueued_at, second.num_attempts, second.due_at) == (2.0, 3, 9.0)
    assert (second_call, second_result) == (call, None)


def test_store_that_is_damaged_says_which_file(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    path.write_bytes(b"no database at all, but long enough to be taken for one" * 100)

    with pytest.raises(ConfigurationError, match=r"calls\.sqlite"):
        CallStore(path)
