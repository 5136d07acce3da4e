"""*Functions* on a real OpenFaaS: a Prometheus that reads its gateway's names, and a cluster's cAdvisor."""

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from grafana_files import FILES, expressions, filled_in, loaded, panels
from parts import program
from prometheus_api import PrometheusApi

from peer.store.retry import Patience, poll
from peer.store.servers import free_port

pytestmark = pytest.mark.slow

RULES = Path(__file__).resolve().parents[2] / "dashboards" / "prometheus" / "rules"
FUNCTION = "figlet.openfaas-fn"
(DASHBOARD,) = (loaded(path) for path in FILES if path.stem == "peerless-functions")
# what a panel's description says is known of localfaas only
OURS = ("localfaas_cold_start_seconds_count", "localfaas_requests_waiting", "localfaas_async_queue_depth")
SHOWN_SECONDS = 300.0
_PATIENCE = Patience(total_seconds=240.0, first_seconds=0.5, longest_seconds=2.0)

# {n} grows by one a second, {tenth} every ten seconds
EXPOSED = """
gateway_function_invocation_total{{code="200",function_name="figlet.openfaas-fn"}} {n}
gateway_function_invocation_total{{code="502",function_name="figlet.openfaas-fn"}} {tenth}
gateway_function_invocation_started{{function_name="figlet.openfaas-fn"}} {started}
gateway_functions_seconds_bucket{{code="200",function_name="figlet.openfaas-fn",le="0.1"}} {tenth}
gateway_functions_seconds_bucket{{code="200",function_name="figlet.openfaas-fn",le="0.5"}} {n}
gateway_functions_seconds_bucket{{code="200",function_name="figlet.openfaas-fn",le="+Inf"}} {n}
gateway_functions_seconds_sum{{code="200",function_name="figlet.openfaas-fn"}} {tenth}
gateway_functions_seconds_count{{code="200",function_name="figlet.openfaas-fn"}} {n}
gateway_service_count{{function_name="figlet.openfaas-fn"}} 2
container_memory_working_set_bytes{{{pod}}} 120586240
container_spec_memory_limit_bytes{{{pod}}} 134217728
container_cpu_usage_seconds_total{{{pod}}} {tenth}
container_memory_failcnt{{{pod}}} {n}
container_memory_failures_total{{{pod},failure_type="pgmajfault",scope="container"}} {n}
container_pressure_memory_waiting_seconds_total{{{pod}}} {tenth}
container_oom_events_total{{{pod}}} {tenth}
"""
POD = 'namespace="openfaas-fn",pod="figlet-5d8c",container="figlet"'


class Exposition(BaseHTTPRequestHandler):
    """Answers as an OpenFaaS gateway and a kubelet do, whose counters grow with time."""

    def do_GET(self) -> None:
        num_seconds = int(time.monotonic())
        numbers = {"n": num_seconds, "started": num_seconds + num_seconds // 10 + 3}
        text = EXPOSED.format(pod=POD, tenth=num_seconds // 10, **numbers).lstrip()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def exposed() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Exposition)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def openfaas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusApi]:
    """A Prometheus that has our rules, and scrapes an OpenFaaS."""
    path = program("prometheus", "Debian's package prometheus has it")
    directory = tmp_path_factory.mktemp("openfaas")
    address = f"127.0.0.1:{free_port()}"
    api = PrometheusApi(f"http://{address}")
    with exposed() as target, (directory / "log").open("wb") as log_file:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rule) for rule in sorted(RULES.glob("*.yml"))],
            "scrape_configs": [{"job_name": "openfaas", "static_configs": [{"targets": [target]}]}],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        process = subprocess.Popen(
            [
                *(path, f"--config.file={directory / 'prometheus.yml'}"),
                *(f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address={address}"),
            ],
            stdout=log_file,
            stderr=log_file,
        )
        try:
            assert poll(lambda: _is_scraped(api), _PATIENCE), (directory / "log").read_text()
            yield api
        finally:
            process.terminate()
            process.wait()


def _is_scraped(api: PrometheusApi) -> bool | None:
    try:
        return bool(api.now("up == 1")) or None
    except OSError:
        return None  # it does not listen yet


def test_each_panel_of_what_openfaas_knows_has_its_function(openfaas: PrometheusApi) -> None:
    wanted = [
        (panel["title"], filled_in(target["expr"]))
        for panel in panels(DASHBOARD)
        for target in panel["targets"]
        if not any(name in target["expr"] for name in OURS)
    ]
    assert len(wanted) >= 18

    missing = dict.fromkeys(expr for _, expr in wanted)

    def complete() -> bool | None:
        for expr in list(missing):
            curves = openfaas.course(expr, last_seconds=SHOWN_SECONDS, step_seconds=5.0)
            if curves:
                assert all(curve.labels.get("function_name", FUNCTION) == FUNCTION for curve in curves), expr
                assert min(value for curve in curves for value in curve.values) >= 0, expr
                del missing[expr]
        return not missing or None

    assert poll(complete, _PATIENCE), [title for title, expr in wanted if expr in missing]


def test_the_fullest_replica_is_the_pods(openfaas: PrometheusApi) -> None:
    def recorded() -> float | None:
        found = openfaas.now(f'function:memory_working_set_ratio:max{{function_name="{FUNCTION}"}}')
        return found[0].value if found else None

    assert poll(recorded, _PATIENCE) == pytest.approx(120586240 / 134217728)


def test_the_variable_function_and_the_oom_kills_are_there(openfaas: PrometheusApi) -> None:
    (event,) = (event for event in DASHBOARD["annotations"]["list"] if event["name"] == "OOM kills")

    assert poll(lambda: openfaas.course(filled_in(event["expr"]), SHOWN_SECONDS) or None, _PATIENCE)
    assert "gateway_service_count" in list(expressions(DASHBOARD))
    assert {sample.labels["function_name"] for sample in openfaas.now("gateway_service_count")} == {FUNCTION}
