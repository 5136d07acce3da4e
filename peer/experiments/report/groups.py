"""Cells of one experiment put together: repeats of a setting, and what each repeat says.

Warm-ups, both cells and rounds, make no figure. Of several attempts of a cell the last counts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from peer.experiments import statistics
from peer.experiments.records import (
    CONVENTIONAL,
    SERVERLESS,
    CellRecord,
    Machine,
    Measure,
    RoundMeasure,
    latest,
)
from peer.experiments.statistics import Estimate

DEFAULTS: Mapping[str, Any] = {
    "model": "cnn",
    "dataset": "mnist",
    "peers": 4,
    "batch-size": 64,
    "batches-per-round": 2,
    "compression": "none",
    "local-steps": 0,
}
"""What `peerless train` takes where a matrix does not say."""

_SAME = ("model", "dataset", "peers", "batch-size", "batches-per-round", "compression", "local-steps")
"""What a serverless cell must have in common with its baseline; replicas, packing and the like it has not."""

GRADIENT = "gradient"


@dataclass(frozen=True)
class Repeat:
    """One cell that ended well, and its figures."""

    cell: CellRecord
    measured: Measure

    @cached_property
    def rounds(self) -> list[RoundMeasure]:
        """The rounds that count; all of them if each was a warm-up."""
        return [each for each in self.measured.rounds if not each.is_warm_up] or self.measured.rounds

    def phase(self, name: str) -> float:
        """Return the mean seconds of a phase in a round."""
        return fmean(each.phase_seconds.get(name, 0.0) for each in self.rounds)

    def stage(self, name: str) -> float:
        """Return the mean seconds of a stage in a round: a phase, or `send` or `receive` of its exchange."""
        if name in ("send", "receive"):
            return fmean(getattr(each, f"{name}_seconds") for each in self.rounds)
        return self.phase(name)

    @property
    def gradient_seconds(self) -> float:
        """What a peer waits for its gradient in a round: computed, and averaged from its batches'."""
        return self.phase("compute") + self.phase("average")

    @property
    def round_seconds(self) -> float:
        """The mean of a round, over peers and rounds."""
        return fmean(each.seconds for each in self.rounds)

    @property
    def rounds_per_epoch(self) -> float:
        """How many rounds go through all samples once."""
        return len(self.measured.rounds) / self.measured.epochs

    @property
    def epoch_seconds(self) -> float:
        """The time for all samples once."""
        return self.round_seconds * self.rounds_per_epoch

    @property
    def curve(self) -> list[tuple[float, float]]:
        """Seconds since the begin, and accuracy on held-out samples; without these, on the round's own."""
        rounds = self.measured.rounds
        held_out = [
            (each.ended_seconds, each.validation_accuracy)
            for each in rounds
            if each.validation_accuracy is not None
        ]
        own = [(each.ended_seconds, each.accuracy) for each in rounds if each.accuracy is not None]
        return held_out or own

    @property
    def best_accuracy(self) -> float:
        """The largest on the curve, or on the test split; 0 if nothing is known."""
        return max([accuracy for _, accuracy in self.curve] + [self.measured.test_accuracy or 0.0])

    @property
    def invocations(self) -> list[float]:
        """The seconds inside the gradient function of each invocation that counts."""
        return [seconds for each in self.rounds for seconds in each.invocation_seconds.get(GRADIENT, ())]


Metric = Callable[[Repeat], float]


@dataclass(frozen=True)
class Group:
    """All repeats of one setting of one variant, at least one."""

    repeats: Sequence[Repeat]

    @property
    def first(self) -> CellRecord:
        """A cell of it; all have these settings."""
        return self.repeats[0].cell

    @property
    def variant(self) -> str:
        """How gradients were computed."""
        return self.first.variant

    @property
    def ids(self) -> list[str]:
        """The cells that its figures are of."""
        return [repeat.cell.id for repeat in self.repeats]

    def setting(self, name: str) -> Any:
        """Return an option of its runs, None where nobody has said anything."""
        return self.first.settings.get(name, DEFAULTS.get(name))

    @property
    def peers(self) -> int:
        """How many."""
        return int(self.setting("peers"))

    @property
    def batch_size(self) -> int:
        """Samples of one gradient."""
        return int(self.setting("batch-size"))

    @property
    def label(self) -> str:
        """What sets it apart in its experiment, but for the variant."""
        parts = [f"{name} {value}" for name, value in self.first.axes.items() if name != "variant"]
        return ", ".join(parts) or "the only setting"

    def values(self, metric: Metric) -> list[float]:
        """Return a figure of each repeat."""
        return [metric(repeat) for repeat in self.repeats]

    def estimate(self, metric: Metric) -> Estimate:
        """Return what is typical of a figure over the repeats, with its interval (`statistics.typical`)."""
        return statistics.typical(self.values(metric))


@dataclass(frozen=True)
class Pair:
    """A serverless setting and its baseline."""

    serverless: Group
    conventional: Group

    @property
    def ids(self) -> list[str]:
        """The cells of both."""
        return [*self.serverless.ids, *self.conventional.ids]

    def ratio(self, metric: Metric) -> Estimate:
        """Return serverless to conventional; of geometric means over the repeats."""
        a, b = self.conventional.values(metric), self.serverless.values(metric)
        return statistics.difference(a, b).ratio


@dataclass(frozen=True)
class Experiment:
    """All that a report is made of.

    Attributes:
        name: of the experiment.
        machine: that it was measured on.
        cells: every attempt.
        lines: which line of the raw file has the last attempt of a cell, by its id, counted from 1.
    """

    name: str
    machine: Machine
    cells: Sequence[CellRecord]
    lines: Mapping[str, int]

    @cached_property
    def groups(self) -> list[Group]:
        """The settings that have a figure, in the order in which they were measured first."""
        found: dict[tuple[str, str], list[Repeat]] = {}
        for cell in latest(self.cells):
            if cell.status == "ok" and not cell.is_warm_up and cell.measured and cell.measured.rounds:
                key = cell.variant, cell.config_hash
                found.setdefault(key, []).append(Repeat(cell, cell.measured))
        return [Group(sorted(repeats, key=lambda each: each.cell.repeat)) for repeats in found.values()]

    def of(self, variant: str) -> list[Group]:
        """Return the settings of one variant."""
        return [group for group in self.groups if group.variant == variant]

    @cached_property
    def pairs(self) -> list[Pair]:
        """Every serverless setting that has a baseline, ordered by model, batch size and peers."""
        found = [
            Pair(group, baseline)
            for group in self.of(SERVERLESS)
            for baseline in self.of(CONVENTIONAL)
            if identity(group) == identity(baseline)
        ]
        return sorted(found, key=lambda pair: order(pair.serverless))

    @cached_property
    def ended_badly(self) -> list[CellRecord]:
        """The cells of which there is no figure, with their reasons."""
        return [cell for cell in latest(self.cells) if cell.status != "ok"]


def identity(group: Group) -> tuple[str, ...]:
    """Return what a baseline must have in common with what is compared with it."""
    return tuple(str(group.setting(name)) for name in _SAME)


def order(group: Group) -> tuple[str, str, int, int]:
    """Return what groups are sorted by where the order of measuring means nothing."""
    return str(group.setting("dataset")), str(group.setting("model")), group.batch_size, group.peers


def distinct(groups: Iterable[Group], name: str) -> list[Any]:
    """Return the different values of a setting among these, in their order."""
    return list(dict.fromkeys(group.setting(name) for group in groups))
