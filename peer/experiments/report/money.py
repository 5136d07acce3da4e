"""What measured runs would cost, and the section on it: our durations, somebody's dated prices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from peer.experiments import cost, statistics
from peer.experiments.cost import StoreUse, Use
from peer.experiments.prices import CloudPrices, OwnPrices, published
from peer.experiments.records import DDP, SERVERLESS
from peer.experiments.report import plots
from peer.experiments.report.blocks import (
    Block,
    Picture,
    Row,
    Section,
    Table,
    Text,
    dollar_interval,
    dollars,
    interval,
    left_out,
)
from peer.experiments.report.groups import Experiment, Group, Pair, Repeat, order
from peer.experiments.report.plots import Line
from peer.experiments.report.resources import function_peak, least
from peer.experiments.report.times import families, name_of
from peer.experiments.simulator.calibration import shape_of_group
from peer.experiments.statistics import Estimate

_DEFAULT_INSTANCE = "t2.medium"
_GIB = 1 << 30


@dataclass(frozen=True)
class Pricing:
    """Prices a measured run as if it had run elsewhere.

    A peer rents an instance for as long as its rounds last, and waits on it while functions compute. A
    function gets the memory of its peak, but no less than comes with one processor. Requests to the store are
    counted by the protocol, not measured.
    """

    cloud: CloudPrices
    own: OwnPrices

    def instance_of(self, group: Group) -> str:
        """Return the type of a peer's machine: what it was confined to, else the artefact's for the model."""
        if group.first.box is not None and group.first.box.instance_type in self.cloud.instances.types:
            return group.first.box.instance_type
        return published().peer_instances.get(str(group.setting("model")), _DEFAULT_INSTANCE)

    def memory_mb(self, group: Group) -> int:
        """Return the memory of a function."""
        peak_bytes = int(least(group, function_peak))
        return max(cost.memory_for(peak_bytes, self.cloud.function), self.cloud.function.mb_per_vcpu)

    def epoch(self, group: Group, repeat: Repeat) -> float:
        """Return the dollars of an epoch of all peers."""
        invocations = []
        if group.variant == SERVERLESS:
            invocations = [cost.billed(repeat.invocations, self.memory_mb(group), self.cloud.function)]
        seconds = sum(each.seconds for each in repeat.rounds)
        use = Use(self.instance_of(group), group.peers, seconds, invocations, store_use(group, repeat))
        return cost.cloud_cost(use, self.cloud).total * repeat.rounds_per_epoch / len(repeat.rounds)

    def own_epoch(self, group: Group, repeat: Repeat) -> float:
        """Return the dollars of an epoch on machines of one's own: cores while busy, memory all the time."""
        measured, replicas = repeat.measured, shape_of_group(group).replicas
        cores = sum(peer.cpu_seconds for peer in measured.peers)
        cores += sum(used.cpu_seconds for used in measured.functions.values())
        peak_bytes = sum(peer.peak_rss_bytes for peer in measured.peers) + replicas * function_peak(repeat)
        total = cost.own_cost(cores, peak_bytes / _GIB * measured.train_seconds, self.own)
        return total / measured.epochs

    def epochs_of(self, group: Group) -> list[float]:
        """Return the dollars of an epoch, of each repeat."""
        return [self.epoch(group, repeat) for repeat in group.repeats]

    def ratio(self, pair: Pair) -> Estimate:
        """Return how many times as much functions cost as the baseline, each with its own instances."""
        return statistics.difference(self.epochs_of(pair.conventional), self.epochs_of(pair.serverless)).ratio

    def to_accuracy(self, group: Group, target: float) -> list[float]:
        """Return the dollars until a target is met, of each repeat that meets it."""
        found = []
        for repeat in group.repeats:
            reached = cost.first_reaching(repeat.curve, target)
            if reached is not None:
                found.append(self.epoch(group, repeat) * reached / repeat.epoch_seconds)
        return found


def store_use(group: Group, repeat: Repeat) -> StoreUse:
    """Return the requests of a cell's counted rounds, as the protocol makes them.

    Weights are put by one peer and asked for by all, each invocation gets weights and samples and puts a
    gradient that its peer gets; peers put gradient and manifest, and get everybody else's.
    """
    rounds, peers = len(repeat.rounds), group.peers
    invocations = len(repeat.invocations) if group.variant == SERVERLESS else 0
    if group.variant == DDP:
        return StoreUse()
    return StoreUse(
        puts=rounds * (1 + 2 * peers) + invocations,
        gets=rounds * (peers + 2 * peers * (peers - 1)) + 3 * invocations,
    )


def cost_section(experiment: Experiment, pricing: Pricing, target: float | None) -> Section:
    """Return what settings cost an epoch and until they are as accurate as wanted."""
    anchor, title = "cost", "Cost of what was measured"
    if not experiment.groups:
        return left_out(anchor, title, "nothing was measured.")
    target = target if target is not None else _common_accuracy(experiment)
    blocks: list[Block] = [
        Text(_what_is_priced(experiment, pricing)),
        _cost_table(experiment, pricing, target),
    ]
    if not experiment.pairs:
        return Section(anchor, title, blocks)
    highest = max(experiment.pairs, key=lambda pair: pricing.ratio(pair).value)
    paper = published().cost_ratio
    said = Text(
        f"Functions cost at most {interval(pricing.ratio(highest))} times as much as the baseline "
        f"({name_of(highest.serverless)}); the paper says up to {paper} times.",
        highest.ids,
    )
    return Section(
        anchor, title, [said, *blocks, _ratio_table(experiment, pricing), _plot(experiment, pricing)]
    )


def _what_is_priced(experiment: Experiment, pricing: Pricing) -> str:
    function, cloud = pricing.cloud.function, pricing.cloud
    return (
        f"Durations are of this machine ({experiment.machine.cpu}, {experiment.machine.cores} cores); prices "
        f"are of table `{cloud.name}`, {cloud.region}, {cloud.date}: {function.source}, "
        f"{cloud.instances.source}, {cloud.store.source}. A peer rents its instance for as long as its "
        f"rounds last; a function is billed by {function.granularity_ms} ms of the time inside it, with the "
        f"memory of its peak and no less than one processor's ({function.mb_per_vcpu} MB): a thread with "
        "half of one takes twice as long, so that less memory saves nothing. Requests to the store are "
        f"counted by the protocol. Machines of one's own: table `{pricing.own.name}`, {pricing.own.date}, "
        f"{pricing.own.source}."
    )


def _cost_table(experiment: Experiment, pricing: Pricing, target: float) -> Table:
    rows = []
    for group in sorted(experiment.groups, key=lambda each: (*order(each), each.variant)):
        reached = pricing.to_accuracy(group, target)
        rows.append(
            Row(
                [
                    group.variant,
                    name_of(group),
                    pricing.instance_of(group),
                    f"{pricing.memory_mb(group)} MB" if group.variant == SERVERLESS else "–",
                    dollar_interval(statistics.typical(pricing.epochs_of(group))),
                    dollars(fmean(pricing.own_epoch(group, repeat) for repeat in group.repeats)),
                    dollars(fmean(reached)) if reached else "not reached",
                ],
                group.ids,
            )
        )
    return Table(
        "US dollars of an epoch of all peers, geometric means over the repeats with 95 % intervals, and "
        f"until {target:.0%} accuracy was reached.",
        [
            "variant",
            "setting",
            "a peer's instance",
            "function",
            "epoch, cloud",
            "epoch, own machines",
            f"to {target:.0%}",
        ],
        rows,
    )


def _ratio_table(experiment: Experiment, pricing: Pricing) -> Table:
    rows = [
        Row(
            [
                name_of(pair.serverless),
                pricing.instance_of(pair.serverless),
                pricing.instance_of(pair.conventional),
                interval(pricing.ratio(pair)),
                _paying_share(pricing.ratio(pair).value),
            ],
            pair.ids,
        )
        for pair in experiment.pairs
    ]
    return Table(
        "How many times as much an epoch costs by functions, whose peers wait on their instances, as by "
        "peers that compute themselves; and the share of the rented time for which an instance has to be "
        "busy with such epochs to be the cheaper one.",
        ["setting", "waits on", "computes on", "cost ratio", "instance pays if busy more than"],
        rows,
    )


def _plot(experiment: Experiment, pricing: Pricing) -> Picture:
    curves = [_curve(label, members, pricing) for label, members in families(experiment.pairs)]
    paper = published().cost_ratio
    shown, rest = plots.first(curves)
    paint = plots.with_level(plots.lines(shown, is_log=(True, False)), paper, f"the paper: up to {paper}")
    svg = plots.draw(
        "cost", "Functions against the peers themselves", ("batch size", "times the cost"), paint
    )
    text = "Ratio of the cost of an epoch by batch size: measured durations at list prices."
    return Picture("cost", f"{text}{rest}", text, svg)


def _curve(label: str, members: Sequence[Pair], pricing: Pricing) -> Line:
    ratios = [pricing.ratio(pair) for pair in members]
    return Line(
        label,
        [pair.serverless.batch_size for pair in members],
        [ratio.value for ratio in ratios],
        [ratio.low or ratio.value for ratio in ratios],
        [ratio.high or ratio.value for ratio in ratios],
    )


def _common_accuracy(experiment: Experiment) -> float:
    """Return the largest whole per cent that every setting reached, on the mean of its repeats."""
    best = [group.estimate(lambda repeat: repeat.best_accuracy).value for group in experiment.groups]
    return math.floor(100 * min(best)) / 100


def _paying_share(ratio: float) -> str:
    return f"{1 / ratio:.0%}" if ratio > 1 else "never"
