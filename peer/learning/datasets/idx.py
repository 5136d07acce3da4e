"""The IDX format of MNIST and its relatives: http://yann.lecun.com/exdb/mnist/, section "file formats"."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from peer.errors import DatasetError
from peer.learning.datasets.manifest import RawSplit

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

_UNSIGNED_BYTE = 8
# no dataset of images this small is larger, and a damaged header must not make us allocate by its say-so
_MOST_BYTES = 8 << 30


def find_files(folder: Path) -> list[Path] | None:
    """Return the four files of an IDX dataset in `folder`, plain or `.gz`, or None if one is missing."""
    found = []
    for name in FILES:
        # some mirrors write a dot before idx
        spellings = [name, name.replace("-idx", ".idx")]
        candidates = [folder / f"{spelling}{suffix}" for spelling in spellings for suffix in ("", ".gz")]
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        if file is None:
            return None
        found.append(file)
    return found


def read_splits(files: list[Path]) -> tuple[RawSplit, RawSplit]:
    """Return the training and the test split of the four files that `find_files` found.

    Raises:
        DatasetError: a file is damaged or the files do not fit together; names the file.
    """
    return _split(files[0], files[1]), _split(files[2], files[3])


def _split(images_file: Path, labels_file: Path) -> RawSplit:
    images = read(images_file)
    labels = read(labels_file)
    if images.ndim not in (3, 4) or labels.ndim != 1 or len(images) != len(labels) or not len(images):
        raise DatasetError(
            f"{images_file} has images of shape {images.shape}, {labels_file.name} labels of shape "
            f"{labels.shape}: they do not belong together; get both again"
        )
    # three dimensions are grey images; a fourth is channels first
    shaped = images[:, np.newaxis] if images.ndim == 3 else images
    return RawSplit(shaped, labels.astype(np.int64))


def read(file: Path) -> npt.NDArray[np.uint8]:
    """Return the array in an IDX file of unsigned bytes, plain or gzip.

    Raises:
        DatasetError: not readable, damaged, or of another element type; names the file.
    """
    try:
        opener = gzip.open if file.suffix == ".gz" else open
        with opener(file, "rb") as stream:
            header = stream.read(4)
            if (
                len(header) < 4
                or header[:2] != b"\0\0"
                or header[2] != _UNSIGNED_BYTE
                or not 1 <= header[3] <= 4
            ):
                raise DatasetError(
                    f"{file} is not an IDX file of unsigned bytes (it begins with {header!r}); get it again"
                )
            dimensions = stream.read(4 * header[3])
            sizes = [int.from_bytes(dimensions[at : at + 4]) for at in range(0, len(dimensions), 4)]
            expected_bytes = math.prod(sizes)
            if len(dimensions) != 4 * header[3] or expected_bytes > _MOST_BYTES:
                raise DatasetError(f"{file} has a damaged header: get it again")
            content = stream.read(expected_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{file} cannot be read: {error}; get it again") from error
    if len(content) != expected_bytes:
        raise DatasetError(
            f"{file} is damaged: its header promises {expected_bytes} bytes, "
            f"it has {'more' if len(content) > expected_bytes else len(content)}; get it again"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(sizes)
