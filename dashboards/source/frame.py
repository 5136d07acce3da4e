"""What all dashboards share: variables, links to each other, annotations, and how panels are laid out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from dashboards.source.events import events
from dashboards.source.panels import DATA_SOURCE, Built, Panel

GRID_WIDTH = 24
TAG = "peerless"
NAMES = {
    "peerless-training": "Training",
    "peerless-functions": "Functions",
    "peerless-peers": "Peers and exchange",
    "peerless-store": "Store",
}
"""Every dashboard's name by its uid, which is its file's name and never changes: bookmarks hold on to it."""


@dataclass(frozen=True)
class Row:
    """Panels beside each other, each with its width out of 24; a title begins a section."""

    height: int
    panels: Sequence[tuple[int, Panel]]
    title: str = ""


@dataclass(frozen=True)
class Spec:
    """One dashboard.

    Attributes:
        checkpoints: whether they are marked unless a person switches them off.
    """

    uid: str
    description: str
    variables: Sequence[builders.QueryVariable]
    rows: Sequence[Row] = field(default_factory=list)
    checkpoints: bool = False

    @property
    def title(self) -> str:
        """Return the title, under which search finds all dashboards side by side."""
        return f"{TAG} / {NAMES[self.uid]}"


def runs(*, several: bool) -> builders.QueryVariable:
    """Return the variable `run`: the runs of the time range, the one with the newest round first."""
    newest_first = (
        "query_result(sort_desc("
        "max by (run) (max_over_time(peerless_last_round_timestamp_seconds[$__range])) "
        "or max by (run) (max_over_time(peerless_build_info[$__range]))))"
    )
    variable = _query("run", "Run", newest_first, dashboard.VariableSort.DISABLED)
    return variable.regex('/run="([^"]+)"/').multi(several).include_all(False)


def functions() -> builders.QueryVariable:
    """Return the variable `function`: those that the gateway has, called as its metrics call them."""
    return _all(_query("function", "Function", "label_values(gateway_service_count, function_name)"))


def peers() -> builders.QueryVariable:
    """Return the variable `peer`: the ranks of the chosen run."""
    return _all(
        _query(
            "peer",
            "Peer",
            'label_values(peerless_build_info{run=~"$run"}, peer)',
            dashboard.VariableSort.NUMERICAL_ASC,
        )
    )


def render(spec: Spec) -> str:
    """Return the dashboard as the text of its file: a bare dashboard object, keys in order."""
    built = _builder(spec).build()
    built.panels = []
    y, number = 0, 1
    for row in spec.rows:
        if row.title:
            heading = dashboard.RowPanel(title=row.title, id_val=number, panels=[])
            heading.grid_pos = dashboard.GridPos(h=1, w=GRID_WIDTH, x=0, y=y)
            built.panels.append(heading)
            y, number = y + 1, number + 1
        x = 0
        for width, panel in row.panels:
            model = panel.build()
            model.id_val = number
            model.grid_pos = dashboard.GridPos(h=row.height, w=width, x=x, y=y)
            built.panels.append(model)
            x, number = x + width, number + 1
        if x != GRID_WIDTH:
            raise ValueError(f"{spec.title}: the row that begins with panel {number - 1} is {x} wide, not 24")
        y += row.height
    plain = json.loads(json.dumps(built, cls=JSONEncoder))
    for variable in plain["templating"]["list"]:
        # the SDK gives all variables one id, by which Grafana 9.3 takes them for one variable
        for name in ("id", "auto", "auto_count", "auto_min"):
            variable.pop(name, None)
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def panel_id(spec: Spec, title: str) -> int:
    """Return the number of the panel of that title: of the curve, where a figure on top shares it."""
    numbers: list[int] = [
        panel["id"] for panel in json.loads(render(spec))["panels"] if panel["title"] == title
    ]
    if not numbers:
        raise ValueError(f"{spec.title} has no panel {title!r}")
    return numbers[-1]


def _builder(spec: Spec) -> builders.Dashboard:
    made = (
        builders.Dashboard(spec.title)
        .uid(spec.uid)
        .description(spec.description)
        .tags([TAG])
        .readonly()
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .time("now-15m", "now")
        .refresh("5s")
        .timezone("browser")
        .timepicker(builders.TimePicker().refresh_intervals(["5s", "10s", "30s", "1m", "5m"]))
        .with_variable(
            builders.DatasourceVariable("datasource").label("Data source").type("prometheus").multi(False)
        )
    )
    for uid, name in NAMES.items():
        if uid != spec.uid:
            link = builders.DashboardLink(name).type(dashboard.DashboardLinkType.LINK).url(f"/d/{uid}")
            made.link(link.icon("dashboard").include_vars(True).keep_time(True))
    for variable in spec.variables:
        made.with_variable(variable)
    made.annotations([Built(event) for event in events(checkpoints=spec.checkpoints)])
    return made


def _query(
    name: str,
    label: str,
    query: str,
    sort: dashboard.VariableSort = dashboard.VariableSort.ALPHABETICAL_ASC,
) -> builders.QueryVariable:
    return (
        builders.QueryVariable(name)
        .label(label)
        .datasource(DATA_SOURCE)
        .query(query)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(sort)
    )


def _all(variable: builders.QueryVariable) -> builders.QueryVariable:
    """Let several values be chosen, and all of them be the default."""
    everything = dashboard.VariableOption(text="All", value="$__all", selected=True)
    return variable.multi(True).include_all(True).all_value(".+").current(everything)
