"""What tests of shards and of requests share: a manifest of a dataset that is stored nowhere."""

from collections.abc import Callable, Sequence

import pytest

from peer.learning.datasets.manifest import (
    BY_LABEL,
    SHUFFLED,
    TRAIN,
    DatasetManifest,
    PartEntry,
    StoredOrder,
    StoredSplit,
)


@pytest.fixture
def make_manifest() -> Callable[..., DatasetManifest]:
    """A manifest of a training split with these label counts, whose parts are in no store."""

    def make(
        label_counts: list[int], samples_per_part: int = 100, parts: Sequence[PartEntry] = ()
    ) -> DatasetManifest:
        order = StoredOrder(samples_per_part=samples_per_part, parts=list(parts))
        split = StoredSplit(
            num_samples=sum(label_counts),
            label_counts=label_counts,
            orders={SHUFFLED: order, BY_LABEL: order},
        )
        return DatasetManifest(
            id="made-up",
            name="made",
            shape=(1, 2, 2),
            classes=[str(label) for label in range(len(label_counts))],
            mean=[0.0],
            std=[1.0],
            label_bytes=1,
            held_out=0,
            sha256="",
            splits={TRAIN: split},
        )

    return make
