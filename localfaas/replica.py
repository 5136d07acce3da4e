"""One replica as the pool sees it."""

import asyncio

from localfaas.runtimes.interface import ReplicaExit, ReplicaProcess
from localfaas.upstream import ReplicaConnection, ReplyLost

_REQUEST = b"GET %s HTTP/1.1\r\nHost: localhost\r\nUser-Agent: localfaas\r\n\r\n"
# Of of-watchdog and our template, and what a server without the first has; see docs.openfaas.com.
_READY_PATHS = (b"/_/ready", b"/_/health")
_NOT_READY = 503
_PAUSE_SECONDS = 0.05


class Replica:
    """A process, its connection, and what it is doing; at most one request is with it at any time."""

    def __init__(self, process: ReplicaProcess, generation: int) -> None:
        self.process = process
        self.connection = ReplicaConnection(process.address)
        self.generation = generation
        """Of the deployment that it runs; the pool's number has grown since if it is outdated."""
        self.is_ready = False
        self.is_ending = False
        """It was asked to end, and gets no more requests."""
        self.num_requests = 0
        process.exited.add_done_callback(lambda _: self.connection.close())

    @property
    def name(self) -> str:
        """Its name in headers, logs and answers."""
        return self.process.name

    async def wait_ready(self) -> None:
        """Return once the replica answers HTTP: anything to `/_/ready` but 503 says so.

        `/_/health` is asked as well where the replica knows no `/_/ready`. Where a request waits in the
        socket's backlog while the process starts, there is nothing to poll.

        Raises:
            ReplyLost: it ended before.
        """
        for path in _READY_PATHS:
            while (status := await self._ask(path)) == _NOT_READY:
                await asyncio.sleep(_PAUSE_SECONDS)
            if 200 <= status < 300:
                break
        self.is_ready = True

    async def _ask(self, path: bytes) -> int:
        """Return the status of a GET; 503 where nobody listens yet."""
        try:
            status, _ = await self.connection.request(_REQUEST % path, b"")
            async for _chunk in self.connection.chunks():
                pass
        except ReplyLost:
            self.connection.close()
            if self.process.has_backlog or self.process.exited.done():
                raise
            return _NOT_READY
        return status

    async def wait_exit(self) -> ReplicaExit:
        """Return how the process ended; being cancelled does not touch it."""
        return await asyncio.shield(self.process.exited)
