"""The dashboards: what is committed is what the source says, and what Grafana 9.3 can show."""

import re
import subprocess
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from grafana_files import FILES, VARIABLES, expressions, filled_in, loaded, panels
from grafana_foundation_sdk.models import units
from parts import program

from dashboards.source.__main__ import ALERTING, rendered

CHECKOUT = Path(__file__).resolve().parents[2]
PROVISIONING = CHECKOUT / "dashboards" / "provisioning"
# what Grafana 9.3 has of what is used here; `row` is no panel, but stands among them
KINDS = {"stat", "bargauge", "timeseries", "heatmap", "state-timeline", "row"}
COLOUR_MODES = {"thresholds", "palette-classic", "fixed"}

# whatever MinIO calls it
GAUGES = {"minio_s3_requests_waiting_total"}
# every unit that Grafana knows, by the name it has in a file
UNITS = {value for name, value in vars(units).items() if name[0].isupper() and isinstance(value, str)}

dashboards = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def test_dashboards_that_are_committed_are_what_the_source_writes() -> None:
    written = {path: path.read_text() for path in [*FILES, ALERTING]}

    assert written == rendered(), "run: python -m dashboards.source"


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
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, about
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
def test_variables_have_no_id_which_grafana_9_3_would_take_for_their_name(path: Path) -> None:
    assert all("id" not in variable for variable in loaded(path)["templating"]["list"])


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
        assert set(re.findall(r"\$\{?([a-z_]\w*)", expr)) <= names | set(VARIABLES), expr
    for variable in dashboard["templating"]["list"]:
        assert variable["type"] == "datasource" or variable["refresh"] == 2, variable["name"]


@dashboards
def test_rates_are_over_the_rate_interval(path: Path) -> None:
    for expr in expressions(loaded(path)):
        for function, window in re.findall(r"\b(rate|irate|increase)\([^\[\]]*\[([^\]]*)\]", expr):
            allowed = {"$__rate_interval", "$__range"} if function == "increase" else {"$__rate_interval"}
            assert window in allowed, expr


@dashboards
def test_counters_are_shown_as_rates_or_as_what_they_grew(path: Path) -> None:
    for panel in panels(loaded(path)):
        for target in panel["targets"]:
            expr = re.sub(r"clamp_min\((\S+?({.*?})?) - \1 offset \$__interval, 0\)", "", target["expr"])
            for counter in re.finditer(r"\b\w+_total\b", expr):
                is_counted = re.search(r"\b(rate|increase)\($", expr[: counter.start()])
                assert is_counted or counter[0] in GAUGES, (panel["title"], counter[0])


def test_every_expression_is_one_that_prometheus_can_parse(tmp_path: Path) -> None:
    found = {filled_in(expr) for path in FILES for expr in expressions(loaded(path))}
    rules = [{"record": f"parsed:{number}", "expr": expr} for number, expr in enumerate(sorted(found))]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "expressions", "rules": rules}]}))
    promtool = program("promtool", "Debian's package prometheus has it")

    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert len(rules) > 50


def test_each_alert_of_prometheus_is_told_by_grafana_with_the_panel_that_shows_why() -> None:
    rules = yaml.safe_load((CHECKOUT / "dashboards/prometheus/rules/alerts.yml").read_text())
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    (group,) = yaml.safe_load(ALERTING.read_text())["groups"]
    shown = {(path.stem, str(panel["id"])) for path in FILES for panel in panels(loaded(path))}

    assert sorted(rule["title"] for rule in group["rules"]) == sorted(alerts)
    for rule in group["rules"]:
        notes = rule["annotations"]
        assert f'alertname="{rule["title"]}"' in rule["data"][0]["model"]["expr"]
        assert (notes["__dashboardUid__"], notes["__panelId__"]) in shown
        assert re.search(r"{{ \.Labels\.(function_name|run) }}", notes["summary"])
        # it would begin a variable of the environment
        assert "$" not in notes["summary"]


def test_provisioned_data_source_is_that_of_the_environment() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards/peerless.yaml").read_text())["providers"]

    assert source["uid"] == "peerless-prometheus"
    assert source["url"] == "$DASHBOARDS_PROMETHEUS_URL"
    assert provider["options"]["path"] == "$DASHBOARDS_FOLDER"
