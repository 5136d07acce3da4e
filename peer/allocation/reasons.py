"""Why a plan is as it is, in one line a choice, and what is to be expected of it."""

from collections.abc import Sequence

from peer.allocation.plans import Caps, Plan, Shape
from peer.sizes import mib


def reasons(best: Plan, found: Sequence[Plan], shape: Shape, caps: Caps) -> list[str]:
    """Return a line for each choice of a plan, and one for what it predicts.

    Args:
        best: what was chosen.
        found: all plans that it was chosen from.
        shape: the run's.
        caps: the gateway's, and what the user allows.
    """
    return [
        _of_packing(best, found, shape, caps),
        _of_replicas(best, found, caps),
        _of_passes(best, found, shape),
        _of_limit(best, caps),
        expected(best),
    ]


def expected(plan: Plan) -> str:
    """Return what a plan predicts for a round, in a line."""
    peak = f", {mib(plan.peak_bytes)} at the peak" if plan.peak_bytes else ""
    return (
        f"predicted: {_seconds(plan.round_seconds)} a round, {_seconds(plan.function_seconds)} of replicas, "
        f"{plan.gb_seconds:.3g} GB-s{peak}"
    )


def _of_packing(best: Plan, found: Sequence[Plan], shape: Shape, caps: Caps) -> str:
    packing = best.batches_per_invocation
    number = -(-shape.num_batches // packing)
    megabytes = f"{shape.gradient_bytes / 1e6:.3g} MB"
    text = (
        f"{packing} {_plural('batch', 'batches', packing)} an invocation: each peer makes {number} a round, "
        f"of {_seconds(best.invocation_seconds)}, with a result of {megabytes}"
    )
    if shape.batches_per_invocation:
        return f"{text}; as asked"
    if packing == max(each.batches_per_invocation for each in found) < shape.num_batches:
        return f"{text}; more would take over half of {caps.timeout_seconds:g} s, or not fit the memory"
    return text


def _of_replicas(best: Plan, found: Sequence[Plan], caps: Caps) -> str:
    text = f"{best.replicas} {_plural('replica', 'replicas', best.replicas)}"
    if not caps.most_replicas:
        return f"{text}: as many as there are (--most-replicas lets the plan choose)"
    others = sorted({each.replicas for each in found} - {best.replicas})
    fewer = [each for each in others if each < best.replicas][-1:]
    more = [each for each in others if each > best.replicas][:1]
    shortest = {
        number: min(each.round_seconds for each in found if each.replicas == number)
        for number in (*fewer, *more)
    }
    compared = [f"{number} would take {_seconds(seconds)}" for number, seconds in shortest.items()]
    cores = f" on {caps.cores} {_plural('core', 'cores', caps.cores)}" if caps.cores else ""
    rest = f"; {' and '.join(compared)}" if compared else ""
    return f"{text} of at most {caps.most_replicas}{cores}: {_seconds(best.round_seconds)} a round{rest}"


def _of_passes(best: Plan, found: Sequence[Plan], shape: Shape) -> str:
    size = best.micro_batch
    text = f"passes of {size} of {shape.batch_size} samples" if size else "whole batches"
    if shape.micro_batch:
        return f"{text}, as asked"
    if shape.indivisible_layer:
        return f"{text}: {shape.indivisible_layer} depends on all of one"
    found = [each for each in found if each.batches_per_invocation == best.batches_per_invocation]
    largest = max(found, key=lambda each: each.micro_batch or shape.batch_size)
    smallest = min(found, key=lambda each: each.micro_batch or shape.batch_size)
    if largest.micro_batch == smallest.micro_batch:
        return f"{text}: smaller passes do not help here"
    if size == largest.micro_batch:
        split = min(each.round_seconds for each in found if each.micro_batch == smallest.micro_batch)
        return f"{text}: in passes of {smallest.micro_batch} a round would take {_seconds(split)} or more"
    peaks = f"{mib(best.peak_bytes)} instead of {mib(largest.peak_bytes)}"
    return f"{text}: {peaks} at the peak" if best.peak_bytes else text


def _of_limit(best: Plan, caps: Caps) -> str:
    if not best.limit_bytes:
        return "no memory limit that is known"
    text = f"memory limit {mib(best.limit_bytes)}"
    if best.limit_bytes == caps.limit_bytes:
        return text + (
            ", as it is" if caps.largest_limit_bytes else ", as it is (--largest-memory lets the plan set it)"
        )
    return f"{text} instead of {mib(caps.limit_bytes)}: {mib(best.peak_bytes)} at the peak, and room"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s"


def _plural(one: str, several: str, number: int) -> str:
    return one if number == 1 else several
