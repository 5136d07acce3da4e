"""The wire form of a gradient, as functions and peers store it."""

import torch

from peer.aggregation import Gradient
from peer.errors import ObjectCorrupt
from peer.store import tensors

_DTYPES = {"gradient": torch.float32, "buffers": torch.float32, "counters": torch.int64}


def encode_gradient(gradient: Gradient) -> tensors.EncodedTensors:
    """Return the wire form of a gradient; the tensors are not copied."""
    return tensors.encode(
        {"gradient": gradient.values, "buffers": gradient.buffers, "counters": gradient.counters}
    )


def decode_gradient(buffer: bytearray, num_samples: int) -> Gradient:
    """Return the gradient in `buffer`, as views on it.

    Raises:
        ObjectCorrupt: the bytes are not a gradient.
    """
    named = tensors.decode(buffer).tensors
    found = {name: tensor.dtype for name, tensor in named.items()}
    if found != _DTYPES:
        raise ObjectCorrupt(f"not a gradient: it has {found}, expected {_DTYPES}")
    return Gradient(named["gradient"], named["buffers"], named["counters"], num_samples)
