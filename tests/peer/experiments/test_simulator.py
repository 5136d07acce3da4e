"""The simulator against what can be computed in closed form."""

import math
import random
from collections.abc import Callable

import pytest
import simpy

from peer.experiments.simulator.engine import Pool, Process, queue, simulate
from peer.experiments.simulator.model import Platform, Samples, Service, Simulated, Work, packed

SECOND = Service(compute=Samples.always(1.0))


@pytest.mark.parametrize(("batches", "slots"), [(5, 2), (235, 235), (235, 5), (1, 4)])
def test_round_of_equal_batches_takes_as_many_turns_as_slots_need(batches: int, slots: int) -> None:
    found = simulate(Platform(slots=slots), SECOND, Work(1, 1, packed(batches, 1)))

    assert found.seconds == math.ceil(batches / slots)


def test_round_of_local_peers_is_all_batches_in_turn_on_cores_that_they_share() -> None:
    work = Work(4, 2, packed(3, 1), is_local=True)

    assert simulate(Platform(), SECOND, work).seconds == 2 * 3
    assert simulate(Platform(cores=2), SECOND, work).seconds == pytest.approx(2 * 3 * 4 / 2)


def test_processors_that_are_shared_are_shared_in_slices() -> None:
    """A peer with one short batch is not kept waiting until the other's long one has ended."""
    service, work = Service(Samples((0.1, 3.0))), Work(2, 1, (1,), is_local=True)

    runs = (simulate(Platform(cores=1), service, work, seed) for seed in range(20))
    found = next(each for each in runs if max(each.compute_seconds) == pytest.approx(3.1))

    assert min(found.compute_seconds) == pytest.approx(0.2, abs=0.03)


def test_what_surrounds_an_invocation_takes_processors_that_are_shared() -> None:
    service = Service(Samples.always(1.0), transfer=Samples.always(0.5), call=Samples.always(0.5))
    work = Work(4, 1, packed(10, 1), in_flight=1)

    assert simulate(Platform(slots=2, cores=2), service, work).seconds == pytest.approx(40, rel=0.05)
    assert simulate(Platform(slots=2), service, work).seconds == pytest.approx(30, rel=0.05)


def test_cold_starts_are_as_many_as_replicas_and_delay_the_first_round_only() -> None:
    platform = Platform(slots=4, cold_start_seconds=3.0, warm=0)

    found = simulate(platform, SECOND, Work(1, 3, packed(8, 1)))

    assert found.cold_starts == 4
    assert found.round_seconds == [3 + 2, 2, 2]
    assert sorted(found.durations) == [1.0] * 20 + [4.0] * 4


def test_packing_pays_what_surrounds_an_invocation_once() -> None:
    service = Service(Samples.always(1.0), transfer=Samples.always(0.5), call=Samples.always(0.25))

    apart = simulate(Platform(slots=1), service, Work(1, 1, packed(6, 1), in_flight=1))
    together = simulate(Platform(slots=1), service, Work(1, 1, packed(6, 4), in_flight=1))

    assert apart.seconds == pytest.approx(6 * 1.75)
    assert together.seconds == pytest.approx(6 + 2 * 0.75)


def test_function_with_half_a_processor_computes_twice_as_long_and_waits_no_longer() -> None:
    service = Service(Samples.always(1.0), transfer=Samples.always(0.5))

    assert simulate(Platform(share=0.5), service, Work(1, 1, (1,))).seconds == 2.5
    assert simulate(Platform(share=3.0), service, Work(1, 1, (1,))).seconds == 1.5


def test_exchange_of_peers_reads_everybody_and_waits_for_the_slowest() -> None:
    service = Service(Samples.always(1.0), send=Samples.always(0.5), receive=Samples.always(0.25))

    free = simulate(Platform(), service, Work(4, 1, (1,)))
    through_one_door = simulate(Platform(streams=1), service, Work(4, 1, (1,)))

    assert free.seconds == pytest.approx(1 + 0.5 + 3 * 0.25)
    assert through_one_door.seconds == pytest.approx(1 + 4 * 0.5 + 12 * 0.25)


def test_same_seed_gives_the_same_figures_and_another_others() -> None:
    service = Service(Samples((0.5, 1.0, 1.7)))
    work = Work(4, 5, packed(7, 2), in_flight=2)

    first, same, other = (simulate(Platform(slots=3), service, work, seed) for seed in (1, 1, 2))

    assert first == same
    assert first.seconds != other.seconds


def mean_wait(platform: Platform, rate: float, service: Callable[[random.Random], float]) -> float:
    """Return how long requests that arrive at random wait for a replica, in the long run."""
    environment, simulated, randomness = simpy.Environment(), Simulated(), random.Random(3)
    pool = Pool(environment, platform, queue(environment, None), queue(environment, None), simulated)
    waits: list[float] = []

    def one(seconds: float) -> Process:
        began = environment.now
        yield from pool.invoke(0.0, [seconds])
        waits.append(environment.now - began - seconds)

    def arrivals() -> Process:
        for _ in range(40_000):
            yield environment.timeout(randomness.expovariate(rate))
            environment.process(one(service(randomness)))

    environment.process(arrivals())
    environment.run()
    return sum(waits) / len(waits)


def erlang_c(servers: int, load: float) -> float:
    """Return the probability that all servers are busy (M/M/c), with `load` in servers."""
    busy = load**servers / math.factorial(servers) / (1 - load / servers)
    return busy / (sum(load**k / math.factorial(k) for k in range(servers)) + busy)


def test_wait_before_one_replica_is_that_of_an_m_d_1_queue() -> None:
    """Pollaczek-Khinchine: load / (2 (1 - load)) service times."""
    found = mean_wait(Platform(slots=1), 0.7, lambda _: 1.0)

    assert found == pytest.approx(0.7 / (2 * 0.3), rel=0.05)


def test_wait_before_some_replicas_is_that_of_an_m_m_c_queue() -> None:
    expected = erlang_c(4, 2.4) / (4 - 2.4)

    found = mean_wait(Platform(slots=4), 2.4, lambda randomness: randomness.expovariate(1.0))

    assert found == pytest.approx(expected, rel=0.1)


def test_wait_before_some_replicas_of_constant_time_is_about_half_of_that() -> None:
    """M/D/c by Cosmetatos (1975): half of M/M/c, corrected for the load and the servers."""
    servers, load = 4, 3.2
    rho = load / servers
    correction = 1 + (1 - rho) * (servers - 1) * (math.sqrt(4 + 5 * servers) - 2) / (16 * rho * servers)
    expected = correction * erlang_c(servers, load) / (servers - load) / 2

    found = mean_wait(Platform(slots=servers), load, lambda _: 1.0)

    assert found == pytest.approx(expected, rel=0.05)
