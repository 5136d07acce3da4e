"""What every codec must do: come within its error, take what is finite, refuse what nobody has encoded."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from peer.aggregation import Gradient, WeightedMean
from peer.compression.codecs import codec_named
from peer.compression.interface import BLOCK_CHUNKS, CHUNK_ELEMENTS, LARGEST, Codec, num_bytes
from peer.compression.noise import Noise
from peer.compression.quantised import BUCKET_ELEMENTS, SMALLEST
from peer.errors import ObjectCorrupt, TrainingDiverged
from peer.store.gradients import decode_gradient, encode_gradient, open_gradient
from peer.store.tensors import DTYPES

BITS = range(2, 9)
QSGD = tuple(f"qsgd:{bits}" for bits in BITS)
LOSSY = ("fp16", "bf16", "int8", *QSGD, "topk:0.01", "topk:0.3", "topk:1.0", "sparseloco")
CODECS = ("none", *LOSSY)
SPARSE = ("topk", "sparseloco")
LENGTHS = (0, 1, 7, BUCKET_ELEMENTS, BUCKET_ELEMENTS + 1, CHUNK_ELEMENTS, 2 * CHUNK_ELEMENTS + 513)

lengths = st.one_of(st.sampled_from(LENGTHS), st.integers(0, 3 * CHUNK_ELEMENTS))


def values_of(length: int, seed: int, exponent: int = 0) -> Tensor:
    """Return normal values times a power of two, none above what codecs take."""
    values = torch.randn(length, generator=torch.Generator().manual_seed(seed))
    return (values.double() * 2.0**exponent).clamp(-LARGEST, LARGEST).float()


def largest_of_each(values: Tensor, width: int) -> Tensor:
    """Return for each element the largest magnitude of the row of this width that it is in."""
    rows = [values[start : start + width] for start in range(0, len(values), width)]
    return torch.cat([row.abs().amax().expand(len(row)) for row in rows]) if rows else values


def bound_of(name: str, values: Tensor) -> Tensor:
    """Return by how much each element may be off, as the codec's page says, and a little for the last bit."""
    family, _, parameter = name.partition(":")
    if family == "none":
        return torch.zeros_like(values)
    if family == "bf16":
        return values.abs() / 256 + 2.0**-133
    if family == "fp16":
        chunk = largest_of_each(values, CHUNK_ELEMENTS)
        return torch.maximum(values.abs() / 2048, chunk * 2.0**-39) + 2.0**-149
    bucket = largest_of_each(values, BUCKET_ELEMENTS)
    levels = 127 if family == "int8" else (1 << (int(parameter) - 1)) - 1
    step = bucket / levels * (0.5 if family == "int8" else 1.0)
    return step * (1 + 1e-4) + SMALLEST


def round_trip(codec: Codec, values: Tensor, seed: int = 0) -> Tensor:
    return codec.decode(codec.encode(values, Noise(seed)), len(values))


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("name", [name for name in CODECS if not name.startswith(SPARSE)])
@settings(max_examples=25)
@given(lengths, st.integers(0, 1000), st.integers(-149, 127))
def test_decoded_is_within_the_error_of_its_codec(name: str, length: int, seed: int, exponent: int) -> None:
    values = values_of(length, seed, exponent)

    decoded = round_trip(codec_named(name), values)

    assert decoded.shape == values.shape and decoded.dtype == torch.float32
    assert bool(((decoded - values).abs() <= bound_of(name, values)).all())


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=15)
@given(lengths, st.integers(0, 1000))
def test_encoded_has_the_lengths_and_dtypes_that_it_tells(name: str, length: int, seed: int) -> None:
    codec, values = codec_named(name), values_of(length, seed)
    before = values.clone()

    encoded = codec.encode(values, Noise(seed))

    assert {key: tensor.dtype for key, tensor in encoded.items()} == dict(codec.dtypes)
    assert {key: len(tensor) for key, tensor in encoded.items()} == dict(codec.lengths(length))
    assert sum(tensor.nbytes for tensor in encoded.values()) == num_bytes(codec, length)
    assert torch.equal(values, before)


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=15)
@given(lengths, st.integers(0, 3), st.integers(0, 1000))
def test_parts_compressed_one_by_one_are_the_parts_of_the_whole(
    name: str, length: int, cut: int, seed: int
) -> None:
    codec, values, position = codec_named(name), values_of(length, seed), cut * CHUNK_ELEMENTS
    whole = codec.encode(values, Noise(seed))

    first = codec.encode(values[:position], Noise(seed))
    second = codec.encode(values[position:], Noise(seed, min(position, length)))

    for key, tensor in whole.items():
        assert bits(torch.cat([first[key], second[key]])) == bits(tensor)


@pytest.mark.parametrize("name", CODECS)
def test_zeros_stay_zeros(name: str) -> None:
    assert not round_trip(codec_named(name), torch.zeros(5000)).any()


@pytest.mark.parametrize("ratio", [0.001, 0.01, 0.3, 1.0])
@settings(max_examples=15)
@given(lengths, st.integers(0, 1000))
def test_top_k_keeps_the_largest_of_each_chunk(ratio: float, length: int, seed: int) -> None:
    values = values_of(length, seed)

    decoded = round_trip(codec_named(f"topk:{ratio}"), values)

    for start in range(0, length, CHUNK_ELEMENTS):
        chunk, kept = values[start : start + CHUNK_ELEMENTS], decoded[start : start + CHUNK_ELEMENTS]
        num_kept = min(len(chunk), max(1, round(ratio * len(chunk))))
        threshold = chunk.abs().sort(descending=True).values[num_kept - 1]
        expected = torch.where(chunk.abs() >= threshold, chunk.bfloat16().float(), 0.0)
        assert torch.equal(kept, expected)


@settings(max_examples=30)
@given(lengths, st.integers(0, 1000), st.integers(-140, 127))
def test_sparse_loco_keeps_signs_and_two_means_of_the_largest_of_each_chunk(
    length: int, seed: int, exponent: int
) -> None:
    values = values_of(length, seed, exponent)

    decoded = round_trip(codec_named("sparseloco"), values).double()

    for start in range(0, length, CHUNK_ELEMENTS):
        chunk = values[start : start + CHUNK_ELEMENTS].double()
        kept = chunk.abs().sort(descending=True, stable=True).indices[: min(len(chunk), 64)]
        magnitudes = chunk[kept].abs()
        is_high = magnitudes > magnitudes.mean()
        high = magnitudes[is_high].mean() if is_high.any() else magnitudes.mean()
        expected = torch.zeros_like(chunk)
        expected[kept] = chunk[kept].sign() * torch.where(is_high, high, magnitudes[~is_high].mean())
        found = decoded[start : start + CHUNK_ELEMENTS]
        assert torch.allclose(found, expected, rtol=2.0**-8, atol=2.0**-132)


class EveryNoise(Noise):
    """Each of the 65,536 values once, in turn."""

    def take(self, num_elements: int) -> Tensor:
        return torch.arange(-(1 << 15), 1 << 15).to(torch.int16)[:num_elements]


@pytest.mark.parametrize("name", QSGD)
@pytest.mark.parametrize("value", [0.0, 1e-6, 0.1, 1 / 3, 0.77777, 0.999999, 1.0, -0.4, -1.0])
def test_stochastic_rounding_is_unbiased(name: str, value: float) -> None:
    codec = codec_named(name)
    values = torch.full((1 << 16,), value)
    values[::BUCKET_ELEMENTS] = 1.0
    is_tried = torch.ones(1 << 16, dtype=torch.bool)
    is_tried[::BUCKET_ELEMENTS] = False

    decoded = codec.decode(codec.encode(values, EveryNoise(0)), len(values))

    levels = (1 << (int(name[-1]) - 1)) - 1
    mean = decoded[is_tried].double().mean().item()
    # the first of each 512 noise values is taken by the largest element
    assert mean == pytest.approx(values[1].item(), abs=2.0**-15 / levels + 1e-7)


@pytest.mark.parametrize("name", QSGD)
def test_mean_of_many_rounds_approaches_the_gradient(name: str) -> None:
    codec, values, num_rounds = codec_named(name), values_of(20_000, 1), 200

    total = torch.zeros(len(values), dtype=torch.float64)
    for seed in range(num_rounds):
        total += round_trip(codec, values, seed)

    step = bound_of(name, values).double()
    deviations = (total / num_rounds - values) / (step / 2 / math.sqrt(num_rounds))
    # each deviation is at most standard normal, so its mean over 20,000 elements is below 5/sqrt(20,000)
    assert abs(deviations.mean().item()) < 5 / math.sqrt(len(values))
    assert deviations.abs().max().item() < 6


@pytest.mark.parametrize("name", QSGD)
def test_noise_is_fresh_with_each_seed_and_fixed_for_one(name: str) -> None:
    codec, values = codec_named(name), values_of(10_000, 1)

    first, again, other = (codec.encode(values, Noise(seed))["gradient"] for seed in (5, 5, 6))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3.4e38])
@pytest.mark.parametrize("position", [0, 4999, 5000 + 64 * CHUNK_ELEMENTS])
def test_what_is_not_finite_is_refused(name: str, bad: float, position: int) -> None:
    values = torch.ones(5001 + 64 * CHUNK_ELEMENTS)
    values[position] = bad

    with pytest.raises(TrainingDiverged, match="finite"):
        codec_named(name).encode(values, Noise(0))


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES.values() if dtype != torch.float32])
def test_other_dtypes_are_refused(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=str(dtype)):
        codec_named(name).encode(torch.ones(3).to(dtype), Noise(0))


@pytest.mark.parametrize("name", LOSSY)
def test_the_largest_float_that_is_taken_comes_back_finite_also_where_its_sum_is_not(name: str) -> None:
    decoded = round_trip(codec_named(name), torch.tensor([LARGEST, LARGEST, LARGEST, 1.0]))

    assert decoded.max().item() == pytest.approx(LARGEST, rel=0.01)
    assert decoded.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSY)
def test_a_huge_gradient_is_compressed_as_its_pieces_are(name: str) -> None:
    num_elements = 100_000_003
    values = torch.arange(num_elements, dtype=torch.float32).sin_()
    codec = codec_named(name)

    decoded = round_trip(codec, values)

    start = 24_000 * CHUNK_ELEMENTS
    tail = codec.encode(values[start:], Noise(0, start))
    assert len(decoded) == num_elements
    assert torch.equal(decoded[start:], codec.decode(tail, num_elements - start))


@pytest.mark.parametrize("name", CODECS)
@settings(max_examples=15)
@given(lengths, st.integers(0, 40), st.integers(0, 5))
def test_gradient_over_the_wire_is_what_its_codec_decodes(
    name: str, length: int, num_buffers: int, num_counters: int
) -> None:
    codec, values = codec_named(name), values_of(length, 1)
    gradient = Gradient(values, values_of(num_buffers, 2), torch.arange(num_counters), 7)

    encoded = encode_gradient(gradient, codec, Noise(3))
    decoded = decode_gradient(bytearray(b"".join(encoded.chunks)), 7, codec)

    assert bits(decoded.values) == bits(round_trip(codec, values, 3))
    assert bits(decoded.buffers) == bits(gradient.buffers)
    assert bits(decoded.counters) == bits(gradient.counters)
    assert decoded.num_samples == 7


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("length", [1, 2 * BLOCK_CHUNKS * CHUNK_ELEMENTS, 1_200_001])
def test_gradient_folded_block_by_block_has_the_bits_of_the_whole(name: str, length: int) -> None:
    codec, first = codec_named(name), values_of(length, 2)
    buffer = wire(name, length)
    whole = decode_gradient(bytearray(buffer), 5, codec)
    mean = WeightedMean()
    mean.add(Gradient(first.clone(), torch.ones(3), torch.arange(2), 2))

    mean.add(open_gradient(buffer, 5, codec))

    assert bits(mean.result().values) == bits((first * 2 + whole.values * 5) / 7)


def wire(name: str, length: int = 700) -> bytearray:
    gradient = Gradient(values_of(length, 1), torch.ones(3), torch.arange(2), 1)
    return bytearray(b"".join(encode_gradient(gradient, codec_named(name), Noise(0)).chunks))


@pytest.mark.parametrize("name", LOSSY)
@settings(max_examples=200)
@given(st.integers(0, 10_000), st.integers(0, 255), st.integers(0, 100_000))
def test_damaged_gradient_is_refused_or_finite(name: str, position: int, value: int, length: int) -> None:
    buffer = wire(name)
    buffer[position % len(buffer)] = value
    del buffer[max(1, length) :]

    try:
        decoded = decode_gradient(buffer, 1, codec_named(name))
    except ObjectCorrupt:
        return

    assert decoded.values.isfinite().all()


@pytest.mark.parametrize("name", CODECS)
def test_gradient_of_another_codec_is_refused(name: str) -> None:
    for other in CODECS:
        if other != name:
            with pytest.raises(ObjectCorrupt, match="codec"):
                decode_gradient(wire(other), 1, codec_named(name))


def foreign(codec: Codec, change: Callable[[dict[str, Tensor]], None]) -> dict[str, Tensor]:
    encoded = codec.encode(values_of(5000, 1), Noise(0))
    change(encoded)
    return encoded


FOREIGN: dict[str, tuple[str, Callable[[dict[str, Tensor]], None]]] = {
    "bf16 NaN": ("bf16", lambda named: named["gradient"].fill_(math.nan)),
    "bf16 infinite": ("bf16", lambda named: named["gradient"][4999:].fill_(math.inf)),
    "fp16 NaN": ("fp16", lambda named: named["gradient"][4999:].fill_(math.nan)),
    "fp16 scale NaN": ("fp16", lambda named: named["scales"].fill_(math.nan)),
    "fp16 scale 0": ("fp16", lambda named: named["scales"].fill_(0)),
    "fp16 scale below 0": ("fp16", lambda named: named["scales"].neg_()),
    "fp16 scale 3": ("fp16", lambda named: named["scales"].fill_(3)),
    "fp16 overflows": ("fp16", lambda named: named["scales"].fill_(2.0**120)),
    "int8 code": ("int8", lambda named: named["gradient"][4999:].fill_(-128)),
    "int8 scale below 0": ("int8", lambda named: named["scales"].neg_()),
    "int8 scale infinite": ("int8", lambda named: named["scales"][9:].fill_(math.inf)),
    "int8 scale too large": ("int8", lambda named: named["scales"].fill_(1e37)),
    "qsgd code": ("qsgd:4", lambda named: named["gradient"].fill_(255)),
    "qsgd scale NaN": ("qsgd:4", lambda named: named["scales"][9:].fill_(math.nan)),
    "topk NaN": ("topk:0.01", lambda named: named["gradient"].fill_(math.nan)),
    "topk below": ("topk:0.01", lambda named: named["positions"][0].fill_(-1)),
    "topk beyond its chunk": ("topk:0.01", lambda named: named["positions"][40].fill_(4096)),
    "topk beyond the end": ("topk:0.01", lambda named: named["positions"][-1].fill_(904)),
    "sparse scale NaN": ("sparseloco", lambda named: named["scales"].fill_(math.nan)),
    "sparse scale below 0": ("sparseloco", lambda named: named["scales"].neg_()),
    "sparse beyond the end": ("sparseloco", lambda named: named["positions"][-1].fill_(904)),
    "sparse twice": ("sparseloco", lambda named: named["positions"][1].copy_(named["positions"][0])),
    "topk twice": ("topk:0.01", lambda named: named["positions"][1].copy_(named["positions"][0])),
}


@pytest.mark.parametrize(("name", "change"), FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_tensors_are_refused(name: str, change: Callable[[dict[str, Tensor]], None]) -> None:
    codec = codec_named(name)

    with pytest.raises(ObjectCorrupt):
        codec.decode(foreign(codec, change), 5000)
