"""How well the simulator predicts what was measured: each setting from service times of other cells."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from peer.experiments.records import DDP
from peer.experiments.report.groups import Group, Repeat
from peer.experiments.simulator.calibration import (
    platform_of,
    service_of,
    shape_of,
    shape_of_group,
    work_of,
)
from peer.experiments.simulator.engine import simulate
from peer.experiments.simulator.model import Service

GOAL = 0.10
"""A prediction that is no further off than this counts as good."""

_ROUNDS = 2
_BATCH = ("model", "dataset", "batch-size", "compression", "micro-batch", "allocator")

OTHER_SETTINGS, OTHER_REPEATS, ITSELF = "other settings", "other repeats", "itself"
"""Where service times are from: cells of another number of peers, replicas or another variant; the same
setting's other repeats; or the very cells that are predicted, which proves little."""


@dataclass(frozen=True)
class Prediction:
    """One setting: seconds of a peer's gradient and of a round, measured and simulated."""

    group: Group
    source: str
    source_ids: Sequence[str]
    measured_gradient: float
    simulated_gradient: float
    measured_round: float
    simulated_round: float

    @property
    def gradient_error(self) -> float:
        """By which part of the measurement the simulation is off."""
        return self.simulated_gradient / self.measured_gradient - 1

    @property
    def round_error(self) -> float:
        """The same of the whole round."""
        return self.simulated_round / self.measured_round - 1


def predictions(groups: Sequence[Group], cores: int, seed: int = 0) -> Iterator[Prediction]:
    """Yield a prediction of every setting that peerless ran.

    Args:
        groups: of one experiment.
        cores: of its machine.
        seed: of the simulation.
    """
    ours = [group for group in groups if group.variant != DDP and group.repeats[0].invocations]
    for group in ours:
        source, donors, predicted = _donors(group, ours)
        shape = shape_of_group(group)
        platform, work = platform_of(group, shape, cores), work_of(group, shape, _ROUNDS)
        found = [
            simulate(platform, replace(service, compute=service.compute.scaled(shape.fullness)), work, seed)
            for seed, service in enumerate(_services(donors, cores), start=seed)
        ]
        yield Prediction(
            group=group,
            source=source,
            source_ids=[repeat.cell.id for _, repeat in donors],
            measured_gradient=fmean(repeat.gradient_seconds for repeat in predicted),
            simulated_gradient=fmean(each.mean_compute_seconds for each in found),
            measured_round=fmean(repeat.round_seconds for repeat in predicted),
            simulated_round=fmean(each.mean_round_seconds for each in found),
        )


def _services(donors: Sequence[tuple[Group, Repeat]], cores: int) -> Iterator[Service]:
    for group, repeat in donors:
        shape = shape_of(repeat, group.peers, group.batch_size, shape_of_group(group).replicas)
        yield service_of(repeat, group.peers, shape, cores)


def _donors(
    group: Group, groups: Sequence[Group]
) -> tuple[str, list[tuple[Group, Repeat]], Sequence[Repeat]]:
    """Return where service times come from, as foreign as can be had, of whom, and what they predict."""
    related = [
        (other, repeat)
        for other in groups
        if other is not group and other.variant == group.variant and _batch(other) == _batch(group)
        for repeat in other.repeats
    ]
    if related:
        return OTHER_SETTINGS, related, group.repeats
    own = [(group, repeat) for repeat in group.repeats]
    if len(own) > 1:
        return OTHER_REPEATS, own[1:], group.repeats[:1]
    return ITSELF, own, group.repeats


def _batch(group: Group) -> tuple[str, ...]:
    return tuple(str(group.setting(name)) for name in _BATCH)
