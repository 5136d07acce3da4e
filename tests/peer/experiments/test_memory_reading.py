"""A function's figures out of a gateway's metrics."""

import pytest

from peer.experiments.memory_reading import MemoryReading, parse_memory

GRADIENT = "gradient.openfaas-fn"
PAGE = """\
# TYPE localfaas_build_info gauge
localfaas_build_info{version="1",runtime="process",memory_source="cgroup-v1"} 1.0
# TYPE pod_memory_working_set_bytes gauge
pod_memory_working_set_bytes{function_name="gradient.openfaas-fn"} 50
pod_memory_working_set_bytes{function_name="gradient.staging"} 9
pod_memory_working_set_bytes{function_name="evaluate.openfaas-fn"} 7
# TYPE localfaas_oom_kills counter
localfaas_oom_kills_total{function_name="gradient.openfaas-fn"} 3.0
localfaas_oom_kills_total{function_name="evaluate.openfaas-fn"} 1.0
# TYPE localfaas_memory_reclaims counter
localfaas_memory_reclaims_total{function_name="gradient.openfaas-fn",source="cgroup-v1"} 9.0
"""
PRESSURE = """\
# TYPE localfaas_replica_working_set_bytes gauge
localfaas_replica_working_set_bytes{function_name="gradient.openfaas-fn"} 40
# TYPE localfaas_memory_pressure_seconds counter
localfaas_memory_pressure_seconds_total{function_name="gradient.openfaas-fn",kind="some",source="p"} 1.5
localfaas_memory_pressure_seconds_total{function_name="gradient.openfaas-fn",kind="full",source="p"} 0.5
"""


def test_parse_memory_takes_the_series_of_one_function_and_leaves_out_what_is_missing() -> None:
    assert parse_memory(PAGE, GRADIENT) == MemoryReading(
        working_set_bytes=50,
        working_set_source="pod_memory_working_set_bytes",
        oom_kills=3,
        reclaims=9,
        source="cgroup-v1",
    )


def test_parse_memory_prefers_one_replica_and_reads_pressure() -> None:
    found = parse_memory(PAGE + PRESSURE, GRADIENT)

    assert (found.working_set_bytes, found.working_set_source) == (40, "localfaas_replica_working_set_bytes")
    assert found.pressure_seconds == 1.5


@pytest.mark.parametrize("text", ["", "<html>not found</html>"])
def test_parse_memory_of_a_gateway_without_metrics_is_empty(text: str) -> None:
    assert parse_memory(text, GRADIENT) == MemoryReading()
