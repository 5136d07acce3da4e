"""`/metrics` as Prometheus reads it: OpenFaaS' names and labels."""

from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families


def families(gateway: Any) -> dict[str, Any]:
    text = requests.get(f"{gateway.url}/metrics", timeout=10).text
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_metrics_after_calls_carry_openfaas_names(gateway: Any) -> None:
    before = gateway.metric(
        "gateway_function_invocation_total", function_name="probe.openfaas-fn", code="200"
    )

    for _ in range(3):
        gateway.call("probe")
    gateway.call("probe", **{"raise": 1})

    found = families(gateway)
    labels = {"function_name": "probe.openfaas-fn"}
    invocations = {tuple(s.labels.items()): s.value for s in found["gateway_function_invocation"].samples}
    assert found["gateway_function_invocation"].type == "counter"
    assert invocations[("code", "200"), ("function_name", "probe.openfaas-fn")] == before + 3
    assert invocations[("code", "500"), ("function_name", "probe.openfaas-fn")] == 1
    assert [s.name for s in found["gateway_function_invocation_started"].samples] == [
        "gateway_function_invocation_started"
    ]
    histogram = [s for s in found["gateway_functions_seconds"].samples if s.labels.get("code") == "200"]
    assert {s.labels.get("le") for s in histogram} >= {"0.005", "10.0", "+Inf"}
    assert found["gateway_service_count"].samples[0].labels == labels
    assert found["gateway_service_count"].samples[0].value == 2
    assert found["pod_memory_working_set_bytes"].samples[0].value > 1 << 20
    assert found["pod_cpu_usage_seconds"].samples[0].name == "pod_cpu_usage_seconds_total"
    assert found["localfaas_cold_start_seconds"].type == "histogram"
    assert found["process_resident_memory_bytes"].samples[0].value > 1 << 20


def test_metrics_labels_are_bounded(gateway: Any) -> None:
    for path in ("/a", "/b?c=1", "/d/e"):
        requests.get(f"{gateway.url}/function/probe{path}", timeout=10)
    requests.get(f"{gateway.url}/function/nobody-knows-this", timeout=10)

    names = {name for family in families(gateway).values() for s in family.samples for name in s.labels}

    assert names <= {"function_name", "code", "le", "source", "generation"}
    assert "nobody" not in requests.get(f"{gateway.url}/metrics", timeout=10).text
