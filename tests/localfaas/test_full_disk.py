"""A function fills the disk that the gateway keeps its state on."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from callbacks import Receiver
from disks import fill, small_disk

from localfaas.async_store import AsyncCall, CallStore
from localfaas.config import write_atomically
from localfaas.errors import StorageFull
from localfaas.logs import FunctionLog
from localfaas.namespaces import FunctionName

DISK_BYTES = 4 << 20
TWO_REPLICAS = {"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "2"}
REPLY_BYTES = 300_000
NUM_CALLS = 5

FILLER = """
import errno

def handle(event, context):
    with open("filling", "ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 65536)
        except OSError as error:
            return errno.errorcode[error.errno]
"""
PRINTER = """
def handle(event, context):
    print(event.query["word"])
    return "printed"
"""
# It waits for a file, notes that it ran where the disk is not full, and replies at length.
WAITER = """
import os, pathlib, time

def handle(event, context):
    elsewhere = pathlib.Path(os.environ["elsewhere"])
    while not (elsewhere / "gate").exists():
        time.sleep(0.02)
    with open(elsewhere / "runs", "a") as file:
        file.write(event.headers["X-Call-Id"] + "\\n")
    return "x" * int(os.environ["reply_bytes"])
"""
FLOOD = """
import os

def handle(event, context):
    for _ in range(2_000):
        os.write(1, b"x" * 4095 + b"\\n")
    return "flooded"
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "state", DISK_BYTES) as path:
        yield path


@pytest.fixture
def gateway(disk: Path, tmp_path: Path, make_gateway: Callable[..., Any], project: Any) -> Any:
    """A gateway whose state directory is a disk of 4 MiB, with a function that fills it."""
    environment = {"elsewhere": str(tmp_path), "reply_bytes": str(REPLY_BYTES)}
    project.add("filler", FILLER)
    project.add("fn", PRINTER)
    project.add("waiter", WAITER, labels=TWO_REPLICAS, environment=environment)
    live = make_gateway()
    live.deploy()
    return live


def let_fill(gateway: Any) -> None:
    """Have the function fill the disk."""
    assert gateway.call("filler").text == "ENOSPC"
    fill(gateway.state_dir)


def make_room(gateway: Any) -> None:
    """Remove the function, and what it has written."""
    assert gateway.system("DELETE", "functions", json={"functionName": "filler"}).status_code == 202
    (gateway.state_dir / "build" / "filler" / "filling").unlink()


def send(gateway: Any, call_id: str, url: str) -> requests.Response:
    headers = {"X-Call-Id": call_id, "X-Callback-Url": url}
    return requests.post(f"{gateway.url}/async-function/waiter", headers=headers, timeout=30)


def stored(state_dir: Path) -> dict[str, bytes]:
    """Return every file that says what is deployed, by its path."""
    folders = [state_dir / name for name in ("functions", "namespaces", "secrets", "images", "build")]
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in found if path.name != "filling"}


CHANGES = [
    ("POST", "functions", {"service": "new", "image": "test/fn:latest"}, 202),
    ("PUT", "functions", {"service": "fn", "image": "test/fn:latest", "envVars": {"a": "b"}}, 202),
    ("POST", "secrets", {"name": "two", "value": "v"}, 201),
    ("PUT", "secrets", {"name": "one", "value": "another"}, 202),
    ("POST", "namespace/", {"name": "dev"}, 201),
    ("POST", "scale-function/fn", {"replicas": 3}, 202),
]


@pytest.mark.slow
def test_changes_are_refused_and_lose_nothing_and_others_go_on_answering(gateway: Any) -> None:
    assert gateway.system("POST", "secrets", json={"name": "one", "value": "v"}).status_code == 201
    before, status = stored(gateway.state_dir), gateway.status("fn")

    assert gateway.metric("localfaas_state_disk_free_bytes") > 1 << 20

    let_fill(gateway)

    assert gateway.metric("localfaas_state_disk_free_bytes") == 0
    assert gateway.metric("localfaas_state_disk_size_bytes") == DISK_BYTES
    for method, path, body, _ in CHANGES:
        reply = gateway.system(method, path, json=body)
        assert (reply.status_code, "no room for" in reply.text) == (507, True), (
            f"{method} {path}: {reply.text}"
        )
        assert str(gateway.state_dir) in reply.text and "0.0 of 4.0 MiB are free" in reply.text
    built = gateway.run("build", "-f", "stack.yml")
    assert (built.returncode, "No space left on device" in built.stderr) == (2, True), built.stderr
    added = gateway.run("image", "add", "my/sum", "--command", "cat")
    assert (added.returncode, "No space left on device" in added.stderr) == (1, True), added.stderr
    assert stored(gateway.state_dir) == before
    assert gateway.status("fn") == status
    assert gateway.system("GET", "function/new").status_code == 404
    assert gateway.call("fn", word="still-here").text == "printed"
    gateway.until(lambda: "still-here" in gateway.system("GET", "logs?name=fn").text, "the log")
    assert gateway.metric("gateway_function_invocation_total", function_name="fn.openfaas-fn") == 1

    make_room(gateway)

    for method, path, body, expected in CHANGES:
        assert gateway.system(method, path, json=body).status_code == expected
    gateway.kill()
    gateway.start()
    gateway.wait_available("fn", 3)
    gateway.wait_available("new", 1)


@pytest.mark.slow
@pytest.mark.parametrize("is_killed", [False, True])
def test_queue_keeps_what_it_took_and_refuses_the_rest(
    gateway: Any, tmp_path: Path, receiver: Receiver, is_killed: bool
) -> None:
    ids = [f"call-{number}" for number in range(NUM_CALLS)]
    for call_id in ids:
        assert send(gateway, call_id, receiver.url).status_code == 202

    let_fill(gateway)

    refused = send(gateway, "late", receiver.url)
    assert (refused.status_code, refused.json()["error"]) == (507, "storage_full")
    assert refused.json()["directory"] == str(gateway.state_dir.resolve())
    assert "no room for the queue of asynchronous calls" in refused.json()["message"]

    (tmp_path / "gate").touch()
    gateway.until(lambda: len(runs(tmp_path)) == 2, "two calls have run, as many as there are replicas")
    gateway.until(lambda: gateway.errors.count("waits: the disk of the state directory") == 2, "both wait")
    assert gateway.metric("localfaas_async_queue_depth") == NUM_CALLS
    if is_killed:
        (tmp_path / "gate").unlink()
        gateway.kill()
        gateway.start()
        assert gateway.metric("localfaas_async_queue_depth") == NUM_CALLS, "it starts on a full disk"
        assert gateway.call("fn", word="x").text == "printed"
        assert send(gateway, "late", receiver.url).status_code == 507
        (tmp_path / "gate").touch()
    assert receiver.ids == []

    make_room(gateway)

    gateway.until(lambda: sorted(receiver.ids) == ids, "every call is answered, once")
    assert {len(body) for _, body in receiver.taken} == {REPLY_BYTES}
    if is_killed:
        assert len(runs(tmp_path)) <= NUM_CALLS + 4, "what ran when the gateway was killed ran again"
    else:
        assert sorted(runs(tmp_path)) == ids, "none ran twice"
    assert send(gateway, "late", receiver.url).status_code == 202
    gateway.until(lambda: receiver.ids[-1] == "late", "the late one, too")


def runs(folder: Path) -> list[str]:
    """Return the ids of the calls that have run, one a run."""
    path = folder / "runs"
    return path.read_text().split() if path.exists() else []


@pytest.mark.slow
def test_function_is_removed_though_its_log_cannot_be_written(gateway: Any) -> None:
    let_fill(gateway)
    for number in range(100):
        gateway.call("fn", word=f"{number}-" + "x" * 200)
    gateway.until(lambda: "99-xxx" in gateway.system("GET", "logs?name=fn").text, "memory has the log")

    assert gateway.system("DELETE", "functions", json={"functionName": "fn"}).status_code == 202

    assert gateway.replica_pids("fn", 0) == []
    assert not (gateway.state_dir / "logs" / "fn.log").exists()
    assert gateway.errors.count("fn.log takes no lines") >= 1
    assert gateway.stop() == 0


@pytest.mark.slow
def test_log_that_fills_the_disk_goes_with_its_function(gateway: Any, project: Any) -> None:
    project.add("flood", FLOOD)
    gateway.deploy()

    assert gateway.call("flood").text == "flooded"

    assert gateway.call("fn", word="x").text == "printed"
    new = {"service": "new", "image": "test/fn:latest"}
    gateway.until(lambda: "flood.log takes no lines" in gateway.errors, "the log fills the disk")
    assert gateway.system("POST", "functions", json=new).status_code == 507
    assert gateway.system("DELETE", "functions", json={"functionName": "flood"}).status_code == 202
    assert gateway.system("POST", "functions", json=new).status_code == 202


def test_gateway_whose_own_log_is_on_a_full_disk_serves(tmp_path: Path, until: Callable[..., Any]) -> None:
    state_dir = tmp_path / "state"
    command = [sys.executable, "-m", "localfaas", "serve", "--port", "0", "--state-dir", str(state_dir)]
    with open("/dev/full", "w") as full, subprocess.Popen(command, stdout=full, stderr=full) as process:
        try:
            written = until((state_dir / "gateway.json").exists, "it listens", 60)
            url = json.loads((state_dir / "gateway.json").read_text())["url"]

            assert written and requests.get(f"{url}/healthz", timeout=30).text == "OK\n"
            assert requests.get(f"{url}/function/nobody", timeout=30).status_code == 404
        finally:
            process.terminate()
            process.wait(30)


def test_line_after_a_full_disk_is_whole(disk: Path) -> None:
    log = FunctionLog(FunctionName("fn"), disk / "fn.log")
    log.append("a", "before")
    fill(disk)
    for number in range(100):
        log.append("a", f"meanwhile {number} " + "x" * 100)

    (disk / "filling").unlink()
    log.append("a", "after")
    log.close()

    assert [line.text for line in log.lines()][-2:] == [f"meanwhile 99 {'x' * 100}", "after"]
    again = FunctionLog(FunctionName("fn"), disk / "fn.log")
    texts = [line.text for line in again.lines()]
    again.close()
    assert (texts[0], texts[-1]) == ("before", "after")
    assert 2 < len(texts) < 102, "some went to the disk's last page, and not all"


def test_file_that_cannot_be_replaced_stays(disk: Path) -> None:
    path = disk / "file"
    write_atomically(path, "old")
    fill(disk)

    with pytest.raises(OSError, match="No space left") as failed:
        write_atomically(path, "new")

    assert failed.value.filename == str(path)
    assert path.read_text() == "old"
    assert sorted(each.name for each in disk.iterdir()) == ["file", "filling"]


def test_store_of_calls_on_a_full_disk_can_be_read_and_opened(disk: Path) -> None:
    call = AsyncCall("id", "fn", "POST", b"/", [], b"x" * 1_000, "")

    async def add() -> None:
        store = CallStore(disk / "calls.sqlite")
        await store.add(call, 1.0)
        fill(disk)
        with pytest.raises(StorageFull, match=r"of 4\.0 MiB are free"):
            await store.add(AsyncCall("id", "fn", "POST", b"/", [], b"x" * 100_000, ""), 2.0)
        await read(store)
        await store.close()

    async def read(store: CallStore) -> None:
        (entry,) = await store.entries()
        assert await store.read(entry.number) == (call, None)

    async def reopen() -> None:
        store = CallStore(disk / "calls.sqlite")
        await read(store)
        await store.close()

    asyncio.run(add())
    asyncio.run(reopen())


def test_store_of_calls_that_has_no_room_to_be_made_says_so(disk: Path) -> None:
    fill(disk)

    with pytest.raises(StorageFull, match="no room for the queue of asynchronous calls"):
        CallStore(disk / "calls.sqlite")
