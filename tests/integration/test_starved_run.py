"""Rules and alerts on a real Prometheus, of a training whose function is short of memory."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
import yaml
from prometheus_api import PrometheusApi
from starved_run import FUNCTION, RUN, StarvedRun, eventually

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parents[2] / "dashboards" / "prometheus"
MIB = 1 << 20
GIB = 1 << 30


class Expected(NamedTuple):
    """What a rule records of the starved run: between these, and above `reached` at some time."""

    least: float
    most: float
    reached: float = -math.inf
    subject: str = f'{{function_name="{FUNCTION}"}}'


PEER = f'{{run="{RUN}", peer="1"}}'
RECORDED = {
    "function:memory_working_set_bytes:sum": Expected(MIB, 4 * GIB, 20 * MIB),
    "function:memory_working_set_bytes:max": Expected(MIB, 2 * GIB, 10 * MIB),
    "function:memory_limit_bytes": Expected(16 * MIB, 2 * GIB),
    "function:memory_working_set_ratio:max": Expected(0, 1, 0.9),
    "function:memory_pressure_ratio:rate1m": Expected(0, 10, 0),
    "function:memory_reclaims:rate1m": Expected(0, 1e6, 0),
    "function:major_faults:rate1m": Expected(0, 1e6),
    "function:oom_kills:increase5m": Expected(0, 100, 0.9),
    "function:cpu_cores:rate1m": Expected(0, 16, 0.01),
    "function:replicas": Expected(0, 5, 1),
    "function_code:invocations:rate1m": Expected(0, 1e4, 0, f'{{function_name="{FUNCTION}", code="507"}}'),
    "function:invocations:rate1m": Expected(0, 1e4, 0),
    "function:errors_ratio:rate1m": Expected(0, 1, 0),
    "function:duration_seconds:p95": Expected(1e-3, 300),
    "function:cold_starts:rate1m": Expected(0, 100, 0),
    "peer:round_seconds:rate5m": Expected(1e-3, 300, subject=PEER),
    "peer:phase_seconds:ratio": Expected(0, 1, 0.01, subject=f'{{run="{RUN}", peer="0", phase="compute"}}'),
    "peer:own_seconds:rate5m": Expected(1e-3, 300, subject=PEER),
    "store:errors:rate5m": Expected(0, 1, subject=f'{{run="{RUN}", operation="put"}}'),
}
# What an alert compares with its threshold: it is there, whether the alert fires or not.
COMPARED = {
    "FunctionMemoryNearLimit": "function:memory_working_set_ratio:max",
    "FunctionOutOfMemory": "function:oom_kills:increase5m",
    "FunctionMemoryPressure": "function:memory_reclaims:rate1m",
    "ColdStartStorm": "function:cold_starts:rate1m",
    "GatewayErrors": "function:errors_ratio:rate1m",
    "PeerStraggling": "(1.5 * quantile by (run) (0.5, peer:own_seconds:rate5m))",
    "RoundStalled": "time() - max by (run, peer) (peerless_last_round_timestamp_seconds)",
    "LossDiverging": "avg by (run) (avg_over_time(peerless_loss[1m]))",
    "StoreErrors": "sum by (run) (store:errors:rate5m)",
}


def rules(kind: str) -> dict[str, str]:
    """Return the expressions of all rules of one kind by their names."""
    return {rule[kind]: rule["expr"] for rule in _rules() if kind in rule}


def _rules() -> Iterator[dict[str, Any]]:
    for path in FOLDER.glob("rules/*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def has_pressure(run: StarvedRun) -> bool:
    """Return whether the kernel has PSI of a group; what needs it is absent otherwise, as documented."""
    return bool(run.prometheus.now("localfaas_memory_pressure_seconds_total"))


def test_everything_that_is_scraped_answers(starved_run: StarvedRun) -> None:
    def healthy() -> bool:
        found = [target for target in starved_run.prometheus.targets() if target["health"] == "up"]
        jobs = [target["labels"]["job"] for target in found if target["labels"].get("run") in (None, RUN)]
        return {"localfaas", "store"} <= set(jobs) and jobs.count("peers") == 2

    eventually(healthy, "gateway, store and both peers are scraped")

    assert starved_run.prometheus.now("minio_cluster_nodes_online_total")[0].value == 1


def test_each_recording_rule_has_values_of_the_right_sign_and_unit(starved_run: StarvedRun) -> None:
    assert set(RECORDED) == set(rules("record"))
    for name, expected in RECORDED.items():
        if name == "function:memory_pressure_ratio:rate1m" and not has_pressure(starved_run):
            continue
        (curve,) = starved_run.prometheus.course(name + expected.subject, last_seconds=1800)
        assert expected.least <= min(curve.values), name
        assert max(curve.values) <= expected.most, name
        assert max(curve.values) > expected.reached, name


def test_what_each_alert_compares_is_there(starved_run: StarvedRun) -> None:
    expressions = rules("alert")

    assert set(COMPARED) == set(expressions)
    for alert, compared in COMPARED.items():
        assert compared in expressions[alert]
        about = {
            sample.labels.get("function_name") or sample.labels.get("run")
            for sample in starved_run.prometheus.now(compared)
        }
        assert about & {FUNCTION, RUN}, alert


def test_recorded_figures_are_the_gateways(starved_run: StarvedRun) -> None:
    def agrees() -> bool:
        text = requests.get(f"{starved_run.platform.gateway.url}/metrics", timeout=30).text
        shown = [
            float(re.findall(rf'^{name}{{function_name="{re.escape(FUNCTION)}"}} (\S+)$', text, re.M)[0])
            for name in ("localfaas_replica_working_set_bytes", "localfaas_memory_limit_bytes")
        ]
        query = f'function:memory_working_set_ratio:max{{function_name="{FUNCTION}"}}'
        (recorded,) = starved_run.prometheus.now(query)
        return abs(recorded.value - shown[0] / shown[1]) <= 0.05 * shown[0] / shown[1]

    eventually(agrees, "Prometheus shows what the gateway does")


def is_there(prometheus: PrometheusApi, query: str) -> bool:
    return bool(prometheus.now(query))


def test_series_of_a_removed_function_and_of_an_ended_run_end(starved_run: StarvedRun) -> None:
    address = starved_run.platform.gateway
    auth = (address.user, address.password)
    specification = starved_run.specification() | {"service": "spare"}
    spare = 'function:replicas{function_name="spare.openfaas-fn"}'
    brief = 'peerless_round{run="brief"}'

    requests.post(f"{address.url}/system/functions", json=specification, auth=auth, timeout=60)
    eventually(lambda: is_there(starved_run.prometheus, spare), "the function is seen")
    body = {"functionName": "spare"}
    requests.delete(f"{address.url}/system/functions", json=body, auth=auth, timeout=60)

    eventually(lambda: not is_there(starved_run.prometheus, spare), "its series end")

    with starved_run.training("brief"):
        eventually(lambda: is_there(starved_run.prometheus, brief), "the other run is seen")
    eventually(lambda: not is_there(starved_run.prometheus, brief), "its series end")


def test_alert_for_memory_names_the_function_and_resolves(starved_run: StarvedRun) -> None:
    starved_run.starve()
    (alert,) = (
        alert for alert in starved_run.prometheus.firing() if alert["alertname"] == "FunctionMemoryNearLimit"
    )

    starved_run.relieve()

    assert alert["function_name"] == FUNCTION
    eventually(
        lambda: (
            not any(
                alert["alertname"] == "FunctionMemoryNearLimit" for alert in starved_run.prometheus.firing()
            )
        ),
        "the alert resolves",
    )
    assert starved_run.num_rounds() > 3
