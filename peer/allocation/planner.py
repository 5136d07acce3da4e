"""Batches an invocation, replicas, micro-batch and memory limit for a target: a pure function of a profile.

What is measured, the formulas, and what they leave out: docs/planner.md.
"""

import math
from collections.abc import Iterator, Sequence
from heapq import heapreplace
from itertools import product

from msgspec.structs import replace

from peer.allocation.plans import Caps, Measured, Passes, Plan, Shape
from peer.allocation.reasons import reasons
from peer.sizes import MIB

CLOSE_RATIO = 1.01
"""Predictions that differ by less count as equal: what was measured is not better than that."""

SLOWEST_RATIO = 2.0
"""How many times as long as the shortest a round may take with `memory`."""

HEADROOM_RATIO = 1.25
"""A limit to the working set: a worn heap needs room, too."""

_GIB = 1 << 30


def plan(target: str, measured: Measured, shape: Shape, caps: Caps) -> Plan:
    """Return the best plan for a target, with its reasons. Equal arguments give an equal plan.

    Args:
        target: one of `peer.allocation.plans.TARGETS`.
        measured: of this model and batch size.
        shape: the run's.
        caps: the gateway's, and what the user allows.
    """
    found = list(ways(measured, shape, caps))
    best = choose(target, found, caps)
    return replace(best, target=target, reasons=reasons(best, found, shape, caps))


def ways(measured: Measured, shape: Shape, caps: Caps) -> Iterator[Plan]:
    """Yield every plan that the caps and the user's own options allow, at least one, without a target."""
    sizes, packings = _pass_sizes(measured, shape), _packings(shape)
    for size, packing in product(sizes, packings):
        peak_bytes = working_set_bytes(measured, shape, size, packing)
        is_tried = (size, packing) == (sizes[0], packings[-1])
        needed_bytes = peak_bytes and HEADROOM_RATIO * peak_bytes + _kept_bytes(measured, shape, packing)
        for limit_bytes in _limits(needed_bytes, caps, is_tried=is_tried):
            for replicas in _replicas(shape, limit_bytes, caps):
                found = predicted(packing, replicas, size, limit_bytes, measured, shape, caps.cores)
                if _is_short(found, packing, measured, shape, caps):
                    yield found


def choose(target: str, found: Sequence[Plan], caps: Caps) -> Plan:
    """Return the plan that is best for the target; between equals the one that changes least."""
    fastest = min(each.round_seconds for each in found)
    if target == "time":
        near = [each for each in found if each.round_seconds <= CLOSE_RATIO * fastest]
        return min(near, key=lambda each: (each.replicas, *_changed(each, caps), each.round_seconds))
    if target == "memory":
        allowed = [each for each in found if each.round_seconds <= SLOWEST_RATIO * fastest]
        return min(
            allowed, key=lambda each: (each.limit_bytes, each.peak_bytes, each.replicas, each.round_seconds)
        )
    cheapest = min(each.gb_seconds for each in found)
    near = [each for each in found if each.gb_seconds <= CLOSE_RATIO * cheapest]
    return min(near, key=lambda each: (each.round_seconds, each.replicas, *_changed(each, caps)))


def predicted(
    packing: int,
    replicas: int,
    size: int,
    limit_bytes: int,
    measured: Measured,
    shape: Shape,
    cores: int,
) -> Plan:
    """Return what is to be expected of one way, as a plan without a target.

    Args:
        packing: batches of an invocation.
        replicas: of the function.
        size: samples of a pass.
        limit_bytes: of the function, 0 for none.
        measured: of this model and batch size.
        shape: the run's.
        cores: that replicas share, 0 if it is not known.
    """
    peers, width = shape.num_peers, max(1, replicas // shape.num_peers)
    per_peer = -(-shape.num_batches // packing)
    busy = min(replicas, peers * min(width, per_peer))
    shared = max(1.0, busy / cores) if cores else 1.0
    one_batch = shared * batch_seconds(measured.passes, size, shape.batch_size)
    # a replica serves the next request while the result of the last one is on its way
    way = measured.request_seconds
    full = measured.upload_seconds + packing * one_batch
    last = measured.upload_seconds + (shape.num_batches - (per_peer - 1) * packing) * one_batch
    computed = max(
        makespan(width, per_peer - 1, full + way, 1, last + way),
        makespan(replicas, peers * (per_peer - 1), full, peers, last) + way,
    )
    # weights put; then in the exchange one gradient put and the others' read
    exchanged = (1 + peers) * measured.upload_seconds
    own = peers * (per_peer * measured.upload_seconds + shape.num_batches * one_batch)
    function_seconds = own + busy * measured.fetch_seconds
    peak_bytes = working_set_bytes(measured, shape, size, packing)
    return Plan(
        target="",
        batches_per_invocation=packing,
        replicas=replicas,
        micro_batch=0 if size >= shape.batch_size else size,
        limit_bytes=limit_bytes,
        invocation_seconds=way + (full if per_peer > 1 else last),
        round_seconds=measured.fetch_seconds + computed + exchanged,
        function_seconds=function_seconds,
        gb_seconds=function_seconds * (limit_bytes or peak_bytes or _GIB) / _GIB,
        peak_bytes=peak_bytes,
    )


def makespan(lanes: int, num_full: int, full_seconds: float, num_last: int, last_seconds: float) -> float:
    """Return when the last invocation ends: full ones, then shorter ones, each on the first free lane."""
    each, num_busier = divmod(num_full, lanes)
    ends = [each * full_seconds] * (lanes - num_busier) + [(each + 1) * full_seconds] * num_busier
    for _ in range(num_last):
        heapreplace(ends, ends[0] + last_seconds)
    return max(ends)


def batch_seconds(passes: Sequence[Passes], size: int, batch_size: int) -> float:
    """Return the seconds of a batch in passes of `size` samples: linear in the number of passes."""
    few, many = passes[-1], passes[0]
    most, least = (-(-batch_size // each.samples) for each in (many, few))
    slope = max(0.0, many.batch_seconds - few.batch_seconds) / (most - least) if most > least else 0.0
    return max(0.0, few.batch_seconds + slope * (-(-batch_size // size) - least))


def working_set_bytes(measured: Measured, shape: Shape, size: int, packing: int) -> int:
    """Return a replica's working set, 0 if none was measured: linear in the samples of a pass.

    An invocation of several batches holds the stored parts of all of them at once. Passes that are smaller
    than those that were measured are taken to need as much.
    """
    small, large = measured.passes[0], measured.passes[-1]
    if not (small.working_set_bytes and large.working_set_bytes):
        return large.working_set_bytes
    grown = max(0, large.working_set_bytes - small.working_set_bytes)
    slope = grown / (large.samples - small.samples) if grown else 0.0
    of_passes = large.working_set_bytes - slope * (large.samples - max(size, small.samples))
    return math.ceil(of_passes) + _data_bytes(measured, shape, packing) - measured.data_bytes


def _data_bytes(measured: Measured, shape: Shape, packing: int) -> int:
    """Return the bytes of the stored parts that an invocation holds: each batch's, at most the shard's."""
    return min(packing * measured.data_bytes, max(shape.shard_bytes, measured.data_bytes))


def _kept_bytes(measured: Measured, shape: Shape, packing: int) -> int:
    """Return what a replica may hold of the request before: weights as large as a gradient, and parts."""
    return shape.gradient_bytes + _data_bytes(measured, shape, packing)


def _pass_sizes(measured: Measured, shape: Shape) -> list[int]:
    """Return the samples of a pass that may be chosen, most first: halves, none below what was measured."""
    if shape.micro_batch:
        return [min(shape.micro_batch, shape.batch_size)]
    sizes = [shape.largest_pass]
    while sizes[-1] // 2 >= measured.passes[0].samples and not shape.indivisible_layer:
        sizes.append(sizes[-1] // 2)
    return sizes


def _limits(needed_bytes: float, caps: Caps, *, is_tried: bool) -> Iterator[int]:
    """Yield the limits under which so much fits: the present one, also if that was tried, and the least."""
    least = math.ceil(needed_bytes / MIB) * MIB
    if is_tried or not caps.limit_bytes or least <= caps.limit_bytes:
        yield caps.limit_bytes
    if least and caps.limit_bytes and caps.limit_bytes != least <= caps.largest_limit_bytes:
        yield least


def _replicas(shape: Shape, limit_bytes: int, caps: Caps) -> Iterator[int]:
    """Yield the numbers of replicas; above P, only multiples of it let every peer do more at once."""
    if not caps.most_replicas:
        yield caps.replicas
        return
    most = min(caps.most_replicas, shape.num_peers * shape.num_batches)
    for replicas in range(1, most + 1):
        is_useful = replicas <= shape.num_peers or replicas % shape.num_peers == 0
        more_bytes = (replicas - caps.replicas) * limit_bytes
        if is_useful and (more_bytes <= 0 or not caps.available_bytes or more_bytes <= caps.available_bytes):
            yield replicas


def _packings(shape: Shape) -> list[int]:
    """Return the batches of an invocation, each the fewest for its number of invocations, most first."""
    if shape.batches_per_invocation:
        return [shape.batches_per_invocation]
    most = shape.num_batches
    return sorted({-(-most // number) for number in range(1, most + 1)}, reverse=True)


def _is_short(found: Plan, packing: int, measured: Measured, shape: Shape, caps: Caps) -> bool:
    """Return whether an invocation takes at most half of the timeout, also cold, or cannot be shorter."""
    if packing == 1 or shape.batches_per_invocation:
        return True
    cold = measured.cold_seconds + measured.fetch_seconds
    return cold + found.invocation_seconds <= caps.timeout_seconds / 2


def _changed(found: Plan, caps: Caps) -> tuple[bool, float]:
    """Return a key that is least where the limit stays and passes are large."""
    return found.limit_bytes != caps.limit_bytes, -(found.micro_batch or math.inf)
