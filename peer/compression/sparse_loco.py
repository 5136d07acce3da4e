"""The largest elements of each chunk in two bits each: SparseLoCo (Sarfi et al., arXiv 2508.15706).

Made for what local steps come to. What is left out, or lost in rounding, is added to the next round, of which
0.95 is kept each time; that is the caller's part, as with `top_k`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from peer.compression.bits import pack, unpack
from peer.compression.interface import (
    CHUNK_ELEMENTS,
    blocks,
    check_finite,
    check_float32,
    checked_magnitudes,
    num_rows,
)
from peer.compression.noise import Noise
from peer.compression.top_k import checked_positions, largest_of
from peer.errors import ObjectCorrupt

NUM_KEPT = 64
"""Of a chunk of 4,096 elements, as in the paper."""

_NUM_BITS = 2
_NEGATIVE, _HIGH = 2, 1
_PACKED_TOGETHER = 8
_SMALLEST = torch.finfo(torch.float32).tiny


class SparseLoCo:
    """64 elements of each chunk: position (int16, ascending), sign, and which of the chunk's two magnitudes.

    The magnitudes are the means of those kept elements that are at most the mean of all kept, and of those
    above it.
    """

    name = "sparseloco"
    dtypes: Mapping[str, torch.dtype] = {
        "gradient": torch.uint8,
        "positions": torch.int16,
        "scales": torch.bfloat16,
    }

    def lengths(self, num_elements: int) -> Mapping[str, int]:
        """Return two bits a kept element, in whole bytes a chunk, a position, and two magnitudes a chunk."""
        full, rest = divmod(num_elements, CHUNK_ELEMENTS)
        kept = min(rest, NUM_KEPT)
        return {
            "gradient": full * _code_bytes(NUM_KEPT) + _code_bytes(kept),
            "positions": full * NUM_KEPT + kept,
            "scales": 2 * num_rows(num_elements, CHUNK_ELEMENTS),
        }

    def encode(self, values: Tensor, noise: Noise) -> dict[str, Tensor]:
        """See `Codec.encode`. Of equal magnitudes any may be kept."""
        check_float32(values)
        codes, positions, scales = [], [], []
        for first, rows in blocks(values):
            checked_magnitudes(rows)
            rows = rows[:, : len(values) - first * CHUNK_ELEMENTS]  # the zeros that fill up the last row
            chosen = largest_of(rows, min(rows.shape[1], NUM_KEPT))
            row_codes, row_scales = _two_bits(rows.gather(1, chosen))
            codes.append(_packed(row_codes).view(-1))
            positions.append(chosen.to(torch.int16).view(-1))
            scales.append(row_scales.view(-1))
        return {
            "gradient": torch.cat(codes) if codes else torch.empty(0, dtype=torch.uint8),
            "positions": torch.cat(positions) if positions else torch.empty(0, dtype=torch.int16),
            "scales": torch.cat(scales) if scales else torch.empty(0, dtype=torch.bfloat16),
        }

    def decode(self, tensors: Mapping[str, Tensor], num_elements: int) -> Tensor:
        """See `Codec.decode`."""
        scales = tensors["scales"].float().view(-1, 2)
        check_finite(scales)
        if bool((scales < 0).any()):
            raise ObjectCorrupt("a magnitude of sparse values is below zero")
        decoded = torch.zeros(len(scales), CHUNK_ELEMENTS)
        full, rest = divmod(num_elements, CHUNK_ELEMENTS)
        codes, positions = tensors["gradient"], tensors["positions"]
        num_bytes, num_positions = full * _code_bytes(NUM_KEPT), full * NUM_KEPT
        _scatter(codes[:num_bytes], positions[:num_positions], scales[:full], decoded[:full])
        _scatter(codes[num_bytes:], positions[num_positions:], scales[full:], decoded[full:, :rest])
        return decoded.view(-1)[:num_elements]


def _code_bytes(num_kept: int) -> int:
    return num_rows(num_kept, _PACKED_TOGETHER) * _PACKED_TOGETHER * _NUM_BITS // 8


def _two_bits(kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return the codes of each row's elements, uint8, and its two magnitudes, bfloat16 of shape (rows, 2)."""
    magnitudes = kept.abs()
    # parts of the largest: a sum of the largest floats would be infinite
    largest = magnitudes.amax(1, keepdim=True)
    parts = magnitudes / largest.clamp(min=_SMALLEST)
    is_high = parts > parts.mean(1, keepdim=True)
    means = [
        torch.where(those, parts, 0.0).sum(1, keepdim=True) / those.sum(1, keepdim=True).clamp(min=1)
        for those in (~is_high, is_high)
    ]
    codes = (kept < 0).to(torch.uint8) * _NEGATIVE + is_high.to(torch.uint8) * _HIGH
    return codes, (torch.cat(means, dim=1) * largest).to(torch.bfloat16)


def _packed(codes: Tensor) -> Tensor:
    return pack(functional.pad(codes, (0, -codes.shape[1] % _PACKED_TOGETHER)), _NUM_BITS)


def _scatter(codes: Tensor, positions: Tensor, scales: Tensor, rows: Tensor) -> None:
    """Fill in the elements of these rows."""
    if rows.numel() == 0:
        return
    positions = positions.view(len(rows), -1)
    index = checked_positions(positions, rows.shape[1])
    unpacked = unpack(codes.view(len(rows), -1), _NUM_BITS)[:, : positions.shape[1]]
    magnitudes = torch.where(unpacked & _HIGH > 0, scales[:, 1:], scales[:, :1])
    rows.scatter_(1, index, torch.where(unpacked & _NEGATIVE > 0, -magnitudes, magnitudes))
