"""The simulation itself: peers as processes of simpy, replicas, processors and the store as its resources.

Queues are first come, first served; processors that are shared are held for a slice of time, and waited for
again. Where they are shared, everything is on one machine, and what the store and the gateway do takes a
processor, too. The same arguments give the same figures.
"""

import random
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import simpy

from peer.experiments.simulator.model import Platform, Samples, Service, Simulated, Work, busy_seconds

_SLICE_SECONDS = 0.02
"""Longer than the kernel's, so that there are fewer events: waits are off by about as much, sums are not."""

Process = Generator[simpy.Event, Any, None]
Queue = simpy.Resource | None
"""Something of which there is so much, or enough for everybody."""


class Pool:
    """The replicas of a function, on a platform.

    Args:
        environment: simpy's.
        platform: how many replicas, how fast, how cold.
        store: transfers that may go on at once.
        cores: processors that replicas share with all others.
        simulated: where durations and cold starts are added to.
    """

    def __init__(
        self,
        environment: simpy.Environment,
        platform: Platform,
        store: Queue,
        cores: Queue,
        simulated: Simulated,
    ) -> None:
        self._environment = environment
        self._platform = platform
        self._store = store
        self._cores = cores
        self._simulated = simulated
        self._slots = queue(environment, platform.slots)
        self._idle = platform.warm

    def invoke(self, transfer_seconds: float, batches: Sequence[float]) -> Process:
        """Wait for a replica, have it transfer and compute, and free it.

        Args:
            transfer_seconds: in and out together.
            batches: seconds of a whole processor, by batch.
        """
        environment = self._environment
        with turn(self._slots) as slot:
            if slot is not None:
                yield slot
            began = environment.now
            if self._idle is not None:
                yield from self._started()
            yield from moved(environment, self._store, self._cores, transfer_seconds)
            yield from worked(environment, self._cores, busy_seconds(batches, self._platform.share))
            self._simulated.durations.append(environment.now - began)
            if self._idle is not None:
                self._idle += 1

    def _started(self) -> Process:
        """Take a replica that is idle, or start one."""
        if self._idle:
            self._idle -= 1
            return
        self._simulated.cold_starts += 1
        yield self._environment.timeout(self._platform.cold_start_seconds)


def queue(environment: simpy.Environment, capacity: int | None) -> Queue:
    """Return a queue before so many, none where there are enough."""
    return None if capacity is None else simpy.Resource(environment, capacity)


def turn(resource: Queue) -> AbstractContextManager[simpy.Event | None]:
    """Stand in line for one of a resource, which is freed in the end; None where there is no line."""
    return nullcontext() if resource is None else resource.request()


def worked(environment: simpy.Environment, cores: Queue, seconds: float) -> Process:
    """Compute for so long, on a processor of one's own, or slice by slice on those that are shared."""
    if cores is None:
        yield environment.timeout(seconds)
        return
    left = seconds
    while left > 0:
        with cores.request() as core:
            yield core
            yield environment.timeout(min(left, _SLICE_SECONDS))
        left -= _SLICE_SECONDS


def moved(environment: simpy.Environment, store: Queue, cores: Queue, seconds: float) -> Process:
    """Wait for one of the store's streams, and have it work for so long."""
    with turn(store) as stream:
        if stream is not None:
            yield stream
        yield from worked(environment, cores, seconds)


@dataclass
class _Site:
    """What all peers of a simulation share."""

    environment: simpy.Environment
    service: Service
    work: Work
    pool: Pool
    store: Queue
    cores: Queue
    randomness: random.Random
    published: list[list[simpy.Event]]
    simulated: Simulated

    def draw(self, samples: Samples) -> float:
        return samples.draw(self.randomness)

    def work_for(self, samples: Samples) -> Process:
        return worked(self.environment, self.cores, self.draw(samples))

    def move_for(self, samples: Samples) -> Process:
        return moved(self.environment, self.store, self.cores, self.draw(samples))

    def now(self) -> float:
        return float(self.environment.now)


def simulate(platform: Platform, service: Service, work: Work, seed: int = 0) -> Simulated:
    """Return what a run would take.

    Args:
        platform: where it runs.
        service: how long its parts take.
        work: what has to be done.
        seed: of all draws.
    """
    environment, simulated = simpy.Environment(), Simulated()
    store, cores = queue(environment, platform.streams), queue(environment, platform.cores)
    site = _Site(
        environment,
        service,
        work,
        Pool(environment, platform, store, cores, simulated),
        store,
        cores,
        random.Random(seed),
        [[environment.event() for _ in range(work.peers)] for _ in range(work.rounds)],
        simulated,
    )
    peers = [environment.process(_peer(site, rank)) for rank in range(work.peers)]
    environment.run(environment.all_of(peers))
    simulated.seconds = site.now()
    return simulated


def _peer(site: _Site, rank: int) -> Process:
    service, simulated = site.service, site.simulated
    for number in range(site.work.rounds):
        with _timed(site, simulated.round_seconds):
            yield site.environment.timeout(site.draw(service.publish))
            with _timed(site, simulated.compute_seconds):
                yield from _computed_here(site) if site.work.is_local else _computed_by_functions(site)
            yield from _exchanged(site, rank, number)
            yield from site.work_for(service.update)


def _computed_here(site: _Site) -> Process:
    for num_batches in site.work.invocations:
        for _ in range(num_batches):
            yield from site.work_for(site.service.compute)
        yield from site.work_for(site.service.fold)


def _computed_by_functions(site: _Site) -> Process:
    """Fold the results in the order of the invocations, each once it is there."""
    environment, invocations = site.environment, site.work.invocations
    on_their_way = queue(environment, site.work.in_flight)
    calls = [environment.process(_call(site, on_their_way, each)) for each in invocations]
    for call in calls:
        yield call
        yield from site.work_for(site.service.fold)


def _call(site: _Site, on_their_way: Queue, num_batches: int) -> Process:
    service = site.service
    with turn(on_their_way) as place:
        if place is not None:
            yield place
        batches = [site.draw(service.compute) for _ in range(num_batches)]
        yield from site.pool.invoke(site.draw(service.transfer), batches)
        yield from site.work_for(service.call)


def _exchanged(site: _Site, rank: int, number: int) -> Process:
    """Send, then read everybody else's in the order of ranks, waiting for what is not there yet."""
    yield from site.move_for(site.service.send)
    published = site.published[number]
    published[rank].succeed()
    for other, event in enumerate(published):
        if other != rank:
            yield event
            yield from site.move_for(site.service.receive)


@contextmanager
def _timed(site: _Site, seconds: list[float]) -> Iterator[None]:
    began = site.now()
    yield
    seconds.append(site.now() - began)
