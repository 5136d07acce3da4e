"""Containers of one gateway: started, adopted from an earlier gateway, measured, removed."""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from localfaas.config import PullPolicy
from localfaas.deployments import Deployment
from localfaas.errors import BadRequest, RuntimeUnavailable, StartFailed
from localfaas.logs import FunctionLog, ReplicaLog
from localfaas.runtimes.docker.engine import Container, Engine, EngineRefused, StartedContainer
from localfaas.runtimes.docker.meter import ContainerMeter, find_group
from localfaas.runtimes.docker.network import PrivateNetwork
from localfaas.runtimes.docker.options import (
    DEPLOYMENT_LABEL,
    LEAST_MEMORY_BYTES,
    REPLICA_LABEL,
    STATE_LABEL,
    container_name,
    container_options,
    deployment_digest,
    host_options,
    memory_limit_bytes,
)
from localfaas.runtimes.docker.replica import DockerReplica
from localfaas.runtimes.docker.workers import Workers
from localfaas.runtimes.interface import Launcher, ReplicaProcess, ReplicaSpec

_log = logging.getLogger(__name__)

_SAMPLE_SECONDS = 1.0
# Its parent is the gateway's user's alone, so only containers reach it; who runs in them nobody knows.
_SECRETS_DIRECTORY_MODE, _SECRET_MODE = 0o755, 0o444


class DockerLauncher:
    """Starts the replicas of one deployment; see `Launcher`."""

    def __init__(self, deployment: Deployment, image_id: str, runtime: "DockerRuntime") -> None:
        self.not_honoured: tuple[str, ...] = ("constraints",) if deployment.constraints else ()
        self.deployment = deployment
        self.image_id = image_id
        self.digest = deployment_digest(deployment, image_id)
        self._runtime = runtime

    async def start(self, spec: ReplicaSpec) -> ReplicaProcess:
        """Start one replica; see the interface."""
        return await self._runtime.start(self, spec)

    async def adopt(self, log: FunctionLog) -> list[ReplicaProcess]:
        """Take over containers of exactly this deployment; see the interface."""
        return await self._runtime.adopt(self, log)


class DockerRuntime:
    """Replicas as containers of the Docker Engine; see `Runtime`."""

    name = "docker"

    def __init__(self, engine: Engine, identity: str, pull_policy: PullPolicy) -> None:
        """Take charge of the containers of a state directory; those that have ended are removed.

        Raises:
            RuntimeUnavailable: the daemon does not answer.
        """
        version = engine.facts.cgroup_version
        self.memory_source = f"cgroup-v{version}"
        self.memory_description = f"memory limits are held by Docker: cgroup v{version}"
        self._engine = engine
        self._identity = identity
        self._pull_policy = pull_policy
        self._label = f"{STATE_LABEL}={identity}"
        self._workers = Workers()
        self._network = PrivateNetwork(
            f"localfaas-{identity}", {STATE_LABEL: identity}, engine, self._workers
        )
        self._replicas: set[DockerReplica] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sampling: asyncio.Task[None] | None = None
        self._orphans: list[Container] = []
        self._is_closing = False
        for container in engine.list_containers(self._label):
            if container.is_running:
                self._orphans.append(container)
            else:
                engine.remove(container.id)

    async def prepare(self, deployment: Deployment) -> Launcher:
        """Find the image, or pull it; see the interface."""
        image_id = await self._workers.run(self._find_image, deployment.image)
        limit_bytes = deployment.memory_limit_bytes
        if limit_bytes is not None and limit_bytes < LEAST_MEMORY_BYTES:
            _log.warning(
                "function %s: limits.memory is %s; its containers get %d bytes, the least that Docker takes",
                deployment.function.key,
                deployment.limits["memory"],
                LEAST_MEMORY_BYTES,
            )
        return DockerLauncher(deployment, image_id, self)

    async def start(self, launcher: DockerLauncher, spec: ReplicaSpec) -> ReplicaProcess:
        """Start one replica; see `Launcher`."""
        # What a thread asks of the daemon cannot be called back: a start that is not wanted any more is
        # brought to its end, and undone.
        launching = asyncio.ensure_future(self._launch(launcher, spec))
        try:
            container = await asyncio.shield(launching)
        except asyncio.CancelledError:
            self._spawn(self._undo(launching))
            raise
        return self._attach(launcher, spec.name, container, spec.log)

    async def adopt(self, launcher: DockerLauncher, log: FunctionLog) -> list[ReplicaProcess]:
        """Take over what fits; see `Launcher`."""
        adopted: list[ReplicaProcess] = []
        for container in tuple(self._orphans):
            if container.labels.get(DEPLOYMENT_LABEL) != launcher.digest:
                continue
            try:
                started = await self._workers.run(self._engine.locate, container.id)
                await self._network.acquire()
            except (EngineRefused, RuntimeUnavailable) as error:
                _log.warning("container %.12s cannot be adopted: %s", container.id, error)
                continue
            self._orphans.remove(container)
            name = container.labels[REPLICA_LABEL]
            adopted.append(self._attach(launcher, name, started, log.of(name)))
            _log.info("replica %s of an earlier gateway goes on", name)
        return adopted

    async def sweep(self) -> None:
        """Remove the containers that fit no deployment; see the interface."""
        for container in self._orphans:
            _log.info("container %.12s of an earlier gateway fits no deployment: removed", container.id)
            await self._workers.run(self._engine.remove, container.id)
        self._orphans.clear()
        await self._network.remove_if_unused()

    async def close(self) -> None:
        """Leave no container and no network; see the interface."""
        self._is_closing = True
        if self._sampling is not None:
            self._sampling.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        try:
            for container in await self._workers.run(self._engine.list_containers, self._label):
                await self._workers.run(self._engine.remove, container.id)
        except RuntimeUnavailable as error:
            _log.warning("containers may be left, the next start adopts or removes them: %s", error)
        await self._network.remove_if_unused()
        self._workers.close()
        self._engine.close()

    def _find_image(self, image: str) -> str:
        """Return an image's id, in a worker thread.

        Raises:
            BadRequest: there is none.
            RuntimeUnavailable: the daemon does not answer.
        """
        try:
            local_id = self._engine.find_image(image)
        except EngineRefused as error:
            raise BadRequest(f"image {image!r}: {error}") from error
        if local_id is not None and self._pull_policy != "always":
            return local_id
        if self._pull_policy == "never":
            raise BadRequest(
                f"image {image!r} is not on this machine, and --pull-policy is never; build it first"
            )
        try:
            return self._engine.pull_image(image)
        except EngineRefused as error:
            if local_id is not None:
                _log.warning("image %s cannot be pulled, the local one serves: %s", image, error)
                return local_id
            raise BadRequest(
                f"image {image!r} is not on this machine and cannot be pulled: {error}; build it with "
                "`faas-cli build` or `localfaas build --runtime docker`, or push it where it can be pulled"
            ) from error

    async def _launch(self, launcher: DockerLauncher, spec: ReplicaSpec) -> StartedContainer:
        """Return a container that has been started, and holds the network.

        Raises:
            StartFailed: it cannot be; the network is not held.
        """
        try:
            await self._network.acquire()
        except (EngineRefused, RuntimeUnavailable) as error:
            raise StartFailed(f"its network cannot be made: {error}") from error
        try:
            return await self._workers.run(self._start_container, launcher, spec)
        except RuntimeUnavailable as error:
            # Nobody knows what the daemon makes of it yet, nor when.
            self._spawn(self._remove_in_time(container_name(spec.name)))
            raise StartFailed(str(error)) from error
        except (EngineRefused, OSError) as error:
            await self._network.release()
            raise StartFailed(str(error)) from error

    def _start_container(self, launcher: DockerLauncher, spec: ReplicaSpec) -> StartedContainer:
        """Make and start a container, in a worker thread."""
        if spec.secrets_directory is not None:
            _open_to_containers(Path(spec.secrets_directory))
        deployment = launcher.deployment
        return self._engine.launch(
            container_name(spec.name),
            container_options(deployment, launcher.image_id, spec.name, self._identity),
            host_options(deployment, self._network.name, spec.secrets_directory, self._engine.facts),
        )

    async def _undo(self, launching: asyncio.Future[StartedContainer]) -> None:
        """Leave nothing of a start that nobody waits for, once it has come to its end."""
        try:
            container = await launching
        except StartFailed:
            return
        with suppress(EngineRefused, RuntimeUnavailable):
            await self._workers.run(self._engine.remove, container.id)
        await self._network.release()

    async def _remove_in_time(self, name: str) -> None:
        """Remove a container that may be there, once the daemon answers; `close` does not wait for it."""
        while not self._is_closing:
            with suppress(RuntimeUnavailable):
                await self._workers.run(self._engine.remove, name)
                break
            await asyncio.sleep(_SAMPLE_SECONDS)
        await self._network.release()

    def _attach(
        self, launcher: DockerLauncher, name: str, container: StartedContainer, log: ReplicaLog
    ) -> DockerReplica:
        meter = ContainerMeter(find_group(container))
        if not meter.has_files and container.pid:
            self.memory_source = "docker-stats"
        limit_bytes = memory_limit_bytes(launcher.deployment)
        replica = DockerReplica(name, container, meter, limit_bytes, self._engine, self._workers)
        self._replicas.add(replica)

        def detach() -> None:
            self._replicas.discard(replica)
            self._spawn(self._network.release())

        replica.follow(log, log.last_at, detach)
        if self._sampling is None:
            self._sampling = asyncio.get_running_loop().create_task(self._sample())
        return replica

    async def _sample(self) -> None:
        """Look at every container once a second: its figures end with it, and so does a peak."""
        while True:
            await asyncio.sleep(_SAMPLE_SECONDS)
            for replica in tuple(self._replicas):
                if replica.meter.has_files:
                    replica.meter.refresh()
                else:
                    with suppress(RuntimeUnavailable):
                        stats = await self._workers.run(self._engine.stats, replica.container_id)
                        replica.meter.take_stats(stats)
                if replica.memory().oom_kills:
                    # What the kernel killed may have been one process of several; the rest is of no use.
                    replica.kill()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def connect_docker(identity: str, pull_policy: PullPolicy) -> DockerRuntime:
    """Return the runtime on this machine's Docker Engine.

    Raises:
        ConfigurationError: no daemon answers, or this user may not use it.
        RuntimeUnavailable: it stopped to answer.
    """
    return DockerRuntime(Engine(), identity, pull_policy)


def _open_to_containers(directory: Path) -> None:
    directory.chmod(_SECRETS_DIRECTORY_MODE)
    for path in directory.iterdir():
        path.chmod(_SECRET_MODE)
