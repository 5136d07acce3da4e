"""Datasets in the store: pushed once, found by name or id, removed."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from peer.errors import ConfigurationError, DatasetError
from peer.learning.datasets import sources
from peer.learning.datasets.manifest import (
    BY_LABEL,
    SHUFFLED,
    TEST,
    TRAIN,
    VALIDATION,
    DatasetManifest,
    PartEntry,
    RawDataset,
    RawSplit,
    StoredOrder,
    StoredSplit,
)
from peer.learning.seeds import random_stream
from peer.store import keys
from peer.store.checksums import checksum
from peer.store.s3 import Store

DEFAULT_HELD_OUT = 5_000
PART_BYTES = 4 << 20

_FORMAT_VERSION = 1

Progress = Callable[[int, int], None]
_Order = npt.NDArray[np.int64]


def push(
    store: Store,
    source_name: str,
    *,
    data_dir: Path | None = None,
    held_out: int = DEFAULT_HELD_OUT,
    on_progress: Progress | None = None,
    on_message: Callable[[str], None] | None = None,
) -> DatasetManifest:
    """Return the manifest of the dataset, which is now in the store; if it was already, nothing is sent.

    The parts go first and the manifest last, so a push that is cut off leaves nothing that a reader trusts,
    and pushing again completes it.

    Args:
        store: its bucket exists.
        source_name: see `peer.learning.datasets.sources.load`.
        data_dir: see there.
        held_out: training samples for validation, 0 for none. If the training split is small, at most a
            fifth of it.
        on_progress: told the bytes stored so far and in all, after each part.
        on_message: told what takes long before that, a line each.

    Raises:
        DatasetError: the source is unknown, missing or damaged; nothing was sent.
        ConfigurationError: `held_out` is negative; nothing was sent.
        StoreError: the store failed; no manifest was written.
    """
    if held_out < 0:
        raise ConfigurationError(f"held-out samples are {held_out}: take 0 or more")
    keys.checked(source_name, "dataset")
    raw = sources.load(source_name, data_dir, on_message)
    held_out = min(held_out, len(raw.train.labels) // 5)
    digest = _sha256(raw, held_out)
    dataset_id = f"{raw.name}-{digest[:12]}"
    manifest_key = keys.dataset_manifest(dataset_id)
    existing = store.get_message_if_exists(manifest_key, DatasetManifest)
    if existing is not None:
        return existing
    label_bytes = 1 if len(raw.classes) <= 256 else 2
    mean, std = _moments(raw.train.images)
    manifest = DatasetManifest(
        id=dataset_id,
        name=raw.name,
        shape=_shape(raw.train),
        classes=list(raw.classes),
        mean=mean,
        std=std,
        label_bytes=label_bytes,
        held_out=held_out,
        sha256=digest,
        splits=_store_splits(store, dataset_id, raw, held_out, label_bytes, on_progress),
    )
    store.put_message(manifest_key, manifest)
    return manifest


def list_datasets(store: Store) -> list[DatasetManifest]:
    """Return the manifests of all complete datasets, by id."""
    manifests = [
        store.get_message_if_exists(key, DatasetManifest)
        for key, _ in store.list(keys.datasets())
        if keys.is_dataset_manifest(key)
    ]
    return sorted((manifest for manifest in manifests if manifest is not None), key=lambda found: found.id)


def find(store: Store, name_or_id: str) -> DatasetManifest:
    """Return the manifest of the dataset with this id, or of the only one with this name.

    Raises:
        DatasetError: there is none, or several of that name; the message has what to do.
    """
    manifest = store.get_message_if_exists(keys.dataset_manifest(name_or_id), DatasetManifest)
    if manifest is not None:
        return manifest
    found = [manifest for manifest in list_datasets(store) if manifest.name == name_or_id]
    if not found:
        raise DatasetError(
            f"dataset {name_or_id!r} is not in the store: run `peerless data push {name_or_id}`"
        )
    if len(found) > 1:
        ids = ", ".join(f"{manifest.id} ({manifest.held_out} held out)" for manifest in found)
        raise DatasetError(f"there are several datasets named {name_or_id!r}: choose one of {ids}")
    return found[0]


def remove(store: Store, name_or_id: str) -> DatasetManifest:
    """Remove a dataset, manifest first, and return what it was.

    Raises:
        DatasetError: as `find`; nothing was removed.
    """
    manifest = find(store, name_or_id)
    store.delete([keys.dataset_manifest(manifest.id)])
    store.delete([key for key, _ in store.list(keys.dataset(manifest.id))])
    return manifest


def _store_splits(
    store: Store,
    dataset_id: str,
    raw: RawDataset,
    held_out: int,
    label_bytes: int,
    on_progress: Progress | None,
) -> dict[str, StoredSplit]:
    plan = _plan(raw, held_out)
    record_bytes = label_bytes + raw.train.images[0].size
    total_bytes = sum(len(order) * record_bytes for _, _, orders in plan for order in orders.values())
    stored_bytes = 0
    splits = {}
    for split, samples, orders in plan:
        stored_orders = {}
        for order, indices in orders.items():
            entries = []
            for number, part in enumerate(_parts(samples, indices, label_bytes)):
                content = part.reshape(-1).data
                entry = PartEntry(
                    key=keys.dataset_part(dataset_id, split, order, number),
                    length=len(content),
                    checksum=checksum("sha256", [content]),
                )
                store.put(entry.key, [content], entry.length)
                entries.append(entry)
                stored_bytes += entry.length
                if on_progress is not None:
                    on_progress(stored_bytes, total_bytes)
            stored_orders[order] = StoredOrder(
                samples_per_part=_samples_per_part(record_bytes), parts=entries
            )
        counts = np.bincount(samples.labels[orders[SHUFFLED]], minlength=len(raw.classes))
        splits[split] = StoredSplit(
            num_samples=len(orders[SHUFFLED]), label_counts=counts.tolist(), orders=stored_orders
        )
    return splits


def _plan(raw: RawDataset, held_out: int) -> list[tuple[str, RawSplit, dict[str, _Order]]]:
    """Return each split with its source and the source's sample numbers in each stored order.

    The shuffle is fixed: it belongs to the dataset, and runs differ by the order of blocks that their seed
    gives.
    """
    shuffled = _permutation(raw.name, TRAIN, len(raw.train.labels))
    train, validation = np.split(shuffled, [len(shuffled) - held_out])
    by_label = train[np.argsort(raw.train.labels[train], kind="stable")]
    plan = [(TRAIN, raw.train, {SHUFFLED: train, BY_LABEL: by_label})]
    if held_out:
        plan.append((VALIDATION, raw.train, {SHUFFLED: validation}))
    plan.append((TEST, raw.test, {SHUFFLED: _permutation(raw.name, TEST, len(raw.test.labels))}))
    return plan


def _permutation(name: str, split: str, num_samples: int) -> _Order:
    return random_stream("dataset", name, split).permutation(num_samples).astype(np.int64)


def _samples_per_part(record_bytes: int) -> int:
    return max(1, PART_BYTES // record_bytes)


def _parts(samples: RawSplit, indices: _Order, label_bytes: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the stored parts, one in memory at a time."""
    pixels = samples.images.reshape(len(samples.images), -1)
    step = _samples_per_part(label_bytes + pixels.shape[1])
    for start in range(0, len(indices), step):
        chosen = indices[start : start + step]
        part = np.empty((len(chosen), label_bytes + pixels.shape[1]), dtype=np.uint8)
        labels = samples.labels[chosen].astype("<u8").view(np.uint8).reshape(-1, 8)
        part[:, :label_bytes] = labels[:, :label_bytes]
        part[:, label_bytes:] = pixels[chosen]
        yield part


def _shape(split: RawSplit) -> tuple[int, int, int]:
    _, channels, height, width = split.images.shape
    return channels, height, width


def _moments(images: npt.NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation a channel, of pixels scaled to [0, 1], from exact integer sums."""
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        weights = sum(np.bincount(chunk.reshape(-1), minlength=256) for chunk in _chunks(images[:, channel]))
        mean = float(np.average(values, weights=weights))
        means.append(mean)
        # one colour only would divide by zero
        stds.append(float(np.sqrt(np.average((values - mean) ** 2, weights=weights))) or 1.0)
    return means, stds


def _chunks(images: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    for start in range(0, len(images), 4096):
        yield images[start : start + 4096]


def _sha256(raw: RawDataset, held_out: int) -> str:
    """Return what names the stored dataset: of its samples, and of all that decides how they are stored."""
    description = [_FORMAT_VERSION, raw.name, list(raw.classes), held_out, PART_BYTES]
    hasher = hashlib.sha256()
    for split in (raw.train, raw.test):
        description += [list(split.images.shape)]
        for chunk in _chunks(split.images):
            hasher.update(np.ascontiguousarray(chunk).data)
        hasher.update(split.labels.astype("<i8").data)
    hasher.update(json.dumps(description).encode())
    return hasher.hexdigest()
