"""Where a dataset's files are looked for, by name, and how they are read."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from peer.errors import DatasetError
from peer.learning.datasets import cifar, idx, synthetic
from peer.learning.datasets.manifest import RawDataset, RawSplit

_DIGITS = tuple("0123456789")
_GARMENTS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_FASHION_URL = "https://github.com/zalandoresearch/fashion-mnist/tree/master/data/fashion"


@dataclass(frozen=True)
class _Idx:
    classes: tuple[str, ...]
    where: str


_IDX_SOURCES = {
    "mnist": _Idx(_DIGITS, "the folder data/mnist of a peerless checkout"),
    "fashion-mnist": _Idx(_GARMENTS, _FASHION_URL),
}

KNOWN_SOURCES = (*_IDX_SOURCES, "cifar10", "synthetic")


def load(name: str, data_dir: Path | None, on_progress: Callable[[str], None] | None = None) -> RawDataset:
    """Return the dataset of this name.

    Args:
        name: `mnist` (in `data_dir`, else in `data/mnist` of the clone), `fashion-mnist` and `cifar10` (in
            `data_dir`;
            CIFAR-10 is downloaded otherwise), `synthetic` (made up; `synthetic-SAMPLES` and
            `synthetic-SAMPLES-CxHxW` say how large), or any other name for a `data_dir` with the four files
            of an IDX dataset.
        data_dir: the folder with the files, or its parent with a folder of the dataset's name.
        on_progress: told what takes long, a line each.

    Raises:
        DatasetError: unknown, not found (with where to get it), or damaged (with which file).
    """
    if name == "synthetic" or name.startswith("synthetic-"):
        return synthetic.make(name)
    if name == "cifar10":
        return cifar.load(_folders(name, data_dir), on_progress)
    if name not in _IDX_SOURCES and data_dir is None:
        raise DatasetError(
            f"unknown dataset {name[:80]!r}: choose {', '.join(KNOWN_SOURCES)}, or give --data-dir a folder "
            f"with the IDX files {', '.join(idx.FILES)}, plain or .gz"
        )
    return _load_idx(name, data_dir)


def _load_idx(name: str, data_dir: Path | None) -> RawDataset:
    folders = _folders(name, data_dir)
    if name in _IDX_SOURCES:
        # the clone that this package runs from, and the one that the user stands in
        folders += [Path(__file__).resolve().parents[3] / "data" / name, Path("data", name).resolve()]
    for folder in folders:
        if (files := idx.find_files(folder)) is not None:
            _check_sums(files)
            train, test = idx.read_splits(files)
            return RawDataset(name, _classes(name, train, test), train, test)
    looked = ", ".join(dict.fromkeys(map(str, folders)))
    source = _IDX_SOURCES.get(name)
    raise DatasetError(
        f"{name}: {', '.join(idx.FILES)} (plain or .gz) are not in {looked}"
        + (f"; get them from {source.where} and give their folder with --data-dir" if source else "")
    )


def _classes(name: str, *splits: RawSplit) -> tuple[str, ...]:
    num_classes = 1 + max(int(split.labels.max()) for split in splits)
    if name not in _IDX_SOURCES:
        return tuple(str(label) for label in range(num_classes))
    classes = _IDX_SOURCES[name].classes
    if num_classes > len(classes):
        raise DatasetError(
            f"{name}: a label is {num_classes - 1}, but it has {len(classes)} classes; get it again"
        )
    return classes


def _folders(name: str, data_dir: Path | None) -> list[Path]:
    return [] if data_dir is None else [data_dir, data_dir / name]


def _check_sums(files: list[Path]) -> None:
    """Compare the files with the SHA256SUMS beside them, if there is one."""
    sums_file = files[0].parent / "SHA256SUMS"
    if not sums_file.is_file():
        return
    sums = {name: digest for digest, name in re.findall(r"^(\w{64})  (\S+)$", sums_file.read_text(), re.M)}
    for file in files:
        if file.name in sums and hashlib.sha256(file.read_bytes()).hexdigest() != sums[file.name]:
            raise DatasetError(
                f"{file} is damaged: its SHA-256 is not the one in {sums_file.name}; get it again"
            )
