"""Codes of two to eight bits, packed without a gap."""

import torch
from torch import Tensor


def pack(codes: Tensor, num_bits: int) -> Tensor:
    """Return codes in `num_bits` bits each, row by row.

    The low bits of a code come first, in fields of 8, 4, 2 or 1 bits, whichever add up to `num_bits`. A field
    of `f` bits is stored, for a whole row, as 8/f runs laid over each other: byte `j` has the field of
    element `j` in its lowest bits, then that of element `j + width·f/8`, and so on. Whole runs are shifted.

    Args:
        codes: uint8 of shape (rows, width), each below 2**num_bits; width is a multiple of 8. Not changed.
        num_bits: 1 to 8.

    Returns:
        uint8 of shape (rows, width · num_bits / 8).
    """
    fields = []
    for shift, size in _fields(num_bits):
        field = (codes >> shift) & ((1 << size) - 1)
        runs = field.view(len(codes), 8 // size, codes.shape[1] * size // 8)
        packed = runs[:, 0].clone()
        for number in range(1, 8 // size):
            packed |= runs[:, number] << (number * size)
        fields.append(packed)
    return torch.cat(fields, dim=1)


def unpack(packed: Tensor, num_bits: int) -> Tensor:
    """Return what `pack` was given: uint8 of shape (rows, width), from (rows, width · num_bits / 8)."""
    rows, width = len(packed), packed.shape[1] * 8 // num_bits
    codes = torch.zeros(rows, width, dtype=torch.uint8)
    start = 0
    for shift, size in _fields(num_bits):
        stop = start + width * size // 8
        field, mask = packed[:, start:stop], (1 << size) - 1
        runs = codes.view(rows, 8 // size, width * size // 8)
        for number in range(8 // size):
            runs[:, number] |= ((field >> (number * size)) & mask) << shift
        start = stop
    return codes


def _fields(num_bits: int) -> list[tuple[int, int]]:
    """Return the lowest bit and the size of each field of a code."""
    fields, shift = [], 0
    for size in (8, 4, 2, 1):
        if num_bits & size:
            fields.append((shift, size))
            shift += size
    return fields
