"""Timeouts, health checks and termination, as a function's environment asks for them."""

import socket
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from localfaas.errors import BadRequest
from localfaas.watchdog_options import TimeLimits, parse_watchdog_options

STUCK = """
import http.server, socket

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    is_stuck = False

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        is_unknown = self.path == "/_/ready"
        status = 500 if self.is_stuck and self.path == "/_/health" else 404 if is_unknown else 200
        if self.path == "/stick":
            Handler.is_stuck = True
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("", 0), Handler, bind_and_activate=False)
server.socket = socket.socket(fileno=3)
server.serve_forever()
"""
TIDY = """
import signal, socket, sys, time

def tidy(*_):
    time.sleep(3)
    print("all is tidy", flush=True)
    sys.exit(0)

signal.signal(signal.SIGTERM, tidy)
print("ready to be ended", flush=True)
listening = socket.socket(fileno=3)
while True:
    connection, _ = listening.accept()
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n")
    connection.close()
"""


@pytest.mark.parametrize(
    ("environment", "limits"),
    [
        ({}, TimeLimits(0, "exec_timeout", 60)),
        ({"exec_timeout": "2m", "write_timeout": "90s"}, TimeLimits(0, "write_timeout", 90)),
        ({"exec_timeout": "0", "write_timeout": "90"}, TimeLimits(0, "write_timeout", 90)),
        ({"exec_timeout": "0", "read_timeout": "1.5s"}, TimeLimits(1.5, "exec_timeout", 0)),
        ({"exec_timeout": "5s", "write_timeout": "5s"}, TimeLimits(0, "exec_timeout", 5)),
    ],
)
def test_tighter_limit_holds_and_is_named(environment: dict[str, str], limits: TimeLimits) -> None:
    assert parse_watchdog_options(environment).time_limits(60) == limits


@pytest.mark.parametrize(
    ("name", "value"),
    [("read_timeout", "soon"), ("write_timeout", "5 s"), ("healthcheck_interval", "-1s"), ("mode", "static"),
     ("ready_path", "ready"), ("max_inflight", "many")],
)  # fmt: skip
def test_impossible_option_is_named(name: str, value: str) -> None:
    with pytest.raises(BadRequest, match=name):
        parse_watchdog_options({name: value})


@pytest.fixture
def serve(make_gateway: Callable[..., Any], project: Any) -> Callable[..., Any]:
    """Return a function that starts a gateway with a Python program of mode http as `fn`."""

    def start(program: str, **environment: str) -> Any:
        (project.directory / "server.py").write_text(program)
        gateway = make_gateway()
        command = f"{sys.executable} server.py"
        gateway.run("image", "add", "my/server", "--command", command, "--mode", "http")
        body = {"service": "fn", "image": "my/server", "envVars": environment}
        assert gateway.system("POST", "functions", json=body).status_code == 202
        gateway.wait_available("fn", 1)
        return gateway

    return start


@pytest.mark.slow
def test_write_timeout_ends_a_call_as_exec_timeout_does(
    make_gateway: Callable[..., Any], project: Any
) -> None:
    project.add("fn", environment={"exec_timeout": "60s", "write_timeout": "1s"})
    gateway = make_gateway()
    gateway.deploy()

    reply = gateway.call("fn", sleep=30)

    assert (reply.status_code, reply.json()["error"]) == (504, "timeout")
    assert reply.json()["write_timeout_seconds"] == 1
    assert gateway.call("fn").status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("num_bytes", [100, 3 << 20])
def test_request_that_does_not_come_within_read_timeout_is_a_408(
    make_gateway: Callable[..., Any], project: Any, num_bytes: int
) -> None:
    project.add("fn", environment={"read_timeout": "1s"})
    gateway = make_gateway()
    gateway.deploy()
    parts = urlsplit(gateway.url)

    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        head = f"POST /function/fn HTTP/1.1\r\nHost: x\r\nContent-Length: {num_bytes + 1}\r\n\r\n"
        connection.sendall(head.encode() + b"x" * num_bytes)
        reply = connection.makefile("rb").read()

    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"request_too_slow" in reply and b"read_timeout of 1 s" in reply
    assert gateway.call("fn").status_code == 200


@pytest.mark.slow
def test_idle_replica_that_fails_its_health_checks_is_replaced(serve: Callable[..., Any]) -> None:
    gateway = serve(STUCK, healthcheck_interval="200ms")
    first = gateway.call("fn").headers["X-Replica"]
    assert gateway.call("fn").headers["X-Replica"] == first

    gateway.call("fn/stick")

    gateway.until(lambda: gateway.call("fn").headers["X-Replica"] != first, "another replica")
    assert "failed its health checks" in gateway.system("GET", "logs?name=fn").text


@pytest.mark.slow
def test_replica_has_as_long_to_end_as_write_timeout_says(serve: Callable[..., Any]) -> None:
    gateway = serve(TIDY, write_timeout="30s")

    gateway.system("POST", "scale-function/fn", json={"replicas": 0})

    gateway.until(lambda: "all is tidy" in gateway.system("GET", "logs?name=fn").text, "it ended by itself")
