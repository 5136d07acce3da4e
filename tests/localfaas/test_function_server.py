"""The template's server as a container runs it: a process at a TCP port."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

HANDLER = """
import threading, time

def handle(event, context):
    if "sleep" in event.query:
        time.sleep(float(event.query["sleep"]))
    if event.path == "/memory":
        raise MemoryError
    if event.path == "/torch":
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
    if event.path == "/runtime":
        raise RuntimeError("another")
    if event.path == "/none":
        return None
    if event.path == "/bytes":
        return {"body": b"\\x00\\xff", "headers": {"X-Mine": "1"}}
    if event.path == "/text":
        return {"statusCode": 201, "body": "text"}
    if event.path == "/data":
        return {"answer": 42}
    return {"body": {"is_main_thread": threading.current_thread() is threading.main_thread()}}
"""


def call_until_taken(url: str) -> requests.Response:
    """Return the reply to the first call that another has not come before."""
    while (reply := requests.get(url, timeout=5)).status_code == 429:
        pass
    return reply


@pytest.fixture
def server(project: Any, until: Callable[..., Any]) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    folder: Path = project.directory / "template" / "peerless"
    (folder / "function" / "handler.py").write_text(HANDLER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "port": str(port), "HOSTNAME": "me", "LOCALFAAS_MEMORY_LIMIT_BYTES": "1000"}
    process = subprocess.Popen(
        [sys.executable, "index.py"], cwd=folder, env=environment, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"

    def is_healthy() -> bool:
        try:
            return requests.get(f"{url}/_/health", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    until(is_healthy, "the server answers")
    yield url, process
    process.kill()
    process.wait()


def test_server_replies_are_what_the_handler_returned(server: tuple[str, Any]) -> None:
    url, _ = server

    replies = {
        path: requests.get(f"{url}/{path}", timeout=5) for path in ("none", "bytes", "text", "data", "x")
    }

    assert (replies["none"].status_code, replies["none"].content) == (200, b"")
    assert (replies["bytes"].content, replies["bytes"].headers["X-Mine"]) == (b"\x00\xff", "1")
    assert (replies["text"].status_code, replies["text"].text) == (201, "text")
    assert replies["data"].json() == {"answer": 42}
    assert replies["x"].json() == {"is_main_thread": True}


@pytest.mark.parametrize("path", ["memory", "torch"])
def test_server_failed_allocation_is_507(server: tuple[str, Any], path: str) -> None:
    reply = requests.get(f"{server[0]}/{path}", timeout=5)

    fields = reply.json()
    assert (reply.status_code, fields["error"]) == (507, "out_of_memory")
    assert (fields["limit_bytes"], fields["replica"]) == (1000, "me")
    assert fields["peak_bytes"] >= 0


def test_server_other_error_is_500(server: tuple[str, Any]) -> None:
    reply = requests.get(f"{server[0]}/runtime", timeout=5)

    assert reply.status_code == 500
    assert reply.json() == {"error": "internal", "message": "RuntimeError: another"}


def test_server_while_busy_refuses_calls_and_stays_healthy(
    server: tuple[str, Any], until: Callable[..., Any]
) -> None:
    url, _ = server
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(call_until_taken, f"{url}/?sleep=1")

        refused = until(
            lambda: [reply for reply in [requests.get(f"{url}/", timeout=5)] if reply.status_code == 429],
            "it is busy",
        )[0]

        assert (refused.headers["Retry-After"], refused.json()["error"]) == ("1", "busy")
        assert requests.get(f"{url}/_/health", timeout=5).status_code == 200
        assert requests.get(f"{url}/_/ready", timeout=5).status_code == 200
        assert call.result().status_code == 200


def test_server_told_to_stop_ends_its_call_first(server: tuple[str, Any], until: Callable[..., Any]) -> None:
    url, process = server
    results: list[requests.Response] = []
    thread = threading.Thread(target=lambda: results.append(call_until_taken(f"{url}/?sleep=0.5")))
    thread.start()
    until(lambda: requests.get(f"{url}/", timeout=5).status_code == 429, "it is busy")

    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    until(lambda: requests.get(f"{url}/_/ready", timeout=5).status_code == 503, "it is not ready any more")
    thread.join()

    assert results[0].status_code == 200
    assert process.wait(5) == 0
    assert time.monotonic() - started < 3
