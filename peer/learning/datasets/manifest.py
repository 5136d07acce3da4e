"""What a stored dataset says about itself, and a dataset as its source gives it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from peer.messages import Message

TRAIN = "train"
VALIDATION = "validation"
TEST = "test"

SHUFFLED = "shuffled"
BY_LABEL = "by-label"


class PartEntry(Message, frozen=True):
    """One stored part: its key, length in bytes and `sha256:<hex>`."""

    key: str
    length: int
    checksum: str


class StoredOrder(Message, frozen=True):
    """A split in one order: sample i lies in part i // samples_per_part."""

    samples_per_part: int
    parts: list[PartEntry]


class StoredSplit(Message, frozen=True):
    """One split: its samples, how many of each label, and the orders that it is stored in."""

    num_samples: int
    label_counts: list[int]
    orders: dict[str, StoredOrder]


class DatasetManifest(Message, frozen=True):
    """A stored dataset; written after all its parts. `peer.messages.DataParts` says what a record is.

    `sha256` is of the source's samples and of everything that decides how they are stored, so equal ids are
    equal bytes. `held_out` training samples are the validation split.
    """

    id: str
    name: str
    shape: tuple[int, int, int]
    classes: list[str]
    mean: list[float]
    std: list[float]
    label_bytes: int
    held_out: int
    sha256: str
    splits: dict[str, StoredSplit]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def record_bytes(self) -> int:
        """The bytes of one stored sample with its label."""
        return self.label_bytes + self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def num_bytes(self) -> int:
        """The bytes of all stored parts."""
        return sum(
            part.length
            for split in self.splits.values()
            for order in split.orders.values()
            for part in order.parts
        )


@dataclass(frozen=True)
class RawSplit:
    """Samples as a source gives them.

    Attributes:
        images: uint8 of shape (N, C, H, W).
        labels: int64 of shape (N,), each in [0, number of classes).
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class RawDataset:
    """A dataset as its source gives it; `name` becomes part of object keys."""

    name: str
    classes: tuple[str, ...]
    train: RawSplit
    test: RawSplit
