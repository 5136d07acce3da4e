"""Sections on what runs need and come to: memory, accuracy, and what compression is worth."""

from peer.experiments.records import DDP, SERVERLESS
from peer.experiments.report import plots
from peer.experiments.report.blocks import (
    Picture,
    Row,
    Section,
    Table,
    interval,
    left_out,
    megabytes,
    per_cent,
    seconds,
)
from peer.experiments.report.groups import GRADIENT, Experiment, Group, Metric, Repeat, distinct, order
from peer.experiments.report.plots import Line
from peer.experiments.report.times import name_of, stage, whole_round

_MIB = 1 << 20


def function_peak(repeat: Repeat) -> float:
    """Return the resident bytes of the fullest replica of the gradient function, 0 where there is none."""
    used = repeat.measured.functions.get(GRADIENT)
    return float(used.peak_rss_bytes if used else 0)


def function_working_set(repeat: Repeat) -> float:
    """Return what its control group could not have given back, in bytes; 0 where the kernel does not tell."""
    used = repeat.measured.functions.get(GRADIENT)
    return float(used.working_set_bytes if used else 0)


def peer_peak(repeat: Repeat) -> float:
    """Return the resident bytes of the largest peer."""
    return float(max((peer.peak_rss_bytes for peer in repeat.measured.peers), default=0))


def least(group: Group, memory: Metric) -> float:
    """Return a figure of memory, in bytes, of the repeat in which it was least.

    A replica may have done the larger work of another cell before, and keeps the peak of that.
    """
    return min(group.values(memory))


def cpu_seconds(repeat: Repeat) -> float:
    """Return the CPU seconds of all peers and functions, a sample in the unit of a thousand."""
    measured = repeat.measured
    used = sum(each.cpu_seconds for each in measured.peers)
    used += sum(each.cpu_seconds for each in measured.functions.values())
    return 1000 * used / measured.samples


def memory_section(experiment: Experiment) -> Section:
    """Return memory and CPU by batch size."""
    anchor, title = "memory", "Memory and CPU by batch size"
    groups = sorted((group for group in experiment.groups if group.estimate(peer_peak).value), key=order)
    if not groups:
        return left_out(anchor, title, "no cell has figures of its peers' memory.")
    rows = [
        Row(
            [
                group.variant,
                name_of(group),
                megabytes(least(group, peer_peak)),
                _megabytes_or_none(least(group, function_peak)),
                _megabytes_or_none(least(group, function_working_set)),
                interval(group.estimate(cpu_seconds)),
            ],
            group.ids,
        )
        for group in groups
    ]
    table = Table(
        "Resident memory of the largest peer and of the fullest replica at their peaks, the replica's "
        "working set (its control group's usage without what the kernel could take back; pages shared with "
        "the warm parent are not charged), each of the repeat in which it was least, for a replica that has "
        "worked for another setting before keeps that peak; and CPU seconds of all peers and functions for "
        "1,000 samples.",
        [
            "variant",
            "setting",
            "peer, peak",
            "function, peak",
            "function, working set",
            "CPU s / 1,000 samples",
        ],
        rows,
    )
    curves = [
        Line(
            label,
            [each.batch_size for each in members],
            [least(each, metric) / _MIB for each in members],
        )
        for model in distinct(groups, "model")
        for variant, metric, who in (
            (SERVERLESS, function_peak, "function"),
            (SERVERLESS, peer_peak, "its peer"),
            ("conventional", peer_peak, "peer alone"),
        )
        for label, members in [(f"{model}, {who}", _by_batch_size(experiment, variant, model))]
        if members
    ]
    shown, rest = plots.first(curves)
    labels = ("batch size", "peak resident memory, MiB")
    svg = plots.draw("memory", "Memory by batch size", labels, plots.lines(shown, is_log=(True, False)))
    text = f"Peak memory of functions and peers by batch size.{rest}"
    return Section(anchor, title, [table, Picture("memory", text, text, svg)])


def accuracy_section(experiment: Experiment) -> Section:
    """Return accuracy over time."""
    anchor, title = "accuracy", "Accuracy over time"
    groups = [group for group in experiment.groups if group.repeats[0].curve]
    if not groups:
        return left_out(anchor, title, "no round has an accuracy.")
    rows = [
        Row(
            [
                group.variant,
                name_of(group),
                interval(group.estimate(lambda repeat: 100 * repeat.best_accuracy)),
                interval(group.estimate(lambda repeat: repeat.measured.train_seconds)),
                interval(group.estimate(lambda repeat: repeat.measured.epochs)),
            ],
            group.ids,
        )
        for group in groups
    ]
    table = Table(
        "The best accuracy of a run on samples that it was not trained with (on the round's own before the "
        "step where none were held out), and what it took.",
        ["variant", "setting", "best accuracy, %", "seconds", "epochs"],
        rows,
    )
    curves = [
        Line(
            f"{group.variant}, {name_of(group)}",
            [at for at, _ in group.repeats[0].curve],
            [100 * accuracy for _, accuracy in group.repeats[0].curve],
        )
        for group in groups
    ]
    shown, rest = plots.first(curves)
    labels = ("seconds since the first round began", "accuracy, %")
    svg = plots.draw("accuracy", title, labels, plots.lines(shown, marks=False))
    caption = f"Accuracy over time, of each setting's first repeat.{rest}"
    return Section(anchor, title, [table, Picture("accuracy", caption, caption, svg)])


def compression_section(experiment: Experiment) -> Section:
    """Return what compressing gradients between peers saves and costs."""
    anchor, title = "compression", "Compression of gradients between peers"
    groups = [group for group in experiment.groups if group.variant != DDP]
    if len(distinct(groups, "compression")) < 2:
        return left_out(anchor, title, "this experiment does not vary `compression`.")
    rows = [
        Row(
            [
                str(group.setting("compression")),
                name_of(group),
                f"{group.estimate(exchanged_mib).value:.2f}",
                f"{group.estimate(lambda repeat: repeat.measured.compression_ratio).value:.1f}",
                seconds(group.estimate(stage("send")).value + group.estimate(stage("receive")).value),
                interval(group.estimate(whole_round)),
                per_cent(group.estimate(lambda repeat: repeat.best_accuracy).value),
            ],
            group.ids,
        )
        for group in sorted(groups, key=lambda each: (*order(each), str(each.setting("compression"))))
    ]
    table = Table(
        "MiB that one peer publishes in a round, how many times fewer than without a codec, the time of the "
        "exchange (coding included), of the whole round, and the best accuracy that a run came to.",
        [
            "codec",
            "setting",
            "MiB a peer and round",
            "times fewer",
            "exchange, s",
            "round, s",
            "best accuracy",
        ],
        rows,
    )
    return Section(anchor, title, [table])


def exchanged_mib(repeat: Repeat) -> float:
    """Return the MiB that one peer publishes of its gradient in a round."""
    peers = max(1, len(repeat.measured.peers))
    return repeat.measured.exchange_bytes / peers / len(repeat.measured.rounds) / _MIB


def _by_batch_size(experiment: Experiment, variant: str, model: str) -> list[Group]:
    """Return one setting a batch size, the first of each."""
    members = [group for group in experiment.of(variant) if group.setting("model") == model]
    first = {group.batch_size: group for group in reversed(members)}
    return [first[size] for size in sorted(first)]


def _megabytes_or_none(num_bytes: float) -> str:
    return megabytes(num_bytes) if num_bytes else "–"
