from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from peer.errors import ConfigurationError, DatasetError, InvalidName
from peer.learning.datasets import catalogue, synthetic
from peer.learning.datasets.manifest import BY_LABEL, SHUFFLED, TEST, TRAIN, VALIDATION, DatasetManifest
from peer.store import keys
from peer.store.checksums import verify
from peer.store.s3 import Store


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "PART_BYTES", 8_000)


def stored_samples(store: Store, manifest: DatasetManifest, split: str, order: str) -> Iterator[bytes]:
    stored = manifest.splits[split].orders[order]
    count = 0
    for part in stored.parts:
        content = store.get(part.key, part.length)
        verify(content, part.checksum, part.key)
        records = [
            bytes(content[at : at + manifest.record_bytes])
            for at in range(0, len(content), manifest.record_bytes)
        ]
        assert part is stored.parts[-1] or len(records) == stored.samples_per_part
        count += len(records)
        yield from records
    assert count == manifest.splits[split].num_samples


def test_push_stores_every_sample_once_an_order(store: Store) -> None:
    raw = synthetic.make("synthetic-100")

    manifest = catalogue.push(store, "synthetic-100", held_out=15)

    records = [
        bytes([label]) + image.tobytes()
        for image, label in zip(raw.train.images, raw.train.labels, strict=True)
    ]
    train = list(stored_samples(store, manifest, TRAIN, SHUFFLED))
    validation = list(stored_samples(store, manifest, VALIDATION, SHUFFLED))
    by_label = list(stored_samples(store, manifest, TRAIN, BY_LABEL))
    assert (len(train), len(validation)) == (85, 15)
    assert sorted(train + validation) == sorted(records)
    assert train + validation != records
    assert by_label == sorted(train, key=lambda record: record[0])
    assert len(list(stored_samples(store, manifest, TEST, SHUFFLED))) == 20
    assert manifest.splits[TRAIN].label_counts == np.bincount([record[0] for record in train]).tolist()


def test_push_manifest_has_the_moments_of_the_training_pixels(store: Store) -> None:
    raw = synthetic.make("synthetic-30-3x6x5")

    manifest = catalogue.push(store, "synthetic-30-3x6x5", held_out=0)

    pixels = raw.train.images / 255
    assert manifest.mean == pytest.approx(pixels.mean(axis=(0, 2, 3)))
    assert manifest.std == pytest.approx(pixels.std(axis=(0, 2, 3)))
    assert manifest.shape == (3, 6, 5)
    assert manifest.record_bytes == 91
    assert VALIDATION not in manifest.splits


def test_push_twice_sends_nothing_again(store: Store) -> None:
    first = catalogue.push(store, "synthetic-100")
    sent = store.bytes_moved()["put"]

    again = catalogue.push(store, "synthetic-100")

    assert again == first
    assert store.bytes_moved()["put"] == sent
    assert sent > first.num_bytes


def test_push_reports_progress_to_the_last_byte(store: Store) -> None:
    progress: list[tuple[int, int]] = []

    manifest = catalogue.push(
        store, "synthetic-40", on_progress=lambda done, total: progress.append((done, total))
    )

    assert progress == sorted(progress)
    assert progress[-1] == (manifest.num_bytes, manifest.num_bytes)


def test_push_small_dataset_holds_out_at_most_a_fifth(store: Store) -> None:
    assert catalogue.push(store, "synthetic-100").held_out == 20


def test_push_negative_held_out_is_refused(store: Store) -> None:
    with pytest.raises(ConfigurationError, match="held-out samples are -1"):
        catalogue.push(store, "synthetic-100", held_out=-1)


@pytest.mark.parametrize("name", ["../etc", "a/b", "x" * 65])
def test_push_name_that_is_no_key_is_refused(store: Store, name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidName):
        catalogue.push(store, name, data_dir=tmp_path)


def test_find_by_name_and_by_id_and_list_agree(store: Store) -> None:
    manifest = catalogue.push(store, "synthetic-50")
    other = catalogue.push(store, "synthetic-60")

    assert catalogue.find(store, "synthetic-50") == manifest
    assert catalogue.find(store, manifest.id) == manifest
    assert catalogue.list_datasets(store) == sorted([manifest, other], key=lambda found: found.id)


def test_find_name_with_two_ids_lists_them(store: Store) -> None:
    ids = {catalogue.push(store, "synthetic-50", held_out=held_out).id for held_out in (0, 5)}

    with pytest.raises(DatasetError, match="several datasets") as refusal:
        catalogue.find(store, "synthetic-50")

    assert len(ids) == 2
    assert all(dataset_id in str(refusal.value) for dataset_id in ids)


def test_find_missing_says_how_to_push_it(store: Store) -> None:
    with pytest.raises(DatasetError, match="peerless data push mnist"):
        catalogue.find(store, "mnist")


def test_push_cut_off_leaves_nothing_to_find_and_can_be_repeated(store: Store) -> None:
    class CutOff(Exception):
        pass

    def cut_off(_done: int, _total: int) -> None:
        raise CutOff

    with pytest.raises(CutOff):
        catalogue.push(store, "synthetic-50", on_progress=cut_off)

    assert catalogue.list_datasets(store) == []
    manifest = catalogue.push(store, "synthetic-50")
    assert len(list(stored_samples(store, manifest, TRAIN, SHUFFLED))) == 40


def test_remove_leaves_no_object_of_that_dataset(store: Store) -> None:
    kept = catalogue.push(store, "synthetic-60")
    removed = catalogue.push(store, "synthetic-50")

    assert catalogue.remove(store, "synthetic-50") == removed

    assert list(store.list(keys.dataset(removed.id))) == []
    assert catalogue.list_datasets(store) == [kept]


def test_dataset_id_depends_on_content_alone() -> None:
    raw = synthetic.make("synthetic-50")
    copied = replace(raw, train=replace(raw.train, images=raw.train.images.copy()))
    changed = replace(raw, train=replace(raw.train, images=raw.train.images ^ 1))

    digests = [catalogue._sha256(dataset, 5) for dataset in (raw, copied, changed)]

    assert digests[0] == digests[1] != digests[2]
