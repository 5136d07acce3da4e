"""The section on the abstract's two figures: our service times on the paper's cloud, all of it simulated."""

from collections.abc import Iterator, Sequence

from peer.experiments.prices import Assumptions, Published, published
from peer.experiments.report.blocks import Block, Row, Section, Table, Text, left_out, per_cent, seconds
from peer.experiments.report.groups import Experiment
from peer.experiments.report.headline_plots import pictures
from peer.experiments.report.loads import Load, allocator_slowdown, loads_of
from peer.experiments.report.money import Pricing
from peer.experiments.simulator.scenarios import AS_PUBLISHED, PACKED, STEPS, TUNED, WARM, Cloud, Scenario


def headline_section(experiment: Experiment, pricing: Pricing, assumed: Assumptions) -> Section:
    """Return which assumptions give the published figures with our service times, and where functions pay."""
    anchor, title = "headline", "The abstract's two figures, with our service times"
    loads = list(loads_of(experiment, pricing))
    if not loads:
        return left_out(anchor, title, "no cell has service times of gradients.")
    slowdown, slowdown_ids = allocator_slowdown(experiment, assumed)
    cloud = Cloud(pricing.cloud, assumed, slowdown)
    paper = published()
    said = Text(_assumptions(cloud, measured=bool(slowdown_ids)), slowdown_ids, is_simulated=True)
    blocks: list[Block] = [
        _answer(loads, cloud, paper),
        said,
        *_step_tables(loads, cloud),
        _assumption_table(loads, cloud, paper),
        _crossover_table(loads, cloud),
        *pictures(loads, cloud, paper),
    ]
    return Section(anchor, title, blocks)


def _assumptions(cloud: Cloud, *, measured: bool) -> str:
    assumed = cloud.assumed
    return (
        "Measured are the seconds that a batch takes on one of this machine's processors, and the size of a "
        f"gradient. Assumed ({assumed.date}): a processor of the cloud is as fast as ours; a cold start "
        f"takes {assumed.cold_start_seconds:g} s; the store answers in "
        f"{1000 * assumed.store_latency_seconds:g} ms and moves {assumed.store_bytes_per_second / 1e6:g} "
        f"MB/s a connection; a call takes {1000 * assumed.call_seconds:g} ms; with the allocator as it is, "
        f"computing takes {cloud.allocator_slowdown:.2g} times as long "
        f"({'measured here' if measured else 'assumed'}); an account has {assumed.account_concurrency} "
        "functions at once; peers and functions compute with one thread; prices of table "
        f"`{cloud.prices.name}`, {cloud.prices.date}. One peer's epoch, one step, is simulated: its "
        "gradients by functions against its own, on the same instance."
    )


def _answer(loads: Sequence[Load], cloud: Cloud, paper: Published) -> Text:
    """Return the two figures in words."""
    published_way = [(load, cloud.run(load.work, AS_PUBLISHED)) for load in loads]
    tuned = [(load, cloud.run(load.work, TUNED)) for load in loads]
    best_load, best = max(published_way, key=lambda found: found[1].improvement)
    best_tuned_load, best_tuned = max(tuned, key=lambda found: found[1].improvement)
    dear_load, dear = max(published_way, key=lambda found: found[1].cost_ratio)
    dear_tuned_load, dear_tuned = max(tuned, key=lambda found: found[1].cost_ratio)
    cheap = min((cloud.run(load.work, PACKED) for load in loads), key=lambda found: found.cost_ratio)
    return Text(
        f"{paper.gradient_time_improvement:.2%} less time is what as many functions as batches give where "
        f"there are enough batches: run as published, our service times give up to {best.improvement:.2%} "
        f"({best_load.name}), warm and tuned up to {best_tuned.improvement:.2%} ({best_tuned_load.name}). "
        f"By the second, a function of {cloud.memory_mb(best_load.work)} MB costs "
        f"{_second(best_load, cloud):.2f} times an instance; {paper.cost_ratio} times the cost needs more "
        "memory than that, or time in which functions start and transfer instead of computing: ours cost "
        f"up to {dear.cost_ratio:.2g} times as published ({dear_load.name}), {dear_tuned.cost_ratio:.2g} "
        f"times warm and tuned ({dear_tuned_load.name}), and at best {cheap.cost_ratio:.2g} times packed. "
        "The tables below have the assumptions that give the published figures, and where functions stop "
        "paying.",
        [
            cell_id
            for load in (best_load, best_tuned_load, dear_load, dear_tuned_load)
            for cell_id in load.group.ids
        ],
        is_simulated=True,
    )


def _second(load: Load, cloud: Cloud) -> float:
    """Return what a second of a function costs, in seconds of the instance."""
    gigabytes = cloud.memory_mb(load.work) / 1024
    hourly = cloud.prices.instance(load.work.instance).usd_per_hour
    return gigabytes * cloud.prices.function.usd_per_gb_second / (hourly / 3600)


def _step_tables(loads: Sequence[Load], cloud: Cloud) -> Iterator[Table]:
    outcomes = [[cloud.run(load.work, step) for step in STEPS] for load in loads]
    start = ["setting", "batches a peer", "s a batch (measured)"]
    header = [*start, "1 − 1/n", *(step.name for step in STEPS)]
    yield Table(
        "Improvement of gradient-computation time, from the published design to ours, one change at a time.",
        header,
        [
            Row(
                [
                    *_start(load),
                    f"{1 - 1 / load.work.batches:.1%}",
                    *(per_cent(each.improvement) for each in found),
                ],
                load.group.ids,
                is_simulated=True,
            )
            for load, found in zip(loads, outcomes, strict=True)
        ],
    )
    yield Table(
        "Cost of the same epoch, in times of the instance's. Packed invocations have so many batches that "
        f"what surrounds the computing is at most {cloud.assumed.packing_overhead:.0%}.",
        [*start, "function", *(step.name for step in STEPS), "batches packed"],
        [
            Row(
                [
                    *_start(load),
                    f"{found[0].memory_mb} MB",
                    *(f"{each.cost_ratio:.2f}" for each in found),
                    str(found[-1].packing),
                ],
                load.group.ids,
                is_simulated=True,
            )
            for load, found in zip(loads, outcomes, strict=True)
        ],
    )


def _start(load: Load) -> list[str]:
    return [load.name, str(load.work.batches), seconds(load.work.compute.mean)]


def _assumption_table(loads: Sequence[Load], cloud: Cloud, paper: Published) -> Table:
    """Return what has to be assumed for the published figures to come out."""
    target, ratio = paper.gradient_time_improvement, paper.cost_ratio
    rows = []
    for load in loads:
        slots = cloud.slots_for(load.work, TUNED, target)
        rows.append(
            Row(
                [
                    load.name,
                    str(load.work.batches),
                    *(
                        str(cloud.batches_for(load.work, step, target))
                        for step in (AS_PUBLISHED, WARM, TUNED)
                    ),
                    str(slots) if slots else "none",
                    *(_memory(load, cloud, step, ratio) for step in (AS_PUBLISHED, WARM, TUNED)),
                ],
                load.group.ids,
                is_simulated=True,
            )
        )
    return Table(
        f"What gives the published figures with our service times. For {target:.2%}: the batches that a "
        "peer needs, all computed at once, and, with those that it has, the warm functions at once that "
        f"suffice. For {ratio} times the cost: the memory of a function, of which more than a processor's "
        "share buys a single thread nothing.",
        [
            "setting",
            "batches a peer",
            f"batches for {target:.2%}, as published",
            "warm",
            "warm and tuned",
            f"functions for {target:.2%}, warm and tuned",
            f"memory for {ratio}×, as published",
            "warm",
            "warm and tuned",
        ],
        rows,
    )


def _memory(load: Load, cloud: Cloud, scenario: Scenario, ratio: float) -> str:
    """Return the memory with which functions cost so many times as much, or why there is none."""
    found = cloud.memory_for_ratio(load.work, scenario, ratio)
    if found is not None:
        return f"{found} MB"
    at_least = cloud.run(load.work, scenario).cost_ratio
    return f"any: {at_least:.2g}× at least" if at_least > ratio else f"none: {at_least:.2g}× at least"


def _crossover_table(loads: Sequence[Load], cloud: Cloud) -> Table:
    rows = []
    for load in loads:
        rows.append(
            Row(
                [
                    load.name,
                    *(_count(cloud.fewest_batches(load.work, step)) for step in (AS_PUBLISHED, WARM, TUNED)),
                    *(_busy(cloud.run(load.work, step).cost_ratio) for step in (AS_PUBLISHED, TUNED, PACKED)),
                ],
                load.group.ids,
                is_simulated=True,
            )
        )
    return Table(
        "Where functions stop paying. In time: with fewer batches a peer than these, it is faster to "
        "compute them oneself. In money: an instance that is busy with such epochs for more than this part "
        "of the time for which it is rented is cheaper than functions, which cost nothing while idle.",
        [
            "setting",
            "batches, as published",
            "batches, warm",
            "batches, warm and tuned",
            "busy, as published",
            "busy, warm and tuned",
            "busy, packed",
        ],
        rows,
    )


def _count(batches: int | None) -> str:
    return str(batches) if batches else "never faster"


def _busy(ratio: float) -> str:
    return f"{1 / ratio:.0%}" if ratio > 1 else "never"
