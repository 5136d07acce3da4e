"""The sections on what was measured on, and where each figure comes from."""

from peer.experiments.records import CELLS, MACHINE, MATRIX, CellRecord
from peer.experiments.report.blocks import Points, Row, Section, Table, Text, left_out
from peer.experiments.report.groups import Experiment
from peer.experiments.report.times import name_of
from peer.experiments.statistics import LEVEL


def about_section(experiment: Experiment) -> Section:
    """Return what was asked, on which machine, and how much of it was measured."""
    machine = experiment.machine
    groups = experiment.groups
    repeats = sorted({len(group.repeats) for group in groups})
    counted = sum(len(group.repeats) for group in groups)
    return Section(
        "about",
        "What was measured, on what",
        [
            Points(
                [
                    f"Settings: {len(groups)}; cells that count: {counted}; repeats: {_of(repeats)}; cells "
                    f"that did not end well: {len(experiment.ended_badly)}.",
                    f"Machine: {machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} GiB, "
                    f"{machine.os}, Linux {machine.kernel}, Python {machine.python}, "
                    + ", ".join(f"{name} {version}" for name, version in machine.versions.items())
                    + ".",
                    f"Intervals are of {LEVEL:.0%}, Student's t on the logarithms of the repeats. Warm-up "
                    "cells and rounds are left out. Numbers at the end of a row are lines of the raw file, "
                    "and lead to the list of cells.",
                ]
            )
        ],
    )


def failures_section(experiment: Experiment) -> Section:
    """Return the cells of which there is no figure."""
    anchor, title = "failures", "Cells without a figure"
    if not experiment.ended_badly:
        return left_out(anchor, title, "every cell ended well.")
    rows = [
        Row([cell.variant, _axes(cell), cell.status, cell.error or "–"], [cell.id])
        for cell in experiment.ended_badly
    ]
    header = ["variant", "setting", "ended", "why"]
    return Section(anchor, title, [Table("What ended without a result, and why.", header, rows)])


def cells_section(experiment: Experiment) -> Section:
    """Return the list of all cells, which every figure leads to."""
    names = {repeat.cell.id: name_of(group) for group in experiment.groups for repeat in group.repeats}
    last = {cell.id: cell for cell in experiment.cells}.values()
    rows = [
        Row(
            [
                cell.id,
                cell.variant,
                names.get(cell.id) or _axes(cell),
                "warm-up" if cell.is_warm_up else str(cell.repeat),
                str(cell.seed),
                cell.status,
                cell.started,
                f"{cell.seconds:.1f}",
                f"{cell.load_average:.2f}",
            ],
            [cell.id],
        )
        for cell in sorted(last, key=lambda each: experiment.lines[each.id])
    ]
    header = ["cell", "variant", "setting", "repeat", "seed", "ended", "started", "seconds", "load"]
    return Section(
        "cells",
        "Raw data",
        [
            Text(
                f"Beside this report: `{CELLS}`, a line a cell (the numbers below), `{MATRIX}` with what was "
                f"asked, `{MACHINE}`, and `runs/<run>/` with each run's own files. The report is made of "
                "these alone, and made again it is the same, byte for byte."
            ),
            Table(f"Cells by their lines in `{CELLS}`.", header, rows),
        ],
    )


def _axes(cell: CellRecord) -> str:
    return ", ".join(f"{name} {value}" for name, value in cell.axes.items()) or "–"


def _of(repeats: list[int]) -> str:
    if not repeats:
        return "no"
    return str(repeats[0]) if len(repeats) == 1 else f"{repeats[0]} to {repeats[-1]}"
