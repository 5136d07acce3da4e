"""The paper's setting on its cloud, simulated with our service times: improvement, cost, and where it turns.

Everything here is simulated. Measured are the seconds that a batch takes on one of our processors, and the
size of the weights; the rest is assumed (`prices.Assumptions`) or somebody's price list.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from peer.experiments import cost
from peer.experiments.cost import StoreUse, Use
from peer.experiments.prices import Assumptions, CloudPrices
from peer.experiments.simulator.engine import simulate
from peer.experiments.simulator.model import Platform, Samples, Service, Simulated, Work, packed

_MOST_BATCHES = 512


@dataclass(frozen=True)
class Workload:
    """One epoch of one peer, which takes one step.

    Attributes:
        batch_size: samples of a batch.
        batches: of the epoch.
        compute: seconds of a batch on a whole processor, with the tuned allocator.
        weights_bytes: of the model, and of a gradient.
        batch_bytes: of a batch's samples.
        peak_bytes: resident memory of the function.
        instance: what the peer rents.
    """

    batch_size: int
    batches: int
    compute: Samples
    weights_bytes: int
    batch_bytes: int
    peak_bytes: int
    instance: str


@dataclass(frozen=True)
class Scenario:
    """How the functions are run.

    Attributes:
        name: for people.
        is_warm: whether replicas are there already.
        is_tuned: whether the allocator keeps what it freed, here and in the baseline.
        is_packed: whether an invocation has as many batches as keep the overhead small.
        memory_mb: of a function; None for what its peak needs, and no less than one processor's.
        slots: functions at once, None for one each.
    """

    name: str
    is_warm: bool = True
    is_tuned: bool = True
    is_packed: bool = False
    memory_mb: int | None = None
    slots: int | None = None


AS_PUBLISHED = Scenario("as published: one batch each, all cold", is_warm=False, is_tuned=False)
WARM = Scenario("+ warm", is_tuned=False)
TUNED = Scenario("+ tuned allocator, everywhere")
PACKED = Scenario("+ packed", is_packed=True)
STEPS = (AS_PUBLISHED, WARM, TUNED, PACKED)
"""From the published design to ours, one change at a time."""


@dataclass(frozen=True)
class Outcome:
    """An epoch's gradient of one peer by functions, and by the peer itself. All simulated.

    Attributes:
        scenario: how the functions were run.
        packing: batches of an invocation.
        memory_mb: of a function.
        seconds: by functions.
        baseline_seconds: by the peer itself.
        dollars: of functions, requests and the peer's instance, which waits.
        baseline_dollars: of the instance.
    """

    scenario: Scenario
    packing: int
    memory_mb: int
    seconds: float
    baseline_seconds: float
    dollars: float
    baseline_dollars: float

    @property
    def improvement(self) -> float:
        """By which part the gradient takes less time."""
        return 1 - self.seconds / self.baseline_seconds

    @property
    def cost_ratio(self) -> float:
        """How many times as much it costs."""
        return self.dollars / self.baseline_dollars


@dataclass(frozen=True)
class Cloud:
    """Where scenarios run.

    Attributes:
        prices: of functions, instances and store.
        assumed: what was not measured.
        allocator_slowdown: of the allocator as it is, measured here or assumed.
    """

    prices: CloudPrices
    assumed: Assumptions
    allocator_slowdown: float

    def run(self, load: Workload, scenario: Scenario) -> Outcome:
        """Return what becomes of an epoch in a scenario."""
        service = self.service(load, scenario)
        packing = self._packing(load, service) if scenario.is_packed else 1
        memory_mb = scenario.memory_mb or self.memory_mb(load)
        platform = Platform(
            slots=scenario.slots,
            share=cost.vcpus(memory_mb, self.prices.function),
            cold_start_seconds=self.assumed.cold_start_seconds,
            warm=None if scenario.is_warm else 0,
        )
        by_functions = simulate(platform, service, Work(1, 1, packed(load.batches, packing)))
        alone = simulate(Platform(), service, Work(1, 1, packed(load.batches, 1), is_local=True))
        seconds, baseline_seconds = by_functions.mean_compute_seconds, alone.mean_compute_seconds
        return Outcome(
            scenario,
            packing,
            memory_mb,
            seconds,
            baseline_seconds,
            self._dollars(load, by_functions, memory_mb),
            cost.cloud_cost(Use(load.instance, 1, baseline_seconds), self.prices).total,
        )

    def memory_mb(self, load: Workload) -> int:
        """Return what a function gets: enough for its peak, and for a whole processor."""
        # a thread with half of a processor takes twice as long: less memory saves nothing
        function = self.prices.function
        return max(cost.memory_for(load.peak_bytes, function), function.mb_per_vcpu)

    def fewest_batches(self, load: Workload, scenario: Scenario) -> int | None:
        """Return with how many batches functions begin to be faster than the peer; None if never."""
        counts = (1 << power for power in range(_MOST_BATCHES.bit_length()))
        high = next((count for count in counts if self._is_faster(load, scenario, count)), None)
        if high is None:
            return None
        return next(n for n in range(high // 2 + 1, high + 1) if self._is_faster(load, scenario, n))

    def batches_for(self, load: Workload, scenario: Scenario, improvement: float) -> int:
        """Return how many batches at once give this improvement: in closed form, by the means."""
        service, function = self.service(load, scenario), self.prices.function
        share = min(1.0, cost.vcpus(self.memory_mb(load), function))
        cold_seconds = 0.0 if scenario.is_warm else self.assumed.cold_start_seconds
        around = cold_seconds + service.transfer.mean + service.call.mean
        alone = service.compute.mean
        needed = (alone / share + around) / alone / (1 - improvement)
        return math.ceil(round(needed, 9))  # what a float is off by must not cost a batch

    def memory_for_ratio(self, load: Workload, scenario: Scenario, ratio: float) -> int | None:
        """Return the memory, in MB, with which functions cost this many times as much; None if none does."""
        function = self.prices.function
        low, high = function.mb_per_vcpu, function.most_mb
        if self.run(load, replace(scenario, memory_mb=high)).cost_ratio < ratio:
            return None
        if self.run(load, replace(scenario, memory_mb=low)).cost_ratio > ratio:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            is_below = self.run(load, replace(scenario, memory_mb=middle)).cost_ratio < ratio
            low, high = (middle, high) if is_below else (low, middle)
        return high

    def slots_for(self, load: Workload, scenario: Scenario, improvement: float) -> int | None:
        """Return how many functions at once give this improvement; None if no number does."""
        if self.run(load, scenario).improvement < improvement:
            return None
        low, high = 0, load.batches
        while high - low > 1:
            middle = (low + high) // 2
            is_enough = self.run(load, replace(scenario, slots=middle)).improvement >= improvement
            low, high = (low, middle) if is_enough else (middle, high)
        return high

    def _is_faster(self, load: Workload, scenario: Scenario, batches: int) -> bool:
        return self.run(replace(load, batches=batches), scenario).improvement > 0

    def service(self, load: Workload, scenario: Scenario) -> Service:
        """Return the service times of a scenario."""
        assumed = self.assumed
        into_function = assumed.transfer_seconds(load.weights_bytes) + assumed.transfer_seconds(
            load.batch_bytes
        )
        return Service(
            compute=load.compute if scenario.is_tuned else load.compute.scaled(self.allocator_slowdown),
            transfer=Samples.always(into_function + assumed.transfer_seconds(load.weights_bytes)),
            call=Samples.always(assumed.call_seconds + assumed.transfer_seconds(load.weights_bytes)),
        )

    def _packing(self, load: Workload, service: Service) -> int:
        around = service.transfer.mean + service.call.mean
        wanted = around / (self.assumed.packing_overhead * service.compute.mean)
        return min(load.batches, max(1, math.ceil(wanted)))

    def _dollars(self, load: Workload, simulated: Simulated, memory_mb: int) -> float:
        billed = cost.billed(simulated.durations, memory_mb, self.prices.function)
        # weights and samples into each function, its gradient out of it and into the peer; the weights once
        store = StoreUse(puts=1 + billed.number, gets=3 * billed.number)
        use = Use(load.instance, 1, simulated.mean_compute_seconds, [billed], store)
        return cost.cloud_cost(use, self.prices).total


def by_memory(
    cloud: Cloud, load: Workload, scenario: Scenario, sizes: Sequence[int]
) -> Iterator[tuple[int, Outcome]]:
    """Yield what more or less memory, and with it more or less of a processor, makes of a scenario."""
    for memory_mb in sizes:
        yield memory_mb, cloud.run(load, replace(scenario, memory_mb=memory_mb))


def by_peers(
    cloud: Cloud, load: Workload, samples: int, peers: Sequence[int]
) -> Iterator[tuple[int, float, float]]:
    """Yield number of peers, and seconds until all have their gradient by functions, and by themselves.

    All peers share one account, whose functions at once are limited.
    """
    service = cloud.service(load, TUNED)
    platform = Platform(
        slots=cloud.assumed.account_concurrency,
        share=cost.vcpus(cloud.memory_mb(load), cloud.prices.function),
    )
    for number in peers:
        batches = max(1, math.ceil(samples / number / load.batch_size))
        by_functions = simulate(platform, service, Work(number, 1, packed(batches, 1)))
        alone = simulate(Platform(), service, Work(number, 1, packed(batches, 1), is_local=True))
        yield number, max(by_functions.compute_seconds), max(alone.compute_seconds)
