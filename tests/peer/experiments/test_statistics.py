"""Intervals and comparisons against printed tables, worked examples, and how often they are right."""

import math
import random

import pytest

from peer.experiments import statistics


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(1, 12.706205), (2, 4.302653), (3, 3.182446), (10, 2.228139), (30, 2.042272), (1000, 1.962339)],
)
def test_quantile_is_that_of_the_printed_table(degrees: float, expected: float) -> None:
    assert statistics.quantile(0.95, degrees) == pytest.approx(expected, abs=1e-6)


def test_mean_of_repeats_has_students_interval() -> None:
    found = statistics.mean([1.0, 2.0, 3.0])

    assert (found.value, found.repeats) == (2.0, 3)
    assert found.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)


def test_mean_of_a_single_value_has_no_interval() -> None:
    found = statistics.mean([1.5])

    assert (found.value, found.low, found.high) == (1.5, None, None)


def test_difference_of_a_doubling_is_a_ratio_of_two_beyond_noise() -> None:
    found = statistics.difference([1.0, 1.02, 0.98], [2.0, 2.04, 1.96])

    assert found.ratio.value == pytest.approx(2.0)
    assert found.ratio.low is not None and found.ratio.high is not None
    assert 1.9 < found.ratio.low < 2.0 < found.ratio.high < 2.1
    assert found.p is not None and found.p < 0.001


def test_difference_of_equal_spreads_is_at_the_edge_where_the_printed_table_has_it() -> None:
    """Logarithms of variance 1, three each: the error is sqrt(2/3), and t is 2.776445 with 4 degrees."""
    edge = 2.776445 * math.sqrt(2 / 3)
    a = [math.exp(value) for value in (0, 1, 2)]
    b = [math.exp(value + edge) for value in (0, 1, 2)]

    found = statistics.difference(a, b)

    assert found.p == pytest.approx(0.05, abs=1e-6)
    assert found.ratio.low == pytest.approx(1.0, abs=1e-5)
    assert found.ratio.high == pytest.approx(math.exp(2 * edge), rel=1e-5)


def test_difference_with_a_single_repeat_is_not_decided() -> None:
    assert statistics.difference([1.0], [2.0, 2.1]).p is None


def test_difference_without_spread_is_no_noise() -> None:
    assert statistics.difference([1.0, 1.0], [1.0, 1.0]).p == 1.0
    assert statistics.difference([1.0, 1.0], [1.1, 1.1]).p == 0.0


def test_difference_of_the_same_noise_is_found_as_seldom_as_it_claims() -> None:
    randomness = random.Random(7)

    def sample() -> list[float]:
        return [randomness.lognormvariate(0, 0.1) for _ in range(4)]

    p_values = [statistics.difference(sample(), sample()).p for _ in range(2000)]

    assert 0.03 < sum(p is not None and p < 0.05 for p in p_values) / 2000 < 0.06


def test_holm_corrects_in_the_order_given() -> None:
    assert statistics.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []
