import pytest
import torch

from peer.aggregation import DampedMean, Gradient, WeightedMean, damping


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


def test_damped_mean_of_fresh_gradients_has_the_bits_of_the_mean() -> None:
    damped, mean = DampedMean(), WeightedMean()

    for seed in range(4):
        damped.add(gradient(seed, 10 + seed), staleness=0)
        mean.add(gradient(seed, 10 + seed))
    found, expected = damped.result(round_samples=46), mean.result()

    assert torch.equal(found.values, expected.values)
    assert torch.equal(found.buffers, expected.buffers)
    assert torch.equal(found.counters, expected.counters)
    assert found.num_samples == expected.num_samples


def test_damped_mean_counts_a_late_gradient_less_and_the_others_as_without_it() -> None:
    damped = DampedMean()

    damped.add(gradient(1, 10), staleness=0)
    damped.add(gradient(2, 30), staleness=2)
    found = damped.result(round_samples=80)

    fresh, late = gradient(1, 10), gradient(2, 30)
    torch.testing.assert_close(found.values, (10 * fresh.values + 30 * late.values / 3) / 80)
    torch.testing.assert_close(found.buffers, (10 * fresh.buffers + 10 * late.buffers) / 20)
    assert found.num_samples == 40
    assert [damping(rounds) for rounds in (0, 1, 4)] == [1.0, 0.5, 0.2]
