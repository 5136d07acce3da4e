"""Stored uint8 records become what a model is fed: float32, normalised, resized, channels last."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from peer.errors import DatasetError
from peer.learning.models import ModelInput
from peer.messages import DataParts

Records = npt.NDArray[np.uint8]


def as_records(part: bytearray | memoryview, data: DataParts) -> Records:
    """Return a part as a (samples, bytes a record) view.

    Raises:
        DatasetError: the part is not a whole number of records.
    """
    record_bytes = data.label_bytes + data.shape[0] * data.shape[1] * data.shape[2]
    if len(part) % record_bytes:
        raise DatasetError(
            f"a part of {len(part)} bytes is not a whole number of {record_bytes}-byte records"
        )
    return np.frombuffer(part, dtype=np.uint8).reshape(-1, record_bytes)


def select(parts: Sequence[Records], ranges: Sequence[tuple[int, int, int]]) -> Records:
    """Return the records of `(part, start, stop)` ranges in order; a single range is not copied."""
    chosen = [parts[part][start:stop] for part, start, stop in ranges]
    return chosen[0] if len(chosen) == 1 else np.concatenate(chosen)


def labels_of(records: Records, data: DataParts) -> Tensor:
    """Return the labels, int64 of shape (N,).

    Raises:
        DatasetError: a label is not below `num_classes`.
    """
    labels = records[:, : data.label_bytes].astype(np.int64) @ (256 ** np.arange(data.label_bytes))
    if labels.size and labels.max() >= data.num_classes:
        raise DatasetError(f"a label is {labels.max()}, but there are {data.num_classes} classes")
    return torch.from_numpy(labels)


def inputs_of(records: Records, data: DataParts, model_input: ModelInput) -> Tensor:
    """Return the images, float32 of shape (N, C, H, W) in channels_last memory.

    `(pixel / 255 - mean) / std` a channel; then bilinear without antialiasing, where the size differs; then
    a single channel is repeated where the model takes more. In that order each step touches the fewest
    numbers.
    """
    pixels = torch.from_numpy(records[:, data.label_bytes :]).view(len(records), *data.shape)
    scale = torch.tensor([1 / (255 * std) for std in data.std])
    shift = torch.tensor([-mean / std for mean, std in zip(data.mean, data.std, strict=True)])
    images = pixels.to(torch.float32, memory_format=torch.channels_last)
    images.mul_(scale.view(-1, 1, 1)).add_(shift.view(-1, 1, 1))
    if images.shape[2:] != (model_input.height, model_input.width):
        images = functional.interpolate(
            images, size=(model_input.height, model_input.width), mode="bilinear", align_corners=False
        )
    images = images.expand(-1, model_input.channels, -1, -1)
    return images.contiguous(memory_format=torch.channels_last)
