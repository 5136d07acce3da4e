"""Two bytes an element instead of four: shorter floats, rounded to the nearest."""

from collections.abc import Mapping

import torch
from torch import Tensor

from peer.compression.interface import (
    CHUNK_ELEMENTS,
    blocks,
    check_finite,
    check_float32,
    checked_magnitudes,
    num_rows,
)
from peer.compression.noise import Noise
from peer.errors import ObjectCorrupt

_TOP_EXPONENT = 15
"""Magnitudes below 2**15 stay below fp16's 65,504 when they are rounded."""

_LARGEST_SHIFT = 126
"""2**126 and 2**-126 are the last powers of two that are both normal in float32."""


class Uncompressed:
    """float32, as it is: `encode` and `decode` return their argument."""

    name = "none"
    dtypes: Mapping[str, torch.dtype] = {"gradient": torch.float32}

    def lengths(self, num_elements: int) -> Mapping[str, int]:
        """Return as many as there are elements."""
        return {"gradient": num_elements}

    def encode(self, values: Tensor, noise: Noise) -> dict[str, Tensor]:
        """Return `values` themselves."""
        return {"gradient": values}

    def decode(self, tensors: Mapping[str, Tensor], num_elements: int) -> Tensor:
        """Return the values themselves; nothing is said of their being finite."""
        return tensors["gradient"]


class BFloat16:
    """bfloat16: float32's range, eight bits of precision. Off by at most 1/256 of each element."""

    name = "bf16"
    dtypes: Mapping[str, torch.dtype] = {"gradient": torch.bfloat16}

    def lengths(self, num_elements: int) -> Mapping[str, int]:
        """Return as many as there are elements."""
        return {"gradient": num_elements}

    def encode(self, values: Tensor, noise: Noise) -> dict[str, Tensor]:
        """See `Codec.encode`."""
        check_float32(values)
        encoded = torch.empty(num_rows(len(values), CHUNK_ELEMENTS), CHUNK_ELEMENTS, dtype=torch.bfloat16)
        for first, rows in blocks(values):
            checked_magnitudes(rows)
            encoded[first : first + len(rows)] = rows
        return {"gradient": encoded.view(-1)[: len(values)]}

    def decode(self, tensors: Mapping[str, Tensor], num_elements: int) -> Tensor:
        """See `Codec.decode`."""
        decoded = torch.empty(num_rows(num_elements, CHUNK_ELEMENTS), CHUNK_ELEMENTS)
        for first, rows in blocks(tensors["gradient"]):
            check_finite(decoded[first : first + len(rows)].copy_(rows))
        return decoded.view(-1)[:num_elements]


class Float16:
    """IEEE half floats, and a power of two a chunk, by which its largest element comes below 2**15.

    So nothing overflows, and what is small only because the whole gradient is small keeps eleven bits. Off by
    at most 1/2048 of each element, or 2**-39 of the chunk's largest one where that is more.
    """

    name = "fp16"
    dtypes: Mapping[str, torch.dtype] = {"gradient": torch.float16, "scales": torch.float32}

    def lengths(self, num_elements: int) -> Mapping[str, int]:
        """Return as many as there are elements, and a scale a chunk."""
        return {"gradient": num_elements, "scales": num_rows(num_elements, CHUNK_ELEMENTS)}

    def encode(self, values: Tensor, noise: Noise) -> dict[str, Tensor]:
        """See `Codec.encode`."""
        check_float32(values)
        num_chunks = num_rows(len(values), CHUNK_ELEMENTS)
        encoded = torch.empty(num_chunks, CHUNK_ELEMENTS, dtype=torch.float16)
        scales = torch.empty(num_chunks)
        for first, rows in blocks(values):
            exponents = torch.frexp(checked_magnitudes(rows)).exponent
            shifts = (_TOP_EXPONENT - exponents).clamp_(max=_LARGEST_SHIFT)
            ones = torch.ones(len(rows))
            scales[first : first + len(rows)] = torch.ldexp(ones, -shifts)
            encoded[first : first + len(rows)] = rows * torch.ldexp(ones, shifts).view(-1, 1)
        return {"gradient": encoded.view(-1)[: len(values)], "scales": scales}

    def decode(self, tensors: Mapping[str, Tensor], num_elements: int) -> Tensor:
        """See `Codec.decode`."""
        scales = tensors["scales"]
        if not bool((torch.frexp(scales).mantissa == 0.5).all()):
            raise ObjectCorrupt("a scale of fp16 is no power of two")
        decoded = torch.empty(len(scales), CHUNK_ELEMENTS)
        for first, rows in blocks(tensors["gradient"]):
            target = decoded[first : first + len(rows)]
            check_finite(target.copy_(rows).mul_(scales[first : first + len(rows)].view(-1, 1)))
        return decoded.view(-1)[:num_elements]
