"""CIFAR-10, from its binary or its Python archive: https://www.cs.toronto.edu/~kriz/cifar.html."""

import hashlib
import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import requests

from peer.errors import DatasetError
from peer.learning.datasets import literals
from peer.learning.datasets.manifest import RawDataset, RawSplit

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
_TIMEOUT_SECONDS = (5.0, 20.0)
_SLICE_BYTES = 1 << 20

_PIXELS = 3 * 32 * 32
_BATCHES = [f"data_batch_{number}" for number in range(1, 6)]

# of the binary and of the Python form: archive, folder, suffix of its files
_FORMS = (
    ("cifar-10-binary.tar.gz", "cifar-10-batches-bin", ".bin"),
    ("cifar-10-python.tar.gz", "cifar-10-batches-py", ""),
)


def load(folders: Sequence[Path], on_message: Callable[[str], None] | None = None) -> RawDataset:
    """Return CIFAR-10 from the first of `folders` that has it, else from the download cache, else downloaded.

    A folder may have either archive, or what either unpacks to.

    Raises:
        DatasetError: it is damaged, or can be neither found nor downloaded.
    """
    for folder in folders:
        for archive, unpacked, suffix in _FORMS:
            for files in (folder / unpacked, folder):
                if (files / f"test_batch{suffix}").is_file():
                    return _from_folder(files, suffix)
            if (folder / archive).is_file():
                return _from_archive(folder / archive, suffix)
    if folders:
        raise DatasetError(
            f"cifar10 is not in {' or '.join(map(str, folders))}: put {_FORMS[0][0]} or {_FORMS[1][0]} there "
            f"(from {_URL.rpartition('/')[0]}), or leave --data-dir out to download it"
        )
    return _from_archive(_downloaded(on_message), "")


def _from_folder(folder: Path, suffix: str) -> RawDataset:
    contents = {}
    for name in [*_BATCHES, "test_batch"]:
        try:
            contents[name] = (folder / f"{name}{suffix}").read_bytes()
        except OSError as error:
            raise DatasetError(f"{folder / name}{suffix} cannot be read: {error}") from error
    return _dataset(contents, suffix, str(folder))


def _from_archive(archive: Path, suffix: str) -> RawDataset:
    wanted = {f"{name}{suffix}": name for name in [*_BATCHES, "test_batch"]}
    contents = {}
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                name = wanted.get(Path(member.name).name)
                stream = tar.extractfile(member) if name and member.isfile() else None
                if name and stream:
                    contents[name] = stream.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DatasetError(f"{archive} is damaged: {error}; get it again") from error
    if missing := sorted(set(wanted.values()) - set(contents)):
        raise DatasetError(f"{archive} has no {', '.join(missing)}: get it again")
    return _dataset(contents, suffix, str(archive))


def _dataset(contents: dict[str, bytes], suffix: str, where: str) -> RawDataset:
    """Return the dataset of these files; each file's bytes are let go once they are read."""
    read = _read_binary if suffix else _read_python
    test = read(contents.pop("test_batch"), f"{where}: test_batch")
    splits = [read(contents.pop(name), f"{where}: {name}") for name in _BATCHES]
    train = RawSplit(
        np.concatenate([split.images for split in splits]), np.concatenate([split.labels for split in splits])
    )
    return RawDataset("cifar10", CLASSES, train, test)


def _read_binary(content: bytes, where: str) -> RawSplit:
    if not content or len(content) % (1 + _PIXELS):
        raise DatasetError(f"{where} has {len(content)} bytes, not {1 + _PIXELS} an image; get it again")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + _PIXELS)
    return _split(records[:, 1:], records[:, 0], where)


def _read_python(content: bytes, where: str) -> RawSplit:
    value = literals.read(content, where)
    if not isinstance(value, dict):
        raise DatasetError(f"{where} is not a CIFAR-10 batch; get it again")
    batch = {key.decode("latin-1") if isinstance(key, bytes) else key: item for key, item in value.items()}
    images, labels = batch.get("data"), batch.get("labels")
    if (
        not isinstance(images, np.ndarray)
        or not isinstance(labels, list)
        or images.shape != (len(labels), _PIXELS)
        or not all(type(label) is int and 0 <= label < len(CLASSES) for label in labels)
    ):
        raise DatasetError(
            f"{where} has no `data` of {_PIXELS} pixels for each of its `labels`; get it again"
        )
    return _split(images, np.array(labels, dtype=np.uint8), where)


def _split(
    pixels: "np.typing.NDArray[np.uint8]", labels: "np.typing.NDArray[np.uint8]", where: str
) -> RawSplit:
    if not len(labels) or labels.max() >= len(CLASSES):
        raise DatasetError(f"{where} has no images, or a label of {max(labels, default=0)}; get it again")
    return RawSplit(pixels.reshape(-1, 3, 32, 32), labels.astype(np.int64))


def _downloaded(on_message: Callable[[str], None] | None) -> Path:
    """Return the archive in the user's cache; if need be, download it and check its published SHA-256."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "peerless"
    archive = cache / _FORMS[1][0]
    if archive.is_file():
        return archive
    if on_message is not None:
        on_message(f"downloading {_URL} (163 MB) to {archive}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            partial = Path(folder) / archive.name
            _download(partial)
            partial.replace(archive)
    except (requests.RequestException, OSError) as error:
        raise DatasetError(
            f"cifar10 cannot be downloaded from {_URL}: {error}; "
            "get it elsewhere and give its folder with --data-dir"
        ) from error
    return archive


def _download(file: Path) -> None:
    hasher = hashlib.sha256()
    with (
        requests.get(_URL, stream=True, timeout=_TIMEOUT_SECONDS) as response,
        file.open("wb") as stream,
    ):
        response.raise_for_status()
        for content in response.iter_content(_SLICE_BYTES):
            hasher.update(content)
            stream.write(content)
    if hasher.hexdigest() != _SHA256:
        raise DatasetError(
            f"{_URL} is not what was published: its SHA-256 is {hasher.hexdigest()}; try again"
        )
