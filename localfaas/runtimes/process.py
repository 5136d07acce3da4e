"""The process runtime: replicas are processes on this machine, forked or exec'd by a warm parent."""

import asyncio
import os
import signal
import socket
import sys
import uuid
from collections.abc import Coroutine, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from localfaas.errors import StartFailed
from localfaas.memory import MemoryController, MemoryGroup, MemoryUsage
from localfaas.runtimes.interface import ReplicaExit, ReplicaSpec
from localfaas.runtimes.log_pipe import LogPipe
from localfaas.runtimes.warm_client import Ended, WarmParentClient

_BACKLOG = 128
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_IDLE_PARENT_SECONDS = 600.0
_INTERPRETERS = ("python", "python3")

# Variables that take effect when a process or an interpreter starts, so that a fork cannot apply them.
_BEFORE_EXEC = ("GLIBC_TUNABLES", "LD_", "OMP_", "MKL_", "OPENBLAS_", "MALLOC_", "PYTHON")
# What a function gets of the gateway's own environment; an image would hold the same. No credentials are
# among them.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR",
              "LD_LIBRARY_PATH", "PYTHONPATH")  # fmt: skip


_ParentKey = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]


class ProcessReplica:
    """One replica; see `ReplicaProcess`."""

    def __init__(self, name: str, socket_path: str, group: MemoryGroup, pipe: LogPipe) -> None:
        self.name = name
        self.socket_path = socket_path
        self.pid = 0
        self.exited: asyncio.Future[ReplicaExit] = asyncio.get_running_loop().create_future()
        self.group = group
        self.pipe = pipe
        self._parent: WarmParentClient | None = None

    def attach(self, pid: int, parent: WarmParentClient, base_bytes: int) -> None:
        """Take note of the process that `parent` has started."""
        self.pid, self._parent = pid, parent
        self.group.attach(pid, base_bytes, self.kill)

    def kill(self) -> None:
        """Kill the replica; see the interface."""
        if self._parent is not None and not self.exited.done():
            self._parent.kill(self.name, signal.SIGKILL)

    def terminate(self) -> None:
        """Ask the replica to end; see the interface."""
        if self._parent is not None and not self.exited.done():
            self._parent.kill(self.name, signal.SIGTERM)

    def memory(self) -> MemoryUsage:
        """Return its memory figures; see the interface."""
        return self.exited.result().memory if self.exited.done() else self.group.usage()

    def cpu_seconds(self) -> float:
        """Return its CPU time; see the interface."""
        if self.exited.done():
            return self.exited.result().cpu_seconds
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return sum(int(ticks) for ticks in fields[11:15]) / _TICKS_PER_SECOND

    async def release(self) -> MemoryUsage:
        """Return the last figures, and leave no process, pipe, socket or control group of the replica."""
        usage = self.group.usage()
        self.group.kill()
        self.pipe.close()
        with suppress(FileNotFoundError):
            Path(self.socket_path).unlink()
        await self.group.remove()
        return usage


class ProcessRuntime:
    """Replicas as processes, from one warm parent for every preload list and environment before exec."""

    def __init__(self, socket_directory: Path, memory: MemoryController) -> None:
        """Keep sockets in `socket_directory`, where those of an earlier gateway are removed."""
        self.memory_source = memory.name
        self._sockets = socket_directory
        self._memory = memory
        self._parents: dict[_ParentKey, WarmParentClient] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        for leftover in socket_directory.glob("*.sock"):
            leftover.unlink(missing_ok=True)

    async def start(self, spec: ReplicaSpec) -> ProcessReplica:
        """Start one replica; see the interface."""
        environment = _replica_environment(spec)
        is_forked = _is_forkable(spec)
        parent = self._parent_of(spec.preload if is_forked else (), environment if is_forked else {})
        try:
            replica, listening = self._prepare(spec)
        except OSError as error:
            raise StartFailed(
                f"no socket, pipe or control group for {spec.name}: {error.strerror}"
            ) from error
        message = {
            "id": spec.name,
            "argv": [_program(spec.command[0]), *spec.command[1:]],
            "directory": spec.directory,
            "environment": environment,
            "join": replica.group.join_paths,
            "rlimit_data_bytes": replica.group.rlimit_data_bytes,
            "secrets": spec.secrets_directory,
            "is_forked": is_forked,
        }
        try:
            descriptors = [listening.fileno(), replica.pipe.write_fd]
            pid = await parent.start(
                message, descriptors, lambda ended: self._spawn(self._finish(replica, ended))
            )
        except BaseException:
            await replica.release()
            raise
        finally:
            listening.close()
            replica.pipe.close_writing()
        replica.attach(pid, parent, parent.base_bytes if is_forked else 0)
        return replica

    async def close(self) -> None:
        """End all warm parents; see the interface."""
        for parent in self._parents.values():
            await parent.close()
        self._parents.clear()
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._memory.close()
        with suppress(OSError):
            self._sockets.rmdir()

    def _prepare(self, spec: ReplicaSpec) -> tuple[ProcessReplica, socket.socket]:
        """Return a replica with everything but a process, and the socket it is to listen at.

        Raises:
            OSError: nothing is left of it.
        """
        path = self._sockets / f"{uuid.uuid4().hex[:16]}.sock"
        with ExitStack() as undo:
            listening = undo.enter_context(socket.socket(socket.AF_UNIX))
            undo.callback(path.unlink, missing_ok=True)
            listening.bind(str(path))
            listening.listen(_BACKLOG)
            pipe = LogPipe(spec.log)
            undo.callback(pipe.close)
            undo.callback(pipe.close_writing)
            group = self._memory.create(spec.name, spec.memory_limit_bytes)
            undo.pop_all()
        return ProcessReplica(spec.name, str(path), group, pipe), listening

    def _parent_of(self, preload: tuple[str, ...], environment: Mapping[str, str]) -> WarmParentClient:
        early = {name: value for name, value in environment.items() if name.startswith(_BEFORE_EXEC)}
        key = (preload, tuple(sorted(early.items())))
        parent = self._parents.get(key)
        if parent is None or parent.is_lost:
            if parent is not None:
                self._spawn(parent.reap())
            parent = self._parents[key] = WarmParentClient(preload, {**_inherited_environment(), **early})
        return parent

    async def _finish(self, replica: ProcessReplica, ended: Ended) -> None:
        usage = await replica.release()
        replica.exited.set_result(ReplicaExit(ended.reason, usage, ended.cpu_seconds))
        loop = asyncio.get_running_loop()
        loop.call_later(_IDLE_PARENT_SECONDS, self._retire_idle_parents)

    def _retire_idle_parents(self) -> None:
        """End the warm parents that no function uses any more; one in need is started anew."""
        now = asyncio.get_running_loop().time()
        for key, parent in tuple(self._parents.items()):
            if parent.is_lost or parent.idle_seconds(now) >= _IDLE_PARENT_SECONDS:
                self._spawn(self._parents.pop(key).close())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _inherited_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}


def _replica_environment(spec: ReplicaSpec) -> dict[str, str]:
    return {"PYTHONUNBUFFERED": "1", **_inherited_environment(), **spec.environment}


def _is_forkable(spec: ReplicaSpec) -> bool:
    return bool(spec.preload) and spec.command[0] in _INTERPRETERS and spec.command[1:2] != ()


def _program(name: str) -> str:
    """Return this process' interpreter for `python`: its packages are those that functions find."""
    return sys.executable if name in _INTERPRETERS else name
