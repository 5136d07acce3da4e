"""One replica as the pool sees it."""

import asyncio
import math
from collections.abc import Sequence

from localfaas.runtimes.interface import ReplicaExit, ReplicaProcess
from localfaas.upstream import ReplicaConnection, ReplyLost

_REQUEST = b"GET %s HTTP/1.1\r\nHost: localhost\r\nUser-Agent: localfaas\r\n\r\n"
_NOT_READY = 503
_PAUSE_SECONDS = 0.05
_HEALTH_PATIENCE_SECONDS = 5.0
_END_PATIENCE_SECONDS = 2.0
_SLOW_FACTOR = 2.0


class Replica:
    """A process, its connections, and how many requests are with it: no more than the pool gives it."""

    def __init__(self, process: ReplicaProcess, generation: int, memory_limit_bytes: int | None) -> None:
        self.process = process
        self.generation = generation
        """Of the deployment that it runs; the pool's number has grown since if it is outdated."""
        self.memory_limit_bytes = memory_limit_bytes
        """Of that deployment, too."""
        self.is_ready = False
        self.is_ending = False
        """It gets no more requests, and was asked to end unless it still has some."""
        self.is_suspect = False
        """Nobody knows what it is doing with a request of which the reply was given up."""
        self.num_active = 0
        self.num_requests = 0
        self.reply_seconds = math.inf
        """What its last reply took; infinity before the first."""
        self._spare: list[ReplicaConnection] = []
        self._connections: set[ReplicaConnection] = set()
        process.exited.add_done_callback(lambda _: self._close())

    @property
    def name(self) -> str:
        """Its name in headers, logs and answers."""
        return self.process.name

    def take_connection(self) -> ReplicaConnection:
        """Return a connection for one request; it is the caller's until `give_back`."""
        if self._spare:
            return self._spare.pop()
        connection = ReplicaConnection(self.process.address)
        self._connections.add(connection)
        return connection

    def give_back(self, connection: ReplicaConnection) -> None:
        """Keep a connection whose reply is complete, or was given up, in which case it is closed first."""
        self._spare.append(connection)

    async def begin(self, patience_seconds: float) -> str:
        """Return once the replica answers or has ended; if it never does, kill it and return why, else ""."""
        try:
            async with asyncio.timeout(patience_seconds):
                await self._wait_ready()
        except TimeoutError:
            self.process.kill()
            return f"it answered nothing for {patience_seconds:g} s; "
        except ReplyLost as error:
            # Most often it has ended. One that lives on without taking connections is of no use either.
            await asyncio.wait({self.process.exited}, timeout=_END_PATIENCE_SECONDS)
            self.process.kill()
            return "" if self.process.exited.done() else f"{error}; "
        return ""

    async def _wait_ready(self) -> None:
        """Return once the replica takes requests: its ready path answers anything but 503, or it listens.

        The next path is asked as well where one is unknown. Where a request waits in the socket's backlog
        while the process starts, there is nothing to poll.

        Raises:
            ReplyLost: it ended before.
        """
        connection = self.take_connection()
        if not self.process.ready_paths:
            while not await self._listens(connection):
                await asyncio.sleep(_PAUSE_SECONDS)
        for path in self.process.ready_paths:
            while (status := await self._ask(connection, path)) == _NOT_READY:
                await asyncio.sleep(_PAUSE_SECONDS)
            if 200 <= status < 300:
                break
        self.give_back(connection)
        self.is_ready = True

    async def is_healthy(self) -> bool:
        """Tell whether the replica soon answers its last ready path without a server error, or listens."""
        connection = self.take_connection()
        try:
            async with asyncio.timeout(_HEALTH_PATIENCE_SECONDS):
                if not self.process.ready_paths:
                    return await self._listens(connection)
                return await self._ask(connection, self.process.ready_paths[-1]) < 500
        except (ReplyLost, TimeoutError):
            return False
        finally:
            self.give_back(connection)

    async def _listens(self, connection: ReplicaConnection) -> bool:
        try:
            await connection.open()
        except ReplyLost:
            if self.process.exited.done():
                raise
            return False
        return True

    async def _ask(self, connection: ReplicaConnection, path: bytes) -> int:
        """Return the status of a GET; 503 where nobody listens yet."""
        try:
            status, _ = await connection.request(_REQUEST % path, b"")
            async for _chunk in connection.chunks():
                pass
        except ReplyLost:
            connection.close()
            if self.process.has_backlog or self.process.exited.done():
                raise
            return _NOT_READY
        except BaseException:
            connection.close()
            raise
        return status

    async def wait_exit(self) -> ReplicaExit:
        """Return how the process ended; being cancelled does not touch it."""
        return await asyncio.shield(self.process.exited)

    def _close(self) -> None:
        for connection in self._connections:
            connection.close()


def preferred(idle: Sequence[Replica], max_inflight: int) -> Replica:
    """Return the replica with the fewest requests, of several the one used last, for its caches.

    But one that took more than twice as long for its last reply as another that is idle is left to that one:
    else a caller that waits for each reply would come back to a slow replica again and again.

    Args:
        idle: with room for a request, in the order of their use; not empty.
        max_inflight: requests that a replica may have; with more than one, replies are not compared.
    """
    last = idle[-1]
    if max_inflight > 1:
        return min(reversed(idle), key=lambda each: each.num_active)
    prompt = min(reversed(idle), key=lambda each: each.reply_seconds)
    return prompt if last.reply_seconds > _SLOW_FACTOR * prompt.reply_seconds else last
