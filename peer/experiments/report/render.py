"""Sections as a page: one HTML file with everything in it, or Markdown beside its plots."""

import re
from collections.abc import Iterator, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from peer.experiments.prices import published
from peer.experiments.records import CELLS
from peer.experiments.report.blocks import Picture, Section, Table
from peer.experiments.report.groups import Experiment
from peer.experiments.report.plots import on_white


def html(experiment: Experiment, sections: Sequence[Section]) -> str:
    """Return the page: no request leaves it, whatever its texts hold."""
    template = _environment(is_html=True).get_template("report.html.j2")
    return template.render(**_context(experiment, sections)) + "\n"


def markdown(experiment: Experiment, sections: Sequence[Section], plots: str) -> str:
    """Return the same as Markdown, with the plots as files in a folder of that name."""
    template = _environment(is_html=False).get_template("report.md.j2")
    text = template.render(**_context(experiment, sections), plots=plots)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def picture_files(sections: Sequence[Section]) -> dict[str, str]:
    """Return the plots as SVG files, by name."""
    return {f"{picture.name}.svg": on_white(picture.svg) for picture in _pictures(sections)}


def _pictures(sections: Sequence[Section]) -> Iterator[Picture]:
    for section in sections:
        yield from (block for block in section.blocks if isinstance(block, Picture))


def _context(experiment: Experiment, sections: Sequence[Section]) -> dict[str, object]:
    return {
        "experiment": experiment,
        "sections": sections,
        "paper": published(),
        "raw_file": CELLS,
        "kind_of": lambda block: type(block).__name__,
        "is_simulated": lambda block: getattr(block, "is_simulated", False),
    }


def _environment(*, is_html: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("peer.experiments.report"),
        autoescape=is_html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"prose": _prose, "cell": _cell, "svg": Markup, "columns": _columns}
    return environment


def _prose(text: str) -> Markup:
    """Return escaped text in which backticks make code, and addresses are links."""
    escaped = str(escape(text))
    linked = re.sub(r"(https://[\w./-]*[\w/])", r'<a href="\1">\1</a>', escaped)
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", linked))


def _cell(text: str) -> str:
    """Return text that stays within its cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _columns(table: Table) -> int:
    return len(table.header) + table.has_ids
