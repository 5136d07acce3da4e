from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peer.errors import ConfigurationError
from peer.learning.datasets.manifest import DatasetManifest
from peer.learning.shards import Shard, cut_range, locate, plan_shards, split_range

MakeManifest = Callable[..., DatasetManifest]
shared_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def samples_of(ranges: list[tuple[int, int]]) -> list[int]:
    return [sample for start, stop in ranges for sample in range(start, stop)]


def epoch_of(shard: Shard, epoch: int, batch_size: int) -> list[list[int]]:
    num_batches = shard.num_batches(batch_size)
    batches = [shard.batch(epoch * num_batches + index, batch_size) for index in range(num_batches)]
    assert {number for number, _ in batches} == {epoch}
    return [samples_of(ranges) for _, ranges in batches]


@given(
    counts=st.lists(st.integers(0, 150), min_size=1, max_size=5),
    num_peers=st.integers(1, 12),
    batch_size=st.integers(1, 200),
    partition=st.sampled_from(["iid", "dirichlet:0.3", "dirichlet:100"]),
    seed=st.integers(0, 5),
)
@shared_fixture
def test_plan_shards_every_sample_exactly_once_an_epoch(
    make_manifest: MakeManifest, counts: list[int], num_peers: int, batch_size: int, partition: str, seed: int
) -> None:
    try:
        shards = plan_shards(make_manifest(counts), num_peers, partition, seed)
    except ConfigurationError as error:
        assert "without a sample" in str(error) or "cannot share" in str(error)
        return

    for epoch in (0, 3):
        batches = [batch for shard in shards for batch in epoch_of(shard, epoch, batch_size)]
        assert sorted(sample for batch in batches for sample in batch) == list(range(sum(counts)))
        for shard in shards:
            *full, last = epoch_of(shard, epoch, batch_size)
            assert all(len(batch) == batch_size for batch in full)
            assert 1 <= len(last) <= batch_size


@given(
    num_samples=st.integers(1, 500),
    samples_per_part=st.integers(1, 70),
    batch_size=st.integers(1, 90),
    count=st.integers(1, 4),
)
@shared_fixture
def test_locate_points_at_the_same_samples_in_only_the_parts_needed(
    make_manifest: MakeManifest, num_samples: int, samples_per_part: int, batch_size: int, count: int
) -> None:
    (shard,) = plan_shards(make_manifest([num_samples], samples_per_part), 1, "iid", 1)
    batches = [shard.batch(index, batch_size)[1] for index in range(count)]

    parts, located = locate(batches, shard.samples_per_part)

    assert parts == sorted(set(parts))
    assert {part for batch in located for part, _, _ in batch} == set(range(len(parts)))
    for batch, pieces in zip(batches, located, strict=True):
        assert all(0 <= start < stop <= samples_per_part for _, start, stop in pieces)
        found = [
            parts[part] * samples_per_part + sample
            for part, start, stop in pieces
            for sample in range(start, stop)
        ]
        assert found == samples_of(batch)


def test_plan_shards_iid_shares_are_equal_within_one(make_manifest: MakeManifest) -> None:
    shards = plan_shards(make_manifest([50, 53]), 4, "iid", 1)

    assert sorted(shard.num_samples for shard in shards) == [25, 26, 26, 26]


def test_shard_batch_order_depends_on_seed_epoch_and_peer(make_manifest: MakeManifest) -> None:
    manifest = make_manifest([4000])
    first, other_seed = (plan_shards(manifest, 2, "iid", seed) for seed in (1, 2))

    orders = {
        tuple(samples_of(shard.batch(index, 2000)[1]))
        for shard, index in [(first[0], 0), (first[0], 1), (other_seed[0], 0)]
    }

    assert len(orders) == 3
    assert first == plan_shards(manifest, 2, "iid", 1)


def test_shard_batch_never_changes(make_manifest: MakeManifest) -> None:
    shard = plan_shards(make_manifest([1000]), 2, "iid", 7)[1]

    assert shard.batch(3, 100) == PINNED_BATCH


def test_plan_shards_small_alpha_gives_each_peer_few_classes(make_manifest: MakeManifest) -> None:
    manifest = make_manifest([600] * 10)

    def classes_holding_most(partition: str) -> float:
        shards = plan_shards(manifest, 4, partition, 3)
        needed = []
        for shard in shards:
            counts = Counter(sample // 600 for sample in samples_of(list(shard.blocks)))
            total, covered, classes = sum(counts.values()), 0, 0
            for _, count in counts.most_common():
                covered, classes = covered + count, classes + 1
                if covered >= 0.8 * total:
                    break
            needed.append(classes)
        return sum(needed) / len(needed)

    assert classes_holding_most("dirichlet:0.1") < 5
    assert classes_holding_most("dirichlet:1000") >= 8


@pytest.mark.parametrize(
    "partition",
    ["uniform", "dirichlet", "dirichlet:", "dirichlet:-1", "dirichlet:0", "dirichlet:nan", "iid:2"],
)
def test_plan_shards_unknown_partition_is_refused(make_manifest: MakeManifest, partition: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown partition"):
        plan_shards(make_manifest([10]), 2, partition, 1)


def test_plan_shards_more_peers_than_samples_is_refused(make_manifest: MakeManifest) -> None:
    with pytest.raises(ConfigurationError, match="11 peers cannot share the 10 training samples"):
        plan_shards(make_manifest([10]), 11, "iid", 1)


def test_plan_shards_alpha_that_starves_a_peer_is_refused(make_manifest: MakeManifest) -> None:
    with pytest.raises(ConfigurationError, match="larger alpha"):
        plan_shards(make_manifest([100]), 8, "dirichlet:0.001", 1)


def test_shard_batch_size_zero_is_refused(make_manifest: MakeManifest) -> None:
    (shard,) = plan_shards(make_manifest([10]), 1, "iid", 1)

    with pytest.raises(ConfigurationError, match="batch size is 0"):
        shard.batch(0, 0)


@given(num_samples=st.integers(0, 1000), num_peers=st.integers(1, 40), batch_size=st.integers(1, 100))
def test_split_range_and_cut_range_cover_a_split_once(
    num_samples: int, num_peers: int, batch_size: int
) -> None:
    shares = [split_range(num_samples, num_peers, peer) for peer in range(num_peers)]

    batches = [batch for share in shares for batch in cut_range(share, batch_size)]

    assert [sample for batch in batches for sample in samples_of(batch)] == list(range(num_samples))
    assert max(stop - start for start, stop in shares) - min(stop - start for start, stop in shares) <= 1


PINNED_BATCH = (0, [(544, 564), (820, 884), (692, 708)])
