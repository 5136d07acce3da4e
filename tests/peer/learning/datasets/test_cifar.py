import hashlib
import io
import pickle
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from peer.errors import DatasetError
from peer.learning.datasets import cifar, sources
from peer.learning.datasets.manifest import RawSplit

NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


def batches() -> dict[str, RawSplit]:
    random = np.random.default_rng(6)
    return {
        name: RawSplit(random.integers(0, 256, (8, 3, 32, 32), dtype=np.uint8), random.integers(0, 10, 8))
        for name in NAMES
    }


def binary(split: RawSplit) -> bytes:
    return np.concatenate(
        [split.labels.astype(np.uint8)[:, None], split.images.reshape(8, -1)], axis=1
    ).tobytes()


def python(split: RawSplit) -> bytes:
    return pickle.dumps({b"labels": split.labels.tolist(), b"data": split.images.reshape(8, -1)}, protocol=3)


def files(form: str) -> dict[str, bytes]:
    if form == "binary":
        return {f"cifar-10-batches-bin/{name}.bin": binary(split) for name, split in batches().items()}
    return {f"cifar-10-batches-py/{name}": python(split) for name, split in batches().items()}


def write_archive(path: Path, contents: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_folder(folder: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("form", ["binary", "python"])
@pytest.mark.parametrize("is_archive", [True, False])
def test_load_cifar10_returns_the_batches_in_order(tmp_path: Path, form: str, is_archive: bool) -> None:
    if is_archive:
        write_archive(tmp_path / f"cifar-10-{form}.tar.gz", files(form))
    else:
        write_folder(tmp_path, files(form))

    found = sources.load("cifar10", tmp_path)

    expected = batches()
    train = [expected[name] for name in NAMES[:5]]
    assert np.array_equal(found.train.images, np.concatenate([split.images for split in train]))
    assert np.array_equal(found.train.labels, np.concatenate([split.labels for split in train]))
    assert np.array_equal(found.test.images, expected["test_batch"].images)
    assert found.classes[3] == "cat"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cifar-10-batches-bin/data_batch_2.bin", b"x" * 3000, "data_batch_2 has 3000 bytes"),
        ("cifar-10-batches-bin/data_batch_2.bin", b"", "data_batch_2 has 0 bytes"),
        ("cifar-10-batches-bin/data_batch_2.bin", b"\x0a" + b"\0" * 3072, "a label of 10"),
        ("cifar-10-batches-py/test_batch", b"\x80\x02}.", "test_batch has no `data`"),
        ("cifar-10-batches-py/test_batch", pickle.dumps([1]), "test_batch is not a CIFAR-10 batch"),
        ("cifar-10-batches-py/test_batch", pickle.dumps({"labels": [1], "data": len}), "does not run"),
    ],
)
def test_load_cifar10_damaged_file_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    write_folder(tmp_path, {**files("binary" if name.endswith(".bin") else "python"), name: content})

    with pytest.raises(DatasetError, match=message):
        sources.load("cifar10", tmp_path)


def test_load_cifar10_torn_archive_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-binary.tar.gz"
    write_archive(archive, files("binary"))
    archive.write_bytes(archive.read_bytes()[:-2000])

    with pytest.raises(DatasetError, match=r"cifar-10-binary\.tar\.gz (is damaged|has no)"):
        sources.load("cifar10", tmp_path)


def test_load_cifar10_missing_batch_is_refused(tmp_path: Path) -> None:
    contents = files("python")
    del contents["cifar-10-batches-py/data_batch_4"]
    write_archive(tmp_path / "cifar-10-python.tar.gz", contents)

    with pytest.raises(DatasetError, match="has no data_batch_4"):
        sources.load("cifar10", tmp_path)


def test_load_cifar10_not_in_the_folder_says_what_to_put_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"put cifar-10-binary\.tar\.gz or cifar-10-python\.tar\.gz there"):
        sources.load("cifar10", tmp_path)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def download_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is served under the address CIFAR-10 is downloaded from; the cache is empty."""
    site = tmp_path / "site"
    site.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(cifar, "_URL", f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def test_load_cifar10_without_folder_is_downloaded_once(
    download_site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = download_site / "cifar-10-python.tar.gz"
    write_archive(archive, files("python"))
    monkeypatch.setattr(cifar, "_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    messages: list[str] = []

    first = sources.load("cifar10", None, messages.append)
    archive.unlink()
    again = sources.load("cifar10", None, messages.append)

    assert np.array_equal(first.train.images, again.train.images)
    assert len(messages) == 1
    assert "downloading" in messages[0]


def test_load_cifar10_with_another_checksum_is_not_kept(download_site: Path, tmp_path: Path) -> None:
    write_archive(download_site / "cifar-10-python.tar.gz", files("python"))

    with pytest.raises(DatasetError, match="not what was published"):
        sources.load("cifar10", None)

    assert list((tmp_path / "cache" / "peerless").iterdir()) == []


def test_load_cifar10_that_cannot_be_downloaded_says_what_to_do(download_site: Path) -> None:
    with pytest.raises(DatasetError, match="404.*--data-dir"):
        sources.load("cifar10", None)
