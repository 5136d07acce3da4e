"""The few kinds of panel that the dashboards are made of, each with one look.

Every panel has a title, a description that says what to do about what it shows, a unit, and queries whose
series are named. What has no equal in Grafana 9.3 is not used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard, units
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.source import style

DATA_SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")

Panel = timeseries.Panel | bargauge.Panel | stat.Panel | heatmap.Panel | statetimeline.Panel
Model = TypeVar("Model")
Kind = TypeVar("Kind", timeseries.Panel, bargauge.Panel, stat.Panel, heatmap.Panel, statetimeline.Panel)


@dataclass(frozen=True)
class Query:
    """One PromQL expression, and how its series are called.

    Attributes:
        at_end: evaluated once, at the end of the time range shown, as `[$__range]` wants it; else along it.
    """

    expr: str
    legend: str
    at_end: bool = False

    def target(self, ref_id: str) -> prometheus.Dataquery:
        """Return the query as a panel wants it."""
        target = prometheus.Dataquery().expr(self.expr).legend_format(self.legend).ref_id(ref_id)
        target = target.datasource(DATA_SOURCE)
        return target.instant() if self.at_end else target.range()


@dataclass(frozen=True)
class About:
    """What every panel says of itself."""

    title: str
    description: str
    unit: str
    decimals: int | None = None


def numbers(
    about: About,
    queries: Sequence[Query],
    *,
    thresholds: style.Steps | None = None,
    no_value: str = "–",
    names: bool = False,
    course: bool = True,
) -> stat.Panel:
    """Return large figures: the last of each series, the colour by its threshold, its course behind it."""
    panel = _begin(stat.Panel(), about, queries)
    reduced = common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)
    has_course = course and not any(query.at_end for query in queries)
    return (
        panel.reduce_options(reduced)
        .graph_mode(options.BigValueGraphMode.AREA if has_course else options.BigValueGraphMode.NONE)
        .color_mode(options.BigValueColorMode.VALUE)
        .text_mode(options.BigValueTextMode.VALUE_AND_NAME if names else options.BigValueTextMode.AUTO)
        .orientation(options.VizOrientation.AUTO)
        .color_scheme(builders.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
        .thresholds(_absolute(thresholds or style.always(style.NEUTRAL)))
        .no_value(no_value)
    )


def bars(
    about: About,
    queries: Sequence[Query],
    *,
    thresholds: style.Steps | None = None,
    colours: style.Colours = (),
    largest: float | None = None,
    link: dashboard.DashboardLink | None = None,
    title_size: int = 14,
) -> bargauge.Panel:
    """Return one horizontal bar a series: what is compared at a glance, by colour and length.

    Where bars are so many that names stand beside them, Grafana gives names of up to 11 pixels their room.
    """
    panel = _begin(bargauge.Panel(), about, queries)
    mode = dashboard.FieldColorModeId.THRESHOLDS if thresholds else dashboard.FieldColorModeId.PALETTE_CLASSIC
    panel = (
        panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .orientation(options.VizOrientation.HORIZONTAL)
        .display_mode(options.BarGaugeDisplayMode.BASIC)
        .show_unfilled(True)
        .min_viz_height(16)
        .text(common.VizTextDisplayOptions().title_size(title_size).value_size(20))
        .color_scheme(builders.FieldColor().mode(mode))
        .thresholds(_absolute(thresholds or style.always(style.NEUTRAL)))
        .min(0)
        .no_value("–")
    )
    if largest is not None:
        panel.max(largest)
    if link is not None:
        panel.data_links([Built(link)])
    return _coloured(panel, colours)


def lines(
    about: About,
    queries: Sequence[Query],
    *,
    colours: style.Colours = (),
    stacked: bool = False,
    steps: bool = False,
    smallest: float | None = 0,
    largest: float | None = None,
    limits: style.Steps | None = None,
    dashed: Sequence[str] = (),
    thin: Sequence[str] = (),
    largest_first: bool = False,
) -> timeseries.Panel:
    """Return curves over time; `limits` are drawn as lines, `stacked` is for parts of a whole.

    Series whose names match a pattern of `dashed` or `thin` are drawn so. The legend shows a few series:
    `largest_first` is for those whose largest is what a person looks for.
    """
    panel = _begin(timeseries.Panel(), about, queries)
    panel = (
        _legend(panel, sort_by="Last *" if largest_first else "")
        .line_width(1 if stacked else 2)
        .fill_opacity(60 if stacked else 0)
        .show_points(options.VisibilityMode.AUTO)
        .point_size(4)
        .span_nulls(60_000)
        .line_interpolation(
            options.LineInterpolation.STEP_AFTER if steps else options.LineInterpolation.LINEAR
        )
        .color_scheme(builders.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC))
    )
    if stacked:
        panel.stacking(common.StackingConfig().group("A").mode(options.StackingMode.NORMAL))
    for pattern in dashed:
        line = {"fill": "dash", "dash": [10, 6]}
        panel.override_by_regexp(pattern, [_custom("lineStyle", line)])
    for pattern in thin:
        panel.override_by_regexp(pattern, [_custom("lineWidth", 1)])
    if smallest is not None:
        panel.min(smallest)
    if largest is not None:
        panel.max(largest)
    if limits is not None:
        drawn = common.GraphThresholdsStyleConfig().mode(options.GraphTresholdsStyleMode.DASHED)
        panel.thresholds(_absolute([dashboard.Threshold(None, "transparent"), *limits[1:]]))
        panel.thresholds_style(drawn)
    return _coloured(panel, colours)


def marks(about: About, queries: Sequence[Query], *, colours: style.Colours) -> timeseries.Panel:
    """Return bars over time: events that are rare, by `grew`; those that happened lead the legend."""
    panel = _begin(timeseries.Panel(), about, queries)
    panel = (
        _legend(panel, calcs=["sum"], sort_by="Total")
        .draw_style(options.GraphDrawStyle.BARS)
        .fill_opacity(90)
        .line_width(0)
        .bar_max_width(12)
        .show_points(options.VisibilityMode.NEVER)
        .stacking(common.StackingConfig().group("A").mode(options.StackingMode.NORMAL))
        .color_scheme(builders.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC))
        .min(0)
        .axis_soft_max(1)
    )
    return _coloured(panel, colours)


def heat(about: About, query: Query) -> heatmap.Panel:
    """Return a histogram over time; the query gives its buckets by `le`."""
    panel = _begin(heatmap.Panel(), About(about.title, about.description, units.Short), [])
    target = query.target("A").format(PromQueryFormat.HEATMAP).legend_format("{{le}}")
    return (
        panel.with_target(target)
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(about.unit).axis_placement(options.AxisPlacement.LEFT))
        .color(
            heatmap.HeatmapColorOptions()
            .mode(HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .exponent(0.5)
            .steps(64)
            .reverse(False)
        )
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .cell_gap(1)
        .show_legend()
        .show_tooltip()
    )


def states(about: About, query: Query) -> statetimeline.Panel:
    """Return a lane a series that is red while its value is 1."""
    firing = dashboard.ValueMap(
        options={"1": dashboard.ValueMappingResult(text="firing", color=style.BAD, index=0)}
    )
    panel = _begin(statetimeline.Panel(), about, [query])
    return (
        panel.mappings([firing])
        .show_value(options.VisibilityMode.NEVER)
        .row_height(0.8)
        .fill_opacity(90)
        .line_width(0)
        .legend(common.VizLegendOptions().show_legend(False).display_mode(options.LegendDisplayMode.LIST))
        .color_scheme(builders.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
        .thresholds(_absolute([dashboard.Threshold(None, style.GOOD), dashboard.Threshold(1, style.BAD)]))
        .no_value("no alert")
    )


def grew(counter: str, by: str) -> str:
    """Return an expression for how much a counter grew in each step: whole numbers, whose sum is the total.

    `increase` extrapolates, and its windows overlap: one event would be four marks of a third each.
    """
    return f"sum by ({by}) (clamp_min({counter} - {counter} offset $__interval, 0))"


class Built(Builder[Model]):
    """A finished model where the SDK asks for a builder."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def build(self) -> Model:
        """Return the model."""
        return self._model


def _begin(panel: Kind, about: About, queries: Sequence[Query]) -> Kind:
    """Set what every kind of panel has."""
    panel.title(about.title).description(about.description).datasource(DATA_SOURCE).unit(about.unit)
    if about.decimals is not None:
        panel.decimals(about.decimals)
    for ref_id, query in zip("ABCDEFGH", queries, strict=False):
        panel.with_target(query.target(ref_id))
    return panel


def _legend(
    panel: timeseries.Panel, calcs: Sequence[str] = ("lastNotNull", "max"), sort_by: str = ""
) -> timeseries.Panel:
    legend = (
        common.VizLegendOptions()
        .display_mode(options.LegendDisplayMode.TABLE)
        .placement(options.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(list(calcs))
    )
    if sort_by:
        legend.sort_by(sort_by).sort_desc(True)
    tooltip = (
        common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING)
    )
    return panel.legend(legend).tooltip(tooltip)


def _absolute(steps: style.Steps) -> builders.ThresholdsConfig:
    return builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)


def _custom(name: str, value: object) -> dashboard.DynamicConfigValue:
    """Return what an override sets of a field's drawing."""
    return dashboard.DynamicConfigValue(id_val=f"custom.{name}", value=value)


def _coloured(panel: Kind, colours: style.Colours) -> Kind:
    """Give the series whose names match their fixed colours."""
    for pattern, colour in colours:
        fixed = dashboard.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})
        panel.override_by_regexp(pattern, [fixed])
    return panel
