import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.errors import ObjectCorrupt
from peer.store import tensors
from peer.store.tensors import decode, encode

names = st.text(max_size=12)
shapes = st.lists(st.integers(0, 4), max_size=4)


def as_buffer(encoded: tensors.EncodedTensors) -> bytearray:
    return bytearray(b"".join(encoded.chunks))


def with_header(header: object, body: bytes = b"") -> bytearray:
    text = json.dumps(header).encode()
    text += b" " * (-(16 + len(text)) % 64)
    return bytearray(b"peerless" + len(text).to_bytes(8, "little") + text + body)


def header_of(*described: tuple[str, str, list[int]], **changes: object) -> dict[str, object]:
    listed = [{"name": name, "dtype": dtype, "shape": shape} for name, dtype, shape in described]
    return {"version": 1, "codec": "none", "tensors": listed, "metadata": {}, **changes}


@given(st.dictionaries(names, st.tuples(st.sampled_from(sorted(tensors.DTYPES)), shapes), max_size=5))
def test_decode_after_encode_gives_equal_tensors(described: dict[str, tuple[str, list[int]]]) -> None:
    given_tensors = {
        name: torch.randint(0, 2, shape).to(tensors.DTYPES[dtype])
        for name, (dtype, shape) in described.items()
    }

    encoded = encode(given_tensors, {"round": 3})
    decoded = decode(as_buffer(encoded))

    assert encoded.length == sum(len(chunk) for chunk in encoded.chunks)
    assert list(decoded.tensors) == list(given_tensors)
    assert decoded.metadata == {"round": 3}
    for name, tensor in given_tensors.items():
        assert decoded.tensors[name].dtype == tensor.dtype
        assert torch.equal(decoded.tensors[name], tensor)


@given(st.binary(max_size=300))
def test_decode_of_foreign_bytes_is_refused(foreign: bytes) -> None:
    with pytest.raises(ObjectCorrupt):
        decode(bytearray(foreign))


@settings(max_examples=300)
@given(st.integers(0, 10_000), st.integers(0, 255), st.integers(0, 10_000))
def test_decode_of_damaged_bytes_is_refused_or_gives_tensors(position: int, value: int, length: int) -> None:
    buffer = as_buffer(encode({"weight": torch.ones(3, 4), "is_on": torch.tensor([True, False])}, {"a": [1]}))
    buffer[position % len(buffer)] = value
    del buffer[max(1, length) :]

    try:
        decoded = decode(buffer)
    except ObjectCorrupt:
        return

    assert sum(tensor.numel() for tensor in decoded.tensors.values()) <= len(buffer)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, st.binary(max_size=64))
def test_decode_of_hostile_header_is_refused(header: object, body: bytes) -> None:
    with pytest.raises(ObjectCorrupt):
        decode(with_header(header, body))


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (header_of(version=2), b""),
        (header_of(codec="zip"), b""),
        (header_of(extra=1), b""),
        (header_of(("a", "complex64", [1])), bytes(8)),
        (header_of(("a", "float32", [-1])), b""),
        (header_of(("a", "float32", [-2, -2])), bytes(16)),
        (header_of(("a", "float32", [2**62])), b""),
        (header_of(("a", "float32", [2**200])), b""),
        (header_of(("a", "float32", [0, 2**48, 2**48])), b""),
        (header_of(("a", "float32", [1] * 100)), bytes(4)),
        (header_of(("a", "float32", [2])), bytes(4)),
        (header_of(("a", "float32", [2])), bytes(12)),
        (header_of(("a", "float32", [0]), ("a", "float32", [0])), b""),
        (header_of(("a", "bool", [2])), b"\x01\x07"),
    ],
)
def test_decode_of_wrong_description_is_refused(header: object, body: bytes) -> None:
    with pytest.raises(ObjectCorrupt):
        decode(with_header(header, body))


def test_decode_of_deeply_nested_header_is_refused() -> None:
    text = b'{"metadata":' + b"[" * 200_000
    text += b" " * (-(16 + len(text)) % 64)

    with pytest.raises(ObjectCorrupt):
        decode(bytearray(b"peerless" + len(text).to_bytes(8, "little") + text))


def test_encode_of_contiguous_tensors_copies_nothing() -> None:
    tensor = torch.zeros(1000)

    encoded = encode({"weight": tensor})
    tensor[0] = 1.0

    assert decode(as_buffer(encoded)).tensors["weight"][0] == 1.0


def test_encode_aligns_every_tensor_to_64_bytes() -> None:
    encoded = encode({"a": torch.ones(1), "b": torch.ones(17), "c": torch.ones(3)})

    positions = [sum(len(chunk) for chunk in encoded.chunks[:index]) for index in range(len(encoded.chunks))]

    values = [position for position, chunk in zip(positions, encoded.chunks, strict=True) if any(chunk)]
    assert len(values) == 4
    assert all(position % 64 == 0 for position in values)


def test_encode_of_equal_input_gives_equal_bytes() -> None:
    tensor = torch.arange(24, dtype=torch.float32).reshape(1, 2, 3, 4)

    first = encode({"a": tensor}, {"x": 1, "y": 2})
    second = encode({"a": tensor.clone(memory_format=torch.channels_last)}, {"y": 2, "x": 1})

    assert as_buffer(first) == as_buffer(second)
    assert first.sha256() == second.sha256()
    assert first.sha256().startswith("sha256:")
    assert first.xxh3().startswith("xxh3:")


def test_encode_of_unknown_dtype_names_the_tensor() -> None:
    with pytest.raises(TypeError, match="'phase' is torch.complex64"):
        encode({"phase": torch.zeros(1, dtype=torch.complex64)})


def test_decode_of_writable_buffer_gives_views_that_write_to_it() -> None:
    buffer = as_buffer(encode({"weight": torch.zeros(4)}))

    decode(buffer).tensors["weight"].fill_(1.0)

    assert torch.equal(decode(buffer).tensors["weight"], torch.ones(4))


def test_decode_of_read_only_buffer_leaves_it_alone() -> None:
    data = bytes(as_buffer(encode({"weight": torch.zeros(4)})))

    decode(memoryview(data)).tensors["weight"].fill_(1.0)

    assert torch.equal(decode(memoryview(data)).tensors["weight"], torch.zeros(4))
