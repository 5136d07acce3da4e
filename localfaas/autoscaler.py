"""Changes the number of replicas as `scaling` decides, once a second."""

import asyncio
import logging
from collections.abc import Callable

from localfaas.admission import Demand, Machine, read_machine, room_for
from localfaas.gateway import Functions
from localfaas.pool import Pool
from localfaas.scaling import Load, ScalingState, decide
from localfaas.status import total_cpu_seconds

_log = logging.getLogger(__name__)

_PERIOD_SECONDS = 1.0


class Autoscaler:
    """Watches every function that may have more than one number of replicas."""

    def __init__(self, functions: Functions, machine: Callable[[], Machine] = read_machine) -> None:
        self._functions = functions
        self._machine = machine
        self._states: dict[Pool, ScalingState] = {}

    async def run(self) -> None:
        """Decide every second, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            try:
                self.look(loop.time())
            except Exception:
                # The boundary of one look: the next may go well, and functions go on as they are.
                _log.exception("the numbers of replicas stay as they are")

    def look(self, now: float) -> None:
        """Make and carry out one decision on every function."""
        pools = self._functions.pools
        states, self._states = self._states, {}
        for pool in pools:
            options = pool.record.deployment.scaling
            if options.min_replicas == options.max_replicas and not options.is_idled:
                continue
            state = states.get(pool) or ScalingState.fresh(now)
            load = _load_of(pool)
            decision = decide(now, state, options, load, options.max_replicas)
            if decision.replicas > load.replicas:
                # Only now: to look at the machine costs more than to decide.
                others = [_demand_of(other) for other in pools if other is not pool]
                room = room_for(_demand_of(pool), others, self._machine())
                decision = decide(now, state, options, load, room)
            self._states[pool] = decision.state
            if decision.replicas != pool.record.replicas:
                self._carry_out(pool, decision.replicas, decision.reason)

    def _carry_out(self, pool: Pool, replicas: int, reason: str) -> None:
        before = pool.record.replicas
        try:
            self._functions.autoscale(pool, replicas)
        except OSError as error:
            _log.error("function %s: its number of replicas cannot be written down: %s", pool.name, error)
        _log.info("function %s: %d replicas instead of %d: %s", pool.name, replicas, before, reason)


def _load_of(pool: Pool) -> Load:
    # The CPU figures are read from files, and only one rule wants them.
    is_cpu_wanted = pool.record.deployment.scaling.type == "cpu"
    return Load(
        replicas=pool.record.replicas,
        floor=pool.record.floor,
        num_in_flight=pool.stats.num_in_flight,
        num_started=pool.stats.num_started,
        cpu_seconds=total_cpu_seconds(pool) if is_cpu_wanted else 0.0,
    )


def _demand_of(pool: Pool) -> Demand:
    deployment = pool.record.deployment
    usages = [replica.process.memory() for replica in pool.replicas]
    return Demand(
        replicas=pool.record.replicas,
        cpus=deployment.cpus,
        replica_bytes=deployment.memory_limit_bytes or pool.peak_bytes,
        used_bytes=sum(usage.working_set_bytes for usage in usages),
    )
