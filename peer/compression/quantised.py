"""Eight bits an element or fewer: whole multiples of a scale that some hundred elements share.

QSGD (Alistarh et al., arXiv 1610.02132), scaled by the largest element of a bucket instead of its norm, as in
the paper's own experiments; packed in fixed bits instead of Elias codes, which no vector unit decodes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from peer.compression.bits import pack, unpack
from peer.compression.interface import (
    CHUNK_ELEMENTS,
    LARGEST,
    blocks,
    check_float32,
    check_within,
    checked_magnitudes,
    num_rows,
)
from peer.compression.noise import Noise
from peer.errors import ObjectCorrupt

BUCKET_ELEMENTS = 512
"""Elements with one scale; a chunk has eight such buckets."""

SMALLEST = 2.0**-100
"""A bucket whose elements are all below this becomes zeros: its scale could not be divided by."""

_BUCKETS = CHUNK_ELEMENTS // BUCKET_ELEMENTS
_NOISE_UNIT = 2.0**-16
_NOISE_MIDDLE = 0.5 + 2.0**-17
"""Makes int16 noise, times its unit, an odd multiple of 2**-17 between 0 and 1."""


class Quantised:
    """Integers of `num_bits` bits between -levels and levels, where levels = 2**(num_bits - 1) - 1.

    An element is off by at most half of its bucket's largest, divided by levels, if it is rounded to the
    nearest; by at most the whole of that, and by nothing in the mean, if it is rounded stochastically.

    Args:
        name: the codec's.
        num_bits: 2 to 8.
        is_stochastic: round up with the probability that makes the mean right, else to the nearest.
    """

    def __init__(self, name: str, num_bits: int, *, is_stochastic: bool) -> None:
        self.name = name
        self.levels = (1 << (num_bits - 1)) - 1
        self._num_bits = num_bits
        self._is_stochastic = is_stochastic
        self._is_whole = num_bits == 8
        self._row_bytes = CHUNK_ELEMENTS * num_bits // 8
        self.dtypes: Mapping[str, torch.dtype] = {
            "gradient": torch.int8 if self._is_whole else torch.uint8,
            "scales": torch.float32,
        }

    def lengths(self, num_elements: int) -> Mapping[str, int]:
        """Return a byte an element, or whole chunks of fewer bits, and a scale a bucket."""
        num_bytes = num_rows(num_elements, CHUNK_ELEMENTS) * self._row_bytes
        return {
            "gradient": num_elements if self._is_whole else num_bytes,
            "scales": num_rows(num_elements, BUCKET_ELEMENTS),
        }

    def encode(self, values: Tensor, noise: Noise) -> dict[str, Tensor]:
        """See `Codec.encode`."""
        check_float32(values)
        num_chunks = num_rows(len(values), CHUNK_ELEMENTS)
        scales = torch.empty(num_chunks * _BUCKETS)
        encoded = torch.empty(num_chunks, self._row_bytes, dtype=self.dtypes["gradient"])
        for first, rows in blocks(values):
            buckets = rows.view(-1, BUCKET_ELEMENTS)
            magnitudes = checked_magnitudes(buckets)
            magnitudes.masked_fill_(magnitudes < SMALLEST, 0)
            scales[first * _BUCKETS :][: len(buckets)] = magnitudes / self.levels
            factors = torch.where(magnitudes > 0, self.levels / magnitudes, 0.0)
            multiples = self._rounded(buckets.mul(factors.view(-1, 1)), noise).view(rows.shape)
            target = encoded[first : first + len(rows)]
            if self._is_whole:
                target.copy_(multiples)
            else:
                target.copy_(pack(multiples.add_(self.levels).to(torch.uint8), self._num_bits))
        lengths = self.lengths(len(values))
        return {
            "gradient": encoded.view(-1)[: lengths["gradient"]],
            "scales": scales[: lengths["scales"]],
        }

    def decode(self, tensors: Mapping[str, Tensor], num_elements: int) -> Tensor:
        """See `Codec.decode`."""
        num_chunks = num_rows(num_elements, CHUNK_ELEMENTS)
        scales = tensors["scales"]
        check_within(scales, LARGEST / self.levels)
        if bool((scales < 0).any()):
            raise ObjectCorrupt("a scale of compressed values is below zero")
        scales = functional.pad(scales, (0, num_chunks * _BUCKETS - len(scales)))
        decoded = torch.empty(num_chunks, CHUNK_ELEMENTS)
        for first, rows in blocks(tensors["gradient"], self._row_bytes):
            target = decoded[first : first + len(rows)]
            if self._is_whole:
                check_within(rows, self.levels)
                target.copy_(rows)
            else:
                check_within(target.copy_(unpack(rows, self._num_bits)).sub_(self.levels), self.levels)
            buckets = target.view(-1, BUCKET_ELEMENTS)
            buckets.mul_(scales[first * _BUCKETS :][: len(buckets)].view(-1, 1))
        return decoded.view(-1)[:num_elements]

    def _rounded(self, multiples: Tensor, noise: Noise) -> Tensor:
        """Return whole numbers between -levels and levels, in the memory of `multiples`."""
        if not self._is_stochastic:
            return multiples.round_()
        offsets = torch.empty_like(multiples).copy_(noise.take(multiples.numel()).view(multiples.shape))
        multiples.add_(offsets.mul_(_NOISE_UNIT).add_(_NOISE_MIDDLE)).floor_()
        # the largest element may come out of its division a little above `levels`
        return multiples.clamp_(-self.levels, self.levels)
