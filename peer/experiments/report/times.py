"""Sections on time: gradients by functions against the baseline, speed-ups, and where a round's time goes."""

from collections.abc import Iterator, Sequence

from peer.experiments.prices import published
from peer.experiments.records import DDP, SERVERLESS
from peer.experiments.report import plots
from peer.experiments.report.blocks import (
    Picture,
    Row,
    Section,
    Table,
    Text,
    improvement,
    interval,
    left_out,
    seconds,
)
from peer.experiments.report.groups import Experiment, Group, Metric, Pair, Repeat, order
from peer.experiments.report.plots import Line
from peer.experiments.simulator.calibration import shape_of_group

STAGES = ("compute", "average", "send", "receive", "wait", "publish", "evaluate", "update")


def gradient(repeat: Repeat) -> float:
    """Return the seconds of a peer's gradient in a round."""
    return repeat.gradient_seconds


def whole_round(repeat: Repeat) -> float:
    """Return the seconds of a round."""
    return repeat.round_seconds


def improvement_section(experiment: Experiment) -> Section:
    """Return by how much gradients take less time than the peers' own."""
    anchor, title = "improvement", "Gradient-computation time against the baseline"
    pairs = experiment.pairs
    if not pairs:
        return left_out(
            anchor, title, "no setting was measured both by functions and by the peers themselves."
        )
    paper = published().gradient_time_improvement
    best = max(pairs, key=lambda pair: 1 - pair.ratio(gradient).value)
    cores = experiment.machine.cores
    return Section(
        anchor,
        title,
        [
            Text(
                f"{_found(best)} ({name_of(best.serverless)}); the paper "
                f"says up to {paper:.2%}, with as many functions at once as there are batches. What can be "
                "gained is bounded: n replicas that compute at once save no more than 1 − 1/n, and this "
                f"machine has {cores} cores for peers and functions together. What more of them would give "
                "is simulated below.",
                best.ids,
            ),
            _improvement_table(pairs),
            _improvement_plot(pairs, paper),
        ],
    )


def _found(best: Pair) -> str:
    """Return the largest improvement in words."""
    ratio = best.ratio(gradient)
    if ratio.value < 1:
        return f"Here at most {improvement(ratio)} less time"
    return f"Here functions took longer in every setting, at best {interval(ratio)} times as long"


def _improvement_table(pairs: Sequence[Pair]) -> Table:
    rows = []
    for pair in pairs:
        shape = shape_of_group(pair.serverless)
        rows.append(
            Row(
                [
                    name_of(pair.serverless),
                    baseline_of(pair),
                    str(shape.batches),
                    f"{shape.invocations} on {shape.replicas}",
                    interval(pair.conventional.estimate(gradient)),
                    interval(pair.serverless.estimate(gradient)),
                    improvement(pair.ratio(gradient)),
                ],
                pair.ids,
            )
        )
    return Table(
        "Seconds until a peer has its gradient of a round: means over peers and rounds, geometric means "
        "over the repeats, with 95 % intervals (Student's t on logarithms; of the improvement Welch's).",
        [
            "setting",
            "baseline",
            "batches a peer",
            "invocations on replicas",
            "by the peer, s",
            "by functions, s",
            "improvement",
        ],
        rows,
    )


def _improvement_plot(pairs: Sequence[Pair], paper: float) -> Picture:
    curves = []
    for label, members in families(pairs):
        ratios = [pair.ratio(gradient) for pair in members]
        curves.append(
            Line(
                label,
                [pair.serverless.batch_size for pair in members],
                [100 * (1 - ratio.value) for ratio in ratios],
                [100 * (1 - (ratio.high or ratio.value)) for ratio in ratios],
                [100 * (1 - (ratio.low or ratio.value)) for ratio in ratios],
            )
        )
    shown, rest = plots.first(curves)
    paint = plots.with_level(
        plots.lines(shown, is_log=(True, False)), 100 * paper, "the paper: up to 97.34 %"
    )
    svg = plots.draw("improvement", "Less time for gradients", ("batch size", "improvement, %"), paint)
    text = "Improvement of gradient-computation time by batch size, one line a model and number of peers."
    return Picture("improvement", f"{text} Whiskers: 95 % intervals.{rest}", text, svg)


def families(pairs: Sequence[Pair]) -> Iterator[tuple[str, list[Pair]]]:
    """Yield what makes one line of a plot by batch size, with its name."""
    found: dict[str, list[Pair]] = {}
    for pair in pairs:
        group = pair.serverless
        rest = ", ".join(part for part in (replicas_of(group), baseline_of(pair)) if part not in ("", "–"))
        label = f"{group.setting('model')}, {group.peers} peers" + (f", {rest}" if rest else "")
        found.setdefault(label, []).append(pair)
    yield from found.items()


def speed_up_sections(experiment: Experiment) -> Iterator[Section]:
    """Yield what more peers, and more replicas, make of the time."""
    yield _speed_up(
        experiment,
        "peers",
        "Speed-up by peers",
        "Seconds for all samples once (rounds and exchange included), and how many times as fast as with the "
        "fewest peers. All peers share this machine's cores, so more of them add work for the store, but no "
        "processor.",
    )
    yield _speed_up(
        experiment,
        "replicas",
        "Speed-up by replicas",
        "The same by replicas of the gradient function, of which no more than the machine has cores "
        "compute at once.",
    )


def _speed_up(experiment: Experiment, setting: str, title: str, caption: str) -> Section:
    alike: dict[str, list[Group]] = {}
    for group in experiment.groups:
        if group.setting(setting) is not None:
            others = {name: value for name, value in group.first.settings.items() if name != setting}
            alike.setdefault(f"{group.variant} {sorted(others.items(), key=str)}", []).append(group)
    found = [
        sorted(members, key=lambda group: int(group.setting(setting)))
        for members in alike.values()
        if len({group.setting(setting) for group in members}) > 1
    ]
    if not found:
        return left_out(f"by-{setting}", title, f"this experiment does not vary `{setting}`.")
    rows, curves = [], []
    for members in found:
        base = members[0].estimate(lambda repeat: repeat.epoch_seconds).value
        for group in members:
            epoch = group.estimate(lambda repeat: repeat.epoch_seconds)
            cells = [group.variant, name_of(group), interval(epoch), f"{base / epoch.value:.2f}"]
            rows.append(Row(cells, [*members[0].ids, *group.ids] if group is not members[0] else group.ids))
        curves.append(
            Line(
                f"{members[0].variant}, batch {members[0].batch_size}, {members[0].setting('model')}",
                [int(group.setting(setting)) for group in members],
                [base / group.estimate(lambda repeat: repeat.epoch_seconds).value for group in members],
            )
        )
    shown, rest = plots.first(curves)
    svg = plots.draw(f"by-{setting}", title, (setting, "times as fast"), plots.lines(shown))
    table = Table(caption, ["variant", "setting", "epoch, s", "speed-up"], rows)
    return Section(
        f"by-{setting}", title, [table, Picture(f"by-{setting}", f"{title}.{rest}", f"{title}.", svg)]
    )


def stages_section(experiment: Experiment) -> Section:
    """Return where the time of a round goes."""
    anchor, title = "stages", "Where a round's time goes"
    groups = sorted((group for group in experiment.groups if group.variant != DDP), key=order)
    if not groups:
        return left_out(anchor, title, "no round was measured.")
    parts = {name: [group.estimate(stage(name)).value for group in groups] for name in STAGES}
    rows = [
        Row(
            [
                group.variant,
                name_of(group),
                *(seconds(parts[name][number]) for name in STAGES),
                interval(group.estimate(whole_round)),
            ],
            group.ids,
        )
        for number, group in enumerate(groups)
    ]
    table = Table(
        "Seconds of a round by stage, means over peers and rounds, geometric means over the repeats. "
        "`compute` is until the gradients of all batches are there, `send` until a peer's own gradient is "
        "stored, `receive` getting and folding the others', `wait` what a peer waits for others.",
        ["variant", "setting", *STAGES, "round, s"],
        rows,
    )
    labels = [f"{group.variant}\n{name_of(group)}" for group in groups]
    height = 1.0 + 0.45 * len(labels)
    svg = plots.draw("stages", "A round by stage", ("seconds", ""), plots.stacks(labels, parts), height)
    return Section(
        anchor, title, [table, Picture("stages", "A round by stage.", "Stacked bars of stages.", svg)]
    )


def stage(name: str) -> Metric:
    """Return what gives a stage's seconds of a cell."""
    return lambda repeat: repeat.stage(name)


def reference_section(experiment: Experiment) -> Section:
    """Return what plain PyTorch takes on the same machine."""
    anchor, title = "reference", "The outside reference: PyTorch DDP"
    references = experiment.of(DDP)
    if not references:
        return left_out(anchor, title, "no cell of the variant `ddp` was measured.")
    rows = []
    for group in sorted(experiment.groups, key=lambda each: (*order(each), each.variant)):
        epoch = group.estimate(lambda repeat: repeat.epoch_seconds)
        rows.append(Row([name_of(group), group.variant, interval(epoch)], group.ids))
    return Section(
        anchor,
        title,
        [Table("Seconds for all samples once, by who computes.", ["setting", "variant", "epoch, s"], rows)],
    )


def name_of(group: Group) -> str:
    """Return a setting in a few words, the same in all tables."""
    parts = [
        str(group.setting("model")),
        f"{group.peers} peer{'s' if group.peers > 1 else ''}",
        f"batch {group.batch_size}",
        replicas_of(group),
    ]
    known = ("model", "peers", "batch-size", "replicas", "variant", "dataset", "learning-rate", "optimizer")
    parts += [f"{name} {value}" for name, value in group.first.axes.items() if name not in known]
    return ", ".join(part for part in parts if part)


def replicas_of(group: Group) -> str:
    """Return the replicas of a setting in words, nothing where they are not of it."""
    replicas = group.setting("replicas") if group.variant == SERVERLESS else None
    return f"{replicas} replicas" if replicas else ""


def baseline_of(pair: Pair) -> str:
    """Return what sets a pair's baseline apart: the instance that it was confined to, its allocator."""
    cell = pair.conventional.first
    box = cell.box.instance_type if cell.box else ""
    allocator = cell.settings.get("allocator")
    return ", ".join(part for part in (box, f"allocator {allocator}" if allocator else "") if part) or "–"
