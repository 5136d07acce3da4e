"""Which strategy is chosen, and what the estimates say."""

from collections.abc import Iterator

import pytest
from harness import WITHOUT_FUNCTIONS

from peer.exchange.choice import Link, choose, estimates, probe
from peer.store import keys
from peer.store.s3 import Store

SLOW = Link(0.02, 0.02, 65e6, 65e6)


def test_estimates_have_every_strategy_the_fastest_first() -> None:
    found = estimates(100_000_000, 8, SLOW)

    assert {estimate.strategy for estimate in found} == set(WITHOUT_FUNCTIONS)
    assert found[0].seconds <= found[1].seconds


def test_estimates_of_many_large_gradients_prefer_fewer_bytes() -> None:
    assert estimates(100_000_000, 8, SLOW)[0].strategy == "scatter_reduce"


def test_estimates_of_small_gradients_far_away_prefer_fewer_waits() -> None:
    assert estimates(100_000, 4, Link(0.08, 0.08, 1e9, 1e9))[0].strategy == "all_gather"


@pytest.mark.parametrize("num_peers", [1, 2])
def test_estimates_of_few_peers_prefer_the_simpler_strategy(num_peers: int) -> None:
    # up one gradient and down at most one: nothing to save
    assert estimates(100_000_000, num_peers, SLOW)[0].strategy == "all_gather"


def test_estimates_have_the_bytes_of_the_formula() -> None:
    by_name = {estimate.strategy: estimate for estimate in estimates(8_000, 4, SLOW)}

    assert (by_name["all_gather"].up_bytes, by_name["all_gather"].down_bytes) == (8_000, 24_000)
    assert (by_name["scatter_reduce"].up_bytes, by_name["scatter_reduce"].down_bytes) == (8_000, 12_000)


def test_estimates_with_a_codec_count_what_travels_compressed_and_what_does_not() -> None:
    by_name = {estimate.strategy: estimate for estimate in estimates(8_000, 4, SLOW, compressed_bytes=80)}

    gathered, reduced = by_name["all_gather"], by_name["scatter_reduce"]
    assert (gathered.up_bytes, gathered.down_bytes) == (80, 240)
    assert (reduced.up_bytes, reduced.down_bytes) == (60 + 2_000, 60 + 6_000)


def test_estimates_with_a_strong_codec_prefer_what_never_travels_as_float32() -> None:
    assert estimates(100_000_000, 8, SLOW)[0].strategy == "scatter_reduce"
    assert estimates(100_000_000, 8, SLOW, compressed_bytes=1_000_000)[0].strategy == "all_gather"


def test_estimates_of_small_gradients_prefer_fewer_writes_where_writing_is_slow() -> None:
    near = Link(put_seconds=0.003, get_seconds=0.0006, up_bytes_per_second=250e6, down_bytes_per_second=1e9)

    assert estimates(1_700_000, 4, near)[0].strategy == "all_gather"
    assert estimates(100_000_000, 4, near)[0].strategy == "scatter_reduce"


def test_estimates_of_a_gradient_that_goes_with_its_manifest_have_fewer_waits() -> None:
    small, large = (
        {each.strategy: each.waits for each in estimates(size, 4, SLOW)} for size in (8 << 20, 64 << 20)
    )

    # asks for its rank, puts, reads one other peer's, then the two others' at once
    assert small["all_gather"] == 4
    assert large["all_gather"] == small["all_gather"] + 2
    # twice: puts three at once, reads one, then two; the mean of a share is put, and three are read
    assert small["scatter_reduce"] == 2 + 1 + 2 + 1 + 1
    assert large["scatter_reduce"] == small["scatter_reduce"] + 4


def test_probe_takes_latency_out_of_the_rates(store: Store) -> None:
    one_by_one, at_once = [2, 2, 2, 2, 2, 1, 2, 3, 4, 5], [9, 8, 9, 9, 9, 4, 7, 7, 7, 7]
    seconds = [*one_by_one, *at_once, 9, 7, 6, 4]
    times: Iterator[float] = iter([time for each in seconds for time in (0, each)])

    link = probe(store, "run", clock=lambda: next(times))

    assert link == Link(2, 1, (8 << 20) / (7 - 2), (8 << 20) / (4 - 1), (8 - 2) / 3, (4 - 1) / 3)


def test_estimates_of_small_gradients_prefer_fewer_requests_where_each_takes_its_time() -> None:
    near = Link(0.0018, 0.0008, 248e6, 719e6)
    shared = Link(0.0018, 0.0008, 248e6, 719e6, more_put_seconds=0.0015, more_get_seconds=0.0007)

    by_name = {estimate.strategy: estimate.seconds for estimate in estimates(1_690_000, 4, near)}
    found = estimates(1_690_000, 4, shared)

    assert found[0].strategy == "all_gather"
    # it reads two others at once; scatter-reduce puts three, reads two, and reads three
    assert found[0].seconds == pytest.approx(by_name["all_gather"] + 0.0007)
    assert found[1].seconds == pytest.approx(by_name["scatter_reduce"] + 2 * 0.0015 + 3 * 0.0007)


def test_choose_leaves_nothing_and_says_why(store: Store) -> None:
    strategy, reason = choose(store, "run", 1_000_000, 4)

    assert strategy in WITHOUT_FUNCTIONS and reason.startswith(f"{strategy}: ")
    assert all(name in reason for name in WITHOUT_FUNCTIONS) and "MB/s" in reason
    assert not list(store.list(keys.run("run")))
