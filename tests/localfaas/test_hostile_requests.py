"""Clients that send what no honest one would: each is answered or let go, and harms nobody else."""

import base64
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import requests

HOST = b"Host: x\r\n"
CLOSING = HOST + b"Connection: close\r\n\r\n"
HIDDEN = b"POST /function/probe?hidden HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


@contextlib.contextmanager
def connected(gateway: Any, seconds: float = 20.0) -> Iterator[socket.socket]:
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        yield connection


def read_to_end(connection: socket.socket) -> bytes:
    data = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(1 << 16):
            data += piece
    return bytes(data)


def send_raw(gateway: Any, data: bytes, *, is_ended: bool = False) -> bytes:
    """Return all that the gateway answers to some bytes, until it ends the connection."""
    with connected(gateway) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
            if is_ended:
                connection.shutdown(socket.SHUT_WR)
        return read_to_end(connection)


def status_of(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1]) if reply else 0


def num_started(gateway: Any) -> float:
    return gateway.metric("gateway_function_invocation_started")


@pytest.fixture(autouse=True)
def still_serving(gateway: Any) -> Iterator[None]:
    """Whatever a test did, the gateway serves afterwards."""
    yield
    assert gateway.call("probe").status_code == 200
    assert "Traceback" not in gateway.errors


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "%2e%2e",
        "..%2fsystem%2ffunctions",
        "%2e%2e/system/functions",
        "../system/functions",
        ".",
        "probe%00",
        "probe%0a",
        "probe%20",
        "Probe",
        "probe.",
        ".probe",
        "probe.other",
        "probe.openfaas-fn.x",
        "-probe",
        "pro_be",
        "%70robe",
        "pr%C3%B6be",
        "pröbe".encode().decode("latin-1"),
        "a" * 10_000,
        "%2e" * 3_000,
        "",
    ],
)
@pytest.mark.parametrize("prefix", ["function", "async-function"])
def test_function_name_that_is_none_is_404(gateway: Any, prefix: str, name: str) -> None:
    started = num_started(gateway)

    reply = send_raw(gateway, f"GET /{prefix}/{name} HTTP/1.1\r\n".encode("latin-1") + CLOSING)

    assert status_of(reply) in (400, 404)
    assert len(reply) < 2_000, "a long name is not repeated"
    assert num_started(gateway) == started


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "a/b",
        "../a",
        "a.b",
        "A",
        "",
        "a" * 64,
        "a" * 10_000,
        "ä",
        "a\n",
        "a\0",
        "-a",
        "%61",
        " a",
        None,
        7,
        [],
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_deployment_under_an_impossible_name_is_400(gateway: Any, method: str, name: object) -> None:
    reply = gateway.system(method, "functions", json={"service": name, "image": "test/probe:latest"})

    assert reply.status_code == 400
    assert len(reply.text) < 2_000
    assert [each["name"] for each in gateway.system("GET", "functions").json()] == ["probe"]
    assert [path.name for path in (gateway.state_dir / "functions").iterdir()] == ["probe.json"]


@pytest.mark.parametrize(
    "path",
    [
        "system/function/..%2f..%2fbasic-auth-password",
        "system/function/%00",
        "system/function/" + "a" * 10_000,
        "system/functions/../../etc/passwd",
        "system/scale-function/..",
    ],
)
def test_control_path_that_is_none_is_404_or_405(gateway: Any, path: str) -> None:
    method = "POST" if "scale" in path else "GET"

    head = f"{method} /{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n"
    reply = send_raw(gateway, f"{head}Authorization: {basic(gateway)}\r\n\r\n".encode())

    assert status_of(reply) in (400, 404, 405)
    assert gateway.auth[1].encode() not in reply


def basic(gateway: Any) -> str:
    return "Basic " + base64.b64encode(":".join(gateway.auth).encode()).decode()


@pytest.mark.parametrize(
    "fields",
    [
        {"envVars": {"A": "\ud800"}},
        {"envVars": {"A\ud800": "x"}},
        {"envVars": {"A": "x\0"}},
        {"labels": {"a": "\udfff"}},
        {"image": "\ud800"},
        {"envProcess": "\ud800"},
        {"envProcess": "'unbalanced"},
        {"secrets": ["../basic-auth-password"]},
        {"secrets": ["\ud800"]},
        {"labels": {"com.openfaas.scale.min": "-1"}},
        {"labels": {"com.openfaas.scale.min": "1000000000"}},
        {"limits": {"memory": "-5Mi"}},
        {"limits": {"memory": "9" * 400}},
    ],
)
def test_deployment_with_an_impossible_value_is_400(gateway: Any, fields: dict[str, Any]) -> None:
    reply = gateway.system(
        "POST", "functions", json={"service": "bad", "image": "test/probe:latest", **fields}
    )

    assert reply.status_code == 400, reply.text
    assert gateway.system("GET", "function/bad").status_code == 404


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{", b"[" * 100_000, b"\xff\xfe", b'{"service": NaN}']
)
def test_deployment_that_is_no_object_is_400(gateway: Any, body: bytes) -> None:
    assert gateway.system("POST", "functions", data=body).status_code == 400


SMUGGLED = [
    b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n",
    b"Content-Length: 44\r\nContent-Length: 0\r\n\r\n",
    b"Content-Length: 0, 44\r\n\r\n",
    b"Content-Length: +0\r\n\r\n",
    b"Content-Length: -1\r\n\r\n",
    b"Content-Length: 0x0\r\n\r\n",
    b"Content-Length: 99999999999999999999999\r\n\r\n",
    b"Content-Length : 0\r\n\r\n",
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff1\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
    b"Host: y\r\nContent-Length: 0\r\n\r\n",
    b"A: b\r\n folded: c\r\nContent-Length: 0\r\n\r\n",
    b"A: b\0\r\nContent-Length: 0\r\n\r\n",
    b"A: b\rContent-Length: 44\r\n\r\n",
    b"no colon\r\nContent-Length: 0\r\n\r\n",
]


@pytest.mark.parametrize("headers", SMUGGLED)
def test_request_of_ambiguous_length_is_400_and_hides_no_other(gateway: Any, headers: bytes) -> None:
    started = num_started(gateway)

    reply = send_raw(gateway, b"POST /function/probe HTTP/1.1\r\n" + HOST + headers + HIDDEN)

    assert reply.count(b"HTTP/1.1 ") == 1, "one answer, and the connection ends"
    assert status_of(reply) == 400
    # Some can only be refused once their head has been passed on; none of them lets a second request through.
    assert num_started(gateway) <= started + 1


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /function/probe HTTP/9.9\r\n\r\n",
        b"GET /function/probe\r\n\r\n",
        b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"BREW /function/probe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n" + CLOSING,
        b"\0" * 1_000,
    ],
)
def test_bytes_that_are_no_request_are_refused(gateway: Any, data: bytes) -> None:
    assert status_of(send_raw(gateway, data)) in (400, 401, 505)


def test_upgrade_is_ignored_or_refused(gateway: Any) -> None:
    upgrade = HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"

    without_body = send_raw(gateway, b"GET /function/probe HTTP/1.1\r\n" + upgrade + b"\r\n")
    with_body = send_raw(
        gateway, b"POST /function/probe HTTP/1.1\r\n" + upgrade + b"Content-Length: 3\r\n\r\nabc"
    )

    assert status_of(without_body) == 200
    # Its body could be taken for the other protocol, and the function would be called without it.
    assert status_of(with_body) == 400


def test_head_that_is_too_large_is_refused(gateway: Any) -> None:
    url = b"GET /function/probe?" + b"x" * (1 << 15) + b" HTTP/1.1\r\n" + HOST + b"\r\n"
    header = b"GET /function/probe HTTP/1.1\r\n" + HOST + b"A: " + b"x" * (1 << 17) + b"\r\n\r\n"
    many = b"GET /function/probe HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 20_000 + b"\r\n"
    endless = b"GET /function/probe HTTP/1.1\r\nA: " + b"x" * (1 << 20)

    assert status_of(send_raw(gateway, url)) == 414
    for head in (header, many, endless):
        # The answer is lost where the connection ends before all was sent.
        assert status_of(send_raw(gateway, head)) in (431, 0)
    assert psutil.Process(gateway.process.pid).memory_info().rss < 300 << 20


@pytest.mark.parametrize("path", ["function/probe", "async-function/probe", "healthz", "system/functions"])
@pytest.mark.parametrize(
    "rest",
    [
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
        b"Content-Length: 100\r\n\r\nabc",
    ],
)
def test_body_that_is_cut_off_calls_nothing(
    gateway: Any, path: str, rest: bytes, until: Callable[..., Any]
) -> None:
    head = f"POST /{path} HTTP/1.1\r\nHost: x\r\n".encode()
    depth = gateway.metric("localfaas_async_queue_depth")

    send_raw(gateway, head + rest, is_ended=True)

    until(lambda: gateway.metric("localfaas_requests_in_flight") == 0, "nothing waits for the rest")
    assert gateway.metric("localfaas_async_queue_depth") == depth


def test_call_id_of_strange_bytes_is_harmless(gateway: Any) -> None:
    head = b"POST /function/probe?exit=1 HTTP/1.1\r\nX-Call-Id: \xff\xfe\r\nContent-Length: 0\r\n"

    reply = send_raw(gateway, head + CLOSING)

    assert status_of(reply) == 502
    assert b"x-call-id: \xff\xfe\r\n" in reply
    gateway.wait_available("probe", 2)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Basic"},
        {"Authorization": "Basic \xff\xfe"},
        {"Authorization": "Basic " + "A" * 50_000},
        {"Authorization": "Bearer x"},
        {"Authorization": "Basic " + base64.b64encode(b"admin:").decode()},
        {"Authorization": "Basic " + base64.b64encode(b"admin:wrong").decode()},
        {"X-Forwarded-For": "127.0.0.1", "X-Original-URL": "/healthz"},
    ],
)
def test_control_api_without_the_credentials_is_401(gateway: Any, headers: dict[str, str]) -> None:
    for method, path in (
        ("GET", "/system/functions"),
        ("POST", "/system/secrets"),
        ("GET", "/system/logs?name=probe"),
        ("GET", "/%73ystem/functions"),
        ("GET", "//system/functions"),
        ("GET", "/healthz/../system/functions"),
        ("GET", "/healthz%2f..%2fsystem/functions"),
        ("GET", "/anything"),
    ):
        request = requests.Request(method, gateway.url, headers=headers).prepare()
        request.url = gateway.url + path

        with requests.Session() as session:
            reply = session.send(request, timeout=20)

        assert reply.status_code == 401
        assert reply.headers["WWW-Authenticate"].startswith("Basic")


def test_credentials_twice_are_401(gateway: Any) -> None:
    line = f"Authorization: {basic(gateway)}\r\n".encode()
    wrong = b"Authorization: Basic eDp5\r\n"

    for both in (line + wrong, wrong + line, line + line):
        reply = send_raw(gateway, b"GET /system/functions HTTP/1.1\r\n" + HOST + both + CLOSING[len(HOST) :])

        assert status_of(reply) == 401


def test_pipelined_requests_are_answered_in_order(gateway: Any) -> None:
    requests_sent = b"".join(
        b"GET /function/probe/%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(50)
    )

    reply = send_raw(
        gateway, requests_sent + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )

    assert reply.count(b"HTTP/1.1 200") == 51
    positions = [reply.index(b'"path": "/%d"' % number) for number in range(50)]
    assert positions == sorted(positions)
