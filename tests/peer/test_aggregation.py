import pytest
import torch

from peer.aggregation import Gradient, WeightedMean


def gradient(seed: int, num_samples: int) -> Gradient:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(1001, generator=generator)
    return Gradient(values, values[:5].clone(), torch.tensor([seed, 7]), num_samples)


def test_mean_of_one_gradient_is_itself() -> None:
    mean = WeightedMean()
    mean.add(gradient(1, 64))

    result = mean.result()

    torch.testing.assert_close(result.values, gradient(1, 64).values)
    assert result.num_samples == 64


def test_mean_is_weighted_by_samples() -> None:
    parts = [gradient(seed, 10 + seed) for seed in range(4)]
    weights = torch.tensor([10.0, 11, 12, 13], dtype=torch.float64)
    stacked = torch.stack([part.values.double() for part in parts])
    expected = (stacked * weights[:, None]).sum(0) / weights.sum()
    mean = WeightedMean()

    for part in parts:
        mean.add(part)
    result = mean.result()

    torch.testing.assert_close(result.values.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(result.buffers.double(), expected[:5], rtol=1e-6, atol=1e-6)
    assert result.counters.tolist() == [3, 7]
    assert result.num_samples == 46


def test_mean_in_another_order_has_other_bits_and_in_the_same_order_the_same() -> None:
    def mean_of(seeds: list[int]) -> torch.Tensor:
        mean = WeightedMean()
        for seed in seeds:
            mean.add(gradient(seed, 3 + seed))
        return mean.result().values

    assert torch.equal(mean_of([0, 1, 2, 3]), mean_of([0, 1, 2, 3]))
    assert not torch.equal(mean_of([0, 1, 2, 3]), mean_of([3, 1, 2, 0]))


def test_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no gradients"):
        WeightedMean().result()


def test_mean_of_unequal_shapes_raises_and_keeps_what_it_has() -> None:
    mean = WeightedMean()
    mean.add(gradient(1, 64))
    other = Gradient(torch.ones(3), torch.ones(5), torch.tensor([1, 7]), 1)

    with pytest.raises(ValueError, match="do not add up"):
        mean.add(other)

    torch.testing.assert_close(mean.result().values, gradient(1, 64).values)
