"""Servers of mode http that listen where their `upstream_url` says."""

import http.server
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from localfaas.errors import BadRequest
from localfaas.runtimes.upstream_url import UpstreamUrl, parse_upstream_url

SERVER = """
import http.server, os, socketserver, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/warm" and time.time() < READY_AT:
            return self.reply(503, b"")
        if self.path == "/slow":
            time.sleep(60)
        SEEN.append(self.path)
        self.reply(200, " ".join([os.environ["upstream_url"], *SEEN]).encode())

    do_GET = do_POST

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

SEEN = []
READY_AT = time.time() + float(os.environ.get("warm_up", 0))
if "path" in sys.argv:
    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        def get_request(self):
            return super().get_request()[0], ("unix", 0)
    server = Server(os.environ["upstream_url"].removeprefix("unix:"), Handler)
else:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else int(os.environ["PORT"])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
server.serve_forever()
"""
TWO = {"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "2"}


@pytest.fixture
def served(make_gateway: Callable[..., Any], project: Any) -> Callable[..., Any]:
    """Return a function that starts a gateway with the server as `fn`."""
    (project.directory / "server.py").write_text(SERVER)

    def start(upstream_url: str, argument: str = "", **fields: Any) -> Any:
        gateway = make_gateway()
        command = f"{sys.executable} server.py {argument}"
        options = ["--mode", "http", "--env", f"upstream_url={upstream_url}"]
        gateway.run("image", "add", "my/server", "--command", command, *options)
        reply = gateway.system("POST", "functions", json={"service": "fn", "image": "my/server", **fields})
        assert reply.status_code == 202, reply.text
        return gateway

    return start


def free_port() -> int:
    _, variables = UpstreamUrl("127.0.0.1").assign("")
    return int(variables["PORT"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://127.0.0.1:8082", UpstreamUrl("127.0.0.1", 8082)),
        ("http://localhost:0/", UpstreamUrl("127.0.0.1")),
        ("http://[::1]:80", UpstreamUrl("::1", 80)),
        ("unix:", UpstreamUrl()),
        ("unix:///run/app.sock", UpstreamUrl(path="/run/app.sock")),
    ],
)
def test_upstream_url_is_a_loopback_address(text: str, expected: UpstreamUrl) -> None:
    assert parse_upstream_url(text) == expected


@pytest.mark.parametrize(
    "text",
    ["http://10.0.0.1:80", "http://example.com:80", "https://127.0.0.1:1", "http://127.0.0.1", "x",
     "http://127.0.0.1:99999", "http://127.0.0.1:80/path", "http://[", "unix:/" + "x" * 200],
)  # fmt: skip
def test_upstream_url_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="upstream_url"):
        parse_upstream_url(text)


@pytest.mark.slow
@pytest.mark.parametrize(("url", "argument"), [("http://127.0.0.1:0", ""), ("unix:", "path")])
def test_open_address_is_one_for_each_replica(served: Callable[..., Any], url: str, argument: str) -> None:
    gateway = served(url, argument, labels=TWO)
    gateway.wait_available("fn", 2)

    gateway.system("POST", "scale-function/fn", json={"replicas": 1})
    gateway.until(lambda: gateway.status("fn")["replicas"] == 1, "one replica")
    first = gateway.call("fn").text.split()
    gateway.system("POST", "scale-function/fn", json={"replicas": 0})
    gateway.wait_available("fn", 0)
    second = gateway.call("fn/a/b").text.split()

    assert first[0] != second[0], "each has its own"
    assert (first[1:], second[1:]) == (["/"], ["/a/b"]), "and is asked for nothing else"
    assert not list(gateway.state_dir.glob("run/*.sock")) or url == "unix:"
    assert gateway.stop() == 0
    assert not list(gateway.state_dir.glob("run/*.sock"))


@pytest.mark.slow
def test_fixed_port_is_one_replicas_and_the_next_waits_for_it(served: Callable[..., Any]) -> None:
    port = free_port()
    gateway = served(f"http://127.0.0.1:{port}", str(port), labels={"com.openfaas.scale.max": "2"})
    gateway.wait_available("fn", 1)
    before = gateway.call("fn")

    gateway.system("PUT", "functions", json={"service": "fn", "image": "my/server", "labels": TWO})

    gateway.until(lambda: gateway.call("fn").headers["X-Replica"] != before.headers["X-Replica"], "update")
    gateway.until(lambda: "only one can have it" in str(gateway.status("fn")["annotations"]), "why not two")
    assert gateway.status("fn")["availableReplicas"] == 1
    assert "fixed upstream_url" in gateway.status("fn")["annotations"]["localfaas.not-honoured"]
    assert gateway.call("fn").status_code == 200


@pytest.mark.slow
def test_address_of_somebody_else_is_not_taken_for_the_functions(served: Callable[..., Any]) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        port = stranger.server_address[1]
        gateway = served(f"http://127.0.0.1:{port}", str(port))

        reply = gateway.call("fn")

        stranger.shutdown()
    assert (reply.status_code, reply.json()["error"]) == (503, "function_unavailable")
    assert "something else listens" in reply.json()["message"]


@pytest.mark.slow
def test_ready_path_is_asked_until_it_is_not_503(served: Callable[..., Any]) -> None:
    variables = {"ready_path": "/warm", "warm_up": "1"}
    gateway = served("http://127.0.0.1:0", envVars=variables)

    assert gateway.call("fn").text.split()[1:] == ["/warm", "/"]


def test_impossible_upstream_url_is_a_400(served: Callable[..., Any]) -> None:
    gateway = served("http://127.0.0.1:0")

    body = {"service": "two", "image": "my/server", "envVars": {"upstream_url": "http://10.1.2.3:80"}}
    reply = gateway.system("POST", "functions", json=body)

    assert (reply.status_code, "not on loopback" in reply.text) == (400, True)
