"""The process runtime: replicas are processes on this machine, forked or exec'd by a warm parent."""

import asyncio
import os
import shlex
import signal
import socket
import sys
import uuid
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localfaas.cpu import CpuController
from localfaas.deployments import Deployment
from localfaas.errors import BadRequest, StartFailed
from localfaas.images import ImageEntry, find_image
from localfaas.logs import FunctionLog
from localfaas.memory import MemoryController, MemoryGroup, MemoryUsage
from localfaas.process_limit import ProcessLimiter
from localfaas.runtimes.environment import common_environment
from localfaas.runtimes.interface import READY_PATHS, Launcher, ReplicaExit, ReplicaProcess, ReplicaSpec
from localfaas.runtimes.log_pipe import LogPipe
from localfaas.runtimes.upstream_url import Addresses, UpstreamUrl, parse_upstream_url
from localfaas.runtimes.warm_client import Ended, WarmParentClient
from localfaas.side_groups import GroupLimit
from localfaas.upstream import Address
from localfaas.watchdog_options import FORKING_MODES, parse_watchdog_options

_BACKLOG = 128
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_IDLE_PARENT_SECONDS = 600.0
_INTERPRETERS = ("python", "python3")
# Isolated (-I): nothing of the function's can take the place of the standard library.
_WATCHDOG_COMMAND = (sys.executable, "-I", str(Path(__file__).parent / "watchdog.py"))

# Variables that take effect when a process or an interpreter starts, so that a fork cannot apply them.
_BEFORE_EXEC = ("GLIBC_TUNABLES", "LD_", "OMP_", "MKL_", "OPENBLAS_", "MALLOC_", "PYTHON")
# What a function gets of the gateway's own environment; an image would hold the same. No credentials are
# among them.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR",
              "LD_LIBRARY_PATH", "PYTHONPATH")  # fmt: skip


_ParentKey = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]


class ProcessReplica:
    """One replica; see `ReplicaProcess`."""

    ready_paths = READY_PATHS

    def __init__(self, name: str, address: Address, group: MemoryGroup, pipe: LogPipe) -> None:
        self.name = name
        self.address = address
        self.has_backlog = True
        self.limits: list[GroupLimit] = []
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
        for limit in self.limits:
            limit.kill()
        self.group.kill()
        self.pipe.close()
        if isinstance(self.address, str):
            Path(self.address).unlink(missing_ok=True)
        await self.remove_groups()
        return usage

    async def remove_groups(self) -> None:
        """Leave none of its control groups; its processes have been killed."""
        for limit in self.limits:
            await limit.remove()
        await self.group.remove()

    @property
    def join_paths(self) -> tuple[str, ...]:
        """Files of all its control groups; see `MemoryGroup`."""
        return self.group.join_paths + tuple(path for limit in self.limits for path in limit.join_paths)


@dataclass(frozen=True)
class Controllers:
    """What holds the limits of processes here."""

    memory: MemoryController
    cpu: CpuController | None = None
    limiter: ProcessLimiter | None = None

    def create_limits(self, replica: str, cpus: float, group: MemoryGroup) -> Iterator[GroupLimit]:
        """Yield the limits besides memory of a replica about to start.

        Args:
            replica: its name.
            cpus: that it may use, 0 for no limit.
            group: of its memory.

        Raises:
            OSError: the next cannot be made.
        """
        if self.limiter is not None:
            yield self.limiter.create(replica, group)
        if self.cpu is not None and cpus:
            yield self.cpu.create(replica, cpus, group)

    def close(self) -> None:
        """Leave nothing of the mechanisms; all limits have been removed."""
        for controller in (self.memory, self.cpu, self.limiter):
            if controller is not None:
                controller.close()


class ProcessLauncher:
    """Starts the replicas of one deployment; see `Launcher`."""

    def __init__(self, deployment: Deployment, entry: ImageEntry, runtime: "ProcessRuntime") -> None:
        self.directory = entry.directory
        self.memory_limit_bytes = deployment.memory_limit_bytes
        self.cpu_limit = deployment.cpu_limit
        self._runtime = runtime
        command = tuple(shlex.split(deployment.env_process)) or entry.command
        # The limit is for a function server that reports it: no control group that it can read shows it.
        limit_bytes = self.memory_limit_bytes
        limit = {} if limit_bytes is None else {"LOCALFAAS_MEMORY_LIMIT_BYTES": str(limit_bytes)}
        self._deployment = deployment
        self._environment = {**limit, **entry.environment, **deployment.env_vars}
        self.preload = entry.preload
        self.upstream: UpstreamUrl | None = None
        self.ready_paths = READY_PATHS
        if self._environment.get("mode") in FORKING_MODES:
            self._environment["fprocess"] = shlex.join(command)
            self.preload = ()
            command = _WATCHDOG_COMMAND
        elif upstream_url := self._environment.get("upstream_url"):
            self.upstream = parse_upstream_url(upstream_url)
            ready_path = parse_watchdog_options(self._environment).ready_path
            self.ready_paths = (ready_path.encode(),) if ready_path else ()
        self.not_honoured = _not_honoured(deployment, runtime.can_limit_cpu, self.upstream)
        self.command = (_program(command[0]), *command[1:])
        self.is_forked = bool(self.preload) and command[0] in _INTERPRETERS and command[1:2] != ()

    async def start(self, spec: ReplicaSpec) -> ReplicaProcess:
        """Start one replica; see the interface."""
        return await self._runtime.start(self, spec)

    async def adopt(self, log: FunctionLog) -> list[ReplicaProcess]:
        """Return none: replicas end with their gateway."""
        return []

    def environment(self, name: str) -> dict[str, str]:
        """Return what the replica `name` finds in its environment."""
        common = common_environment(self._deployment, name)
        return {"PYTHONUNBUFFERED": "1", **_inherited_environment(), **common, **self._environment}


class ProcessRuntime:
    """Replicas as processes, from one warm parent for every preload list and environment before exec."""

    name = "process"

    def __init__(self, images: Path, socket_directory: Path, controllers: Controllers) -> None:
        """Look images up in the map `images`; keep sockets in `socket_directory`, cleared of older ones."""
        memory = controllers.memory
        self.can_limit_cpu = controllers.cpu is not None
        self._controllers = controllers
        self._addresses = Addresses()
        self.memory_source = memory.name
        self.memory_description = memory.description
        self._images = images
        self._sockets = socket_directory
        self._parents: dict[_ParentKey, WarmParentClient] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        for leftover in socket_directory.glob("*.sock"):
            leftover.unlink(missing_ok=True)

    async def prepare(self, deployment: Deployment) -> Launcher:
        """Look up what `localfaas build` made; see the interface."""
        entry = find_image(self._images, deployment.image)
        if entry is None:
            raise BadRequest(
                f"image {deployment.image!r} is unknown; build it with `localfaas build -f stack.yml` on "
                "this state directory, or name a program with `localfaas image add`"
            )
        try:
            return ProcessLauncher(deployment, entry, self)
        except ValueError as error:
            raise BadRequest(f"envProcess {deployment.env_process!r} cannot be split: {error}") from error

    async def start(self, launcher: ProcessLauncher, spec: ReplicaSpec) -> ProcessReplica:
        """Start one replica; see `Launcher`."""
        environment = launcher.environment(spec.name)
        is_forked = launcher.is_forked
        parent = self._parent_of(launcher.preload if is_forked else (), environment if is_forked else {})
        own_path = str(self._sockets / f"{uuid.uuid4().hex[:16]}.sock")
        address: Address = own_path
        if launcher.upstream is not None:
            address, variables = launcher.upstream.assign(own_path)
            environment |= variables
            await self._addresses.claim(address, spec.name)
        try:
            replica, listening = self._open(spec, launcher, address)
        except OSError as error:
            self._addresses.release(address, spec.name)
            raise StartFailed(
                f"no socket, pipe or control group for {spec.name}: {error.strerror}"
            ) from error
        message = {
            "id": spec.name,
            "argv": launcher.command,
            "directory": launcher.directory,
            "environment": environment,
            "join": replica.join_paths,
            "rlimit_data_bytes": replica.group.rlimit_data_bytes,
            "secrets": spec.secrets_directory,
            "is_forked": is_forked,
            "is_listening": launcher.upstream is None,
        }
        try:
            descriptors = [listening.fileno(), replica.pipe.write_fd]
            pid = await parent.start(
                message, descriptors, lambda ended: self._spawn(self._finish(replica, ended))
            )
        except BaseException:
            await self._release(replica)
            raise
        finally:
            listening.close()
            replica.pipe.close_writing()
        replica.attach(pid, parent, parent.base_bytes if is_forked else 0)
        return replica

    async def sweep(self) -> None:
        """Find nothing: replicas end with their gateway."""

    async def close(self) -> None:
        """End all warm parents; see the interface."""
        for parent in self._parents.values():
            await parent.close()
        self._parents.clear()
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._controllers.close()
        with suppress(OSError):
            self._sockets.rmdir()

    def _open(
        self, spec: ReplicaSpec, launcher: ProcessLauncher, address: Address
    ) -> tuple[ProcessReplica, socket.socket]:
        """Return a replica with everything but a process, and the socket it is to listen at.

        One with an `upstream_url` makes its own; what it gets is not bound.

        Raises:
            OSError: nothing is left of it.
        """
        with ExitStack() as undo:
            listening = undo.enter_context(socket.socket(socket.AF_UNIX))
            if launcher.upstream is None:
                path = Path(str(address))
                undo.callback(path.unlink, missing_ok=True)
                listening.bind(str(path))
                listening.listen(_BACKLOG)
            pipe = LogPipe(spec.log.append)
            undo.callback(pipe.close)
            undo.callback(pipe.close_writing)
            group = self._controllers.memory.create(spec.name, launcher.memory_limit_bytes)
            replica = ProcessReplica(spec.name, address, group, pipe)
            replica.ready_paths, replica.has_backlog = launcher.ready_paths, launcher.upstream is None
            undo.callback(lambda: self._spawn(replica.remove_groups()))
            for limit in self._controllers.create_limits(spec.name, launcher.cpu_limit, group):
                replica.limits.append(limit)
            undo.pop_all()
        return replica, listening

    async def _release(self, replica: ProcessReplica) -> MemoryUsage:
        """Return a replica's last figures; nothing of it is left, and others may have its address."""
        try:
            return await replica.release()
        finally:
            self._addresses.release(replica.address, replica.name)

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
        usage = await self._release(replica)
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


def _not_honoured(
    deployment: Deployment, can_limit_cpu: bool, upstream: UpstreamUrl | None
) -> tuple[str, ...]:
    is_single = upstream is not None and upstream.is_fixed
    asked = {
        "readOnlyRootFilesystem": deployment.read_only_root_filesystem,
        "constraints": bool(deployment.constraints),
        "limits.cpu": "cpu" in deployment.limits and not can_limit_cpu,
        "more than one replica, by the fixed upstream_url": is_single and deployment.max_replicas > 1,
    }
    return tuple(name for name, is_asked in asked.items() if is_asked)


def _program(name: str) -> str:
    """Return this process' interpreter for `python`: its packages are those that functions find."""
    return sys.executable if name in _INTERPRETERS else name
