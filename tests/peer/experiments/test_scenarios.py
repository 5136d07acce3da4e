"""Scenarios on a cloud against what one computes by hand."""

import pytest
from msgspec.structs import replace as with_changes

from peer.experiments.prices import assumptions, cloud_prices
from peer.experiments.simulator.model import Samples
from peer.experiments.simulator.scenarios import (
    AS_PUBLISHED,
    PACKED,
    TUNED,
    WARM,
    Cloud,
    Scenario,
    Workload,
    by_memory,
    by_peers,
)

NO_DELAYS = with_changes(
    assumptions(),
    store_latency_seconds=0.0,
    call_seconds=0.0,
    store_bytes_per_second=1e30,
    cold_start_seconds=2.0,
)
CLOUD = Cloud(cloud_prices(), NO_DELAYS, allocator_slowdown=2.0)
LOAD = Workload(64, 20, Samples.always(1.0), 1 << 20, 1 << 16, 500 << 20, "t2.large")


def test_functions_at_once_save_all_but_one_part_of_the_time() -> None:
    found = CLOUD.run(LOAD, TUNED)

    assert found.baseline_seconds == pytest.approx(20)
    assert found.seconds == pytest.approx(1)
    assert found.improvement == pytest.approx(1 - 1 / 20)


def test_cold_starts_and_the_allocator_take_their_part() -> None:
    assert CLOUD.run(LOAD, WARM).seconds == pytest.approx(2)
    assert CLOUD.run(LOAD, AS_PUBLISHED).seconds == pytest.approx(4)
    assert CLOUD.run(LOAD, AS_PUBLISHED).improvement == pytest.approx(1 - 4 / 40)


def test_cost_is_functions_requests_objects_and_the_waiting_instance() -> None:
    found = CLOUD.run(LOAD, TUNED)

    functions = 20 * 1769 / 1024 * 0.0000166667 + 20 * 0.0000002
    objects = 21 * 0.000005 + 60 * 0.0000004
    assert found.memory_mb == 1769
    assert found.dollars == pytest.approx(functions + objects + 0.0928 / 3600)
    assert found.baseline_dollars == pytest.approx(20 * 0.0928 / 3600)


def test_memory_for_a_cost_ratio_is_where_the_ratio_is() -> None:
    memory_mb = CLOUD.memory_for_ratio(LOAD, TUNED, 3.0)

    assert memory_mb is not None
    found = {
        size: each.cost_ratio for size, each in by_memory(CLOUD, LOAD, TUNED, [memory_mb - 1, memory_mb])
    }
    assert found[memory_mb - 1] < 3.0 <= found[memory_mb]
    assert CLOUD.memory_for_ratio(LOAD, TUNED, 0.5) is None
    assert CLOUD.memory_for_ratio(LOAD, TUNED, 99.0) is None


def test_functions_and_batches_for_an_improvement_are_the_fewest() -> None:
    assert CLOUD.slots_for(LOAD, TUNED, 0.9) == 10
    assert CLOUD.slots_for(LOAD, TUNED, 0.96) is None
    assert CLOUD.batches_for(LOAD, TUNED, 0.95) == 20
    assert CLOUD.batches_for(LOAD, AS_PUBLISHED, 0.9) == 20


def test_fewest_batches_with_which_functions_are_faster() -> None:
    assert CLOUD.fewest_batches(LOAD, TUNED) == 2
    assert CLOUD.fewest_batches(LOAD, Scenario("cold", is_warm=False)) == 4
    tiny = Cloud(cloud_prices(), with_changes(NO_DELAYS, call_seconds=1e6), 2.0)
    assert tiny.fewest_batches(LOAD, TUNED) is None


def test_packing_keeps_what_surrounds_the_computing_small() -> None:
    slow = Cloud(cloud_prices(), with_changes(NO_DELAYS, call_seconds=0.35), 2.0)

    found = slow.run(LOAD, PACKED)

    assert found.packing == 4
    assert found.seconds == pytest.approx(4.35)


def test_more_peers_than_the_account_has_functions_for_wait() -> None:
    few = Cloud(cloud_prices(), with_changes(NO_DELAYS, account_concurrency=20), 2.0)

    found = {peers: (functions, alone) for peers, functions, alone in by_peers(few, LOAD, 64 * 40, [1, 4])}

    assert found[1] == pytest.approx((2.0, 40.0))
    assert found[4] == pytest.approx((2.0, 10.0))
