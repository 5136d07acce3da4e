"""What the gateway asks of a runtime.

A runtime finds a deployment's image and gives a launcher, by which a pool starts its replicas.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from localfaas.deployments import Deployment
from localfaas.logs import FunctionLog, ReplicaLog
from localfaas.memory import MemoryUsage
from localfaas.upstream import Address

READY_PATHS: tuple[bytes, ...] = (b"/_/ready", b"/_/health")
"""Of of-watchdog and our template, and what a server without the first has; see docs.openfaas.com."""


@dataclass(frozen=True)
class ReplicaSpec:
    """What one replica has that others of its deployment have not."""

    name: str
    secrets_directory: str | None
    """The folder whose files the replica finds under /var/openfaas/secrets, or under `secret_mount_path`."""

    log: ReplicaLog
    """Takes every line the replica writes."""


@dataclass(frozen=True)
class ReplicaExit:
    """How a replica ended."""

    reason: str
    """For people, such as `exit status 1` or `killed by SIGKILL`."""

    memory: MemoryUsage
    cpu_seconds: float


class ReplicaProcess(Protocol):
    """A replica that has been started, whether it still runs or not."""

    name: str
    address: Address
    """Refuses connections after the replica's end."""

    has_backlog: bool
    """Connections queue while the replica starts; where they do not, one that is lost means nothing yet."""

    ready_paths: tuple[bytes, ...]
    """What says whether the replica takes requests, the next where one is unknown; empty: that it listens."""

    exited: asyncio.Future[ReplicaExit]
    """Done once nothing of the replica is left."""

    def kill(self) -> None:
        """Make the replica end now, with all its processes."""

    def terminate(self) -> None:
        """Ask the replica to end (SIGTERM)."""

    def memory(self) -> MemoryUsage:
        """Return its memory figures of now."""

    def cpu_seconds(self) -> float:
        """Return the CPU time it has used."""


class Launcher(Protocol):
    """Starts the replicas of one deployment, whose image has been found."""

    not_honoured: tuple[str, ...]
    """What the deployment asks for and this runtime cannot give; said in logs and in an annotation."""

    async def start(self, spec: ReplicaSpec) -> ReplicaProcess:
        """Return a started replica; it may not answer yet.

        Raises:
            StartFailed: nothing of it is left.
        """

    async def adopt(self, log: FunctionLog) -> list[ReplicaProcess]:
        """Return the replicas of this very deployment that an earlier gateway left running, now this one's.

        Args:
            log: of the function; takes what they write.
        """


class Runtime(Protocol):
    """One way of running replicas."""

    name: str
    """What `/system/info` calls the orchestration."""

    memory_source: str
    """The mechanism behind every memory figure, a label value in metrics."""

    memory_description: str
    """One sentence for people: what holds memory limits here."""

    async def prepare(self, deployment: Deployment) -> Launcher:
        """Return what starts the replicas of `deployment`.

        Raises:
            BadRequest: its image is unknown; the message says what to do.
        """

    async def sweep(self) -> None:
        """Remove what an earlier gateway left running and nobody has adopted."""

    async def close(self) -> None:
        """Leave nothing of the runtime; all replicas have ended."""
