"""What the memory experiment found, for people: a table, and what its figures mean."""

import statistics
from collections.abc import Iterable, Iterator, Sequence

from peer.experiments.memory_records import Measurement, Settings, outcomes
from peer.experiments.search import answer
from peer.messages import Message
from peer.sizes import MIB, mib

_PROCESSES = "process"
_WIDTHS = (6, 11, 12, 13, 11, 9, 9, 5)
_OUTCOMES = {"ok": "works", "retried": "worked the second time", "out_of_memory": "out of memory"}


class Need(Message, frozen=True):
    """What one batch size needs; None where no limit that was tried works, or fails.

    Working set and peak are those at the smallest limit that works, seconds the medians of an invocation
    there and at the largest limit. `oom_kills` is of all its measurements.
    """

    batch_size: int
    needed_bytes: int | None
    failing_bytes: int | None
    failing_outcome: str | None
    working_set_bytes: int | None
    peak_bytes: int | None
    seconds: float | None
    seconds_at_largest: float | None
    reclaims: int | None
    major_faults: int | None
    oom_kills: int
    measurements: int


class MemoryReport(Message, frozen=True):
    """The needs by batch size, and the line through them: so much for the model, so much a sample."""

    settings: Settings
    settings_hash: str
    host: dict[str, object]
    load_average: float
    needs: list[Need]
    fixed_bytes: float | None
    bytes_per_sample: float | None


def summarise(measurements: Sequence[Measurement], batch_sizes: Iterable[int]) -> MemoryReport:
    """Return what the measurements of these batch sizes say.

    Args:
        measurements: at least one; all under the same settings.
        batch_sizes: in the order to report them.
    """
    needs = [
        need([found for found in measurements if found.batch_size == batch_size])
        for batch_size in batch_sizes
        if any(found.batch_size == batch_size for found in measurements)
    ]
    points = [(each.batch_size, each.needed_bytes) for each in needs if each.needed_bytes is not None]
    line = statistics.linear_regression(*zip(*points, strict=True)) if len(points) > 1 else None
    last = measurements[-1]
    return MemoryReport(
        settings=last.settings,
        settings_hash=last.settings_hash,
        host=last.host,
        load_average=max(found.load_average for found in measurements),
        needs=needs,
        fixed_bytes=line and line.intercept,
        bytes_per_sample=line and line.slope,
    )


def need(measurements: Sequence[Measurement]) -> Need:
    """Return the need of one batch size, from all its measurements, which are at least one."""
    by_limit = {found.limit_bytes: found for found in measurements}
    known = answer(outcomes(measurements))
    smallest = None if known.working_bytes is None else by_limit[known.working_bytes]
    failing = None if known.failing_bytes is None else by_limit[known.failing_bytes]
    largest = by_limit[max(by_limit)]
    return Need(
        batch_size=measurements[0].batch_size,
        needed_bytes=known.working_bytes,
        failing_bytes=known.failing_bytes,
        failing_outcome=None if failing is None else failing.outcome,
        working_set_bytes=None if smallest is None else smallest.working_set_bytes,
        peak_bytes=None if smallest is None else smallest.peak_bytes,
        seconds=None if smallest is None else median(smallest.seconds),
        seconds_at_largest=median(largest.seconds),
        reclaims=None if smallest is None else smallest.reclaims,
        major_faults=None if smallest is None else smallest.major_faults,
        oom_kills=sum(found.oom_kills or 0 for found in measurements),
        measurements=len(measurements),
    )


def median(seconds: Sequence[float]) -> float | None:
    """Return the median, None of nothing."""
    return statistics.median(seconds) if seconds else None


def line_of(found: Measurement) -> str:
    """Return one measurement in one line."""
    seconds = median(found.seconds)
    parts = [
        f"batch {found.batch_size:>5}",
        f"limit {mib(found.limit_bytes):>9}",
        f"{_OUTCOMES.get(found.outcome, found.outcome):<14}",
        "" if seconds is None else f"{seconds:6.3f} s",
        "" if found.working_set_bytes is None else f"working set {mib(found.working_set_bytes)}",
        "" if found.peak_bytes is None else f"peak {mib(found.peak_bytes)}",
        f"reclaims {found.reclaims}" if found.reclaims else "",
        f"pressure {found.pressure:.1%}" if found.pressure else "",
        found.reason if found.outcome == "failed" else "",
    ]
    return "  ".join(part for part in parts if part)


def table(report: MemoryReport) -> Iterator[str]:
    """Yield the lines of the table, no wider than 80 columns, and what its figures mean."""
    settings = report.settings
    yield f"{settings.function}: {settings.model.name} on {settings.dataset}"
    yield ""
    yield _row("batch", "needs", "too little", "working set", "peak", "s there", "s above", "OOM")
    for each in report.needs:
        yield _row(
            str(each.batch_size),
            _amount(each.needed_bytes) if each.needed_bytes else f"> {_amount(each.failing_bytes)}",
            _amount(each.failing_bytes),
            _amount(each.working_set_bytes),
            _amount(each.peak_bytes),
            _seconds(each.seconds),
            _seconds(each.seconds_at_largest),
            str(each.oom_kills),
        )
    yield ""
    if (text := line_text(report)) is not None:
        yield f"about {text}"
    yield from meaning(settings)


def line_text(report: MemoryReport) -> str | None:
    """Return the line through the needs in words, None where there is none."""
    if report.fixed_bytes is None or report.bytes_per_sample is None:
        return None
    return f"{report.fixed_bytes / MIB:.0f} MiB and {report.bytes_per_sample / 1024:.0f} KiB a sample"


def meaning(settings: Settings) -> Iterator[str]:
    """Yield what the figures are of, in lines."""
    yield "needs: the smallest memory limit at which no invocation ran out of memory;"
    if settings.orchestration == _PROCESSES:
        yield f"of forked processes, limited by {settings.memory}: what a replica shares with its"
        yield "warm parent (Python, torch: some hundred MiB) is not charged; in a container"
        yield "the limit has to hold that, too"
    else:
        yield f"of whole containers ({settings.orchestration}): interpreter and torch included"


def _row(*cells: str) -> str:
    return "".join(cell.rjust(width) for cell, width in zip(cells, _WIDTHS, strict=True))


def _amount(num_bytes: int | None) -> str:
    return "–" if num_bytes is None else mib(num_bytes)


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.3f}"
