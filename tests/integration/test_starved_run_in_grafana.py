"""Every query of every panel, variable and annotation has data of a real run, of the right sign and unit."""

import re
from pathlib import Path
from typing import Any

import pytest
import requests
from grafana_files import FILES, filled_in, loaded, panels
from grafana_foundation_sdk.models import units
from prometheus_api import Curve, PrometheusApi
from starved_run import FUNCTION, RUN, StarvedRun, eventually

pytestmark = pytest.mark.slow

SHOWN_SECONDS = 1200.0
"""As `grafana_files.VARIABLES` say."""

# what a value of a unit may be, and what the largest one exceeds: that tells seconds from milliseconds, and
# bytes from megabytes
BOUNDS: dict[str, tuple[float, float, float]] = {
    units.PercentUnit: (0.0, 10.0, 0.0),
    units.Seconds: (0.0, 3600.0, 1e-4),
    units.BytesIEC: (0.0, 1e12, 1e6),
    units.BytesSI: (0.0, 1e12, 1e4),
    units.BytesPerSecondSI: (0.0, 1e11, 1e3),
    units.RequestsPerSecond: (0.0, 1e5, 0.0),
    units.OpsPerSecond: (0.0, 1e7, 0.0),
    units.Short: (0.0, 1e7, 0.0),
}
# parts of a whole; pressure is added up over replicas
AT_MOST_ONE = re.compile(r"accuracy|progress|round's time|exchange|limit|errors|space", re.I)
# rightly zero as long as all is well, and peers are in step
MAY_BE_ZERO = {"MinIO: requests that wait", "Late gradients"}
NEEDS_PSI = "function:memory_pressure_ratio:rate1m"


@pytest.fixture(scope="module")
def eventful_run(starved_run: StarvedRun) -> StarvedRun:
    """The starved run, after an outage of the store and with asynchronous calls: nothing is rightly empty."""
    _have_the_store_fail(starved_run)
    eventually(lambda: _queued(starved_run), "asynchronous calls wait")
    return starved_run


def _have_the_store_fail(run: StarvedRun) -> None:
    """Kill the store, until Prometheus knows of a peer's failed request; then the run goes on."""

    def has_failed() -> bool:
        return any(sample.value for sample in run.prometheus.now("sum(peerless_store_errors_total)"))

    if has_failed():
        return
    run.platform.kill("store")
    eventually(has_failed, "peers count the requests that failed")
    run.platform.up()
    rounds = run.num_rounds()
    eventually(lambda: run.num_rounds() > rounds + 3, "the run goes on")


def _queued(run: StarvedRun) -> bool:
    """Return whether Prometheus has seen a queue of asynchronous calls, and queue some more."""
    with requests.Session() as session:
        for _ in range(20):
            session.post(f"{run.platform.gateway.url}/async-function/evaluate", data=b"{}", timeout=60)
    return bool(run.prometheus.now(f"max_over_time(localfaas_async_queue_depth[{SHOWN_SECONDS:g}s]) > 0"))


def answer(prometheus: PrometheusApi, target: dict[str, Any]) -> list[Curve]:
    """Return what a panel draws: a figure at the end of the time shown, or curves along it."""
    expr = filled_in(target["expr"])
    if target.get("instant"):
        return [Curve(sample.labels, [sample.value]) for sample in prometheus.now(expr)]
    return prometheus.course(expr, last_seconds=SHOWN_SECONDS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_query_of_each_panel_has_values_of_the_right_sign_and_unit(
    eventful_run: StarvedRun, path: Path
) -> None:
    prometheus = eventful_run.prometheus
    has_psi = bool(prometheus.now("localfaas_memory_pressure_seconds_total"))

    for panel in panels(loaded(path)):
        values: list[float] = []
        for target in panel["targets"]:
            if NEEDS_PSI in target["expr"] and not has_psi:
                values.append(1.0)
                continue
            about = f"{panel['title']}: {target['expr']}"
            curves = answer(prometheus, target)
            assert curves, about
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            if panel["type"] != "state-timeline":
                assert all(named <= set(curve.labels) for curve in curves), about
            values += [value for curve in curves for value in curve.values]
        _check(panel, values)


def _check(panel: dict[str, Any], values: list[float]) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    if panel["type"] == "heatmap":
        unit = units.Short
    least, most, reached = BOUNDS[unit]
    if unit == units.PercentUnit and AT_MOST_ONE.search(panel["title"]):
        most = 1.0
    about = f"{panel['title']}: {min(values):g} to {max(values):g} {unit}"

    assert least <= min(values), about
    # a float's rounding apart
    assert max(values) <= most * 1.0001, about
    assert panel["title"] in MAY_BE_ZERO or max(values) > reached, about


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_variable_has_the_values_that_there_are(eventful_run: StarvedRun, path: Path) -> None:
    expected = {"run": RUN, "function": FUNCTION, "peer": "1"}

    for variable in loaded(path)["templating"]["list"]:
        if variable["type"] != "datasource":
            assert expected[variable["name"]] in _choices(eventful_run.prometheus, variable)


def _choices(prometheus: PrometheusApi, variable: dict[str, Any]) -> list[str]:
    """Return what Grafana offers: a label's values, or what its pattern finds in a query's answer."""
    function, arguments = re.fullmatch(r"(\w+)\((.*)\)", variable["query"]).groups()  # type: ignore[union-attr]
    if function == "label_values":
        expr, _, label = arguments.rpartition(",")
        return [sample.labels[label.strip()] for sample in prometheus.now(filled_in(expr))]
    pattern = variable["regex"].strip("/")
    found = []
    for sample in prometheus.now(filled_in(arguments)):
        text = "{" + ",".join(f'{name}="{value}"' for name, value in sample.labels.items()) + "}"
        found += re.findall(pattern, text)
    return found


def test_runs_begin_with_the_one_of_the_newest_round(eventful_run: StarvedRun) -> None:
    (variable,) = (
        variable
        for variable in loaded(next(path for path in FILES if "training" in path.stem))["templating"]["list"]
        if variable["name"] == "run"
    )

    # the greedy runs, which ran out of memory, have ended
    assert _choices(eventful_run.prometheus, variable)[0] == RUN


def test_each_event_is_marked(eventful_run: StarvedRun) -> None:
    prometheus = eventful_run.prometheus
    for annotation in loaded(FILES[0])["annotations"]["list"]:
        curves = prometheus.course(filled_in(annotation["expr"]), last_seconds=SHOWN_SECONDS)
        values = [value for curve in curves for value in curve.values]

        assert values, annotation["name"]
        if annotation.get("useValueForTime"):
            # milliseconds since 1970
            (now,) = prometheus.now("time() * 1000")
            assert now.value - 24 * 3600 * 1000 < max(values) <= now.value
        else:
            assert all(value == int(value) > 0 for value in values), annotation["name"]
