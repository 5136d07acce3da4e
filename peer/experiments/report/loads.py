"""The workloads that scenarios are simulated with, out of measured settings."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from peer.experiments.prices import Assumptions
from peer.experiments.records import CONVENTIONAL, SERVERLESS
from peer.experiments.report.groups import Experiment, Group, order
from peer.experiments.report.money import Pricing
from peer.experiments.report.resources import function_peak, least, peer_peak
from peer.experiments.report.times import gradient
from peer.experiments.simulator.calibration import service_of, shape_of_group
from peer.experiments.simulator.model import Samples
from peer.experiments.simulator.scenarios import Workload

_MOST_SAMPLES = 64
_SAMPLE_BYTES = {"mnist": 784, "fashion": 784, "cifar10": 3072}


@dataclass(frozen=True)
class Load:
    """A workload, and the setting that its service times were measured in."""

    group: Group
    work: Workload
    epoch_samples: int

    @property
    def name(self) -> str:
        """The setting in a few words."""
        return f"{self.group.setting('model')}, {self.group.peers} peers, batch {self.work.batch_size}"


def loads_of(experiment: Experiment, pricing: Pricing) -> Iterator[Load]:
    """Yield a workload for each model and batch size, of the setting with the fewest peers."""
    groups = experiment.of(SERVERLESS) or experiment.of(CONVENTIONAL)
    seen = set()
    for group in sorted(groups, key=lambda each: (*order(each)[:3], each.peers)):
        key = order(group)[:3]
        if key in seen or not group.repeats[0].invocations:
            continue
        seen.add(key)
        repeats = group.repeats
        measured = repeats[0].measured
        shape, cores = shape_of_group(group), experiment.machine.cores
        services = [service_of(repeat, group.peers, shape, cores) for repeat in repeats]
        epoch_samples = round(measured.samples / measured.epochs)
        work = Workload(
            batch_size=group.batch_size,
            batches=max(1, math.ceil(epoch_samples / group.peers / group.batch_size)),
            compute=_thinned([each for service in services for each in service.compute.seconds]),
            weights_bytes=measured.weights_bytes,
            batch_bytes=group.batch_size * _sample_bytes(str(group.setting("dataset"))),
            peak_bytes=int(least(group, function_peak) or max(group.values(peer_peak))),
            instance=pricing.instance_of(_baseline(group, experiment)),
        )
        yield Load(group, work, epoch_samples)


def _baseline(group: Group, experiment: Experiment) -> Group:
    """Return the setting whose peers compute the same themselves, else the setting itself."""
    return next((pair.conventional for pair in experiment.pairs if pair.serverless is group), group)


def _thinned(measured: Sequence[float]) -> Samples:
    """Return as many of them, evenly from shortest to longest, as tell how they are spread."""
    ordered = sorted(measured)
    if len(ordered) <= _MOST_SAMPLES:
        return Samples(tuple(ordered))
    step = len(ordered) / _MOST_SAMPLES
    return Samples(tuple(ordered[int((index + 0.5) * step)] for index in range(_MOST_SAMPLES)))


def _sample_bytes(dataset: str) -> int:
    """Return the bytes of a stored sample, by what a dataset's name says."""
    if shape := re.search(r"(\d+)x(\d+)x(\d+)$", dataset):
        return math.prod(int(part) for part in shape.groups())
    return next((size for name, size in _SAMPLE_BYTES.items() if dataset.startswith(name)), 3072)


def allocator_slowdown(experiment: Experiment, assumed: Assumptions) -> tuple[float, list[str]]:
    """Return how much longer peers compute with the allocator as it is, and the cells that say so, if any."""
    by_allocator: dict[str, dict[str, Group]] = {}
    for group in experiment.of(CONVENTIONAL):
        others = {name: value for name, value in group.first.settings.items() if name != "allocator"}
        allocator = str(group.setting("allocator"))
        by_allocator.setdefault(str(sorted(others.items(), key=str)), {})[allocator] = group
    both = [found for found in by_allocator.values() if {"default", "tuned"} <= set(found)]
    if not both:
        return assumed.allocator_slowdown, []
    ratios = [
        found["default"].estimate(gradient).value / found["tuned"].estimate(gradient).value for found in both
    ]
    ids = [cell_id for found in both for name in ("default", "tuned") for cell_id in found[name].ids]
    return fmean(ratios), ids
