"""A run's curves in bounded memory: points that merge, pair by pair, as rounds become many."""

from collections.abc import Mapping

from peer.dashboard.state import Curves
from peer.records.phases import PHASES

_MOST_POINTS = 400
_SINGLE = ("loss", "accuracy", "validation_loss", "validation_accuracy")


class _Point:
    """The sums of some rounds that follow each other."""

    def __init__(self, first_round: int) -> None:
        self.first_round = first_round
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, float | None]) -> None:
        for name, value in values.items():
            if value is not None:
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._counts[name] = self._counts.get(name, 0) + 1

    def merge(self, other: "_Point") -> None:
        for name, total in other._sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + total
            self._counts[name] = self._counts.get(name, 0) + other._counts[name]

    def mean(self, name: str) -> float | None:
        count = self._counts.get(name)
        return self._sums[name] / count if count else None


class CurveHistory:
    """Means over 1, 2, 4 … rounds, so that no run has more than 400 points."""

    def __init__(self) -> None:
        self._points: list[_Point] = []
        self._rounds_a_point = 1
        self._last_rounds: dict[int, int] = {}

    def add(
        self, peer: int, round_number: int, values: Mapping[str, float | None], phases: Mapping[str, float]
    ) -> None:
        """Take one round of one peer. One that comes again, after `resume`, replaces it and what followed."""
        if round_number <= self._last_rounds.get(peer, -1):
            self._forget_from(round_number)
        self._last_rounds[peer] = round_number
        point = self._point(round_number - round_number % self._rounds_a_point)
        point.add({name: values.get(name) for name in _SINGLE})
        point.add({f"phase {name}": seconds for name, seconds in phases.items()})
        if len(self._points) > _MOST_POINTS:
            self._halve()

    def amend(self, round_number: int, values: Mapping[str, float | None]) -> None:
        """Add what became known of a round that was added before."""
        self._point(round_number - round_number % self._rounds_a_point).add(
            {name: values.get(name) for name in _SINGLE}
        )

    def view(self) -> Curves:
        """Return the points."""
        points = self._points
        series = {name: [_rounded(point.mean(name)) for point in points] for name in _SINGLE}
        return Curves(
            rounds=[point.first_round + 1 for point in points],
            rounds_a_point=self._rounds_a_point,
            phase_seconds={
                name: [_rounded(point.mean(f"phase {name}")) for point in points] for name in PHASES
            },
            **series,
        )

    def _point(self, first_round: int) -> _Point:
        """Return the point that begins with this round; peers are a round or so apart."""
        index = len(self._points)
        while index and self._points[index - 1].first_round > first_round:
            index -= 1
        if not index or self._points[index - 1].first_round < first_round:
            self._points.insert(index, _Point(first_round))
            index += 1
        return self._points[index - 1]

    def _forget_from(self, round_number: int) -> None:
        self._last_rounds = {peer: min(last, round_number - 1) for peer, last in self._last_rounds.items()}
        while self._points and self._points[-1].first_round >= round_number:
            self._points.pop()

    def _halve(self) -> None:
        self._rounds_a_point *= 2
        merged: list[_Point] = []
        for point in self._points:
            first = point.first_round - point.first_round % self._rounds_a_point
            if merged and merged[-1].first_round == first:
                merged[-1].merge(point)
            else:
                point.first_round = first
                merged.append(point)
        self._points = merged


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
