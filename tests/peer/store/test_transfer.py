"""What the wire can do to a transfer: a server at the other end that answers exactly what the test says."""

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from parts import program

from peer.errors import ObjectCorrupt, ObjectMissing, StoreError, StoreUnreachable
from peer.store.servers import free_port
from peer.store.transfer import HttpTransfer, Timeouts

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class ScriptedServer:
    """Answers each request, in order, with given bytes, and then hangs up or keeps the connection."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.answers: list[tuple[bytes, bool]] = []
        self.requests: list[bytes] = []
        self.num_connections = 0
        self._listener = socket.create_server((host, port))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://{host}:{self.port}/bucket/a/key?X-Amz-Signature=secret"
        self._thread = threading.Thread(target=self._serve)

    def start(self, *answers: tuple[bytes, bool]) -> str:
        self.answers = list(answers)
        self._thread.start()
        return self.url

    def _serve(self) -> None:
        while self.answers:
            connection, _ = self._listener.accept()
            self.num_connections += 1
            with connection, connection.makefile("rb") as file:
                while self.answers and self._read_request(file):
                    answer, is_kept = self.answers.pop(0)
                    connection.sendall(answer)
                    if not is_kept:
                        break

    def _read_request(self, file: BinaryIO) -> bool:
        head = b""
        while line := file.readline():
            head += line
            if line == b"\r\n":
                break
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        if head.startswith(b"PUT"):
            head += file.read(length)
        if head:
            self.requests.append(head)
        return bool(head)

    def join(self) -> None:
        if self._thread.is_alive():
            self._thread.join(10)
        self._listener.close()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.join()


@pytest.fixture
def transfer() -> Iterator[HttpTransfer]:
    transfer = HttpTransfer(Timeouts(connect_seconds=1.0, read_seconds=0.2))
    yield transfer
    transfer.close()


def test_get_uses_one_connection_for_many_requests(server: ScriptedServer, transfer: HttpTransfer) -> None:
    missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno!"
    url = server.start((OK, True), (missing, True), (OK, True))

    assert transfer.get(url) == b"hello"
    assert transfer.get_if_exists(url) is None
    assert transfer.get(url, 5) == b"hello"

    assert server.num_connections == 1


def test_get_on_connection_that_went_stale_connects_again(
    server: ScriptedServer, transfer: HttpTransfer
) -> None:
    url = server.start((OK, False), (OK, True))

    transfer.get(url)

    assert transfer.get(url) == b"hello"
    assert server.num_connections == 2


@pytest.fixture
def second_server(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """Another server at the same port; the name two.test has the addresses of both, the first one first."""
    second = ScriptedServer("127.0.0.2", server.port)
    resolve = socket.getaddrinfo

    def resolve_name(host: str, *arguments: Any, **options: Any) -> list[Any]:
        addresses = ["127.0.0.1", "127.0.0.2"] if host == "two.test" else [host]
        return [found for each in addresses for found in resolve(each, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve_name)
    yield second
    second.join()


def test_put_after_an_answer_of_503_goes_to_the_names_next_address_and_stays_there(
    server: ScriptedServer, second_server: ScriptedServer, transfer: HttpTransfer
) -> None:
    url = server.start((OK, True), (b"HTTP/1.1 503 SlowDown\r\nContent-Length: 0\r\n\r\n", True))
    second_server.start((OK, True), (OK, True))
    url = url.replace("127.0.0.1", "two.test")
    transfer.get(url)

    with pytest.raises(StoreUnreachable, match="503"):
        transfer.put(url, [b"12345"], 5)
    transfer.put(url, [b"12345"], 5)
    transfer.get(url)

    assert [request[:3] for request in server.requests] == [b"GET", b"PUT"]
    assert [request[:3] for request in second_server.requests] == [b"PUT", b"GET"]
    assert second_server.num_connections == 1


def test_get_after_a_lost_connection_goes_to_the_names_next_address(
    server: ScriptedServer, second_server: ScriptedServer, transfer: HttpTransfer
) -> None:
    url = server.start((OK[:-1], False)).replace("127.0.0.1", "two.test")
    second_server.start((OK, True))

    with pytest.raises(StoreUnreachable):
        transfer.get(url)

    assert transfer.get(url) == b"hello"


def test_get_of_truncated_body_is_unreachable(server: ScriptedServer, transfer: HttpTransfer) -> None:
    url = server.start((OK[:-2], False))

    with pytest.raises(StoreUnreachable, match="after 3 of 5 bytes"):
        transfer.get(url)


def test_get_of_silent_server_times_out(server: ScriptedServer, transfer: HttpTransfer) -> None:
    url = server.start((OK[:-2], True), (OK, True))

    with pytest.raises(StoreUnreachable, match="timed out"):
        transfer.get(url)

    assert transfer.get(url) == b"hello"


def test_get_of_other_length_reads_nothing(server: ScriptedServer, transfer: HttpTransfer) -> None:
    url = server.start((b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000\r\n\r\n", False))

    with pytest.raises(ObjectCorrupt, match="1000000000000000 bytes, 5 were expected"):
        transfer.get(url, 5)


def test_get_of_range_that_is_ignored_is_corrupt(server: ScriptedServer, transfer: HttpTransfer) -> None:
    url = server.start((OK, True))

    with pytest.raises(ObjectCorrupt):
        transfer.get(url, byte_range=(1, 3))


def test_get_of_range_asks_for_exactly_these_bytes(server: ScriptedServer, transfer: HttpTransfer) -> None:
    url = server.start((b"HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\n\r\nel", True))

    assert transfer.get(url, byte_range=(1, 3)) == b"el"
    assert transfer.get(url, byte_range=(3, 3)) == b""

    assert b"Range: bytes=1-2\r\n" in server.requests[0]


def test_get_without_length_is_no_store(server: ScriptedServer, transfer: HttpTransfer) -> None:
    url = server.start((b"HTTP/1.1 200 OK\r\n\r\nhello", False))

    with pytest.raises(StoreError, match="no S3 store"):
        transfer.get(url)


def test_get_of_redirect_does_not_follow_it(server: ScriptedServer, transfer: HttpTransfer) -> None:
    other = f"http://127.0.0.1:{free_port()}/"
    head = f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {other}\r\nContent-Length: 0\r\n\r\n"
    url = server.start((head.encode(), True))

    with pytest.raises(StoreError, match="redirects are not followed"):
        transfer.get(url)


@pytest.mark.parametrize(
    "answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"]
)
def test_put_that_is_not_acknowledged_is_unreachable(
    server: ScriptedServer, transfer: HttpTransfer, answer: bytes
) -> None:
    url = server.start((answer, False))

    with pytest.raises(StoreUnreachable):
        transfer.put(url, [b"hello"], 5)


def test_put_of_refused_upload_tells_why_before_all_is_sent(transfer: HttpTransfer) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/bucket/a/key"

    def refuse() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    thread = threading.Thread(target=refuse)
    thread.start()

    with pytest.raises(StoreError, match="403"):
        transfer.put(url, [bytes(64 << 20)], 64 << 20)

    thread.join()
    listener.close()


def test_put_sends_all_chunks_with_their_length(server: ScriptedServer, transfer: HttpTransfer) -> None:
    url = server.start((EMPTY, True))

    transfer.put(url, [memoryview(b"hel"), b"", bytearray(b"lo")], 5)

    assert b"Content-Length: 5\r\n" in server.requests[0]
    assert server.requests[0].endswith(b"\r\n\r\nhello")


def test_transfer_without_server_says_where_but_not_the_signature(transfer: HttpTransfer) -> None:
    port = free_port()

    with pytest.raises(StoreUnreachable) as caught:
        transfer.get(f"http://127.0.0.1:{port}/bucket/a/key?X-Amz-Signature=secret")

    assert f"127.0.0.1:{port}/bucket/a/key" in str(caught.value)
    assert "refused" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_transfer_reports_bytes_of_what_succeeded(server: ScriptedServer) -> None:
    reports: list[tuple[str, int]] = []
    transfer = HttpTransfer(
        on_transfer=lambda operation, num_bytes, _: reports.append((operation, num_bytes))
    )
    missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    url = server.start((EMPTY, True), (OK, True), (missing, True))

    transfer.put(url, [b"hello"], 5)
    transfer.get(url)
    with pytest.raises(ObjectMissing):
        transfer.get(url)
    transfer.close()

    assert reports == [("put", 5), ("get", 5)]


def test_transfer_after_fork_leaves_the_connection_to_the_parent(
    server: ScriptedServer, transfer: HttpTransfer
) -> None:
    url = server.start((OK, True), (OK, True))
    transfer.get(url)
    kept = transfer._connections._idle

    child = os.fork()
    if child == 0:
        # takes no part in the parent's test run: no fixture may be torn down here
        connection = transfer._connections._take("http", url.split("/")[2])
        os._exit(0 if connection.sock is None and not transfer._connections._idle else 1)
    status = os.waitpid(child, 0)[1]

    assert status == 0
    assert transfer.get(url) == b"hello"
    assert len(kept) == 1
    assert server.num_connections == 1


def test_transfer_over_https_refuses_unknown_certificates(tmp_path: Path, transfer: HttpTransfer) -> None:
    subprocess.run(
        [program("openssl", "apt-get install openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes"]
        + ["-subj", "/CN=127.0.0.1"]
        + ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem", "-days", "1"],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def handshake() -> None:
        connection, _ = listener.accept()
        try:
            context.wrap_socket(connection, server_side=True).close()
        except OSError:
            connection.close()

    thread = threading.Thread(target=handshake)
    thread.start()

    with pytest.raises(StoreError, match="certificate is not trusted") as caught:
        transfer.get(f"https://127.0.0.1:{listener.getsockname()[1]}/bucket/key")

    thread.join()
    listener.close()
    assert not caught.value.retryable
