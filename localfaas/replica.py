"""One replica as the pool sees it."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path

from localfaas.deployments import Deployment
from localfaas.images import ImageEntry
from localfaas.runtimes.interface import ReplicaExit, ReplicaProcess
from localfaas.upstream import ReplicaConnection

_READY_REQUEST = b"GET /_/ready HTTP/1.1\r\nHost: localhost\r\nUser-Agent: localfaas\r\n\r\n"
_NOT_READY = 503
# Isolated (-I): nothing of the function's can take the place of the standard library.
WATCHDOG_COMMAND = (sys.executable, "-I", str(Path(__file__).parent / "runtimes" / "watchdog.py"))
_NOT_READY_PAUSE_SECONDS = 0.05


class Replica:
    """A process, its connection, and what it is doing; at most one request is with it at any time."""

    def __init__(self, process: ReplicaProcess, generation: int) -> None:
        self.process = process
        self.connection = ReplicaConnection(process.socket_path)
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

        The request waits in the socket's backlog while the process starts, so there is nothing to poll.

        Raises:
            ReplyLost: it ended before.
        """
        while True:
            status, _ = await self.connection.request(_READY_REQUEST, b"")
            async for _chunk in self.connection.chunks():
                pass
            if status != _NOT_READY:
                break
            await asyncio.sleep(_NOT_READY_PAUSE_SECONDS)
        self.is_ready = True

    async def wait_exit(self) -> ReplicaExit:
        """Return how the process ended; being cancelled does not touch it."""
        return await asyncio.shield(self.process.exited)


def replica_environment(deployment: Deployment, entry: ImageEntry, name: str) -> Mapping[str, str]:
    """Return what a replica finds in its environment, the deployment's own variables on top.

    The names are those that OpenFaaS and a pod set; `LOCALFAAS_MEMORY_LIMIT_BYTES` is for a function server
    that reports a memory limit which no control group shows.
    """
    limit_bytes = deployment.memory_limit_bytes
    limit = {} if limit_bytes is None else {"LOCALFAAS_MEMORY_LIMIT_BYTES": str(limit_bytes)}
    return {
        "HOSTNAME": name,
        "OPENFAAS_NAME": deployment.service,
        "OPENFAAS_NAMESPACE": deployment.namespace,
        **limit,
        **entry.environment,
        **deployment.env_vars,
    }
