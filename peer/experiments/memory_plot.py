"""The plot that the memory experiment ends with: needed memory, and duration against limit, by batch size."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peer.experiments.memory_records import Measurement
from peer.experiments.memory_report import MemoryReport, line_text, meaning, median
from peer.files import writing
from peer.sizes import MIB, mib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE_INCHES = (10.0, 4.6)
_DOTS_PER_INCH = 110
_CHARACTERS = 130


def write_plot(path: Path, report: MemoryReport, measurements: Sequence[Measurement]) -> None:
    """Leave the plot in a file, in the form that its suffix names.

    Raises:
        FileNotWritten: it is not there, or in part.
    """
    # not at import: it takes a second, and only this needs it
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    needed, duration = figure.subplots(1, 2)
    _plot_needs(needed, report)
    _plot_durations(duration, report, measurements)
    settings = report.settings
    figure.suptitle(
        f"How much memory does {settings.function} need? {settings.model.name}, {settings.dataset}"
    )
    figure.supxlabel(textwrap.fill(" ".join(meaning(settings)), _CHARACTERS), fontsize=8)
    with writing(path):
        figure.savefig(path, dpi=_DOTS_PER_INCH)


def _plot_needs(axes: "Axes", report: MemoryReport) -> None:
    """Draw needed memory against batch size; the bar below each point is what was found to be too little."""
    found = [
        (each.batch_size, each.needed_bytes, each.failing_bytes or 0)
        for each in report.needs
        if each.needed_bytes is not None
    ]
    axes.set(title="smallest limit that works", xlabel="batch size", ylabel="memory limit of a replica, MiB")
    axes.grid(alpha=0.3)
    if not found:
        return
    sizes = [size for size, _, _ in found]
    needed = [bytes_ / MIB for _, bytes_, _ in found]
    too_little = [(bytes_ - failing) / MIB for _, bytes_, failing in found]
    axes.errorbar(sizes, needed, yerr=[too_little, [0.0] * len(found)], fmt="o", capsize=4, color="C0")
    for size, limit in zip(sizes, needed, strict=True):
        axes.annotate(mib(limit * MIB), (size, limit), (6, -10), textcoords="offset points", fontsize=8)
    if report.fixed_bytes is not None and report.bytes_per_sample is not None:
        ends = [0, max(sizes)]
        line = [(report.fixed_bytes + report.bytes_per_sample * size) / MIB for size in ends]
        axes.plot(ends, line, "--", color="C0", alpha=0.5, label=line_text(report))
        axes.legend(loc="upper left")
    axes.set_xlim(0, 1.15 * max(sizes))
    axes.set_ylim(bottom=0)


def _plot_durations(axes: "Axes", report: MemoryReport, measurements: Sequence[Measurement]) -> None:
    """Draw the median duration of an invocation against the limit; a cross is a limit that does not work."""
    axes.set(title="duration against limit (×: does not work)", xlabel="memory limit of a replica, MiB")
    axes.set(ylabel="seconds an invocation (median)")
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3)
    for number, need in enumerate(report.needs):
        ordered = sorted(
            (found for found in measurements if found.batch_size == need.batch_size),
            key=lambda found: found.limit_bytes,
        )
        works = [found for found in ordered if found.does_work]
        seconds = [median(found.seconds) or 0.0 for found in works]
        fails = [found.limit_bytes / MIB for found in ordered if not found.does_work]
        colour, level = f"C{number}", seconds[0] if seconds else 0.0
        limits = [found.limit_bytes / MIB for found in works]
        axes.plot(limits, seconds, "o-", color=colour, label=f"batch {need.batch_size}")
        axes.plot(fails, [level] * len(fails), "x", color=colour, markersize=8)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_ylim(bottom=0)
    if report.needs:
        axes.legend()
