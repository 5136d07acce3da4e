"""Which memory limit to try next: a pure decision on what has been tried."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """Where to look: from `largest_bytes` down, until the answer is known to `resolution_bytes`."""

    largest_bytes: int
    resolution_bytes: int


@dataclass(frozen=True)
class Answer:
    """What is known so far: the smallest limit that works, and the largest below it that does not.

    Either is None if there is none.
    """

    working_bytes: int | None
    failing_bytes: int | None


def answer(does_work: Mapping[int, bool]) -> Answer:
    """Return what the limits that were tried, and whether each worked, say together.

    A limit that failed above one that worked does not count: it failed for another reason.
    """
    working = min((limit for limit, works in does_work.items() if works), default=None)
    below = [
        limit for limit, works in does_work.items() if not works and (working is None or limit < working)
    ]
    return Answer(working, max(below, default=None))


def next_limit(does_work: Mapping[int, bool], bounds: Bounds) -> int | None:
    """Return the limit to try next, None once nothing is left to be learnt.

    Limits are halved until one fails; then the gap between that and the smallest that works is halved. All
    but the largest are multiples of the resolution.
    """
    if not does_work:
        return bounds.largest_bytes
    known = answer(does_work)
    if known.working_bytes is None:
        return None
    low, high, step = known.failing_bytes or 0, known.working_bytes, bounds.resolution_bytes
    if high - low <= step:
        return None
    middle = (low + high) // 2 // step * step
    return middle if middle > low else low // step * step + step
