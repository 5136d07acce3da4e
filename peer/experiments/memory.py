"""How much memory a gradient function needs: its limit is lowered while it goes on being invoked."""

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from peer import runs
from peer.compute import Compute, Means
from peer.config import GatewayAddress, RunConfig, current_versions
from peer.errors import ConfigurationError, FunctionError, InvocationFailed, OutOfMemory
from peer.experiments.attempts import Attempts
from peer.experiments.function_limit import FunctionLimit
from peer.experiments.host import host_facts
from peer.experiments.memory_reading import MemoryReading, read_memory
from peer.experiments.memory_records import Measurement, MemoryQuestion, ResultFile, Settings, outcomes
from peer.experiments.search import next_limit
from peer.garbage import Garbage
from peer.gateway import Gateway
from peer.invocations.fanout import FanOut, RetryPolicy
from peer.invocations.invokers import FunctionInvoker
from peer.learning.datasets import catalogue
from peer.learning.shards import plan_shards
from peer.messages import StoredObject, Usage
from peer.records.phases import PhaseClock
from peer.sizes import mib
from peer.store import keys
from peer.store.retry import Patience, poll
from peer.store.s3 import Store

FUNCTION = "gradient"
PROCESSES = "process"
"""The orchestration of replicas that are forked: they share their parent's pages."""

_POLICY = RetryPolicy(outage_seconds=60.0, max_failures=2, max_out_of_memory=1)
_REPLICA_PATIENCE_SECONDS = 120.0
# a killed replica is counted when its process has been waited for, which may be after the reply
_COUNT_PATIENCE = Patience(2.0, first_seconds=0.02, longest_seconds=0.1)

OnMeasurement = Callable[[Measurement], None]


class MemoryExperiment:
    """Measures batch sizes at memory limits, through one gateway and one store.

    Args:
        store: has the dataset.
        address: of a gateway whose password is known.
        question: what to find out.

    Raises:
        DatasetError, FunctionError: there is no such dataset or function.
        ConfigurationError: a batch is larger than the dataset.
    """

    def __init__(self, store: Store, address: GatewayAddress, question: MemoryQuestion) -> None:
        self._store = store
        self._gateway = Gateway(address)
        self._question = question
        self._dataset = catalogue.find(store, question.dataset)
        self._shard = plan_shards(self._dataset, 1, "iid", question.seed)[0]
        self._check_batch_sizes()
        description = self._gateway.describe(FUNCTION)
        self._label = f"{FUNCTION}.{description.get('namespace') or 'openfaas-fn'}"
        self.settings = self._find_settings(description)
        self._invoker = FunctionInvoker(store, address, question.invocation_seconds)
        self._host = host_facts()

    def run(self, results: ResultFile, on_measurement: OnMeasurement) -> None:
        """Measure until every batch size's need is known; what `results` has already is not measured again.

        The function's limit is afterwards what it was, however this ends, and nothing is left in the store.

        Raises:
            StopRequested, StoreError, FunctionError: what was measured is in `results`.
        """
        name = f"memory-{self.settings.hash}"
        try:
            config = self._config(name, 1)
            model = runs.initial_model(config, self._dataset)
            weights = runs.publish_initial_weights(self._store, config, model)
            with FunctionLimit(self._gateway, FUNCTION, _REPLICA_PATIENCE_SECONDS) as limit:
                for batch_size in self._question.batch_sizes:
                    config = self._config(name, batch_size)
                    while (limit_bytes := self._next(results, batch_size)) is not None:
                        until = time.monotonic() + self._question.step_seconds
                        measured = self._measure(config, weights, limit, limit_bytes)
                        results.add(measured)
                        on_measurement(measured)
                        time.sleep(max(0.0, until - time.monotonic()))
        finally:
            self._store.delete([key for key, _ in self._store.list(keys.run(name))])

    def _next(self, results: ResultFile, batch_size: int) -> int | None:
        return next_limit(outcomes(results.of(batch_size)), self._question.bounds)

    def _measure(
        self, config: RunConfig, weights: StoredObject, limit: FunctionLimit, limit_bytes: int
    ) -> Measurement:
        reason = limit.set(limit_bytes)
        before, began = self._read(), time.monotonic()
        attempts = Attempts(reason) if reason else self._attempts(config, weights, limit_bytes)
        limit.check_unchanged(limit_bytes)
        after = self._memory_after(before, attempts)
        pressure, pressure_source = _pressure(before, after, time.monotonic() - began)
        working_set, source = _working_set(after, attempts.usages)
        return Measurement(
            settings=self.settings,
            settings_hash=self.settings.hash,
            host=self._host,
            load_average=round(os.getloadavg()[0], 2),
            time=time.time(),
            batch_size=config.batch_size,
            limit_bytes=limit_bytes,
            outcome=attempts.outcome,
            reason=attempts.reason,
            seconds=attempts.seconds,
            compute_seconds=[usage.phase_seconds.get("compute", 0.0) for usage in attempts.usages],
            cold_starts=sum(usage.is_cold_start for usage in attempts.usages),
            retries=attempts.retries,
            working_set_bytes=working_set,
            working_set_source=source,
            peak_bytes=after.peak_bytes,
            oom_kills=_difference(before.oom_kills, after.oom_kills),
            reclaims=_difference(before.reclaims, after.reclaims),
            major_faults=_difference(before.major_faults, after.major_faults),
            pressure=pressure,
            pressure_source=pressure_source,
        )

    def _attempts(self, config: RunConfig, weights: StoredObject, limit_bytes: int) -> Attempts:
        """Return the invocations at a limit, begun anew while replicas with another limit reply.

        A process shares the machine's files, so what it reads there need not be its own limit; the process
        runtime replaces all replicas at once anyhow.
        """

        def probe() -> Attempts | None:
            attempts = self._invoke(config, weights)
            is_sure = self.settings.orchestration == PROCESSES or attempts.were_under(limit_bytes)
            return attempts if is_sure else None

        attempts = poll(probe, Patience(_REPLICA_PATIENCE_SECONDS, first_seconds=0.5, longest_seconds=5.0))
        if attempts is None:
            raise FunctionError(
                f"replicas of {FUNCTION} with another memory limit than {mib(limit_bytes)} still reply after "
                f"{_REPLICA_PATIENCE_SECONDS:.0f} s: look at the function's roll-out, then go on"
            )
        return attempts

    def _invoke(self, config: RunConfig, weights: StoredObject) -> Attempts:
        """Invoke the function some times, one after the other, until one invocation is given up."""
        attempts, garbage = Attempts(), Garbage(self._store, is_kept=False)
        fan_out = FanOut(1, _POLICY, attempts.add_retry)
        means = Means(self._invoker, fan_out, garbage, PhaseClock(), attempts)
        compute = Compute(config, 0, 0, self._dataset, self._shard, means)
        try:
            for number in range(self._question.invocations):
                began = time.perf_counter()
                compute.gradient(number, weights, config.optimizer.learning_rate)
                attempts.seconds.append(time.perf_counter() - began)
        except (OutOfMemory, InvocationFailed) as error:
            attempts.give_up(error)
        finally:
            fan_out.close()
            garbage.close()
        return attempts

    def _memory_after(self, before: MemoryReading, attempts: Attempts) -> MemoryReading:
        """Return the function's memory once a kill that was answered is counted, too, if it is at all."""
        last = self._read()
        if not attempts.has_run_out or before.oom_kills is None:
            return last

        def probe() -> MemoryReading | None:
            now = self._read()
            return now if _difference(before.oom_kills, now.oom_kills) else None

        return poll(probe, _COUNT_PATIENCE) or last

    def _read(self) -> MemoryReading:
        return read_memory(self._gateway, self._label)

    def _config(self, run: str, batch_size: int) -> RunConfig:
        question = self._question
        return RunConfig(
            run=run,
            dataset=self._dataset.id,
            num_peers=1,
            rounds=question.invocations,
            batch_size=batch_size,
            batches_per_round=1,
            batches_per_invocation=1,
            initial_weights="",
            initial_weights_bytes=0,
            model=question.model,
            seed=question.seed,
            invocation_seconds=question.invocation_seconds,
            no_adapt=True,
        )

    def _find_settings(self, description: dict[str, Any]) -> Settings:
        info = self._gateway.info()
        provider = info.get("provider")
        orchestration = (provider if isinstance(provider, dict) else info).get("orchestration", "unknown")
        return Settings(
            function=FUNCTION,
            image=description.get("image", ""),
            orchestration=orchestration,
            memory=self._read().source or "as the gateway's platform does",
            model=self._question.model,
            dataset=self._dataset.id,
            seed=self._question.seed,
            invocations=self._question.invocations,
            versions=current_versions(),
        )

    def _check_batch_sizes(self) -> None:
        available = self._dataset.splits["train"].num_samples
        for batch_size in self._question.batch_sizes:
            if batch_size > available:
                raise ConfigurationError(
                    f"--batch-sizes has {batch_size}, but dataset {self._dataset.id} has {available} samples "
                    "to train with"
                )


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(0, after - before)


def _pressure(before: MemoryReading, after: MemoryReading, seconds: float) -> tuple[float | None, str]:
    """Return the share of the time under pressure, and what says so; without PSI, counts have to stand in."""
    if before.pressure_seconds is None or after.pressure_seconds is None:
        return None, f"reclaims and major faults ({after.source})" if after.source else "none"
    return max(0.0, after.pressure_seconds - before.pressure_seconds) / seconds, "psi"


def _working_set(memory: MemoryReading, usages: Iterable[Usage]) -> tuple[int | None, str]:
    """Return the working set after the last invocation, as the gateway tells it, else the function."""
    replied = [usage.cgroup_usage_bytes for usage in usages]
    if not replied:
        return None, ""
    if memory.working_set_bytes is not None:
        return memory.working_set_bytes, memory.working_set_source
    return max(replied) or None, "cgroup_usage_bytes of the replies"
