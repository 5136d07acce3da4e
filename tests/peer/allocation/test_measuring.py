"""What is made of invocations that were seen, and that measuring ends where nothing fits."""

import pytest
from harness import DATASET, SMALL
from msgspec.structs import replace

from peer.aggregation import Gradient
from peer.allocation import planning
from peer.allocation.first_batch import Samples
from peer.allocation.measuring import Observing, Seen, measured
from peer.allocation.plans import Passes
from peer.errors import OutOfMemory
from peer.invocations.invocation import Stored
from peer.invocations.invokers import LocalInvoker
from peer.learning.datasets import catalogue
from peer.learning.shards import plan_shards
from peer.messages import GradientReply, GradientRequest, StoredObject, Usage
from peer.store.s3 import Store

MIB = 1 << 20


def seen(samples: int, seconds: float, compute: float, mib: int, *, is_cold: bool = False) -> Seen:
    phases = {"load_model": 0.3 * is_cold, "fetch": 0.2 * is_cold, "compute": compute, "upload": 0.01}
    usage = Usage(phases, 0, 0, 0, is_cold, "replica", working_set_bytes=mib * MIB)
    return Seen(samples, 4 * MIB, seconds, usage)


def test_shortest_of_warm_invocations_counts_and_the_least_memory_of_all() -> None:
    invocations = [
        seen(8, 1.62, 1.0, 40, is_cold=True),
        seen(8, 0.72, 0.6, 50),
        seen(64, 0.62, 0.5, 90),
        seen(64, 0.9, 0.8, 80),
    ]

    found = measured(invocations, "http://gateway")

    assert found.passes == [Passes(8, 0.6, 40 * MIB), Passes(64, 0.5, 80 * MIB)]
    assert found.upload_seconds == 0.01
    assert found.request_seconds == pytest.approx(0.09)
    assert found.cold_seconds == pytest.approx(0.9)
    assert (found.load_seconds, found.fetch_seconds, found.data_bytes) == (0.3, 0.2, 4 * MIB)


def test_passes_that_were_measured_before_stay_beside_those_of_another_size() -> None:
    known = [Passes(8, 0.6, 40 * MIB), Passes(64, 9.0, 900 * MIB)]

    found = measured([seen(64, 0.62, 0.5, 90)], "http://gateway", known)

    assert found.passes == [known[0], Passes(64, 0.5, 90 * MIB)]


class Full(LocalInvoker):
    """Computes where there is no memory."""

    num_asked = 0

    def gradient(self, request: GradientRequest, result_key: str) -> tuple[GradientReply, Stored[Gradient]]:
        self.num_asked += 1
        raise OutOfMemory("killed", 64 * MIB)


def test_passes_that_do_not_fit_are_tried_once_and_not_measured(store: Store) -> None:
    dataset = catalogue.push(store, DATASET)
    config = replace(SMALL, dataset=dataset.id)
    shard = plan_shards(dataset, config.num_peers, config.partition, config.seed)[0]
    observing = Observing(full := Full(store))

    planning.try_small_passes(store, config, Samples(dataset, shard, StoredObject("w", 1, "x")), observing)

    assert full.num_asked == 1
    assert observing.seen == []
