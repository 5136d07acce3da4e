"""What is remembered of the sizes that fitted, and when the next run begins with them."""

import pytest
from harness import DATASET, SMALL
from msgspec.structs import replace

from peer.allocation import profiles
from peer.allocation.plans import Measured, Passes
from peer.config import RunConfig, current_versions
from peer.learning.datasets import catalogue
from peer.learning.datasets.manifest import DatasetManifest
from peer.messages import ModelSpec
from peer.store.s3 import Store

MIB = 1 << 20
WIDE = replace(SMALL, run="later", batch_size=64)


@pytest.fixture
def dataset(store: Store) -> DatasetManifest:
    return catalogue.push(store, DATASET)


def recalled(
    store: Store, dataset: DatasetManifest, config: RunConfig = WIDE, limit_bytes: int = 0
) -> list[tuple[str, int, int]]:
    found = profiles.recalled(store, config, dataset, limit_bytes)
    assert not found.adaptations or found.micro_batch == found.adaptations[-1].after
    return [(each.what, each.before, each.after) for each in found.adaptations]


def test_run_begins_with_what_fitted_the_same_model_and_batch_size(
    store: Store, dataset: DatasetManifest
) -> None:
    profiles.remember(store, replace(WIDE, run="first"), dataset, 32, 64 * MIB)

    found = profiles.recalled(store, WIDE, dataset, 64 * MIB)

    assert found.micro_batch == 32
    assert found.adaptations[0].reason == "so run first fitted at 64 MiB"
    assert found.adaptations[0].before == 64


@pytest.mark.parametrize(
    "config",
    [
        replace(WIDE, batch_size=128),
        replace(WIDE, model=ModelSpec("squeezenet1_1")),
        replace(WIDE, model=ModelSpec("cnn", {"input_size": 28})),
        replace(WIDE, micro_batch=16),
        replace(WIDE, indivisible_layer="norm (BatchNorm2d)"),
        replace(WIDE, largest_memory_bytes=128 * MIB),
    ],
    ids=["batch size", "model", "arguments", "smaller already", "indivisible", "limit may rise"],
)
def test_another_run_begins_with_what_it_was_asked_for(
    store: Store, dataset: DatasetManifest, config: RunConfig
) -> None:
    profiles.remember(store, WIDE, dataset, 32, 64 * MIB)

    assert recalled(store, dataset, config, 64 * MIB) == []


@pytest.mark.parametrize(
    ("then_bytes", "now_bytes", "is_used"),
    [(64, 64, True), (64, 32, True), (64, 128, False), (64, 0, True), (0, 128, True)],
)
def test_more_memory_than_then_makes_a_profile_worthless(
    store: Store, dataset: DatasetManifest, then_bytes: int, now_bytes: int, is_used: bool
) -> None:
    profiles.remember(store, WIDE, dataset, 32, then_bytes * MIB)

    found = recalled(store, dataset, WIDE, now_bytes * MIB)

    assert found == ([("micro_batch", 64, 32)] if is_used else [])


def test_the_last_run_is_what_counts(store: Store, dataset: DatasetManifest) -> None:
    assert recalled(store, dataset) == []
    profiles.remember(store, WIDE, dataset, 16, 64 * MIB)
    profiles.remember(store, replace(WIDE, run="r" * 64), dataset, 0, 2048 * MIB)

    assert recalled(store, dataset) == []


MEASURED = Measured(
    "http://gateway", current_versions(), [Passes(8, 0.1, MIB), Passes(64, 0.09, 9 * MIB)], 0.1
)


def test_what_was_measured_is_there_for_the_next_run_beside_what_fitted(
    store: Store, dataset: DatasetManifest
) -> None:
    profiles.keep(store, replace(WIDE, run="first"), dataset, MEASURED)
    profiles.remember(store, replace(WIDE, run="second"), dataset, 32, 64 * MIB)

    assert profiles.measured(store, WIDE, dataset, "http://gateway") == ("first", MEASURED)
    assert recalled(store, dataset) == [("micro_batch", 64, 32)]


def test_what_was_measured_elsewhere_or_by_other_versions_counts_for_nothing(
    store: Store, dataset: DatasetManifest
) -> None:
    assert profiles.measured(store, WIDE, dataset, "http://gateway") is None
    profiles.keep(store, WIDE, dataset, MEASURED)

    assert profiles.measured(store, WIDE, dataset, "http://another") is None
    assert profiles.measured(store, replace(WIDE, batch_size=128), dataset, "http://gateway") is None
    profiles.keep(store, WIDE, dataset, replace(MEASURED, versions={"torch": "0"}))
    assert profiles.measured(store, WIDE, dataset, "http://gateway") is None


def test_micro_batch_that_was_asked_for_is_not_what_the_next_run_begins_with(
    store: Store, dataset: DatasetManifest
) -> None:
    profiles.remember(store, replace(WIDE, micro_batch=16), dataset, 16, 64 * MIB)

    assert recalled(store, dataset) == []
