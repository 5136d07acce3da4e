"""Annotations: what happened when, drawn over every curve."""

from grafana_foundation_sdk.models import dashboard

from dashboards.source import style
from dashboards.source.panels import DATA_SOURCE, grew

SCRAPE_INTERVAL = "5s"


class Event(dashboard.AnnotationQuery):
    """A Prometheus annotation: a mark wherever the expression is above zero.

    The SDK's model does not know the fields that Grafana's Prometheus data source has for the mark's text.
    With `at_value` the series' values are the times of the marks, in milliseconds since the epoch.
    """

    def __init__(
        self, name: str, colour: str, expr: str, title: str, *, enable: bool = True, at_value: bool = False
    ) -> None:
        super().__init__(
            name=name, datasource=DATA_SOURCE, enable=enable, icon_color=colour, expr=expr, hide=False
        )
        self._text = {"titleFormat": title, "textFormat": "", "tagKeys": "function_name,run"}
        self._at_value = {"useValueForTime": "on"} if at_value else {}

    def to_json(self) -> dict[str, object]:
        """Return the fields of the file."""
        return super().to_json() | {"step": SCRAPE_INTERVAL} | self._text | self._at_value


def events(*, checkpoints: bool) -> list[Event]:
    """Return the annotations of a dashboard; checkpoints are many, and where not asked for, a click away."""
    return [
        Event(
            "Deployments",
            style.NEUTRAL,
            "max by (function_name) (localfaas_deployed_timestamp_seconds) * 1000",
            "{{function_name}} deployed",
            at_value=True,
        ),
        Event(
            "OOM kills",
            style.BAD,
            f"({grew('localfaas_oom_kills_total', 'function_name')} or function:oom_kills:increase5m) > 0",
            "{{function_name}}: out of memory",
        ),
        Event(
            "Checkpoints",
            style.GOOD,
            f"{grew('peerless_checkpoints_total', 'run')} > 0",
            "{{run}}: checkpoint",
            enable=checkpoints,
        ),
    ]
