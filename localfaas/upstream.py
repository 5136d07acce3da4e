"""One HTTP/1.1 connection to one replica, for one request at a time.

Why not a library's client: `docs/decisions/localfaas-invocation-path.md`.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import httptools

# So much of a reply may wait for its client, in pieces of at most 256 KiB.
_MAX_UNREAD_CHUNKS = 16
# A server may close a connection that has been idle; a request sent at that moment would be lost.
_MAX_IDLE_SECONDS = 1.0
_MAX_HEAD_BYTES = 1 << 18
_MAX_STATUS = 599

Headers = list[tuple[bytes, bytes]]
Address = str | tuple[str, int]
"""A unix socket's path, or host and port."""


class ReplyLost(ConnectionError):
    """The connection ended, or spoke no HTTP, before the reply was complete."""


@dataclass
class _Reply:
    """What httptools has seen of one reply; its methods are the parser's callbacks."""

    status: int = 0
    headers: Headers = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    num_head_bytes: int = 0
    has_headers: bool = False
    is_complete: bool = False
    is_sized: bool = False
    is_kept_alive: bool = False
    has_excess: bool = False
    """The replica sent more than one reply; nothing of it can be told from the next request's."""
    parser: httptools.HttpResponseParser = field(init=False)

    def __post_init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)

    def on_message_begin(self) -> None:
        self.has_excess = self.is_complete

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.has_excess:
            return
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self.is_sized = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if not self.has_excess:
            self.status = int(self.parser.get_status_code())
            self.is_kept_alive = bool(self.parser.should_keep_alive())
            self.has_headers = self.status >= 200

    def on_body(self, data: bytes) -> None:
        if not self.has_excess:
            self.chunks.append(data)

    def on_message_complete(self) -> None:
        if self.has_headers:
            self.is_complete = True
        else:
            # An interim reply such as 103 Early Hints; the real one follows.
            self.headers.clear()


class _Wire(asyncio.Protocol):
    """One transport, which feeds the reply that is awaited now."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.reply: _Reply | None = None
        self.lost: ReplyLost | None = None
        """Why nothing more can come."""
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._is_paused = False

    async def more(self) -> None:
        """Return when there is more of the reply than there was.

        Raises:
            ReplyLost: there will be none.
        """
        if self.lost is not None:
            raise self.lost
        if self._is_paused and not self.transport.is_closing():
            self._is_paused = False
            self.transport.resume_reading()
        self._news = asyncio.get_running_loop().create_future()
        await self._news

    async def drain(self) -> None:
        """Return when the other side has taken most of what was written, or takes nothing any more."""
        if self._room is not None:
            await self._room

    def lose(self, reason: str) -> None:
        """End the connection; whoever waits finds out why."""
        if self.lost is None:
            self.lost = ReplyLost(reason)
            self.transport.abort()
            self.resume_writing()
            _wake(self._news)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        reply = self.reply
        if reply is None:
            self.lose("the replica sent what nobody had asked for")
            return
        if not reply.has_headers:
            reply.num_head_bytes += len(data)
        try:
            reply.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # An upgrade is to another protocol, and nobody has asked for one.
            self.lose(f"the replica does not speak HTTP: {error!r}")
            return
        if reply.status > _MAX_STATUS:
            self.lose(f"the replica answered with the impossible status {reply.status}")
        elif not reply.has_headers and reply.num_head_bytes > _MAX_HEAD_BYTES:
            self.lose(f"the replica's headers are above {_MAX_HEAD_BYTES} bytes")
        else:
            if len(reply.chunks) > _MAX_UNREAD_CHUNKS and not self._is_paused:
                self._is_paused = True
                self.transport.pause_reading()
            _wake(self._news)

    def eof_received(self) -> None:
        reply = self.reply
        if self.lost is None and reply is not None and reply.has_headers and not reply.is_sized:
            # HTTP/1.0 style: the end of the connection is the end of the body.
            reply.is_complete = True
        self.lose("the connection ended within the reply")

    def connection_lost(self, error: Exception | None) -> None:
        if error is None:
            self.eof_received()
        else:
            self.lose(str(error) or type(error).__name__)

    def pause_writing(self) -> None:
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        _wake(self._room)
        self._room = None


class ReplicaConnection:
    """A connection that is opened when needed and kept while it is in use."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._wire: _Wire | None = None
        self._last_used = 0.0
        self._is_bodyless = False
        self._sender: asyncio.Task[None] | None = None

    async def request(
        self, head: bytes, body: bytes | AsyncIterator[bytes], *, is_head: bool = False
    ) -> tuple[int, Headers]:
        """Send a request and return the status and headers of its reply; the body follows by `chunks`.

        Args:
            head: request line and headers, up to and with the empty line.
            body: encoded as the head says; an iterator may end with ReplyLost, which ends the connection.
            is_head: the method is HEAD, so the reply has no body whatever it says.

        Raises:
            ReplyLost: before the headers were complete.
        """
        self._is_bodyless = is_head
        wire = await self.open()
        wire.reply = reply = _Reply()
        if isinstance(body, bytes):
            wire.transport.write(head + body)
        else:
            wire.transport.write(head)
            # The reply may come, and end, before the request does.
            self._sender = asyncio.get_running_loop().create_task(_send(wire, body))
        while not reply.has_headers:
            await wire.more()
        return reply.status, reply.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the reply's body; the connection is ready for the next request afterwards.

        Raises:
            ReplyLost: before the body was complete.
        """
        wire = self._wire
        if wire is None or wire.reply is None:
            raise ReplyLost("the connection was closed")
        reply = wire.reply
        while True:
            chunks, reply.chunks = reply.chunks, []
            for chunk in chunks:
                yield chunk
            if not reply.chunks:
                if reply.is_complete or self._is_bodyless:
                    break
                await wire.more()
        wire.reply = None
        self._last_used = asyncio.get_running_loop().time()
        is_sent = self._sender is None or self._sender.done()
        if self._is_bodyless or not is_sent or not reply.is_kept_alive or reply.has_excess:
            self.close()

    def close(self) -> None:
        """End the connection; a request that is under way loses its reply."""
        if self._sender is not None:
            self._sender.cancel()
            self._sender = None
        if self._wire is not None:
            self._wire.lose("the connection was closed")
            self._wire = None

    async def open(self) -> _Wire:
        """Connect, unless a connection is there that can be used again.

        Raises:
            ReplyLost: nobody listens.
        """
        loop = asyncio.get_running_loop()
        wire = self._wire
        if wire is not None and wire.lost is None and loop.time() - self._last_used <= _MAX_IDLE_SECONDS:
            return wire
        self.close()
        try:
            if isinstance(self._address, str):
                _, wire = await loop.create_unix_connection(_Wire, self._address)
            else:
                _, wire = await loop.create_connection(_Wire, *self._address)
        except OSError as error:
            raise ReplyLost(str(error)) from error
        self._wire = wire
        return wire


async def _send(wire: _Wire, body: AsyncIterator[bytes]) -> None:
    try:
        async for piece in body:
            wire.transport.write(piece)
            await wire.drain()
    except ReplyLost as error:
        wire.lose(str(error))


def _wake(waiting: "asyncio.Future[None] | None") -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
