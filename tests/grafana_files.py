"""The committed dashboards as a Grafana reads them: panels, their queries, and variables filled in."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dashboards.source.__main__ import FOLDER

FILES = sorted(FOLDER.glob("*.json"))
# Grafana's own, at a scrape interval of five seconds and with twenty minutes shown
VARIABLES = {"__rate_interval": "20s", "__interval": "5s", "__range": "1200s"}


def loaded(path: Path) -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads(path.read_text())
    return dashboard


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    """Yield every PromQL expression of panels, annotations and variables."""
    for panel in panels(dashboard):
        yield from (target["expr"] for target in panel["targets"])
    yield from (annotation["expr"] for annotation in dashboard["annotations"]["list"])
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"(query_result|label_values)\((.*)\)", variable["query"])
            assert found, variable["query"]
            yield found[2] if found[1] == "query_result" else found[2].rpartition(",")[0]


def filled_in(expr: str) -> str:
    """Return the expression with a value for each variable of Grafana's; the dashboard's choose all."""
    return re.sub(r"\$([a-z_]\w*)", lambda name: VARIABLES.get(name[1], ".+"), expr)
