"""The section that says how far the simulator can be trusted: predicted against measured."""

from collections.abc import Sequence

from peer.experiments.report import plots
from peer.experiments.report.blocks import Picture, Row, Section, Table, Text, left_out, seconds
from peer.experiments.report.groups import Experiment
from peer.experiments.report.plots import Line
from peer.experiments.report.times import name_of
from peer.experiments.simulator.validation import (
    GOAL,
    ITSELF,
    OTHER_REPEATS,
    OTHER_SETTINGS,
    Prediction,
    predictions,
)


def validity_section(experiment: Experiment) -> Section:
    """Return what the simulator says of all that was measured here."""
    anchor, title = "validity", "How far the simulator can be trusted"
    found = list(predictions(experiment.groups, experiment.machine.cores))
    if not found:
        return left_out(anchor, title, "no cell has the durations of its invocations.")
    return Section(anchor, title, [Text(_what_it_is()), *_verdicts(found), _table(found), _plot(found)])


def _what_it_is() -> str:
    return (
        "The simulator has peers, replicas and the store as first-come-first-served queues and processors in "
        "slices of time, and draws service times from measured ones. It knows no caches and no other load of "
        "the machine; what store, gateway and peers do for an invocation is what functions leave of the "
        "processors' time, while these are never idle. Below, each setting that was measured is "
        f"predicted with service times of {OTHER_SETTINGS} of the same variant, model and batch size (other "
        f"peers, replicas or packing); where there are none, of the {OTHER_REPEATS} of the setting; and with "
        f"a single repeat by {ITSELF}, which proves little."
    )


def _verdicts(found: Sequence[Prediction]) -> list[Text]:
    return [
        Text(_verdict(members, source), is_simulated=True)
        for source in (OTHER_SETTINGS, OTHER_REPEATS, ITSELF)
        if (members := [each for each in found if each.source == source])
    ]


def _verdict(members: Sequence[Prediction], source: str) -> str:
    rounds = sum(abs(each.round_error) <= GOAL for each in members)
    gradients = sum(abs(each.gradient_error) <= GOAL for each in members)
    return (
        f"From {source}: of {len(members)} settings, the time of the "
        f"gradient is within {GOAL:.0%} of the measurement in {gradients}, that of the round in {rounds}; "
        f"the largest errors are {max((each.gradient_error for each in members), key=abs):+.0%} and "
        f"{max((each.round_error for each in members), key=abs):+.0%}."
    )


def _table(found: Sequence[Prediction]) -> Table:
    rows = [
        Row(
            [
                each.group.variant,
                name_of(each.group),
                each.source,
                seconds(each.measured_gradient),
                seconds(each.simulated_gradient),
                f"{each.gradient_error:+.1%}",
                seconds(each.measured_round),
                seconds(each.simulated_round),
                f"{each.round_error:+.1%}",
            ],
            [*each.group.ids, *each.source_ids],
            is_simulated=True,
        )
        for each in found
    ]
    return Table(
        "Seconds of a peer's gradient and of a round: measured, simulated, and by how much the simulation "
        "is off.",
        [
            "variant",
            "setting",
            "service times from",
            "gradient, measured",
            "simulated",
            "off by",
            "round, measured",
            "simulated",
            "off by",
        ],
        rows,
    )


def _plot(found: Sequence[Prediction]) -> Picture:
    ordered = sorted(found, key=lambda each: each.measured_round)
    measured = [each.measured_round for each in ordered]
    ideal = Line("measured = simulated", measured, measured)
    simulated = Line("a setting", measured, [each.simulated_round for each in ordered], is_simulated=True)
    paint = plots.lines([ideal, simulated], is_log=(True, True))
    text = "Seconds of a round: simulated against measured, on logarithmic axes."
    svg = plots.draw("validity", "Simulated against measured", ("measured, s", "simulated, s"), paint)
    return Picture("validity", text, text, svg, is_simulated=True)
