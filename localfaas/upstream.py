"""One HTTP/1.1 connection to one replica, for one request at a time.

Why not a library's client: `docs/decisions/localfaas-invocation-path.md`.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httptools

_READ_BYTES = 1 << 16
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


class ReplicaConnection:
    """A connection that is opened when needed and kept while it is in use."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reply = _Reply()
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
        self._reply = _Reply()
        self._is_bodyless = is_head
        writer = await self.open()
        try:
            if isinstance(body, bytes):
                writer.write(head + body)
                await writer.drain()
            else:
                writer.write(head)
                # The reply may come, and end, before the request does.
                self._sender = asyncio.get_running_loop().create_task(self._send(writer, body))
        except OSError as error:
            raise ReplyLost(str(error)) from error
        while not self._reply.has_headers:
            await self._read()
        return self._reply.status, self._reply.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the reply's body; the connection is ready for the next request afterwards.

        Raises:
            ReplyLost: before the body was complete.
        """
        reply = self._reply
        while True:
            chunks, reply.chunks = reply.chunks, []
            for chunk in chunks:
                yield chunk
            if reply.is_complete or self._is_bodyless:
                break
            await self._read()
        self._last_used = asyncio.get_running_loop().time()
        is_sent = self._sender is None or self._sender.done()
        if self._is_bodyless or not is_sent or not reply.is_kept_alive or reply.has_excess:
            self.close()

    def close(self) -> None:
        """End the connection; a request that is under way loses its reply."""
        if self._sender is not None:
            self._sender.cancel()
            self._sender = None
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def open(self) -> asyncio.StreamWriter:
        """Connect, unless a connection is there that can be used again.

        Raises:
            ReplyLost: nobody listens.
        """
        loop = asyncio.get_running_loop()
        is_stale = (
            self._reader is None or self._reader.at_eof() or loop.time() - self._last_used > _MAX_IDLE_SECONDS
        )
        if self._writer is None or is_stale or self._writer.is_closing():
            self.close()
            try:
                self._reader, self._writer = await self._connect()
            except OSError as error:
                raise ReplyLost(str(error)) from error
        return self._writer

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._address, str):
            return await asyncio.open_unix_connection(self._address)
        return await asyncio.open_connection(*self._address)

    async def _send(self, writer: asyncio.StreamWriter, body: AsyncIterator[bytes]) -> None:
        try:
            async for piece in body:
                writer.write(piece)
                await writer.drain()
        except ReplyLost:
            writer.transport.abort()
        except OSError:
            # The replica may answer before it has read everything; whether it did is for the reader to see.
            pass

    async def _read(self) -> None:
        if self._reader is None:
            raise ReplyLost("the connection was closed")
        try:
            data = await self._reader.read(_READ_BYTES)
        except OSError as error:
            raise ReplyLost(str(error)) from error
        reply = self._reply
        if not reply.has_headers:
            reply.num_head_bytes += len(data)
        if not data:
            if reply.has_headers and not reply.is_sized:
                # HTTP/1.0 style: the end of the connection is the end of the body.
                reply.is_complete = True
                return
            raise ReplyLost("the connection ended within the reply")
        try:
            reply.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            # An upgrade is to another protocol, and nobody has asked for one.
            raise ReplyLost(f"the replica does not speak HTTP: {error!r}") from error
        if reply.status > _MAX_STATUS:
            raise ReplyLost(f"the replica answered with the impossible status {reply.status}")
        if not reply.has_headers and reply.num_head_bytes > _MAX_HEAD_BYTES:
            raise ReplyLost(f"the replica's headers are above {_MAX_HEAD_BYTES} bytes")
