"""Clients that are slow on purpose, and more of them than there may be."""

import resource
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import psutil
import pytest
import requests
from parts import missing

NUM_CONNECTIONS = 2_000
HEAD = b"POST /function/probe HTTP/1.1\r\nHost: x\r\n"


def connect(gateway: Any, seconds: float = 30.0) -> socket.socket:
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=seconds)


def drain(connection: socket.socket) -> bytes:
    data = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(1 << 16):
            data += piece
    return data


@pytest.fixture
def impatient(make_gateway: Callable[..., Any], project: Any) -> Any:
    """A gateway that waits a second for its clients, with the function `probe`."""
    project.add("probe")
    gateway = make_gateway("--client-patience-seconds", "1")
    gateway.deploy()
    return gateway


@pytest.mark.parametrize(
    ("beginning", "status"),
    [
        pytest.param(b"", b"", id="nothing"),
        pytest.param(b"\r\n", b" 408 ", id="an-empty-line"),
        pytest.param(HEAD + b"A: b", b" 408 ", id="half-a-head"),
        pytest.param(HEAD + b"Content-Length: 9\r\n\r\nabc", b"", id="half-a-body"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", b"", id="half-a-chunk"),
    ],
)
def test_client_that_does_not_go_on_is_let_go(impatient: Any, beginning: bytes, status: bytes) -> None:
    with connect(impatient) as connection:
        connection.sendall(beginning)

        reply = drain(connection)

    assert status in reply
    assert impatient.metric("localfaas_requests_in_flight") == 0
    assert impatient.call("probe").status_code == 200


@pytest.mark.parametrize("beginning", [HEAD + b"A: ", HEAD + b"Content-Length: 9999\r\n\r\n"])
def test_client_that_drips_is_let_go(impatient: Any, beginning: bytes, until: Callable[..., Any]) -> None:
    with connect(impatient) as connection:
        connection.sendall(beginning)

        def drip() -> bool:
            try:
                connection.sendall(b"x")
            except OSError:
                return True
            return False

        until(drip, "the connection is ended")


def test_client_that_takes_no_reply_is_let_go(impatient: Any, until: Callable[..., Any]) -> None:
    with connect(impatient) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(b"GET /function/probe?size=50000000 HTTP/1.1\r\nHost: x\r\n\r\n")

        until(lambda: impatient.metric("localfaas_requests_in_flight") == 1, "the reply comes")
        until(lambda: impatient.metric("localfaas_requests_in_flight") == 0, "it is given up")

    assert impatient.call("probe").status_code == 200


def test_slow_clients_do_not_hold_the_control_api(impatient: Any) -> None:
    with ExitStack() as stack:
        for number in range(40):
            connection = stack.enter_context(connect(impatient))
            path = ("healthz", "metrics", "system/functions", "system/secrets")[number % 4]
            connection.sendall(f"POST /{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n".encode())
            if number % 3:
                credentials = requests.Request("GET", "http://x/", auth=impatient.auth).prepare().headers
                connection.sendall(f"Authorization: {credentials['Authorization']}\r\n\r\n{{".encode())

        assert requests.get(f"{impatient.url}/healthz", timeout=20).status_code == 200
        assert impatient.status("probe")["availableReplicas"] == 1


def test_patient_client_is_served(impatient: Any) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(4):
            time.sleep(0.4)
            yield b"x" * 1_000

    reply = requests.post(f"{impatient.url}/function/probe", data=pieces(), timeout=30)

    assert reply.json()["length"] == 4_000


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Let this process open 2,000 connections and more, or skip the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * NUM_CONNECTIONS:
        missing(f"no more than {hard} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * NUM_CONNECTIONS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_two_thousand_open_connections_hinder_nobody(gateway: Any, until: Callable[..., Any]) -> None:
    process = psutil.Process(gateway.process.pid)
    gateway.call("probe")
    num_before = process.num_fds()
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(gateway)) for _ in range(NUM_CONNECTIONS)]
        until(lambda: process.num_fds() >= num_before + NUM_CONNECTIONS - 50, "all are open")

        assert gateway.call("probe").status_code == 200
        for connection in connections[::10]:
            connection.sendall(HEAD + b"Content-Length: 0\r\n\r\n")
        for connection in connections[::10]:
            assert b" 200 " in connection.recv(1 << 16)

    until(lambda: process.num_fds() <= num_before + 5, "all are closed")


def test_connections_beyond_the_limit_are_answered_503(
    make_gateway: Callable[..., Any], project: Any, until: Callable[..., Any]
) -> None:
    project.add("probe")
    gateway = make_gateway()
    gateway.deploy()
    gateway.stop()
    gateway.prefix = ("sh", "-c", 'ulimit -n 200; exec "$@"', "sh")
    gateway.start()
    gateway.wait_available("probe", 1)
    process = psutil.Process(gateway.process.pid)

    with ExitStack() as stack:
        held = [stack.enter_context(connect(gateway)) for _ in range(170)]
        with connect(gateway) as late:
            late.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            reply = drain(late)
        assert b" 503 " in reply and b"too many connections" in reply
        held[0].sendall(HEAD + b"Content-Length: 0\r\n\r\n")
        assert b" 200 " in held[0].recv(1 << 16), "those who came in time are served"
        flood = [stack.enter_context(connect(gateway)) for _ in range(200)]
        before = process.cpu_times().user
        until(lambda: "connections are open" in gateway.errors, "the log says so")
        assert len(flood) == 200
        assert process.cpu_times().user - before < 2, "it does not spin"

    def has_room() -> bool:
        try:
            return gateway.call("probe").status_code == 200
        except requests.ConnectionError:
            # as long as the flood has every descriptor
            return False

    with ThreadPoolExecutor(4) as threads:
        until(has_room, "there is room again")
        assert set(threads.map(lambda _: gateway.call("probe").status_code, range(20))) == {200}
    assert gateway.errors.count("connections are open") == 1
