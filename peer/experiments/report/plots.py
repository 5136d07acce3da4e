"""Plots as SVG text that is the same whenever it is made of the same figures.

Text and grid take the colour of the page around them, so that one plot is read on light and dark ground; as a
file of its own a plot brings a white ground along. What is simulated is drawn hatched or dashed, and says so.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK = "#010203"
"""Stands for the page's own colour until the SVG is written."""

COLOURS = ("#3b82c4", "#d9822b", "#3f9b6b", "#b8568f", "#8a7bd1", "#8f8a3a", "#cc5c52", "#3d9aa1")
"""Each has a contrast of 3 or more on white and on the dark page."""

SIMULATED = "simulated"
_HATCH = "////"
_WIDTH, _HEIGHT, _ROW = 7.2, 3.6, 0.25
_LONGEST_OF_TWO = 38
_MOST_TICKS = 10
# Any: what matplotlib's types know of its settings depends on its version
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.7,
}

Draw = Callable[["Axes"], None]


@dataclass(frozen=True)
class Line:
    """A curve; the ends of intervals may be left out."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    is_simulated: bool = False


def draw(name: str, title: str, axis_labels: tuple[str, str], paint: Draw, height: float = _HEIGHT) -> str:
    """Return a plot as the text of an `svg` element.

    Args:
        name: of the plot; ids inside the SVG are made of it.
        title: above the plot.
        axis_labels: of x and y, with units.
        paint: draws into the axes.
        height: without the legend, where it is 7.2 wide.
    """
    # not at import: it takes a second, and only this needs it
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever a user's matplotlibrc says
        matplotlib.rcParams.update({**_SETTINGS, "svg.hashsalt": name})
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.subplots()
        axes.set(xlabel=axis_labels[0], ylabel=axis_labels[1])
        axes.set_title(title, loc="left")
        axes.grid(axis="y", color=_INK, alpha=0.15)
        axes.set_axisbelow(True)
        paint(axes)
        if labels := axes.get_legend_handles_labels()[1]:
            columns = 2 if max(map(len, labels)) <= _LONGEST_OF_TWO else 1
            figure.set_figheight(height + _ROW * math.ceil(len(labels) / columns))
            figure.legend(loc="outside lower left", frameon=False, fontsize=11, ncols=columns)
        written = io.StringIO()
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(written, format="svg", transparent=True, metadata=metadata)
    return _cleaned(written.getvalue())


def on_white(svg: str) -> str:
    """Return a plot as a file of its own: dark ink on a white ground."""
    start = svg.index(">") + 1
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f"{svg[:start]}{ground}{svg[start:]}".replace("currentColor", "#222222") + "\n"


def bars(
    categories: Sequence[str], heights: Mapping[str, Sequence[float]], simulated: Sequence[str] = ()
) -> Draw:
    """Return what draws groups of bars side by side, one colour a series, hatched if it is simulated."""

    def paint(axes: "Axes") -> None:
        width = 0.8 / max(1, len(heights))
        for number, (label, values) in enumerate(heights.items()):
            places = [index + (number - (len(heights) - 1) / 2) * width for index in range(len(categories))]
            hatch = _HATCH if label in simulated else None
            axes.bar(
                places, values, width, label=_named(label, label in simulated), hatch=hatch, **_fill(number)
            )
        axes.set_xticks(range(len(categories)), labels=categories)

    return paint


def stacks(categories: Sequence[str], parts: Mapping[str, Sequence[float]]) -> Draw:
    """Return what draws one bar a category, made of parts."""

    def paint(axes: "Axes") -> None:
        below = [0.0] * len(categories)
        for number, (label, values) in enumerate(parts.items()):
            axes.barh(range(len(categories)), values, 0.7, left=below, label=label, **_fill(number))
            below = [bottom + value for bottom, value in zip(below, values, strict=True)]
        axes.set_yticks(range(len(categories)), labels=categories)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")

    return paint


def lines(curves: Sequence[Line], *, is_log: tuple[bool, bool] = (False, False), marks: bool = True) -> Draw:
    """Return what draws curves, dashed if they are simulated, with their intervals as whiskers."""

    def paint(axes: "Axes") -> None:
        from matplotlib.ticker import LogLocator

        for number, curve in enumerate(curves):
            colour = COLOURS[number % len(COLOURS)]
            style = "--" if curve.is_simulated else "-"
            marker = ("s" if curve.is_simulated else "o") if marks else ""
            label = _named(curve.label, curve.is_simulated)
            axes.plot(curve.x, curve.y, style, marker=marker, markersize=4, color=colour, label=label)
            if curve.low is not None and curve.high is not None:
                axes.vlines(curve.x, curve.low, curve.high, color=colour, alpha=0.6)
        if is_log[0]:
            _scale_x(axes, sorted({x for curve in curves for x in curve.x}))
        if is_log[1]:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
            axes.yaxis.set_minor_formatter("{x:g}")

    return paint


def first(curves: Sequence[Line]) -> tuple[Sequence[Line], str]:
    """Return as many curves as there are colours, and words on it if there are more."""
    rest = f" Shown are the first {len(COLOURS)} of {len(curves)}; all are in the table."
    return curves[: len(COLOURS)], rest if len(curves) > len(COLOURS) else ""


def with_level(paint: Draw, level: float, label: str) -> Draw:
    """Return what draws the same, and a dotted line at a level, such as what somebody else published."""

    def painted(axes: "Axes") -> None:
        axes.axhline(level, linestyle=":", color=_INK, alpha=0.7, label=label)
        paint(axes)

    return painted


def _named(label: str, is_simulated: bool) -> str:
    return f"{label} ({SIMULATED})" if is_simulated else label


def _fill(number: int) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "edgecolor": _INK, "linewidth": 0.4}


def _scale_x(axes: "Axes", values: Sequence[float]) -> None:
    """Make the x axis logarithmic, with ticks at the values where they are few."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    if len(values) <= _MOST_TICKS:
        axes.set_xticks(values, labels=[f"{value:g}" for value in values])
        axes.set_xticks([], minor=True)


def _cleaned(text: str) -> str:
    """Return the `svg` element alone, in the page's colour and font, without a size and unused ids."""
    svg = text[text.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->\n?", "", svg, flags=re.S)
    used = set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r'^<svg([^>]*?) width="[^"]*"', r"<svg\1", svg)
    svg = re.sub(r'^<svg([^>]*?) height="[^"]*"', r"<svg\1", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: sans-serif", svg)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.S)
    svg = "\n".join(line.rstrip() for line in svg.splitlines())
    return svg.replace(_INK, "currentColor")
