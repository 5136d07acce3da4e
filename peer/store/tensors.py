"""The wire format of tensors: a small JSON header, then raw little-endian bytes. No pickle, no copy.

    0    8 bytes   magic `peerless`
    8    8 bytes   length of the header, unsigned little-endian; 16 + length is a multiple of 64
    16   header    JSON padded with spaces: version, codec, metadata; name, dtype and shape of each tensor
    …    bytes     the tensors in the header's order, each from the next multiple of 64, zeros between

Offsets follow from the shapes, so there is exactly one encoding of a list of tensors, and the total length is
known before anything is read.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import torch

from peer.errors import ObjectCorrupt
from peer.store.checksums import checksum

FORMAT_VERSION = 1
NO_CODEC = "none"
ALIGNMENT_BYTES = 64

_MAGIC = b"peerless"
_PREFIX_BYTES = 16
_LONGEST_HEADER_BYTES = 16 << 20
_LARGEST_DIMENSION = 1 << 48
_MOST_DIMENSIONS = 16

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class _TensorHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    dtype: str
    shape: list[int]


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    codec: str
    tensors: list[_TensorHeader]
    metadata: dict[str, Any]


@dataclass(frozen=True)
class EncodedTensors:
    """An object ready to be sent: `length` bytes in `chunks`, which are views on the tensors' own memory.

    The tensors must not change until the object is sent.
    """

    chunks: list[memoryview]
    length: int

    def sha256(self) -> str:
        """Return `sha256:<hex>` over the whole object."""
        return checksum("sha256", self.chunks)

    def xxh3(self) -> str:
        """Return `xxh3:<hex>` (128 bits) over the whole object."""
        return checksum("xxh3", self.chunks)


@dataclass(frozen=True)
class DecodedTensors:
    """The tensors of an object, in its order, as views on the buffer that was decoded."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, Any]


def _padding_bytes(position: int) -> int:
    return -position % ALIGNMENT_BYTES


def encode(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any] | None = None, codec: str = NO_CODEC
) -> EncodedTensors:
    """Return `tensors`, in their order, and `metadata` as one object; equal input gives equal bytes.

    Args:
        tensors: any of `DTYPES`, any shape. Contiguous CPU tensors are not copied, others (GPU,
            `channels_last`) are copied once; shapes survive, strides do not.
        metadata: whatever JSON can carry; its keys are sorted.
        codec: what the tensors were compressed by; a name in the header, nothing is done with it here.

    Raises:
        TypeError: a dtype that the format does not have.
    """
    headers = []
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPE_NAMES:
            raise TypeError(f"tensor {name!r} is {tensor.dtype}; the format has {', '.join(DTYPES)}")
        headers.append(_TensorHeader(name, _DTYPE_NAMES[tensor.dtype], list(tensor.shape)))
    header = msgspec.json.encode(
        _Header(FORMAT_VERSION, codec, headers, dict(metadata or {})), order="sorted"
    )
    header += b" " * _padding_bytes(_PREFIX_BYTES + len(header))
    chunks = [memoryview(_MAGIC + len(header).to_bytes(8, "little") + header)]
    length = len(chunks[0])
    for tensor in tensors.values():
        if padding := _padding_bytes(length):
            chunks.append(memoryview(bytes(padding)))
        chunks.append(_bytes_of(tensor))
        length += padding + len(chunks[-1])
    return EncodedTensors(chunks, length)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def decode(buffer: bytearray | memoryview, codec: str = NO_CODEC) -> DecodedTensors:
    """Return the tensors and the metadata of one whole object.

    Args:
        buffer: what `encode` made. The tensors are writable views on it and keep it alive; only a
            read-only buffer is copied first, because torch has no read-only tensors.
        codec: which one the tensors have to be compressed by.

    Raises:
        ObjectCorrupt: not this format, version or codec, torn, or longer than its header says. Nothing is
            allocated by a header's say-so.
    """
    view = memoryview(buffer).cast("B")
    if view.readonly:
        view = memoryview(bytearray(view))
    header, position = _read_header(view, codec)
    layout = list(_layout(header, position))
    end = layout[-1][2] if layout else position
    if end != len(view):
        raise ObjectCorrupt(f"tensor object has {len(view)} bytes, its header describes {end}")
    tensors: dict[str, torch.Tensor] = {}
    for tensor_header, start, stop in layout:
        if tensor_header.name in tensors:
            raise ObjectCorrupt(f"tensor object names {tensor_header.name[:80]!r} twice")
        tensors[tensor_header.name] = _tensor_at(view[start:stop], tensor_header)
    return DecodedTensors(tensors, header.metadata)


def _read_header(view: memoryview, codec: str) -> tuple[_Header, int]:
    if len(view) < _PREFIX_BYTES or view[:8] != _MAGIC:
        raise ObjectCorrupt(f"not a tensor object: it begins with {bytes(view[:8])!r}")
    header_bytes = int.from_bytes(view[8:_PREFIX_BYTES], "little")
    position = _PREFIX_BYTES + header_bytes
    if header_bytes > _LONGEST_HEADER_BYTES or position > len(view) or position % ALIGNMENT_BYTES:
        raise ObjectCorrupt(f"tensor object of {len(view)} bytes cannot have a header of {header_bytes}")
    try:
        header = msgspec.json.decode(view[_PREFIX_BYTES:position], type=_Header)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ObjectCorrupt(f"header of a tensor object is not readable: {error}") from error
    if (header.version, header.codec) != (FORMAT_VERSION, codec):
        raise ObjectCorrupt(
            f"tensor object has version {header.version}, codec {header.codec[:40]!r}; "
            f"version {FORMAT_VERSION}, codec {codec!r} was expected"
        )
    return header, position


def _layout(header: _Header, position: int) -> Iterator[tuple[_TensorHeader, int, int]]:
    for tensor in header.tensors:
        is_shape = len(tensor.shape) <= _MOST_DIMENSIONS and all(
            0 <= dimension <= _LARGEST_DIMENSION for dimension in tensor.shape
        )
        if tensor.dtype not in DTYPES or not is_shape:
            raise ObjectCorrupt(
                f"tensor {tensor.name[:80]!r} has dtype {tensor.dtype[:40]!r}, shape {str(tensor.shape)[:80]}"
            )
        start = position + _padding_bytes(position)
        position = start + math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize
        yield tensor, start, position


def _tensor_at(view: memoryview, header: _TensorHeader) -> torch.Tensor:
    dtype = DTYPES[header.dtype]
    if not view:
        # frombuffer refuses empty buffers; a shape like (0, 2**48, 2**48) overflows torch's strides
        if math.prod(max(1, dimension) for dimension in header.shape) > _LARGEST_DIMENSION:
            raise ObjectCorrupt(f"tensor {header.name[:80]!r} has shape {header.shape}")
        return torch.empty(header.shape, dtype=dtype)
    if dtype is torch.bool and max(torch.frombuffer(view, dtype=torch.uint8).max().item(), 1) > 1:
        raise ObjectCorrupt(f"tensor {header.name[:80]!r} is bool and has bytes other than 0 and 1")
    return torch.frombuffer(view, dtype=dtype).reshape(header.shape)
