"""One call of `/function/<name>`: find a replica, pass the request on, pass the reply back.

A request waits its turn with its body already read (up to 1 MiB), so a slow client holds no replica. A client
that goes away while waiting leaves the queue; one that goes away later changes nothing: its call runs to its
end, the reply is thrown away, and the replica is free again. Only a client that goes away within a longer
body, which was being passed on, costs its replica: nobody can tell what that one is doing.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from localfaas.errors import LocalFaasError, RequestTooSlow
from localfaas.pool import Pool
from localfaas.replica import Replica
from localfaas.runtimes.interface import ReplicaExit
from localfaas.upstream import Headers, ReplicaConnection, ReplyLost
from localfaas.watchdog_options import TimeLimits

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger(__name__)

_MAX_BUFFERED_BYTES = 1 << 20
_MAX_SHORT_BYTES = 1 << 16
_EXIT_PATIENCE_SECONDS = 2.0
_OUT_OF_MEMORY = 507
# Headers that concern one connection (RFC 9110, 7.6.1), and those that the gateway sets itself.
_NOT_PASSED_ON = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
     b"trailer", b"transfer-encoding", b"upgrade", b"expect", b"content-length", b"x-call-id",
     b"x-start-time")
)  # fmt: skip
_NOT_PASSED_BACK = _NOT_PASSED_ON - {b"content-length"} | {
    b"x-replica",
    b"x-cold-start",
    b"x-duration-seconds",
}


class ReplicaFailed(LocalFaasError):
    """The replica gave no reply; `status` and `kind` say why, `details` are further fields of the answer."""

    def __init__(self, status: int, kind: str, message: str, **details: object) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.details = details


class ClientGone(Exception):
    """The client closed its connection before there was anything to answer."""


class Invocation:
    """One request to one function."""

    def __init__(
        self, pool: Pool, path: bytes, scope: Scope, receive: Receive, send: Send, limits: TimeLimits
    ):
        """Take a request; nothing happens before `run`.

        Args:
            pool: the function's.
            path: what follows the function's name, percent-encoded as it came, with the query.
            scope: ASGI scope of the request.
            receive: yields its body.
            send: takes the reply.
            limits: what it may take.
        """
        self._pool = pool
        self._path = path
        self._scope = scope
        self._receive = receive
        self._send = send
        self._limits = limits
        self._started_ns = time.time_ns()
        self._started_at = time.perf_counter()
        # The first of each name.
        self._given = dict(scope["headers"][::-1])
        self._call_id = self._given.get(b"x-call-id") or str(uuid.uuid4()).encode()
        self._has_answered = False
        # What is wrong with the client while its body is passed on.
        self._client_trouble: ClientGone | RequestTooSlow | None = None
        # Until there is an answer: what the server makes of an error that nobody foresaw.
        self._status = 500

    async def run(self) -> None:
        """Answer the request, whatever happens to the replica; the pool's statistics count it.

        Raises:
            ReplicaFailed: within a reply of which the client has a part already; its connection has to end.
        """
        stats = self._pool.stats
        stats.num_started += 1
        stats.num_in_flight += 1
        try:
            read_seconds = self._limits.read_seconds
            deadline = asyncio.get_running_loop().time() + read_seconds if read_seconds else None
            body, is_whole = await self._read_body(deadline)
            replica = await self._acquire(is_whole)
            await self._call(replica, body if is_whole else self._stream_body(body, deadline))
        except LocalFaasError as error:
            if error.status >= 500:
                _log.warning("call %s of %s: %s", self._call_id.decode("latin-1"), self._pool.name, error)
            if self._has_answered:
                raise
            await self._answer_error(error)
        except ClientGone:
            # The code that nginx gives such requests in its log; nobody receives it.
            self._status = 499
        finally:
            stats.num_in_flight -= 1
            stats.durations_by_code[str(self._status)].observe(time.perf_counter() - self._started_at)

    async def _read_body(self, deadline: float | None) -> tuple[bytes, bool]:
        """Return the body, or its beginning where it is long, and whether it is whole."""
        parts: list[bytes] = []
        num_bytes = 0
        while num_bytes <= _MAX_BUFFERED_BYTES:
            message = await self._receive_body(deadline)
            parts.append(message.get("body", b""))
            num_bytes += len(parts[-1])
            if not message.get("more_body", False):
                return b"".join(parts), True
        return b"".join(parts), False

    async def _receive_body(self, deadline: float | None) -> Message:
        try:
            async with asyncio.timeout_at(deadline):
                message = await self._receive()
        except TimeoutError as error:
            seconds = self._limits.read_seconds
            text = f"the request did not come within the read_timeout of {seconds:g} s of {self._pool.name}"
            raise RequestTooSlow(text) from error
        if message["type"] == "http.disconnect":
            raise ClientGone
        return message

    async def _stream_body(self, beginning: bytes, deadline: float | None) -> AsyncIterator[bytes]:
        is_chunked = b"content-length" not in self._given
        yield _chunk(beginning) if is_chunked else beginning
        more = True
        while more:
            try:
                message = await self._receive_body(deadline)
            except (ClientGone, RequestTooSlow) as error:
                self._client_trouble = error
                raise ReplyLost("the client did not send the whole request") from error
            more = message.get("more_body", False)
            if body := message.get("body", b""):
                yield _chunk(body) if is_chunked else body
        if is_chunked:
            yield b"0\r\n\r\n"

    async def _acquire(self, is_whole: bool) -> Replica:
        """Return a replica that is this call's alone."""
        replica = self._pool.take_idle()
        if replica is not None:
            return replica
        waiter = self._pool.enqueue()
        if not is_whole:
            # `receive` yields the body now, and would not tell whether the client is still there.
            return await self._take_turn(waiter)
        gone = asyncio.ensure_future(self._receive())
        gone.add_done_callback(lambda _: waiter.cancel())
        try:
            return await self._take_turn(waiter)
        except asyncio.CancelledError:
            if gone.done():
                raise ClientGone from None
            raise
        finally:
            gone.cancel()

    async def _take_turn(self, waiter: "asyncio.Future[Replica]") -> Replica:
        try:
            return await waiter
        except BaseException:
            self._pool.leave(waiter)
            raise

    async def _call(self, replica: Replica, body: bytes | AsyncIterator[bytes]) -> None:
        """Pass the request to `replica`, the reply to the client, and the replica back to its pool."""
        is_reusable = False
        connection = replica.take_connection()
        name, seconds = self._limits.reply_name, self._limits.reply_seconds
        began = time.perf_counter()
        try:
            async with asyncio.timeout(seconds or None):
                rest = await self._exchange(replica, connection, body)
            replica.reply_seconds = time.perf_counter() - began
            is_reusable = True
        except TimeoutError as error:
            text = f"function {self._pool.name} did not reply within its {name} of {seconds:g} s"
            raise ReplicaFailed(504, "timeout", text, **{f"{name}_seconds": seconds}) from error
        except ReplyLost as error:
            if self._client_trouble is not None:
                raise self._client_trouble from error
            raise await self._explain(replica, error) from error
        finally:
            if is_reusable:
                replica.give_back(connection)
                self._pool.release(replica)
            else:
                connection.close()
                self._pool.discard(replica)
        for message in rest:
            await self._send(message)

    async def _exchange(
        self, replica: Replica, connection: ReplicaConnection, body: bytes | AsyncIterator[bytes]
    ) -> list[Message]:
        """Read the reply to its end; return what of it the client has still to be sent."""
        own_headers = [(b"x-replica", replica.name.encode())]
        if replica.num_requests == 0:
            own_headers.append((b"x-cold-start", b"1"))
        replica.num_requests += 1
        is_head = self._scope["method"] == "HEAD"
        status, headers = await connection.request(self._head(body), body, is_head=is_head)
        if status == _OUT_OF_MEMORY:
            self._pool.stats.num_oom_kills += 1
        elif status >= 500 and replica.process.memory().oom_kills:
            # A watchdog answers for the process that the kernel has killed, and lives on.
            replica.process.kill()
            raise ReplyLost("one of its processes was killed for its memory")
        passed_back = [pair for pair in headers if pair[0] not in _NOT_PASSED_BACK] + own_headers
        if _is_short(headers):
            # Whole or not at all: a replica that is lost half-way can still be answered for.
            whole = b"".join([chunk async for chunk in connection.chunks()])
            return [self._start_message(status, passed_back), {"type": "http.response.body", "body": whole}]
        await self._send(self._start_message(status, passed_back))
        async for chunk in connection.chunks():
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        return [{"type": "http.response.body"}]

    async def _explain(self, replica: Replica, lost: ReplyLost) -> ReplicaFailed:
        """Return what became of a replica whose reply was lost: out of memory, or something else."""
        end: ReplicaExit | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_PATIENCE_SECONDS):
                end = await replica.wait_exit()
        names = {"function": self._pool.name, "replica": replica.name}
        # Whoever is slow to end has been counted by the kernel already.
        memory = replica.process.memory() if end is None else end.memory
        if memory.oom_kills:
            limit_bytes = replica.memory_limit_bytes
            peak_bytes = memory.peak_bytes
            text = f"replica {replica.name} was killed at {peak_bytes} bytes; raise its limits.memory"
            return ReplicaFailed(
                _OUT_OF_MEMORY, "out_of_memory", text, limit_bytes=limit_bytes, peak_bytes=peak_bytes, **names
            )
        reason = str(lost) if end is None else end.reason
        return ReplicaFailed(502, "replica_lost", f"replica {replica.name} gave no reply: {reason}", **names)

    def _head(self, body: bytes | AsyncIterator[bytes]) -> bytes:
        """Return the request line and headers for the replica."""
        scope = self._scope
        lines = [b"%s %s HTTP/1.1" % (scope["method"].encode(), self._path)]
        lines += [b"%s: %s" % pair for pair in scope["headers"] if pair[0] not in _NOT_PASSED_ON]
        if isinstance(body, bytes):
            if body or scope["method"] not in ("GET", "HEAD", "OPTIONS", "DELETE"):
                lines.append(b"content-length: %d" % len(body))
        elif length := self._given.get(b"content-length"):
            lines.append(b"content-length: " + length)
        else:
            lines.append(b"transfer-encoding: chunked")
        client = scope.get("client") or ("",)
        if not self._given.get(b"x-forwarded-for"):
            lines.append(b"x-forwarded-for: " + client[0].encode())
        lines += [b"x-call-id: " + self._call_id, b"x-start-time: %d" % self._started_ns]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _start_message(self, status: int, headers: Headers) -> Message:
        """Return the start of the answer, after which there can be no other."""
        seconds = time.perf_counter() - self._started_at
        headers += [
            (b"x-call-id", self._call_id),
            (b"x-start-time", b"%d" % self._started_ns),
            (b"x-duration-seconds", b"%.6f" % seconds),
        ]
        self._status, self._has_answered = status, True
        return {"type": "http.response.start", "status": status, "headers": headers}

    async def _answer_error(self, error: LocalFaasError) -> None:
        body = error.to_json()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        if error.status in (429, 503):
            headers.append((b"retry-after", b"1"))
        if isinstance(error, RequestTooSlow):
            # The rest of its body is not read.
            headers.append((b"connection", b"close"))
        await self._send(self._start_message(error.status, headers))
        await self._send({"type": "http.response.body", "body": body})


def _is_short(headers: Headers) -> bool:
    length = next((value for name, value in headers if name == b"content-length"), b"")
    return length.isdigit() and int(length) <= _MAX_SHORT_BYTES


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""
