"""What each answer of a gateway means, with a fake at the wire that answers what it is told."""

import json
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from peer import errors
from peer.config import GatewayAddress
from peer.gateway import Gateway
from peer.invocations.abandonment import Abandoned, Abandonment
from peer.store.servers import free_port


class Answering(HTTPServer):
    status, body = 200, b"{}"
    asked: list[tuple[str, str | None]] = []


class Handler(BaseHTTPRequestHandler):
    server: Answering

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_GET = do_POST

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Answering]:
    server = Answering(("127.0.0.1", 0), Handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def address_of(server: Answering) -> GatewayAddress:
    return GatewayAddress(f"http://127.0.0.1:{server.server_address[1]}", password="secret")


def test_reply_of_a_function_is_returned_and_credentials_are_not_sent(server: Answering) -> None:
    server.body = b'{"a": 1}'

    body = Gateway(address_of(server)).invoke("gradient", b"{}", 5.0)

    assert body == b'{"a": 1}'
    assert server.asked == [("/function/gradient", None)]


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (404, b"404 page not found", errors.FunctionRefused, "no queue.*--invoke sync"),
        (404, b'{"error": "function_not_found"}', errors.FunctionMissing, "not deployed"),
        (413, b'{"error": "payload_too_large"}', errors.FunctionRefused, "413"),
        (429, b'{"error": "queue_full"}', errors.FunctionBusy, "429"),
    ],
)
def test_call_that_is_not_taken_into_a_queue_says_why(
    server: Answering, status: int, body: bytes, kind: type[errors.PeerlessError], text: str
) -> None:
    server.status, server.body = status, body

    with pytest.raises(kind, match=text):
        Gateway(address_of(server)).enqueue("gradient", b"{}", "call", "/function/evaluate")


def test_call_that_is_taken_into_a_queue_is_not_waited_for(server: Answering) -> None:
    server.status, server.body = 202, b""

    Gateway(address_of(server)).enqueue("gradient", b"{}", "call", "/function/evaluate")

    assert server.asked == [("/async-function/gradient", None)]


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (400, {"error": "bad_request", "message": "no batches"}, errors.FunctionRefused, "no batches"),
        (400, {"error": "not_finite", "message": "loss is nan"}, errors.TrainingDiverged, "loss is nan"),
        (403, {"error": "not_allowed", "message": "model"}, errors.FunctionRefused, "not_allowed"),
        (404, "no such function", errors.FunctionMissing, "not deployed.*peerless up"),
        (409, {"error": "version_differs", "message": "speak 1"}, errors.FunctionRefused, "speak 1"),
        (429, {"error": "busy"}, errors.FunctionBusy, "429"),
        (500, "Traceback", errors.InvocationFailed, "500"),
        (502, "", errors.LostReply, "502"),
        (502, "<html>Bad Gateway</html>", errors.LostReply, "Bad Gateway"),
        (502, {"error": "replica_lost", "message": "m"}, errors.InvocationFailed, "m"),
        (502, {"error": "store_unreachable", "message": "m"}, errors.StoreUnreachable, "m"),
        (502, {"error": "store_full", "message": "m"}, errors.StoreFull, "m"),
        (503, {"error": "url_expired", "message": "m"}, errors.UrlExpired, "m"),
        (504, {"error": "timeout", "message": "m"}, errors.InvocationFailed, "504"),
        (
            507,
            {"error": "out_of_memory", "limit_bytes": 64 << 20, "peak_bytes": 63 << 20, "replica": "g-1"},
            errors.OutOfMemory,
            "limit 64 MiB, peak 63 MiB .g-1.",
        ),
        (302, "", errors.InvocationFailed, "302"),
    ],
)
def test_error_of_a_function_becomes_its_class(
    server: Answering, status: int, body: object, kind: type[errors.PeerlessError], text: str
) -> None:
    server.status = status
    server.body = body.encode() if isinstance(body, str) else json.dumps(body).encode()

    with pytest.raises(kind, match=text):
        Gateway(address_of(server)).invoke("gradient", b"{}", 5.0)


def test_system_calls_are_authenticated_and_a_refusal_says_which_user(server: Answering) -> None:
    server.status = 401

    with pytest.raises(errors.GatewayDenied, match="refused user 'admin'.*--gateway-password-file"):
        Gateway(address_of(server)).describe("gradient")

    assert server.asked[0][1] == "Basic YWRtaW46c2VjcmV0"


def test_gateway_that_is_away_says_where_and_what_to_start() -> None:
    nowhere = Gateway(GatewayAddress(f"http://127.0.0.1:{free_port()}"))

    message = r"no answer from the gateway at http://127.*peerless up"
    with pytest.raises(errors.GatewayUnreachable, match=message):
        nowhere.invoke("gradient", b"{}", 5.0)
    with pytest.raises(errors.GatewayUnreachable):
        nowhere.check()


@pytest.mark.parametrize(
    "begun", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"], ids=["none", "half"]
)
def test_reply_that_a_reset_cuts_off_is_lost(server: Answering, begun: bytes) -> None:
    class Resetting(Handler):
        def do_POST(self) -> None:
            self.wfile.write(begun)
            self.wfile.flush()
            # closing with this option set and data unread resets
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

    server.RequestHandlerClass = Resetting

    with pytest.raises(errors.LostReply, match="gradient: the connection ended without a reply"):
        Gateway(address_of(server)).invoke("gradient", b"{}", 5.0)


def test_function_that_does_not_reply_in_time_is_a_failed_invocation(server: Answering) -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow(Handler):
        def do_POST(self) -> None:
            entered.set()
            leave.wait(10)
            super().do_POST()

    server.RequestHandlerClass = Slow

    with pytest.raises(errors.InvocationFailed, match="no reply within 0 s"):
        Gateway(address_of(server)).invoke("gradient", b"{}", 0.2)

    assert entered.is_set()
    leave.set()


class Silent(BaseHTTPRequestHandler):
    """Takes a request and answers once it may."""

    server: "Withholding"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.has_request.set()
        assert self.server.may_answer.wait(30)
        self.close_connection = True

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


class Withholding(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Silent)
        self.has_request, self.may_answer = threading.Event(), threading.Event()

    def handle_error(self, *_arguments: object) -> None:
        """Say nothing of a client that went away."""


def test_abandoned_invocation_ends_at_once_and_the_next_goes_through(server: Answering) -> None:
    silent = Withholding()
    serving = threading.Thread(target=silent.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    address = GatewayAddress(f"http://127.0.0.1:{silent.server_address[1]}")
    abandonment, ended = Abandonment(), list[BaseException]()
    gateway = Gateway(address)

    def invoke() -> None:
        try:
            with abandonment:
                gateway.invoke("gradient", b"{}", 300.0)
        except errors.PeerlessError as error:
            ended.append(error)

    waiting = threading.Thread(target=invoke)
    waiting.start()
    assert silent.has_request.wait(30)
    abandonment.abandon()
    waiting.join(30)
    silent.may_answer.set()
    silent.shutdown()
    serving.join()
    silent.server_close()

    assert [type(error) for error in ended] == [Abandoned]
    gateway.address = address_of(server)
    assert gateway.invoke("gradient", b"{}", 5.0) == b"{}"
