"""Service times out of measured cells, and what the simulator is asked to predict of one.

What a function computes is taken from the kernel's CPU seconds, so that waiting for a processor which others
held is not taken for work; the simulator adds that wait again where processors are scarce.
"""

import math
from dataclasses import dataclass
from statistics import fmean

from peer.experiments.records import SERVERLESS
from peer.experiments.report.groups import GRADIENT, Group, Repeat
from peer.experiments.simulator.model import Platform, Samples, Service, Work, packed

_COMPUTING = ("load_model", "preprocess", "compute")
_MOVING = ("fetch", "upload")
_BUSY = ("compute", "average", "update")
_TOLERANCE = 0.1
"""How much of one replica may be idle, or a hundredth of an invocation miscounted, before it is not there."""


@dataclass(frozen=True)
class Shape:
    """How a peer's round is cut up.

    Attributes:
        batches: of a peer and round.
        invocations: of a peer and round.
        replicas: that were busy at once, over all peers.
    """

    batches: int
    invocations: int
    replicas: int

    @property
    def packing(self) -> int:
        """Batches of an invocation."""
        return math.ceil(self.batches / self.invocations)


def shape_of(repeat: Repeat, peers: int, batch_size: int, replicas: int | None) -> Shape:
    """Return how the rounds of a cell were cut up.

    Args:
        repeat: the cell.
        peers: of its run.
        batch_size: samples of a batch.
        replicas: that the function had, None where the record does not say: then those that were busy.
    """
    rounds = repeat.rounds
    batches = fmean(each.samples for each in rounds) / peers / batch_size
    invocations = max(1, round(len(repeat.invocations) / len(rounds) / peers))
    if replicas is None:
        inside = sum(repeat.invocations) / len(rounds)
        replicas = max(1, math.ceil(inside / max(repeat.phase("compute"), 1e-9) - _TOLERANCE))
    return Shape(max(1, math.ceil(batches - _TOLERANCE / 10)), invocations, replicas)


def shape_of_group(group: Group) -> Shape:
    """Return how the rounds of a setting are cut up."""
    replicas = group.setting("replicas") if group.variant == SERVERLESS else None
    return shape_of(group.repeats[0], group.peers, group.batch_size, replicas and int(replicas))


def service_of(repeat: Repeat, peers: int, shape: Shape) -> Service:
    """Return the service times that a cell shows, of whichever variant.

    Args:
        repeat: the cell.
        peers: of its run.
        shape: how its rounds are cut up.
    """
    inside = repeat.invocations
    mean_inside = fmean(inside)
    cpu_share, transfer = _inside(repeat, mean_inside)
    batches = shape.batches / shape.invocations
    others = max(1, peers - 1)
    is_local = repeat.cell.variant != SERVERLESS
    return Service(
        compute=Samples(tuple(seconds * cpu_share / batches for seconds in inside)),
        transfer=Samples.always(0.0 if is_local else transfer),
        call=Samples.always(0.0 if is_local else _call_seconds(repeat, peers, shape, mean_inside)),
        fold=Samples.always(repeat.phase("average") / shape.invocations),
        publish=Samples.always(repeat.phase("publish") + repeat.phase("evaluate")),
        send=Samples.always(fmean(each.send_seconds for each in repeat.rounds)),
        receive=Samples.always(fmean(each.receive_seconds for each in repeat.rounds) / others),
        update=Samples.always(repeat.phase("update")),
    )


def work_of(group: Group, shape: Shape, rounds: int) -> Work:
    """Return what a setting has to do."""
    is_local = group.variant != SERVERLESS
    return Work(
        peers=group.peers,
        rounds=rounds,
        invocations=packed(shape.batches, shape.packing),
        in_flight=None if is_local else max(1, shape.replicas // group.peers),
        is_local=is_local,
    )


def platform_of(group: Group, shape: Shape, cores: int) -> Platform:
    """Return where a setting ran: one machine, whose processors peers and functions share."""
    return Platform(slots=shape.replicas if group.variant == SERVERLESS else None, cores=cores)


def _inside(repeat: Repeat, mean_inside: float) -> tuple[float, float]:
    """Return which share of its time an invocation computes, and the seconds in which it transfers.

    Of peers that compute themselves, it is the part of their computing for which they had a processor.
    """
    phases: dict[str, float] = {}
    for each in repeat.rounds:
        for name, seconds in each.function_seconds.items():
            phases[name] = phases.get(name, 0.0) + seconds
    total = sum(phases.values()) or 1.0
    moving = sum(phases.get(name, 0.0) for name in _MOVING) / total
    used = repeat.measured.functions.get(GRADIENT)
    if used is None:
        computing = sum(phases.get(name, 0.0) for name in _COMPUTING) / total
        return computing * _processor_share(repeat), moving * mean_inside
    all_inside = sum(sum(each.invocation_seconds.get(GRADIENT, ())) for each in repeat.measured.rounds)
    cpu_share = min(1.0, used.cpu_seconds / all_inside)
    return cpu_share, min(moving, 1.0 - cpu_share) * mean_inside


def _processor_share(repeat: Repeat) -> float:
    """Return for which part of computing, averaging and updating peers had a processor.

    All CPU seconds count to these, also the few that the exchange takes; 1 where there are none on record.
    """
    peers = repeat.measured.peers
    busy = sum(each.phase_seconds.get(name, 0.0) for each in repeat.measured.rounds for name in _BUSY)
    used = sum(peer.cpu_seconds for peer in peers)
    return min(1.0, used / (busy * len(peers))) if used and busy else 1.0


def _call_seconds(repeat: Repeat, peers: int, shape: Shape, mean_inside: float) -> float:
    """Return what an invocation takes outside the function: the time of its place less the time inside."""
    at_once = min(shape.replicas, peers * max(1, shape.replicas // peers)) / peers
    turns = math.ceil(shape.invocations / at_once) if at_once >= 1 else shape.invocations / at_once
    return max(0.0, repeat.phase("compute") / turns - mean_inside)
