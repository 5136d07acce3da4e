"""Which differences between two experiments are larger than their noise.

Each figure of each setting is compared by Welch's t on the logarithms of its repeats. Because so many are,
p values are corrected by Holm's method: where nothing differs, one comparison in twenty finds something.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from peer.errors import ConfigurationError
from peer.experiments import statistics
from peer.experiments.report.groups import Experiment, Group, Metric
from peer.experiments.report.resources import (
    cpu_seconds,
    exchanged_mib,
    function_peak,
    function_working_set,
    peer_peak,
)
from peer.experiments.report.times import gradient, name_of, whole_round
from peer.experiments.statistics import Difference, Estimate
from peer.messages import Message

Verdict = Literal["larger", "smaller", "noise", "undecided"]
"""B against A: larger or smaller by more than noise; not so; or one of them has a single repeat."""

_MIB = 1 << 20
_METRICS: dict[str, Metric] = {
    "gradient, s": gradient,
    "round, s": whole_round,
    "CPU s / 1,000 samples": cpu_seconds,
    "function peak, MiB": lambda repeat: function_peak(repeat) / _MIB,
    "function working set, MiB": lambda repeat: function_working_set(repeat) / _MIB,
    "peer peak, MiB": lambda repeat: peer_peak(repeat) / _MIB,
    "exchanged, MiB a peer and round": exchanged_mib,
    "best accuracy": lambda repeat: repeat.best_accuracy,
}


class Compared(Message, frozen=True):
    """One figure of one setting in both experiments; `ratio` is B to A, `p` corrected for being one of many.

    Ends of intervals are None of a single repeat.
    """

    variant: str
    setting: str
    figure: str
    a: Estimate
    b: Estimate
    ratio: Estimate
    p: float | None
    verdict: Verdict


class Comparison(Message, frozen=True):
    """All figures that both experiments have, and the settings that only one of them has."""

    a: str
    b: str
    level: float
    figures: list[Compared]
    only_a: list[str]
    only_b: list[str]

    @property
    def differing(self) -> list[Compared]:
        """What differs by more than noise."""
        return [each for each in self.figures if each.verdict in ("larger", "smaller")]


@dataclass(frozen=True)
class _Test:
    group: Group
    figure: str
    a: Sequence[float]
    b: Sequence[float]
    found: Difference


def compare(a: Experiment, b: Experiment, names: tuple[str, str]) -> Comparison:
    """Return which figures of B differ from A's by more than noise.

    Settings are the same if all options are; where an experiment changed one for all its cells, those are
    that have the same variant and the same values of the axes.

    Args:
        a: the one that is compared with.
        b: the other one.
        names: of both, for people.

    Raises:
        ConfigurationError: they have no setting in common.
    """
    pairs = list(_pairs(a, b))
    if not pairs:
        raise ConfigurationError(
            f"{names[0]} and {names[1]} have no setting in common that ended well in both: neither options "
            "nor axes are the same"
        )
    tests = [test for pair in pairs for test in _tests(*pair)]
    decided = [test.found.p for test in tests if test.found.p is not None]
    corrected = iter(statistics.holm(decided))
    figures = [_compared(test, None if test.found.p is None else next(corrected)) for test in tests]
    of_a, of_b = {id(one) for one, _ in pairs}, {id(other) for _, other in pairs}
    return Comparison(
        names[0],
        names[1],
        statistics.LEVEL,
        figures,
        [_named(group) for group in a.groups if id(group) not in of_a],
        [_named(group) for group in b.groups if id(group) not in of_b],
    )


def table(found: Comparison) -> Iterator[str]:
    """Yield the lines of a table for people: what differs first, and in one line how much does not."""
    ordered = sorted(found.figures, key=lambda each: (each.verdict in ("noise", "undecided"), each.p or 0.0))
    if found.differing:
        yield _row("figure", found.a, found.b, "B to A", "p")
    setting = ""
    for each in ordered:
        if each.verdict in ("larger", "smaller"):
            if (here := f"{each.variant}: {each.setting}") != setting:
                setting = here
                yield here
            yield _row(f"  {each.figure}", _short(each.a), _short(each.b), _change(each.ratio), _p(each.p))
    counts = {
        verdict: sum(each.verdict == verdict for each in found.figures) for verdict in ("noise", "undecided")
    }
    yield (
        f"{len(found.differing)} of {len(found.figures)} figures differ by more than noise "
        f"({found.level:.0%}, Welch's t on logarithms, p corrected by Holm); {counts['noise']} do not, "
        f"{counts['undecided']} are undecided, with a single repeat"
    )
    for name, settings in ((found.a, found.only_a), (found.b, found.only_b)):
        if settings:
            yield f"only in {name}: {'; '.join(settings)}"


def _pairs(a: Experiment, b: Experiment) -> Iterator[tuple[Group, Group]]:
    by_hash = {group.first.config_hash: group for group in b.groups}
    by_axes = {_axes(group): group for group in b.groups}
    for group in a.groups:
        other = by_hash.get(group.first.config_hash) or by_axes.get(_axes(group))
        if other is not None:
            yield group, other


def _axes(group: Group) -> tuple[str, ...]:
    axes = sorted((name, str(value)) for name, value in group.first.axes.items())
    return group.variant, *(f"{name}={value}" for name, value in axes)


def _tests(one: Group, other: Group) -> Iterator[_Test]:
    for figure, metric in _METRICS.items():
        a, b = one.values(metric), other.values(metric)
        if min(a) > 0 and min(b) > 0:
            yield _Test(one, figure, a, b, statistics.difference(a, b))


def _compared(test: _Test, p: float | None) -> Compared:
    ratio = test.found.ratio
    verdict: Verdict = "undecided" if p is None else "noise"
    if p is not None and p < 1 - statistics.LEVEL:
        verdict = "larger" if ratio.value > 1 else "smaller"
    return Compared(
        test.group.variant,
        name_of(test.group),
        test.figure,
        statistics.typical(test.a),
        statistics.typical(test.b),
        ratio,
        p,
        verdict,
    )


def _named(group: Group) -> str:
    return f"{group.variant}, {name_of(group)}"


def _row(*cells: str) -> str:
    widths = (32, 12, 12, 10, 10)
    return cells[0].ljust(widths[0]) + "".join(
        cell[: width - 1].rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)
    )


def _short(estimate: Estimate) -> str:
    return f"{estimate.value:.4g}"


def _change(ratio: Estimate) -> str:
    return f"{ratio.value - 1:+.1%}" if ratio.value < 10 else f"×{ratio.value:.3g}"


def _p(p: float | None) -> str:
    return "–" if p is None else f"{p:.2g}"
