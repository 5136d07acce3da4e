"""One container as a replica."""

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from localfaas.errors import RuntimeUnavailable
from localfaas.logs import ReplicaLog
from localfaas.memory import MemoryUsage
from localfaas.runtimes.docker.engine import ContainerEnd, Engine, StartedContainer
from localfaas.runtimes.docker.meter import ContainerMeter
from localfaas.runtimes.docker.workers import Workers
from localfaas.runtimes.interface import READY_PATHS, ReplicaExit
from localfaas.upstream import Address

_log = logging.getLogger(__name__)

# So many lines may be on their way to the event loop: a flood waits in the Engine's own file.
_MAX_PENDING_LINES = 256


class DockerReplica:
    """A container with a thread that reads its log and waits for its end; see `ReplicaProcess`."""

    has_backlog = False
    ready_paths = READY_PATHS

    def __init__(
        self,
        name: str,
        container: StartedContainer,
        meter: ContainerMeter,
        memory_limit_bytes: int | None,
        engine: Engine,
        workers: Workers,
    ) -> None:
        """Take charge of a container that has been started; `follow` is to come next."""
        self.name = name
        self.container_id = container.id
        self.address: Address = container.address
        self.exited: asyncio.Future[ReplicaExit] = asyncio.get_running_loop().create_future()
        self.meter = meter
        self._memory_limit_bytes = memory_limit_bytes
        self._engine = engine
        self._workers = workers
        self._loop = asyncio.get_running_loop()
        self._signals: set[asyncio.Task[None]] = set()
        self._pending_lines = threading.Semaphore(_MAX_PENDING_LINES)

    def follow(self, log: ReplicaLog, since: datetime | None, on_end: Callable[[], None]) -> None:
        """Append what the container writes after `since` to `log` until it ends; then call `on_end`."""
        self.exited.add_done_callback(lambda _: on_end())
        arguments = (log, since)
        threading.Thread(target=self._attend, args=arguments, name=self.name, daemon=True).start()

    def kill(self) -> None:
        """Kill the container; see the interface."""
        self._send(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask the container to end; see the interface."""
        self._send(signal.SIGTERM)

    def memory(self) -> MemoryUsage:
        """Return its memory figures; see the interface."""
        return self.exited.result().memory if self.exited.done() else self.meter.memory()

    def cpu_seconds(self) -> float:
        """Return its CPU time; see the interface."""
        return self.exited.result().cpu_seconds if self.exited.done() else self.meter.cpu_seconds()

    def _send(self, number: signal.Signals) -> None:
        if self.exited.done():
            return
        # Its last figures go with it.
        self.meter.refresh()
        task = self._loop.create_task(self._signal(number))
        self._signals.add(task)
        task.add_done_callback(self._signals.discard)

    async def _signal(self, number: signal.Signals) -> None:
        try:
            await self._workers.run(self._engine.signal, self.container_id, number)
        except RuntimeUnavailable as error:
            _log.warning("replica %s gets no %s: %s", self.name, number.name, error)
            if number == signal.SIGKILL:
                # Nobody is to wait for a daemon. The thread removes the container once there is one again.
                self._finish(ContainerEnd(str(error)))

    def _attend(self, log: ReplicaLog, since: datetime | None) -> None:
        """Run in a thread of its own."""

        def pass_on(line: str, written_at: datetime) -> None:
            self._pending_lines.acquire()
            self._loop.call_soon_threadsafe(append, line, written_at)

        def append(line: str, written_at: datetime) -> None:
            self._pending_lines.release()
            log.append(line, written_at)

        # The loop may have ended before the container, by a crash.
        with suppress(RuntimeError):
            end = self._engine.attend(self.container_id, since, pass_on, self.exited.done)
            self._loop.call_soon_threadsafe(self._finish, end)

    def _finish(self, end: ContainerEnd) -> None:
        if not self.exited.done():
            memory = self.meter.final_memory(end.is_out_of_memory, self._memory_limit_bytes)
            self.exited.set_result(ReplicaExit(end.reason, memory, self.meter.cpu_seconds()))
