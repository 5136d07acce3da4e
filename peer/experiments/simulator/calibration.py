"""Service times out of measured cells, and what the simulator is asked to predict of one.

What is computed is taken from the kernel's CPU seconds, so that waiting for a processor which others held is
not taken for work; the simulator adds that wait again where processors are scarce. Nobody counts what store,
gateway and peers do for an invocation: while processors are never idle, it is what is left of their time.
"""

import math
from dataclasses import dataclass
from statistics import fmean

from peer.experiments.records import SERVERLESS
from peer.experiments.report.groups import GRADIENT, Group, Repeat
from peer.experiments.simulator.model import Platform, Samples, Service, Work, packed

_COMPUTING = ("load_model", "preprocess", "compute")
_MOVING = ("fetch", "upload")
_COMPUTE = "compute"
_TOLERANCE = 0.1
"""How much of one replica may be idle, or a hundredth of an invocation miscounted, before it is not there."""


@dataclass(frozen=True)
class Shape:
    """How a peer's round is cut up.

    Attributes:
        batches: of a peer and round.
        invocations: of a peer and round.
        replicas: that were busy at once, over all peers.
        fullness: which part of its samples a batch has in the mean; the last of a shard may have fewer.
    """

    batches: int
    invocations: int
    replicas: int
    fullness: float = 1.0

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
    whole = max(1, math.ceil(batches - _TOLERANCE / 10))
    return Shape(whole, invocations, replicas, min(1.0, batches / whole))


def shape_of_group(group: Group) -> Shape:
    """Return how the rounds of a setting are cut up."""
    replicas = group.setting("replicas") if group.variant == SERVERLESS else None
    return shape_of(group.repeats[0], group.peers, group.batch_size, replicas and int(replicas))


def service_of(repeat: Repeat, peers: int, shape: Shape, cores: int) -> Service:
    """Return the service times that a cell shows, of whichever variant; `compute` is of a full batch.

    Args:
        repeat: the cell.
        peers: of its run.
        shape: how its rounds are cut up.
        cores: of the machine, which all shared.
    """
    inside = repeat.invocations
    is_local = repeat.cell.variant != SERVERLESS
    cpu_share = _processor_share(repeat) if is_local else _function_share(repeat)
    transfer, call = (0.0, 0.0) if is_local else _around(repeat, peers, shape, cores, cpu_share)
    batches = shape.fullness * shape.batches / shape.invocations
    others = max(1, peers - 1)
    # all peers exchange, average and update at the same time
    share = min(1.0, cores / peers)
    return Service(
        compute=Samples(tuple(seconds * cpu_share / batches for seconds in inside)),
        transfer=Samples.always(transfer),
        call=Samples.always(call),
        fold=Samples.always(share * repeat.phase("average") / shape.invocations),
        publish=Samples.always(repeat.phase("publish") + repeat.phase("evaluate")),
        send=Samples.always(share * fmean(each.send_seconds for each in repeat.rounds)),
        receive=Samples.always(share * fmean(each.receive_seconds for each in repeat.rounds) / others),
        update=Samples.always(share * repeat.phase("update")),
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


def _function_share(repeat: Repeat) -> float:
    """Return for which part of the time inside it a function computed."""
    phases = _function_phases(repeat)
    used = repeat.measured.functions.get(GRADIENT)
    if used is None:
        return sum(phases.get(name, 0.0) for name in _COMPUTING) / (sum(phases.values()) or 1.0)
    inside = sum(sum(each.invocation_seconds.get(GRADIENT, ())) for each in repeat.measured.rounds)
    return min(1.0, used.cpu_seconds / inside)


def _processor_share(repeat: Repeat) -> float:
    """Return for which part of computing peers had a processor; 1 where no CPU seconds are on record."""
    used = fmean(each.phase_cpu_seconds.get(_COMPUTE, 0.0) for each in repeat.rounds)
    seconds = repeat.phase(_COMPUTE)
    return min(1.0, used / seconds) if used and seconds else 1.0


def _around(repeat: Repeat, peers: int, shape: Shape, cores: int, cpu_share: float) -> tuple[float, float]:
    """Return what an invocation takes beside computing: transfers of the function, and outside of it.

    With as many replicas as processors these are never idle, so it is work, of the function, the store, the
    gateway and the peer. With fewer replicas it is what the replica's place takes beside computing.
    """
    mean_inside, invocations = fmean(repeat.invocations), peers * shape.invocations
    is_saturated = shape.replicas >= cores
    places = cores if is_saturated else shape.replicas
    # until the last peer is done: with few invocations the others are so much sooner
    seconds = fmean(each.slowest_seconds.get(_COMPUTE, 0.0) for each in repeat.rounds)
    around = max(0.0, places * seconds / invocations - mean_inside * cpu_share)
    phases = _function_phases(repeat)
    moving = sum(phases.get(name, 0.0) for name in _MOVING) / (sum(phases.values()) or 1.0)
    transfer = min(moving * mean_inside, around)
    return transfer, around - transfer


def _function_phases(repeat: Repeat) -> dict[str, float]:
    phases: dict[str, float] = {}
    for each in repeat.rounds:
        for name, seconds in each.function_seconds.items():
            phases[name] = phases.get(name, 0.0) + seconds
    return phases
