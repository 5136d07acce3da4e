"""How sure a figure is: means with intervals, ratios, and whether two samples differ by more than noise.

Repeats are few, so intervals are Student's. Durations and costs are compared on a logarithmic scale, where
noise that slows everything by some per cent is the same everywhere. Pure functions of numbers.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy
from numpy.typing import NDArray

FloatArray = NDArray[numpy.float64]
LEVEL = 0.95
_NODES = 256
_BISECTIONS = 100


@dataclass(frozen=True)
class Estimate:
    """A figure and the interval that holds it with `LEVEL`; both ends are None of a single measurement."""

    value: float
    low: float | None
    high: float | None
    repeats: int


@dataclass(frozen=True)
class Difference:
    """How two samples differ: `ratio` is B to A, of geometric means; `p` is None of a single value."""

    ratio: Estimate
    p: float | None


def mean(values: Sequence[float]) -> Estimate:
    """Return the mean of at least one value, with Student's interval."""
    centre = statistics.fmean(values)
    if len(values) < 2:
        return Estimate(centre, None, None, 1)
    margin = quantile(LEVEL, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(centre, centre - margin, centre + margin, len(values))


def typical(values: Sequence[float]) -> Estimate:
    """Return the geometric mean with Student's interval on logarithms; `mean`, if not all values are above 0.

    Durations and costs vary by factors, and cannot be below 0; nor can such an interval.
    """
    if min(values) <= 0:
        return mean(values)
    found = mean([math.log(value) for value in values])
    low, high = (None if end is None else math.exp(end) for end in (found.low, found.high))
    return Estimate(math.exp(found.value), low, high, found.repeats)


def difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Return Welch's comparison (1947) of the logarithms of two samples of at least one value above 0.

    Without any spread in either, what differs is no noise: p is 0, or 1 if nothing differs.
    """
    logs = [[math.log(value) for value in values] for values in (a, b)]
    change = statistics.fmean(logs[1]) - statistics.fmean(logs[0])
    repeats = min(len(a), len(b))
    if repeats < 2:
        return Difference(Estimate(math.exp(change), None, None, 1), None)
    errors = [statistics.variance(values) / len(values) for values in logs]
    error = math.sqrt(sum(errors))
    if error < 1e-12:
        ratio = Estimate(math.exp(change), math.exp(change), math.exp(change), repeats)
        return Difference(ratio, 1.0 if abs(change) < 1e-9 else 0.0)
    degrees = sum(errors) ** 2 / sum(
        each**2 / (len(values) - 1) for each, values in zip(errors, logs, strict=True)
    )
    margin = quantile(LEVEL, degrees) * error
    ratio = Estimate(math.exp(change), math.exp(change - margin), math.exp(change + margin), repeats)
    return Difference(ratio, 1.0 - within(abs(change) / error, degrees))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values as Holm (1979) corrects them for being many, in the same order."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def within(t: float, degrees: float) -> float:
    """Return the probability that Student's t with these degrees of freedom lies in [-t, t].

    The density becomes a power of a cosine under t = sqrt(degrees) * tan(angle): smooth on a finite range, so
    that Gauss' quadrature has it to twelve digits.
    """
    nodes, weights = _gauss()
    end = math.atan(t / math.sqrt(degrees))
    angles = (nodes + 1) * end / 2
    scale = 2 * math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    total = float(numpy.dot(weights, numpy.cos(angles) ** (degrees - 1))) * end / 2
    return min(1.0, scale * total)


@cache
def _gauss() -> tuple[FloatArray, FloatArray]:
    return numpy.polynomial.legendre.leggauss(_NODES)


def quantile(level: float, degrees: float) -> float:
    """Return the t for which `within` is `level`, found by halving."""
    low, high = 0.0, 1.0
    while within(high, degrees) < level:
        high *= 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if within(middle, degrees) < level:
            low = middle
        else:
            high = middle
        if high - low < 1e-12 * high:
            break
    return (low + high) / 2
