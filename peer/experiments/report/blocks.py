"""What a report is made of, before it is a page: sections of paragraphs, tables and plots."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from peer.experiments.statistics import Estimate


@dataclass(frozen=True)
class Row:
    """A line of a table: its cells, and the measured cells that its figures are made of."""

    cells: Sequence[str]
    ids: Sequence[str] = ()
    is_simulated: bool = False


@dataclass(frozen=True)
class Table:
    """Figures; `caption` says what they are of, and how they were got."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Row]

    @property
    def is_simulated(self) -> bool:
        """Whether any figure of it is."""
        return any(row.is_simulated for row in self.rows)

    @property
    def has_ids(self) -> bool:
        """Whether any figure of it leads to raw data."""
        return any(row.ids for row in self.rows)


@dataclass(frozen=True)
class Picture:
    """A plot as SVG; `name` is that of its file, `text` says what it shows to who does not see it."""

    name: str
    caption: str
    text: str
    svg: str
    is_simulated: bool = False


@dataclass(frozen=True)
class Text:
    """A paragraph; what is between backticks is code."""

    text: str
    ids: Sequence[str] = ()
    is_simulated: bool = False


@dataclass(frozen=True)
class Points:
    """A list of paragraphs."""

    points: Sequence[str]


Block = Text | Points | Table | Picture


@dataclass(frozen=True)
class Section:
    """A part of the report; `anchor` is where links lead to."""

    anchor: str
    title: str
    blocks: Sequence[Block] = field(default_factory=list)


def left_out(anchor: str, title: str, reason: str) -> Section:
    """Return a section that says why it has nothing to say."""
    return Section(anchor, title, [Text(f"Left out: {reason}")])


def seconds(value: float) -> str:
    """Return a duration as people read it."""
    if value < 0.1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"


def dollars(value: float) -> str:
    """Return an amount of money, with at least three digits that mean something."""
    decimals = 2 if value <= 0 else max(2, 2 - math.floor(math.log10(value)))
    return f"${value:.{decimals}f}"


def megabytes(num_bytes: float) -> str:
    """Return memory in MiB."""
    return f"{num_bytes / (1 << 20):.0f} MiB"


def per_cent(share: float) -> str:
    """Return a share."""
    return f"{share:.1%}" if abs(share) < 0.9995 else f"{share:.2%}"


def interval(estimate: Estimate, show: str = "{:.3g}") -> str:
    """Return a figure with its interval, or with a word on why it has none."""
    centre = show.format(estimate.value)
    if estimate.low is None or estimate.high is None:
        return f"{centre} (one repeat)"
    return _with_ends(centre, show.format(estimate.low), show.format(estimate.high))


def improvement(ratio: Estimate) -> str:
    """Return by how much less a ratio is than 1, with its interval."""
    centre = f"{1 - ratio.value:.1%}"
    if ratio.low is None or ratio.high is None:
        return f"{centre} (one repeat)"
    return _with_ends(centre, f"{1 - ratio.high:.1%}", f"{1 - ratio.low:.1%}")


def dollar_interval(estimate: Estimate) -> str:
    """Return an amount of money with its interval."""
    if estimate.low is None or estimate.high is None:
        return f"{dollars(estimate.value)} (one repeat)"
    return _with_ends(dollars(estimate.value), dollars(estimate.low), dollars(estimate.high))


def _with_ends(centre: str, low: str, high: str) -> str:
    """Return a figure and its interval, which no line breaks."""
    return f"{centre} [{low}, {high}]".replace(" ", "\N{NO-BREAK SPACE}")
