"""`pickle` makes the input here; the package itself never imports it."""

import contextlib
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.errors import DatasetError
from peer.learning.datasets import literals

PLAIN = {
    b"batch_label": b"training batch 1 of 5",
    b"labels": [3, 0, 9, 255, 256, -1, 70_000, 1 << 40],
    "text": "…",
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "constants": [None, True, False, 1.5],
}


def python2_batch(images: np.ndarray, labels: list[int]) -> bytes:
    """Return what Python 2 wrote for CIFAR-10: protocol 2, byte strings, numpy.core, no memo."""

    def string(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = (
        b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R"
        b"(K\x03" + string(b"|") + b"NNN" + number(-1) + number(-1) + b"K\x00tb"
    )
    raw = images.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"
        b"(K\x01" + number(images.shape[0]) + number(images.shape[1]) + b"\x86" + dtype + b"\x89"
        b"T" + struct.pack("<i", len(raw)) + raw + b"tb"
    )
    items = b"".join(b"K" + bytes([label]) for label in labels)
    return (
        b"\x80\x02}q\x01(" + string(b"batch_label") + string(b"testing batch 1 of 1")
        + string(b"labels") + b"]q\x02(" + items + b"e" + string(b"data") + array + b"u."
    )  # fmt: skip


class Run:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._reduction = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduction


@pytest.mark.parametrize("protocol", [3, 4])
def test_read_plain_data_returns_it(protocol: int) -> None:
    assert literals.read(pickle.dumps(PLAIN, protocol), "here") == PLAIN


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_read_array_of_bytes_returns_it(protocol: int, order: Any) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(4, 6).copy(order)

    found = literals.read(pickle.dumps({"data": array}, protocol), "here")

    assert np.array_equal(found["data"], array)


def test_read_python_2_batch_returns_it() -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, 3072), dtype=np.uint8)

    found = literals.read(python2_batch(images, [1, 2, 3, 4, 5]), "here")

    assert np.array_equal(found["data"], images)
    assert found["labels"] == [1, 2, 3, 4, 5]
    assert found["batch_label"] == "testing batch 1 of 1"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("depth", [0, 1])
def test_read_pickle_that_runs_something_is_refused_and_runs_nothing(
    tmp_path: Path, protocol: int, depth: int
) -> None:
    mark = tmp_path / "was-run"
    value: Any = Run(os.mkdir, str(mark))
    content = pickle.dumps({"data": value} if depth else value, protocol)

    with pytest.raises(DatasetError, match="which peerless does not run"):
        literals.read(content, "here")

    assert not mark.exists()


@pytest.mark.parametrize(
    "value",
    [
        np.arange(3, dtype=np.int64),
        np.array([object()]),
        Run(eval, "1"),
        Run(np.ndarray, (3,)),
        Run(getattr, "a", "join"),
        {1, 2},
        frozenset({1}),
        bytearray(b"x"),
        complex(1, 2),
        Path("/"),
        len,
    ],
)
def test_read_other_objects_are_refused(value: Any) -> None:
    with pytest.raises(DatasetError, match="here"):
        literals.read(pickle.dumps(value, 4), "here")


@pytest.mark.parametrize(
    "content",
    [
        b"(S'touch'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch'\no.",  # OBJ
        b"\x80\x02\x82\x01.",  # EXT1
        b"Pname\n.",  # PERSID
        b"\x80\x02}}b.",  # BUILD of a dict
        b"\x80\x02cnumpy\nndarray\n.0",
        b"",
        b".",
        b"\x80\x04",
        b"\x80\x02K\x01K\x02.",
        b"\x80\x02\x86.",
        b"\x80\x02h\x07.",
        b"\x80\x02K\x01e.",
        b"\x80\x02T\xff\xff\xff\x7fabc.",
    ],
)
def test_read_hostile_or_torn_opcodes_are_refused(content: bytes) -> None:
    with pytest.raises(DatasetError, match="here"):
        literals.read(content, "here")


@given(st.data())
def test_read_changed_bytes_raise_nothing_but_dataset_errors(data: st.DataObject) -> None:
    content = bytearray(pickle.dumps({"data": np.zeros((2, 3), np.uint8), "labels": [1, 2]}, 4))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))

    with contextlib.suppress(DatasetError):
        literals.read(bytes(content), "here")


@given(st.binary(max_size=200))
def test_read_foreign_bytes_raise_nothing_but_dataset_errors(content: bytes) -> None:
    with contextlib.suppress(DatasetError):
        literals.read(content, "here")
