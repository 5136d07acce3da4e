"""The simulated plots of the section on the abstract's two figures."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from peer.experiments.prices import Published
from peer.experiments.report import plots
from peer.experiments.report.blocks import Picture
from peer.experiments.report.loads import Load
from peer.experiments.report.plots import Line
from peer.experiments.simulator.scenarios import (
    AS_PUBLISHED,
    PACKED,
    STEPS,
    TUNED,
    Cloud,
    by_memory,
    by_peers,
)

_MEMORY_MB = (512, 1024, 1769, 3008, 4400, 7076, 10240)
_PEERS = (1, 2, 4, 8, 16, 32, 64)


def pictures(loads: Sequence[Load], cloud: Cloud, paper: Published) -> Iterator[Picture]:
    """Yield improvement by batch size and by functions at once, what memory buys, and more peers."""
    yield _step_plot(loads, cloud, 100 * paper.gradient_time_improvement)
    load = max(loads, key=lambda each: each.work.batches)
    yield _slots_plot(load, cloud, 100 * paper.gradient_time_improvement)
    yield _memory_plot(load, cloud)
    yield _peers_plot(load, cloud)


def _step_plot(loads: Sequence[Load], cloud: Cloud, level: float) -> Picture:
    model = loads[0].group.setting("model")
    shown = [load for load in loads if load.group.setting("model") == model]
    curves = [
        Line(
            step.name,
            [load.work.batch_size for load in shown],
            [100 * cloud.run(load.work, step).improvement for load in shown],
            is_simulated=True,
        )
        for step in STEPS
    ]
    paint = plots.with_level(plots.lines(curves, is_log=(True, False)), level, "the paper: up to 97.34 %")
    text = (
        f"Improvement by batch size on the paper's cloud, {model}, {shown[0].group.peers} peers: simulated."
    )
    svg = plots.draw("steps", f"Less time for gradients: {model}", ("batch size", "improvement, %"), paint)
    return Picture("steps", text, text, svg, is_simulated=True)


def _slots_plot(load: Load, cloud: Cloud, level: float) -> Picture:
    counts = sorted({min(load.work.batches, 1 << power) for power in range(10)})
    curves = [
        Line(
            step.name,
            counts,
            [100 * cloud.run(load.work, replace(step, slots=count)).improvement for count in counts],
            is_simulated=True,
        )
        for step in (AS_PUBLISHED, TUNED, PACKED)
    ]
    paint = plots.with_level(plots.lines(curves, is_log=(True, False)), level, "the paper: up to 97.34 %")
    text = f"Improvement by functions at once, {load.name}: simulated."
    svg = plots.draw("slots", "More functions at once", ("functions at once", "improvement, %"), paint)
    return Picture("slots", text, text, svg, is_simulated=True)


def _memory_plot(load: Load, cloud: Cloud) -> Picture:
    found = list(by_memory(cloud, load.work, TUNED, _MEMORY_MB))
    whole = cloud.run(load.work, replace(TUNED, memory_mb=cloud.prices.function.mb_per_vcpu))
    sizes = [size for size, _ in found]
    curve = Line(
        "times the instance's cost", sizes, [each.cost_ratio for _, each in found], is_simulated=True
    )
    relative = [each.seconds / whole.seconds for _, each in found]
    time = Line("times as long as with a whole processor", sizes, relative, is_simulated=True)
    paint = plots.lines([curve, time], is_log=(True, False))
    text = (
        f"What memory buys, {load.name}: below {cloud.prices.function.mb_per_vcpu} MB a function has less "
        "than one processor, above it one thread has no use for more. Simulated; whether the memory "
        "suffices is not."
    )
    svg = plots.draw("lambda-memory", "Memory of a function", ("MB", "times"), paint)
    return Picture("lambda-memory", text, text, svg, is_simulated=True)


def _peers_plot(load: Load, cloud: Cloud) -> Picture:
    found = list(by_peers(cloud, load.work, load.epoch_samples, _PEERS))
    curves = [
        Line("by functions", [n for n, _, _ in found], [by for _, by, _ in found], is_simulated=True),
        Line("by the peers", [n for n, _, _ in found], [own for _, _, own in found], is_simulated=True),
    ]
    text = (
        f"An epoch's gradients by number of peers, {load.group.setting('model')}, batch "
        f"{load.work.batch_size}, all peers on one account of {cloud.assumed.account_concurrency} functions "
        "at once: simulated."
    )
    paint = plots.lines(curves, is_log=(True, True))
    svg = plots.draw("more-peers", "More peers than this machine has", ("peers", "seconds"), paint)
    return Picture("more-peers", text, text, svg, is_simulated=True)
