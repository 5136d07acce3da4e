import numpy as np
import pytest

from peer.errors import DatasetError
from peer.learning.datasets import synthetic


def test_make_same_name_gives_the_same_samples() -> None:
    first, again = synthetic.make("synthetic-50"), synthetic.make("synthetic-50")

    assert np.array_equal(first.train.images, again.train.images)
    assert first.train.images.shape == (50, 1, 28, 28)
    assert first.test.images.shape == (10, 1, 28, 28)
    assert not np.array_equal(first.train.images[:10], first.test.images)


def test_make_shape_in_the_name_is_the_samples_shape() -> None:
    found = synthetic.make("synthetic-20-3x32x16")

    assert found.train.images.shape == (20, 3, 32, 16)
    assert found.train.labels.tolist() == [*range(10), *range(10)]


@pytest.mark.parametrize(
    "name", ["synthetic-", "synthetic-3", "synthetic-20-0x2x2", "synthetic-x", "synthetic-20-3x3"]
)
def test_make_other_names_are_refused(name: str) -> None:
    with pytest.raises(DatasetError, match="synthetic-SAMPLES-CxHxW"):
        synthetic.make(name)
