import numpy as np
import pytest
import torch
from torch.nn import functional

from peer.errors import DatasetError
from peer.learning import preprocess
from peer.learning.models import ModelInput
from peer.messages import DataParts


def data_parts(shape: tuple[int, int, int], label_bytes: int = 1, num_classes: int = 10) -> DataParts:
    mean, std = [0.1, 0.2, 0.3][: shape[0]], [0.5, 0.6, 0.7][: shape[0]]
    return DataParts(
        shape=shape, label_bytes=label_bytes, num_classes=num_classes, mean=mean, std=std, parts=[]
    )


def made_up_records(shape: tuple[int, int, int], num_samples: int) -> bytearray:
    random = np.random.default_rng(4)
    labels = random.integers(0, 10, (num_samples, 1), dtype=np.uint8)
    pixels = random.integers(0, 256, (num_samples, int(np.prod(shape))), dtype=np.uint8)
    return bytearray(np.concatenate([labels, pixels], axis=1).tobytes())


@pytest.mark.parametrize("shape", [(1, 5, 4), (3, 5, 4)])
@pytest.mark.parametrize("wanted", [ModelInput(3, 5, 4), ModelInput(3, 8, 9), ModelInput(3, 2, 3)])
def test_inputs_of_equals_the_plain_computation(shape: tuple[int, int, int], wanted: ModelInput) -> None:
    data = data_parts(shape)
    records = preprocess.as_records(made_up_records(shape, 6), data)

    found = preprocess.inputs_of(records, data, wanted)

    pixels = torch.from_numpy(records[:, 1:].astype(np.float32)).reshape(6, *shape) / 255
    mean, std = torch.tensor(data.mean).view(-1, 1, 1), torch.tensor(data.std).view(-1, 1, 1)
    expected = functional.interpolate(
        ((pixels - mean) / std).expand(6, 3, 5, 4), (wanted.height, wanted.width), mode="bilinear"
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_select_returns_ranges_in_their_order() -> None:
    data = data_parts((1, 1, 1))
    parts = [
        preprocess.as_records(bytearray([0, 10, 1, 11, 2, 12]), data),
        preprocess.as_records(bytearray([3, 13]), data),
    ]

    records = preprocess.select(parts, [(1, 0, 1), (0, 1, 3)])

    assert records.tolist() == [[3, 13], [1, 11], [2, 12]]
    assert preprocess.labels_of(records, data).tolist() == [3, 1, 2]


def test_labels_of_two_bytes_are_little_endian() -> None:
    data = data_parts((1, 1, 1), label_bytes=2, num_classes=1000)
    records = preprocess.as_records(bytearray([0x2C, 0x01, 9]), data)

    assert preprocess.labels_of(records, data).tolist() == [300]


def test_labels_of_label_beyond_the_classes_is_refused() -> None:
    data = data_parts((1, 1, 1))
    records = preprocess.as_records(bytearray([10, 9]), data)

    with pytest.raises(DatasetError, match="a label is 10, but there are 10 classes"):
        preprocess.labels_of(records, data)


def test_as_records_of_half_a_record_is_refused() -> None:
    with pytest.raises(DatasetError, match="whole number of 2-byte records"):
        preprocess.as_records(bytearray(3), data_parts((1, 1, 1)))
