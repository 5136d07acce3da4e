"""A memory limit that is reached is the same typed 507, however the function is served and called."""

import json
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

pytestmark = pytest.mark.slow

LIMIT_BYTES = 80 << 20
ENFORCEMENTS = ("auto", "rlimit")
# As a program: its body says how many MiB it takes, and whether it writes something before.
HUNGRY = """
import sys, time
mib, *words = sys.stdin.read().split()
if words:
    print(*words, flush=True)
block = b"x" * (int(mib) << 20)
time.sleep(2 if len(block) > 80 << 20 else 0)
print("fits")
"""
# As a program that takes its MiB once it is let.
HELD = """
import pathlib, sys, time
mib = int(sys.stdin.read())
pathlib.Path("begun").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.01)
block = b"x" * (mib << 20)
time.sleep(2)
"""
# As a server: with workers, a request is run by a process of its own, whose end the server answers for.
SERVER = """
import http.server, os, subprocess, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "workers" in sys.argv:
            done = subprocess.run([sys.executable, "program.py"], input=body, stdout=subprocess.PIPE)
            status, text = (502, b"upstream is gone") if done.returncode else (200, done.stdout)
        else:
            block = b"x" * (int(body) << 20)
            status, text = 200, b"fits"
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
KINDS = {
    "classic": (f"{sys.executable} program.py", "classic"),
    "serializing": (f"{sys.executable} program.py", "serializing"),
    "streaming": (f"{sys.executable} program.py", "streaming"),
    "http": (f"{sys.executable} server.py", "http"),
    "http with workers": (f"{sys.executable} server.py workers", "http"),
}


@pytest.fixture
def serve(make_gateway: Callable[..., Any], project: Any) -> Callable[..., Any]:
    """Return a function that starts a gateway with one kind of function, of a limit, as `fn`."""
    (project.directory / "program.py").write_text(HUNGRY)
    (project.directory / "server.py").write_text(SERVER)

    def start(kind: str, enforcement: str) -> Any:
        gateway = make_gateway("--memory-enforcement", enforcement)
        command, mode = KINDS[kind]
        address = ["--env", "upstream_url=http://127.0.0.1:0"] if mode == "http" else []
        gateway.run("image", "add", "my/fn", "--command", command, "--mode", mode, *address)
        body = {"service": "fn", "image": "my/fn", "limits": {"memory": str(LIMIT_BYTES)}}
        assert gateway.system("POST", "functions", json=body).status_code == 202
        return gateway

    return start


@pytest.fixture
def callbacks() -> Iterator[tuple[str, "SimpleQueue[tuple[dict[str, str], bytes]]"]]:
    """The URL of a server, and what it was sent."""
    taken: SimpleQueue[tuple[dict[str, str], bytes]] = SimpleQueue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            taken.put(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", taken
        server.shutdown()
        thread.join()


def assert_is_out_of_memory(status: int, content_type: str, body: bytes) -> None:
    """Check the whole typed answer."""
    assert (status, content_type) == (507, "application/json"), body
    fields = json.loads(body)
    assert (fields["error"], fields["function"], fields["limit_bytes"]) == (
        "out_of_memory",
        "fn",
        LIMIT_BYTES,
    )
    assert fields["peak_bytes"] > LIMIT_BYTES // 2
    assert fields["replica"].startswith("fn-")


@pytest.mark.parametrize("enforcement", ENFORCEMENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_mode_answers_507_at_once_and_by_callback(
    serve: Callable[..., Any], callbacks: Any, kind: str, enforcement: str
) -> None:
    url, taken = callbacks
    gateway = serve(kind, enforcement)
    assert "fits" in gateway.call("fn", b"1").text

    reply = gateway.call("fn", b"300")
    later = requests.post(
        f"{gateway.url}/async-function/fn", data=b"300", headers={"X-Callback-Url": url}, timeout=30
    )

    assert_is_out_of_memory(reply.status_code, reply.headers["Content-Type"], reply.content)
    assert later.status_code == 202
    headers, body = taken.get(timeout=60)
    assert_is_out_of_memory(int(headers["x-function-status"]), headers["content-type"], body)
    assert headers["x-call-id"] == later.headers["X-Call-Id"]
    assert "fits" in gateway.call("fn", b"1").text
    assert gateway.metric("localfaas_oom_kills_total") == 2
    assert gateway.system("GET", "logs?name=fn").text.count("out of memory: peak") == 2


@pytest.mark.parametrize("enforcement", ENFORCEMENTS)
def test_reply_that_has_begun_is_broken_and_its_callback_is_a_507(
    serve: Callable[..., Any], callbacks: Any, enforcement: str
) -> None:
    url, taken = callbacks
    gateway = serve("streaming", enforcement)
    parts = urlsplit(gateway.url)

    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        connection.sendall(b"POST /function/fn HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n300 first")
        reply = connection.makefile("rb").read()
    requests.post(
        f"{gateway.url}/async-function/fn", data=b"300 first", headers={"X-Callback-Url": url}, timeout=30
    )

    assert b" 200 " in reply.splitlines()[0]
    assert b"first" in reply
    assert not reply.endswith(b"0\r\n\r\n"), "a cut-off reply must not look complete"
    headers, body = taken.get(timeout=60)
    assert_is_out_of_memory(int(headers["x-function-status"]), headers["content-type"], body)
    gateway.until(lambda: gateway.metric("localfaas_oom_kills_total") == 2, "both are counted")


def test_replica_of_an_earlier_deployment_tells_the_limit_that_it_had(
    make_gateway: Callable[..., Any], project: Any
) -> None:
    (project.directory / "program.py").write_text(HELD)
    gateway = make_gateway()
    gateway.run("image", "add", "my/fn", "--command", f"{sys.executable} program.py")
    body = {"service": "fn", "image": "my/fn", "limits": {"memory": str(LIMIT_BYTES)}}
    assert gateway.system("POST", "functions", json=body).status_code == 202

    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(gateway.call, "fn", b"120")
        gateway.until((project.directory / "begun").exists, "the call has begun")
        body["limits"] = {"memory": str(4 * LIMIT_BYTES)}
        assert gateway.system("PUT", "functions", json=body).status_code == 202
        (project.directory / "go").touch()
        reply = call.result(timeout=60)

    assert_is_out_of_memory(reply.status_code, reply.headers["Content-Type"], reply.content)
    assert f"of {LIMIT_BYTES} bytes" in gateway.system("GET", "logs?name=fn").text
