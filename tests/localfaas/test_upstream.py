"""The client towards replicas, against servers that say exactly what each test wants."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from localfaas.upstream import ReplicaConnection, ReplyLost

REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture
def converse(tmp_path: Path) -> Callable[..., Any]:
    """Return a function that runs a scenario with a connection to a server that sends the given replies.

    Each reply is a list of pieces; the server ends the connection after an empty piece.
    """

    def run(replies: list[list[bytes]], scenario: Callable[[ReplicaConnection], Any]) -> tuple[Any, int]:
        num_connections = 0
        remaining = list(replies)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal num_connections
            num_connections += 1
            is_open = True
            try:
                while is_open and remaining:
                    await reader.readuntil(b"\r\n\r\n")
                    for piece in remaining.pop(0):
                        is_open = is_open and piece != b""
                        writer.write(piece)
                        await writer.drain()
                        await asyncio.sleep(0)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        async def main() -> Any:
            path = str(tmp_path / "s.sock")
            server = await asyncio.start_unix_server(serve, path)
            connection = ReplicaConnection(path)
            try:
                async with asyncio.timeout(5):
                    return await scenario(connection)
            finally:
                connection.close()
                server.close()

        return asyncio.run(main()), num_connections

    return run


async def ask(connection: ReplicaConnection, **options: Any) -> tuple[int, bytes]:
    status, _ = await connection.request(REQUEST, b"", **options)
    return status, b"".join([chunk async for chunk in connection.chunks()])


def test_request_replies_come_over_one_connection(converse: Callable[..., Any]) -> None:
    async def twice(connection: ReplicaConnection) -> list[Any]:
        return [await ask(connection), await ask(connection)]

    replies, num_connections = converse([[OK], [OK[:20], OK[20:-2], OK[-2:]]], twice)

    assert replies == [(200, b"hello")] * 2
    assert num_connections == 1


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"],
        [b"HTTP/1.0 200 OK\r\n\r\nhel", b"lo", b""],
        [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", b""],
        [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", OK],
        [b"HTTP/1.1 100 Continue\r\n\r\n" + OK],
        [OK + OK],
        [OK + b"HTTP/1.1 500 No\r\n"],
    ],
)
def test_request_reply_of_any_form_is_read_whole(converse: Callable[..., Any], pieces: list[bytes]) -> None:
    reply, _ = converse([pieces], ask)

    assert reply == (200, b"hello")


def test_request_after_an_excessive_reply_takes_a_new_connection(converse: Callable[..., Any]) -> None:
    async def twice(connection: ReplicaConnection) -> list[Any]:
        return [await ask(connection), await ask(connection)]

    second = OK.replace(b"hello", b"world")
    replies, num_connections = converse([[OK + OK], [second]], twice)

    assert replies == [(200, b"hello"), (200, b"world")]
    assert num_connections == 2


def test_request_head_has_no_body_whatever_its_length_says(converse: Callable[..., Any]) -> None:
    async def head(connection: ReplicaConnection) -> Any:
        return await ask(connection, is_head=True)

    reply, _ = converse([[OK.removesuffix(b"hello")]], head)

    assert reply == (200, b"")


@pytest.mark.parametrize(
    "pieces",
    [
        [b""],
        [b"HTTP/1.1 200 OK\r\nContent-Le", b""],
        [OK[:-1], b""],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", b""],
        [b"SSH-2.0-OpenSSH\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"],
    ],
)
def test_request_reply_that_is_cut_off_or_no_http_is_lost(
    converse: Callable[..., Any], pieces: list[bytes]
) -> None:
    with pytest.raises(ReplyLost):
        converse([pieces], ask)


def test_request_without_a_server_is_lost(tmp_path: Path) -> None:
    with pytest.raises(ReplyLost):
        asyncio.run(ask(ReplicaConnection(str(tmp_path / "nobody.sock"))))


def test_request_body_that_fails_ends_the_connection(converse: Callable[..., Any]) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        raise ReplyLost("the client went away")

    async def send(connection: ReplicaConnection) -> Any:
        return await connection.request(b"POST / HTTP/1.1\r\nContent-Length: 100\r\n", body())

    with pytest.raises(ReplyLost):
        converse([[OK]], send)


def test_reply_of_a_connection_closed_meanwhile_is_lost(converse: Callable[..., Any]) -> None:
    async def close_within(connection: ReplicaConnection) -> Any:
        await connection.request(REQUEST, b"")
        asyncio.get_running_loop().call_later(0.05, connection.close)
        return [chunk async for chunk in connection.chunks()]

    with pytest.raises(ReplyLost, match="was closed"):
        # Without a length its end would be the connection's.
        converse([[b"HTTP/1.1 200 OK\r\n\r\nhel"], [OK]], close_within)


def test_words_that_nobody_asked_for_are_no_reply(converse: Callable[..., Any]) -> None:
    async def twice(connection: ReplicaConnection) -> list[Any]:
        first = await ask(connection)
        await asyncio.sleep(0.05)
        return [first, await ask(connection)]

    second = OK.replace(b"hello", b"world")
    replies, num_connections = converse([[OK, OK], [second]], twice)

    assert replies == [(200, b"hello"), (200, b"world")]
    assert num_connections == 2


def test_long_reply_waits_for_its_reader(converse: Callable[..., Any]) -> None:
    body = bytes(range(256)) * (1 << 16)

    async def read_slowly(connection: ReplicaConnection) -> bytes:
        await connection.request(REQUEST, b"")
        parts = []
        async for chunk in connection.chunks():
            parts.append(chunk)
            await asyncio.sleep(0)
        return b"".join(parts)

    reply, _ = converse([[b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body]], read_slowly)

    assert reply == body
