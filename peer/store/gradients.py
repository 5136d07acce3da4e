"""The wire form of a gradient, as functions and peers store it, compressed or not."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peer.aggregation import Gradient, Summand
from peer.compression.codecs import UNCOMPRESSED, Codec
from peer.compression.interface import BLOCK_CHUNKS, CHUNK_ELEMENTS
from peer.compression.noise import Noise
from peer.errors import ObjectCorrupt
from peer.store import tensors

_STATE = {"buffers": torch.float32, "counters": torch.int64}
"""What is never compressed: it is small, and no step averages an error in it away."""

_WITHOUT_NOISE = Noise(0)

_BLOCK_ELEMENTS = BLOCK_CHUNKS * CHUNK_ELEMENTS
"""As many as codecs work on at once: a cache holds them until they are folded."""


@dataclass(frozen=True)
class Compressed:
    """A gradient as it has travelled, decoded block by block while a cache still holds what is folded.

    Attributes:
        codec: by which it is compressed.
        tensors: what the codec made of the values.
        num_elements: how many values, P.
        buffers: as in `Gradient`.
        counters: as in `Gradient`.
        num_samples: as in `Gradient`.
        name: of the object, for errors.
    """

    codec: Codec
    tensors: Mapping[str, Tensor]
    num_elements: int
    buffers: Tensor
    counters: Tensor
    num_samples: int
    name: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """The lengths P, B and C, as of a `Gradient`."""
        return self.num_elements, len(self.buffers), len(self.counters)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the values, a block at a time; raises ObjectCorrupt if they are none of this codec."""
        for start in range(0, self.num_elements, _BLOCK_ELEMENTS):
            stop = min(start + _BLOCK_ELEMENTS, self.num_elements)
            first, last = self.codec.lengths(start), self.codec.lengths(stop)
            part = {name: tensor[first[name] : last[name]] for name, tensor in self.tensors.items()}
            with named(self.name):
                values = self.codec.decode(part, stop - start)
            yield slice(start, stop), values

    def decoded(self) -> Gradient:
        """Return the gradient; raises as `blocks`."""
        with named(self.name):
            values = self.codec.decode(self.tensors, self.num_elements)
        return Gradient(values, self.buffers, self.counters, self.num_samples)


def encode_gradient(
    gradient: Gradient, codec: Codec = UNCOMPRESSED, noise: Noise = _WITHOUT_NOISE
) -> tensors.EncodedTensors:
    """Return the wire form of a gradient; what is not compressed is not copied.

    Args:
        gradient: its tensors must not change until the object is sent.
        codec: compresses the values.
        noise: of these elements, for a codec that rounds stochastically.

    Raises:
        TrainingDiverged: a value is not finite, and there is a codec.
    """
    return encode_compressed(codec.encode(gradient.values, noise), gradient, codec)


def encode_compressed(
    compressed: Mapping[str, torch.Tensor], gradient: Gradient, codec: Codec
) -> tensors.EncodedTensors:
    """Return the wire form of a gradient whose values `codec` has encoded as `compressed`."""
    state = {"buffers": gradient.buffers, "counters": gradient.counters}
    return tensors.encode({**compressed, **state}, _metadata(codec, len(gradient.values)), codec.name)


def decode_gradient(
    buffer: bytearray | memoryview, num_samples: int, codec: Codec = UNCOMPRESSED, *, key: str = "gradient"
) -> Gradient:
    """Return the gradient in `buffer`; see `open_gradient`."""
    return open_gradient(buffer, num_samples, codec, key=key).decoded()


def open_gradient(
    buffer: bytearray | memoryview, num_samples: int, codec: Codec = UNCOMPRESSED, *, key: str = "gradient"
) -> Summand:
    """Return the gradient in `buffer`, not decoded yet; its tensors are views on it.

    Args:
        buffer: the whole object.
        num_samples: that it is the mean of.
        codec: what it has to be compressed by.
        key: named in errors.

    Raises:
        ObjectCorrupt: the bytes are not a gradient of this codec.
    """
    with named(key):
        return _opened(buffer, num_samples, codec, key)


def _opened(buffer: bytearray | memoryview, num_samples: int, codec: Codec, key: str) -> Summand:
    decoded = tensors.decode(buffer, codec.name)
    named = decoded.tensors
    found = {name: tensor.dtype for name, tensor in named.items()}
    expected = {**codec.dtypes, **_STATE}
    if found != expected or any(tensor.dim() != 1 for tensor in named.values()):
        raise ObjectCorrupt(f"not a gradient: it has {found}, expected flat {expected}")
    if codec is UNCOMPRESSED:
        return Gradient(named["gradient"], named["buffers"], named["counters"], num_samples)
    num_elements = decoded.metadata.get("elements")
    compressed = {name: named[name] for name in codec.dtypes}
    lengths = {name: len(tensor) for name, tensor in compressed.items()}
    if type(num_elements) is not int or num_elements < 0 or codec.lengths(num_elements) != lengths:
        raise ObjectCorrupt(f"{num_elements!r} elements cannot be {lengths} of codec {codec.name}")
    return Compressed(codec, compressed, num_elements, named["buffers"], named["counters"], num_samples, key)


@contextmanager
def named(name: str) -> Iterator[None]:
    """Have an ObjectCorrupt of the block begin with what is corrupt."""
    try:
        yield
    except ObjectCorrupt as error:
        raise ObjectCorrupt(f"{name}: {error}") from error


def _metadata(codec: Codec, num_elements: int) -> dict[str, Any]:
    """Return what the lengths of compressed tensors do not tell."""
    return {} if codec is UNCOMPRESSED else {"elements": num_elements}
