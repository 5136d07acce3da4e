"""A report out of an experiment's folder: `report.html`, `report.md`, and the plots as files."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from peer.errors import ConfigurationError
from peer.experiments import prices
from peer.experiments.prices import Assumptions, OwnPrices
from peer.experiments.records import CELLS, read_cells, read_machine
from peer.experiments.report.artefact import artefact_section, honesty_section
from peer.experiments.report.blocks import Section
from peer.experiments.report.groups import Experiment
from peer.experiments.report.headline import headline_section
from peer.experiments.report.money import Pricing, cost_section
from peer.experiments.report.raw import about_section, cells_section, failures_section
from peer.experiments.report.render import html, markdown, picture_files
from peer.experiments.report.resources import accuracy_section, compression_section, memory_section
from peer.experiments.report.times import (
    improvement_section,
    reference_section,
    speed_up_sections,
    stages_section,
)
from peer.experiments.report.validity import validity_section
from peer.files import make_folder, replace_file

HTML, MARKDOWN, PLOTS = "report.html", "report.md", "plots"


@dataclass(frozen=True)
class Options:
    """What a report is made with, beside the measurements.

    Attributes:
        pricing: whose prices.
        assumed: what scenarios assume.
        accuracy: the target of "cost to accuracy"; None for the best that every setting reached.
    """

    pricing: Pricing
    assumed: Assumptions
    accuracy: float | None = None


def default_options() -> Options:
    """Return the packaged tables."""
    return Options(Pricing(prices.cloud_prices(), prices.own_prices()), prices.assumptions())


def with_tables(
    options: Options, tables: Sequence[Path], assumptions: Path | None, accuracy: float | None
) -> Options:
    """Return the options with the user's tables in the place of the packaged ones.

    Raises:
        ConfigurationError: a file is no table.
    """
    pricing = options.pricing
    for path in tables:
        found = prices.read_prices(path)
        changed = {"own": found} if isinstance(found, OwnPrices) else {"cloud": found}
        pricing = replace(pricing, **changed)
    assumed = options.assumed if assumptions is None else prices.read_assumptions(assumptions)
    return Options(pricing, assumed, accuracy)


def read_experiment(directory: Path) -> Experiment:
    """Return what an experiment's folder holds.

    Raises:
        ConfigurationError: it is no such folder, or damaged.
    """
    if not (directory / CELLS).is_file():
        raise ConfigurationError(f"{directory} is no experiment's folder with results: it has no {CELLS}")
    cells = read_cells(directory)
    if not cells:
        raise ConfigurationError(f"{directory / CELLS} has no finished cell yet: let the experiment go on")
    return Experiment(cells[-1].experiment, read_machine(directory), cells, _lines(directory / CELLS))


class _Identified(msgspec.Struct):
    """What a line is found by."""

    id: str


def _lines(path: Path) -> dict[str, int]:
    """Return the last line of each cell; one that a kill tore is none, but counts."""
    found = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        with suppress(msgspec.DecodeError):
            found[msgspec.json.decode(line, type=_Identified).id] = number
    return found


def write_report(directory: Path, output: Path, options: Options) -> list[Path]:
    """Leave the report of `directory` in `output`, and return its files; the same input gives the same bytes.

    Raises:
        ConfigurationError: see `read_experiment`.
        FileNotWritten: there is no room; files may be there in part.
    """
    experiment = read_experiment(directory)
    sections = list(sections_of(experiment, options))
    contents = {HTML: html(experiment, sections), MARKDOWN: markdown(experiment, sections, PLOTS)}
    contents |= {f"{PLOTS}/{name}": text for name, text in picture_files(sections).items()}
    make_folder(output / PLOTS)
    for name, text in contents.items():
        replace_file(output / name, text.encode())
    return [output / name for name in contents]


def sections_of(experiment: Experiment, options: Options) -> Iterator[Section]:
    """Yield the report, part by part."""
    yield about_section(experiment)
    yield improvement_section(experiment)
    yield cost_section(experiment, options.pricing, options.accuracy)
    yield headline_section(experiment, options.pricing, options.assumed)
    yield from speed_up_sections(experiment)
    yield stages_section(experiment)
    yield memory_section(experiment)
    yield accuracy_section(experiment)
    yield compression_section(experiment)
    yield reference_section(experiment)
    yield validity_section(experiment)
    yield artefact_section()
    yield honesty_section(experiment)
    yield failures_section(experiment)
    yield cells_section(experiment)
