"""The wire form of a gradient, as functions and peers store it, compressed or not."""

from collections.abc import Mapping
from typing import Any

import torch

from peer.aggregation import Gradient
from peer.compression.codecs import UNCOMPRESSED, Codec
from peer.compression.noise import Noise
from peer.errors import ObjectCorrupt
from peer.store import tensors

_STATE = {"buffers": torch.float32, "counters": torch.int64}
"""What is never compressed: it is small, and no step averages an error in it away."""

_WITHOUT_NOISE = Noise(0)


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
    """Return the gradient in `buffer`; what is not compressed is a view on it.

    Args:
        buffer: the whole object.
        num_samples: that it is the mean of.
        codec: what it has to be compressed by.
        key: named in errors.

    Raises:
        ObjectCorrupt: the bytes are not a gradient of this codec.
    """
    try:
        return _decoded(buffer, num_samples, codec)
    except ObjectCorrupt as error:
        raise ObjectCorrupt(f"{key}: {error}") from error


def _decoded(buffer: bytearray | memoryview, num_samples: int, codec: Codec) -> Gradient:
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
    values = codec.decode(compressed, num_elements)
    return Gradient(values, named["buffers"], named["counters"], num_samples)


def _metadata(codec: Codec, num_elements: int) -> dict[str, Any]:
    """Return what the lengths of compressed tensors do not tell."""
    return {} if codec is UNCOMPRESSED else {"elements": num_elements}
