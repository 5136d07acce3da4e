import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from peer.errors import DatasetError
from peer.learning.datasets import idx, sources

CLONE = Path(__file__).resolve().parents[4] / "data" / "mnist"


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_dataset(folder: Path, *, suffix: str = "", dot: str = "-") -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    arrays = {}
    folder.mkdir(exist_ok=True)
    for name in idx.FILES:
        count = 30 if name.startswith("train") else 12
        shape = (count, 4, 5) if "images" in name else (count,)
        arrays[name] = random.integers(0, 7, shape, dtype=np.uint8)
        content = idx_bytes(arrays[name])
        file = folder / f"{name.replace('-idx', f'{dot}idx')}{suffix}"
        file.write_bytes(gzip.compress(content) if suffix else content)
    return arrays


@pytest.mark.parametrize(("suffix", "dot"), [("", "-"), (".gz", "-"), ("", ".")])
def test_load_idx_folder_returns_its_arrays(tmp_path: Path, suffix: str, dot: str) -> None:
    arrays = write_dataset(tmp_path / "letters", suffix=suffix, dot=dot)

    found = sources.load("letters", tmp_path)

    assert found.name == "letters"
    assert found.classes == ("0", "1", "2", "3", "4", "5", "6")
    assert np.array_equal(found.train.images[:, 0], arrays["train-images-idx3-ubyte"])
    assert found.train.labels.tolist() == arrays["train-labels-idx1-ubyte"].tolist()
    assert found.test.images.shape == (12, 1, 4, 5)


def test_load_mnist_of_the_clone_has_its_checked_files() -> None:
    found = sources.load("mnist", None)

    assert found.train.images.shape == (60_000, 1, 28, 28)
    assert found.test.labels.shape == (10_000,)
    assert np.bincount(found.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_load_mnist_with_another_checksum_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  t10k-labels-idx1-ubyte\n")

    with pytest.raises(DatasetError, match="t10k-labels-idx1-ubyte is damaged"):
        sources.load("mnist", tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-3], "is damaged: its header promises 30 bytes, it has 27"),
        (lambda content: content + b"x", "it has more"),
        (lambda content: b"\x1f\x8b" + content, "not an IDX file"),
        (lambda content: content[:6], "damaged header"),
        (lambda content: b"", "not an IDX file"),
        (lambda content: content[:2] + b"\x0d" + content[3:], "not an IDX file"),
        (lambda content: content[:3] + b"\x04" + b"\xff" * 16, "damaged header"),
        (lambda content: idx_bytes(np.zeros(29, dtype=np.uint8)), "do not belong together"),
        (lambda content: idx_bytes(np.zeros((30, 2), dtype=np.uint8)), "do not belong together"),
    ],
)
def test_load_damaged_file_is_refused_by_name(tmp_path: Path, damage: object, message: str) -> None:
    write_dataset(tmp_path)
    file = tmp_path / "train-labels-idx1-ubyte"
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]

    with pytest.raises(DatasetError, match=message) as refusal:
        sources.load("letters", tmp_path)

    assert "train-labels-idx1-ubyte" in str(refusal.value)
    assert "get" in str(refusal.value) or "IDX" in str(refusal.value)


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-9], lambda c: b"no gzip", lambda c: c[:40] + b"\0" * 30 + c[70:]]
)
def test_load_damaged_gzip_is_refused_by_name(tmp_path: Path, damage: object) -> None:
    write_dataset(tmp_path, suffix=".gz")
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]

    with pytest.raises(DatasetError, match=r"train-images-idx3-ubyte\.gz"):
        sources.load("letters", tmp_path)


def test_load_more_classes_than_the_dataset_has_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path)
    labels = np.full(30, 11, dtype=np.uint8)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))

    with pytest.raises(DatasetError, match="a label is 11, but it has 10 classes"):
        sources.load("fashion-mnist", tmp_path)


def test_load_unknown_name_says_what_there_is() -> None:
    with pytest.raises(
        DatasetError, match="choose mnist, fashion-mnist, cifar10, synthetic, or give --data-dir"
    ):
        sources.load("imagenet", None)


def test_load_fashion_mnist_without_files_says_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="zalandoresearch"):
        sources.load("fashion-mnist", tmp_path)


def test_data_folder_of_the_clone_states_every_files_checksum() -> None:
    listed = {line.split()[1] for line in (CLONE / "SHA256SUMS").read_text().splitlines()}

    assert listed == {file.name for file in CLONE.glob("*.gz")} == {f"{name}.gz" for name in idx.FILES}
