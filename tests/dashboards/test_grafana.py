"""The dashboards: what is committed is what the source says, and what Grafana 9.3 can show."""

import json
import re
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from parts import program

from dashboards.source.__main__ import FOLDER, rendered

CHECKOUT = Path(__file__).resolve().parents[2]
PROVISIONING = CHECKOUT / "dashboards" / "provisioning"
FILES = sorted(FOLDER.glob("*.json"))
# what Grafana 9.3 has of what is used here; `row` is no panel, but stands among them
KINDS = {"stat", "bargauge", "timeseries", "heatmap", "state-timeline", "row"}
COLOUR_MODES = {"thresholds", "palette-classic", "fixed"}
# as grafana/dashboard-linter does: the values have to parse, no more
VARIABLES = {"__rate_interval": "5m", "__interval": "15s", "__range": "1h"}

dashboards = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


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
    """Return the expression with a value for each variable of Grafana's and of the dashboard's."""
    return re.sub(r"\$(\w+)", lambda name: VARIABLES.get(name[1], "x"), expr)


def test_dashboards_that_are_committed_are_what_the_source_writes() -> None:
    written = {path.name: path.read_text() for path in FILES}

    assert written == {path.name: text for path, text in rendered().items()}, (
        "run: python -m dashboards.source"
    )


@dashboards
def test_dashboard_has_a_fixed_identity_and_no_inputs(path: Path) -> None:
    dashboard = loaded(path)

    assert dashboard["uid"] == path.stem
    assert dashboard["title"].startswith("peerless / ")
    assert dashboard["tags"] == ["peerless"]
    assert not dashboard["editable"]
    assert not {"__inputs", "__requires", "id"} & set(dashboard)
    assert "${DS_" not in path.read_text()


@dashboards
def test_panel_has_title_description_unit_and_named_series(path: Path) -> None:
    for panel in panels(loaded(path)):
        about = f"{path.stem}: {panel['title']}"
        assert panel["title"]
        assert len(panel["description"]) > 20, about
        assert panel["fieldConfig"]["defaults"]["unit"], about
        assert panel["targets"], about
        for target in panel["targets"]:
            assert target["legendFormat"] not in ("", "__auto"), about


@dashboards
def test_dashboard_reads_the_data_source_that_is_chosen(path: Path) -> None:
    dashboard = loaded(path)

    first = dashboard["templating"]["list"][0]
    assert (first["type"], first["name"], first["query"]) == ("datasource", "datasource", "prometheus")
    readers = [
        *panels(dashboard),
        *(target for panel in panels(dashboard) for target in panel["targets"]),
        *dashboard["annotations"]["list"],
        *(variable for variable in dashboard["templating"]["list"] if variable["type"] == "query"),
    ]
    assert [reader["datasource"]["uid"] for reader in readers] == ["${datasource}"] * len(readers)


@dashboards
def test_dashboard_uses_nothing_newer_than_grafana_9_3(path: Path) -> None:
    dashboard = loaded(path)

    assert dashboard["schemaVersion"] <= 37
    assert {panel["type"] for panel in dashboard["panels"]} <= KINDS
    for panel in panels(dashboard):
        assert not panel.get("transformations")
        assert panel["fieldConfig"]["defaults"].get("color", {}).get("mode", "fixed") in COLOUR_MODES


@dashboards
def test_panels_have_their_own_place_and_number(path: Path) -> None:
    boxes = [panel["gridPos"] for panel in loaded(path)["panels"]]
    numbers = [panel["id"] for panel in loaded(path)["panels"]]

    assert len(set(numbers)) == len(numbers)
    assert all(box["x"] + box["w"] <= 24 for box in boxes)
    for one, other in combinations(boxes, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


@dashboards
def test_expressions_use_only_variables_that_the_dashboard_has(path: Path) -> None:
    dashboard = loaded(path)
    names = {variable["name"] for variable in dashboard["templating"]["list"]}

    for expr in expressions(dashboard):
        assert set(re.findall(r"\$\{?(\w+)", expr)) <= names | set(VARIABLES), expr
    for variable in dashboard["templating"]["list"]:
        assert variable["type"] == "datasource" or variable["refresh"] == 2, variable["name"]


@dashboards
def test_rates_are_over_the_rate_interval(path: Path) -> None:
    for expr in expressions(loaded(path)):
        for function, window in re.findall(r"\b(rate|irate|increase)\([^\[\]]*\[([^\]]*)\]", expr):
            allowed = {"$__rate_interval", "$__range"} if function == "increase" else {"$__rate_interval"}
            assert window in allowed, expr


def test_every_expression_is_one_that_prometheus_can_parse(tmp_path: Path) -> None:
    found = {filled_in(expr) for path in FILES for expr in expressions(loaded(path))}
    rules = [{"record": f"parsed:{number}", "expr": expr} for number, expr in enumerate(sorted(found))]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "expressions", "rules": rules}]}))
    promtool = program("promtool", "Debian's package prometheus has it")

    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(rules) > 50


def test_provisioned_data_source_is_that_of_the_environment() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/peerless.yaml").read_text())["providers"]

    assert source["uid"] == "peerless-prometheus"
    assert source["url"] == "$PEERLESS_PROMETHEUS_URL"
    assert provider["options"]["path"] == "$PEERLESS_DASHBOARDS"
