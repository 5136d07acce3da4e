"""What a peer asks for in a round: the parts that it names, and those that its next round needs."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import torch
from conftest import StoreServer

from peer.aggregation import Gradient
from peer.compute import Compute, Means
from peer.config import ALL_BATCHES, RunConfig
from peer.garbage import Garbage
from peer.invocations.fanout import FanOut, RetryPolicy
from peer.invocations.invocation import Stored
from peer.learning.datasets.manifest import DatasetManifest, PartEntry
from peer.learning.shards import plan_shards
from peer.messages import Evaluation, GradientReply, GradientRequest, StoredObject, Usage
from peer.records.phases import PhaseClock
from peer.records.rounds import Work
from peer.store.s3 import Store

NUM_ROUNDS = 5
USAGE = Usage({}, 0, 0, 0, is_cold_start=False, replica="")
WEIGHTS = StoredObject("weights", 1, "sha256:0")


class Recorder:
    """Computes nothing, and keeps what it is asked for."""

    def __init__(self) -> None:
        self.requests: list[GradientRequest] = []

    def readable(self, key: str) -> str:
        return key

    def writable(self, key: str) -> str:
        return key

    def gradient(self, request: GradientRequest, _result_key: str) -> tuple[GradientReply, Stored[Gradient]]:
        self.requests.append(request)
        nothing = torch.zeros(1)
        gradient = Gradient(nothing, torch.zeros(0), torch.zeros(0, dtype=torch.int64), 1)
        return GradientReply(0, "", Evaluation(1, 0, 0.0), USAGE), Stored(lambda: gradient)

    def evaluate(self, request: Any) -> Any:
        raise NotImplementedError

    aggregate = evaluate


@pytest.fixture
def store(nanio_server: StoreServer) -> Iterator[Store]:
    """Nothing is put into it, and nothing is deleted."""
    store = Store(nanio_server.address)
    yield store
    store.close()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def dataset(make_manifest: Callable[..., DatasetManifest]) -> DatasetManifest:
    parts = [PartEntry(f"part/{number}", 10, f"sha256:{number}") for number in range(12)]
    return make_manifest([1200], samples_per_part=100, parts=parts)


def rounds_of(
    store: Store, recorder: Recorder, dataset: DatasetManifest, *, is_prefetching: bool, **changes: Any
) -> list[list[GradientRequest]]:
    """Return the requests of each round of a run, those of a round by their invocation."""
    config = RunConfig(
        run="run",
        dataset="made-up",
        num_peers=2,
        rounds=NUM_ROUNDS,
        batch_size=64,
        batches_per_round=4,
        batches_per_invocation=2,
        initial_weights="",
        initial_weights_bytes=0,
    )
    config = msgspec.structs.replace(config, **changes)
    shard = plan_shards(dataset, config.num_peers, "iid", 0)[1]
    fan_out, garbage = FanOut(2, RetryPolicy(), lambda _error: None), Garbage(store, is_kept=True)
    means = Means(recorder, fan_out, garbage, PhaseClock(), Work(), is_prefetching=is_prefetching)
    compute, rounds = Compute(config, 0, 1, dataset, shard, means), []
    try:
        for number in range(NUM_ROUNDS):
            compute.gradient(number, WEIGHTS, 0.1)
            rounds.append(sorted(recorder.requests, key=lambda request: request.invocation))
            recorder.requests.clear()
    finally:
        fan_out.close()
        garbage.close()
    return rounds


def parts_of(request: GradientRequest) -> set[str]:
    return {part.url for part in request.data.parts}


@pytest.mark.parametrize(
    "changes", [{}, {"batches_per_invocation": 1}, {"batch_size": 17}, {"batches_per_round": ALL_BATCHES}]
)
def test_requests_name_exactly_the_parts_that_the_next_round_needs_beyond_theirs(
    store: Store, recorder: Recorder, dataset: DatasetManifest, changes: dict[str, int]
) -> None:
    rounds = rounds_of(store, recorder, dataset, is_prefetching=True, **changes)

    num_named = 0
    for these, those in zip(rounds, rounds[1:], strict=False):
        for this, later in zip(these, those, strict=True):
            named = [part.url for part in this.next_parts]
            assert set(named) == parts_of(later) - parts_of(this)
            assert len(named) == len(set(named))
            assert all(part in later.data.parts for part in this.next_parts)
            num_named += len(named)
    assert num_named > 0
    assert [request.next_parts for request in rounds[-1]] == [[] for _ in rounds[-1]]


def test_requests_of_a_run_without_overlap_name_no_parts_of_the_next_round(
    store: Store, recorder: Recorder, dataset: DatasetManifest
) -> None:
    plain = rounds_of(store, recorder, dataset, is_prefetching=False)
    ahead = rounds_of(store, recorder, dataset, is_prefetching=True)

    assert all(request.next_parts == [] for requests in plain for request in requests)
    for these, those in zip(plain, ahead, strict=True):
        assert these == [msgspec.structs.replace(request, next_parts=[]) for request in those]
