"""What the pool asks of a runtime."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from localfaas.memory import MemoryUsage


@dataclass(frozen=True)
class ReplicaSpec:
    """Everything a runtime needs to start one replica."""

    name: str
    directory: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    preload: tuple[str, ...]
    memory_limit_bytes: int | None
    secrets_directory: str | None
    """The folder whose files the replica finds under /var/openfaas/secrets, or under `secret_mount_path`."""

    log: Callable[[str], None]
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
    pid: int
    socket_path: str
    """Connections to this unix socket queue while the replica starts, and are refused after its end."""

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


class Runtime(Protocol):
    """Starts replicas."""

    memory_source: str
    """The mechanism behind every memory figure, a label value in metrics."""

    async def start(self, spec: ReplicaSpec) -> ReplicaProcess:
        """Return a started replica; it may not answer yet.

        Raises:
            StartFailed: nothing of it is left.
        """

    async def close(self) -> None:
        """Leave nothing of the runtime; all replicas have ended."""
