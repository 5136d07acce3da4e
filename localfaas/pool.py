"""The replicas of one function, and the requests that wait for them."""

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import cast

from localfaas.config import GatewayConfig
from localfaas.deployments import DeploymentRecord
from localfaas.errors import FunctionUnavailable, NotAccepting, QueueFull, StartFailed
from localfaas.logs import FunctionLog
from localfaas.namespaces import FunctionName
from localfaas.replica import Replica, preferred
from localfaas.runtimes.interface import Launcher, ReplicaExit, ReplicaProcess, ReplicaSpec
from localfaas.scaling import lowest_replicas
from localfaas.secret_store import SecretStore
from localfaas.stats import FunctionStats

_log = logging.getLogger(__name__)

_FIRST_BACKOFF_SECONDS = 0.1
_MAX_BACKOFF_SECONDS = 30.0
# After that many replicas in a row that ended at their start, requests are refused instead of waiting.
_MAX_START_FAILURES = 3
# A replica that ends sooner, without having served a request, counts as one that did not start.
_START_SECONDS = 5.0
_TERMINATION_SECONDS = 2.0
_MAX_HEALTH_FAILURES = 3
_LAST_WORDS_LINES = 3
_MAX_ERROR_CHARACTERS = 1_000


class Pool:
    """Keeps as many replicas as wanted alive, and gives each to `max_inflight` requests, in their order."""

    def __init__(
        self,
        record: DeploymentRecord,
        launcher: Launcher,
        log: FunctionLog,
        config: GatewayConfig,
        secret_store: SecretStore,
        adopted: Sequence[ReplicaProcess] = (),
    ) -> None:
        """Take charge of a function and of replicas that run already; missing ones start at once."""
        self.record = record
        self.launcher = launcher
        self.log = log
        self.stats = FunctionStats()
        self.last_error = ""
        self._config = config
        self._secret_store = secret_store
        self._generation = 0
        self._starting: dict[asyncio.Task[None], int] = {}
        self._lives: set[asyncio.Task[None]] = set()
        self._replicas: set[Replica] = set()
        # Those of the present deployment that are not asked to end; counted for every request that ends.
        self._kept: set[Replica] = set()
        self._idle: list[Replica] = []
        self._waiting: OrderedDict[asyncio.Future[Replica], None] = OrderedDict()
        self._num_start_failures = 0
        self._backoff: asyncio.TimerHandle | None = None
        self.is_closing = False
        for process in adopted:
            self._adopt(process)
        self._reconcile()

    @property
    def function(self) -> FunctionName:
        """What the function is called, and where it belongs."""
        return self.record.deployment.function

    @property
    def name(self) -> str:
        """The function's name for people, files and paths, with its namespace unless that is the default."""
        return self.function.key

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """Every replica that has been started and has not ended."""
        return tuple(self._replicas)

    @property
    def num_available(self) -> int:
        """Replicas of the present deployment that answer requests, busy or not."""
        return sum(replica.is_ready and self._is_current(replica) for replica in self._replicas)

    @property
    def peak_bytes(self) -> int:
        """The most memory that one replica of the present deployment has used."""
        current = (replica for replica in self._replicas if self._is_current(replica))
        return max([self.stats.peak_bytes, *(replica.process.memory().peak_bytes for replica in current)])

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a replica."""
        return len(self._waiting)

    def take_idle(self) -> Replica | None:
        """Return the preferred one of the replicas with room for a request, None if there is none.

        The request is with it from now on, and is to end by `release` or `discard`.
        """
        if not self._idle:
            return None
        replica = preferred(self._idle, self._max_inflight)
        self._take(replica)
        return replica

    def enqueue(self) -> "asyncio.Future[Replica]":
        """Return a place in the queue: done when a replica is the caller's. Leave it by `leave`.

        Raises:
            QueueFull: as many requests wait as may.
            FunctionUnavailable: replicas do not start.
            NotAccepting: the function is being removed, or the gateway is stopping.
        """
        if self.is_closing:
            raise NotAccepting(f"function {self.name} is shutting down")
        if self._is_broken:
            raise FunctionUnavailable(self._unavailable_text)
        if self.num_waiting >= self._config.max_waiting:
            raise QueueFull(f"{self._config.max_waiting} requests wait for function {self.name} already")
        waiter: asyncio.Future[Replica] = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = None
        if self.record.replicas == 0:
            self.scale(lowest_replicas(self.record.deployment.scaling, self.record.floor))
        return waiter

    def leave(self, waiter: "asyncio.Future[Replica]") -> None:
        """Give up a place in the queue, and the replica that may have come with it."""
        self._waiting.pop(waiter, None)
        if not waiter.cancel() and not waiter.cancelled() and waiter.exception() is None:
            self.release(waiter.result())

    def release(self, replica: Replica) -> None:
        """Give a replica back whose reply is complete; the longest waiting request gets it."""
        self._num_start_failures = 0
        replica.num_active -= 1
        if replica.is_ending and replica.num_active == 0:
            self._end(replica)
        else:
            self._offer(replica)

    def discard(self, replica: Replica) -> None:
        """Give back a replica in an unknown state: killed once it has no other request, and replaced."""
        replica.num_active -= 1
        replica.is_suspect = True
        self._end(replica)
        self._reconcile()

    def scale(self, replicas: int) -> None:
        """Make `replicas` the number to keep, within the deployment's maximum; surplus ones end once idle."""
        wanted = max(min(replicas, self.record.deployment.max_replicas), int(self.num_waiting > 0))
        self.record = replace(self.record, replicas=wanted)
        while self._idle and self._num_current > wanted:
            self._end(min(self._idle, key=lambda replica: replica.num_active))
        self._reconcile()

    def update(self, record: DeploymentRecord, launcher: Launcher) -> None:
        """Replace every replica by one of a new deployment: idle ones now, busy ones after their request."""
        self.record, self.launcher = record, launcher
        self._generation += 1
        self._kept.clear()
        self.stats.peak_bytes = 0
        self._forget_failures()
        while self._idle:
            self._end(self._idle[0])
        self._reconcile()

    def refuse(self) -> None:
        """Take no more requests, answer the waiting ones with NotAccepting, and end idle replicas."""
        self.is_closing = True
        self._fail_waiting(NotAccepting(f"function {self.name} is shutting down"))
        while self._idle:
            self._end(self._idle[0])
        self.log.stop_following()

    async def close(self, grace_seconds: float) -> None:
        """Leave nothing of the function running; requests under way have `grace_seconds` to end."""
        self.refuse()
        self._forget_failures()
        for life in self._starting:
            life.cancel()
        for replica in self._replicas:
            if not replica.is_ready:
                replica.process.kill()
        if self._lives:
            await asyncio.wait(self._lives, timeout=grace_seconds)
        for replica in self._replicas:
            replica.process.kill()
        if self._lives:
            await asyncio.wait(self._lives)

    @property
    def _num_current(self) -> int:
        starting = sum(generation == self._generation for generation in self._starting.values())
        return len(self._kept) + starting

    @property
    def _is_broken(self) -> bool:
        return self._num_start_failures >= _MAX_START_FAILURES and self.num_available == 0

    @property
    def _unavailable_text(self) -> str:
        return f"function {self.name} does not start: {self.last_error}"

    @property
    def _max_inflight(self) -> int:
        return self.record.deployment.watchdog.max_inflight

    def _is_current(self, replica: Replica) -> bool:
        return replica.generation == self._generation

    def _offer(self, replica: Replica) -> None:
        if replica not in self._replicas or replica.is_ending:
            return
        if not self._is_current(replica) or self.is_closing or self._num_current > self.record.replicas:
            self._end(replica)
            return
        limit = self._max_inflight
        if limit == 1 or replica not in self._idle:
            self._idle.append(replica)
        while self._waiting and replica.num_active < limit:
            waiter, _ = self._waiting.popitem(last=False)
            # One whose client has just gone away is on its way out of here.
            if not waiter.done():
                self._take(replica)
                waiter.set_result(replica)

    def _take(self, replica: Replica) -> None:
        """Count one more request of a replica that has room for it."""
        replica.num_active += 1
        if replica.num_active < self._max_inflight:
            return
        if self._idle[-1] is replica:
            self._idle.pop()
        else:
            self._idle.remove(replica)

    def _fail_waiting(self, error: Exception) -> None:
        while self._waiting:
            waiter, _ = self._waiting.popitem(last=False)
            if not waiter.done():
                waiter.set_exception(error)

    def _forget_failures(self) -> None:
        self._num_start_failures, self.last_error = 0, ""
        if self._backoff is not None:
            self._backoff.cancel()
            self._backoff = None

    def _reconcile(self) -> None:
        """Start the replicas that are missing, after the pause that failed starts have earned."""
        if self.is_closing or self._backoff is not None:
            return
        loop = asyncio.get_running_loop()
        for _ in range(self.record.replicas - self._num_current):
            name = f"{self.name}-{secrets.token_hex(4)}"
            life = loop.create_task(self._live(name, self._generation), name=name)
            self._starting[life] = self._generation
            self._begin_life(life)

    def _adopt(self, process: ReplicaProcess) -> None:
        replica = Replica(process, self._generation, self.record.deployment.memory_limit_bytes)
        # It has served an earlier gateway, as far as anybody knows: its next request finds it warm.
        replica.num_requests = 1
        self._keep(replica)
        loop = asyncio.get_running_loop()
        self._begin_life(loop.create_task(self._attend(replica, loop.time()), name=replica.name))

    def _keep(self, replica: Replica) -> None:
        self._replicas.add(replica)
        if self._is_current(replica):
            self._kept.add(replica)

    def _begin_life(self, life: "asyncio.Task[None]") -> None:
        self._lives.add(life)
        life.add_done_callback(self._end_life)

    def _end_life(self, life: "asyncio.Task[None]") -> None:
        self._starting.pop(life, None)
        self._lives.discard(life)
        if not life.cancelled() and (error := life.exception()) is not None:
            _log.error("replica %s: %r", life.get_name(), error, exc_info=error)
            self._note_failed_start(life.get_name(), str(error))
        if self._num_start_failures and not self.is_closing and self._backoff is None:
            pause = min(_MAX_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** (self._num_start_failures - 1))
            self._backoff = asyncio.get_running_loop().call_later(pause, self._end_backoff)
        self._reconcile()

    def _end_backoff(self) -> None:
        self._backoff = None
        self._reconcile()

    async def _live(self, name: str, generation: int) -> None:
        """Start a replica, and see to it until its end."""
        started_at = asyncio.get_running_loop().time()
        limit_bytes = self.record.deployment.memory_limit_bytes
        try:
            process = await self.launcher.start(self._spec(name))
        except StartFailed as error:
            self._note_failed_start(name, str(error))
            return
        replica = Replica(process, generation, limit_bytes)
        self._keep(replica)
        self._starting.pop(cast("asyncio.Task[None]", asyncio.current_task()), None)
        await self._attend(replica, started_at)

    async def _attend(self, replica: Replica, started_at: float) -> None:
        """Offer a replica to requests once it answers, and account for its end."""
        if self.is_closing or not self._is_current(replica):
            self._end(replica)
        late = await replica.begin(self._config.start_timeout_seconds)
        if replica.is_ready:
            if replica.num_requests == 0:
                self.stats.cold_starts.observe(asyncio.get_running_loop().time() - started_at)
            self._offer(replica)
        end = await self._watch(replica)
        lived_seconds = asyncio.get_running_loop().time() - started_at
        self._account(replica, end)
        if self.is_closing or (replica.is_ending and not replica.is_suspect):
            return
        if not replica.is_ready or (replica.num_requests == 0 and lived_seconds < _START_SECONDS):
            self._note_failed_start(replica.name, late + end.reason)
        else:
            self.stats.num_replicas_lost += 1
            text = f"the replica ended unexpectedly: {end.reason}; a new one starts"
            self.log.append(replica.name, f"localfaas: {text}")

    async def _watch(self, replica: Replica) -> ReplicaExit:
        """Return how a replica ended; one that is idle and fails its health checks is made to."""
        interval_seconds = self.record.deployment.watchdog.healthcheck_interval_seconds
        num_failures = 0
        while interval_seconds and num_failures < _MAX_HEALTH_FAILURES:
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_seconds):
                    return await replica.wait_exit()
            if replica not in self._idle or replica.num_active:
                continue
            self._take(replica)
            num_failures = 0 if await replica.is_healthy() else num_failures + 1
            if num_failures < _MAX_HEALTH_FAILURES:
                self.release(replica)
            elif not replica.process.exited.done():
                self.log.append(replica.name, "localfaas: the replica failed its health checks; it is killed")
                self.discard(replica)
        return await replica.wait_exit()

    def _account(self, replica: Replica, end: ReplicaExit) -> None:
        """Move a replica that has ended from what is running to what has been."""
        self._replicas.discard(replica)
        self._kept.discard(replica)
        with suppress(ValueError):
            self._idle.remove(replica)
        self.stats.add_ended(end.memory, end.cpu_seconds, is_current=self._is_current(replica))
        if end.memory.oom_kills:
            text = f"out of memory: peak {end.memory.peak_bytes} of {replica.memory_limit_bytes} bytes"
            self.log.append(replica.name, f"localfaas: {text}; {end.reason}")
            _log.warning("replica %s: %s", replica.name, text)

    def _note_failed_start(self, name: str, reason: str) -> None:
        self._num_start_failures += 1
        words = [line.text for line in self.log.lines(instance=name, tail=_LAST_WORDS_LINES)]
        self.last_error = "; ".join([f"replica {name}: {reason}", *words])[-_MAX_ERROR_CHARACTERS:]
        self.log.append(name, f"localfaas: the replica did not start: {reason}")
        _log.warning("function %s: %s", self.name, self.last_error)
        if self._is_broken:
            self._fail_waiting(FunctionUnavailable(self._unavailable_text))

    def _end(self, replica: Replica) -> None:
        """Give a replica no more requests; once it has none, ask it to end, and kill it in time."""
        replica.is_ending = True
        self._kept.discard(replica)
        with suppress(ValueError):
            self._idle.remove(replica)
        if replica.num_active:
            return
        if replica.is_suspect:
            replica.process.kill()
            return
        replica.process.terminate()
        asked_seconds = self.record.deployment.watchdog.write_timeout_seconds or 0.0
        patience_seconds = max(_TERMINATION_SECONDS, min(asked_seconds, self._config.grace_seconds))
        asyncio.get_running_loop().call_later(patience_seconds, replica.process.kill)

    def _spec(self, name: str) -> ReplicaSpec:
        """Return what the next replica is to be; raises StartFailed where a secret has gone."""
        deployment = self.record.deployment
        secrets_directory = self._secret_store.provide(self.function, deployment.secrets)
        return ReplicaSpec(name, secrets_directory, self.log.of(name))
