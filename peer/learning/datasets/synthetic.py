"""Made-up images that a small model learns: a pattern a class, plus noise; the same everywhere."""

import re

import numpy as np

from peer.errors import DatasetError
from peer.learning.datasets.manifest import RawDataset, RawSplit
from peer.learning.seeds import random_stream

_NAME = re.compile(r"synthetic(?:-(\d{1,7}))?(?:-(\d{1,2})x(\d{1,3})x(\d{1,3}))?")
_NUM_CLASSES = 10
_DEFAULT_SAMPLES = 2_000
_NOISE = 64


def make(name: str) -> RawDataset:
    """Return `synthetic`, `synthetic-SAMPLES` or `synthetic-SAMPLES-CxHxW`.

    SAMPLES (2,000) for training and a fifth of it for the test; ten classes; 1x28x28 pixels unless said
    otherwise.

    Raises:
        DatasetError: the name is not of this form, or has no samples or no pixels.
    """
    match = _NAME.fullmatch(name)
    num_samples = int((match and match[1]) or _DEFAULT_SAMPLES)
    shape = tuple(int(size) for size in match.groups()[1:]) if match and match[2] else (1, 28, 28)
    if match is None or num_samples < _NUM_CLASSES or 0 in shape:
        raise DatasetError(
            f"{name[:80]!r} is no synthetic dataset: write synthetic, synthetic-SAMPLES or "
            f"synthetic-SAMPLES-CxHxW, with at least {_NUM_CLASSES} samples"
        )
    patterns = random_stream("synthetic", *shape).randint(
        0, 256 - _NOISE, (_NUM_CLASSES, *shape), dtype=np.uint8
    )
    return RawDataset(
        name=name,
        classes=tuple(str(label) for label in range(_NUM_CLASSES)),
        train=_split(patterns, num_samples, "train"),
        test=_split(patterns, max(_NUM_CLASSES, num_samples // 5), "test"),
    )


def _split(patterns: "np.typing.NDArray[np.uint8]", num_samples: int, split: str) -> RawSplit:
    random = random_stream("synthetic", split, num_samples, *patterns.shape)
    labels = np.arange(num_samples, dtype=np.int64) % _NUM_CLASSES
    images = random.randint(0, _NOISE, (num_samples, *patterns.shape[1:]), dtype=np.uint8)
    images += patterns[labels]
    return RawSplit(images, labels)
