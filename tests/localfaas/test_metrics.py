"""`/metrics` as Prometheus reads it: OpenFaaS' names and labels."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from documented import documented_metrics, exported_metrics
from parts import memory_cgroup
from prometheus_client.parser import text_string_to_metric_families

# Keeps 24 MiB, and reads a file that does not fit beside them.
HUNGRY = """
kept = bytearray(24 << 20)

def handle(event, context):
    kept[::4096] = b"x" * len(kept[::4096])
    with open("file", "wb") as file:
        for _ in range(128):
            file.write(b"y" * (1 << 20))
    for _ in range(2):
        with open("file", "rb") as file:
            while file.read(1 << 20):
                pass
    return "done"
"""


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

    assert names <= {"function_name", "code", "le", "source", "kind", "generation"} | {
        "version",
        "runtime",
        "memory_source",
    }
    assert "nobody" not in requests.get(f"{gateway.url}/metrics", timeout=10).text


@contextmanager
def holding(gateway: Any, megabytes: int) -> Iterator[None]:
    """Have one replica of `probe` hold so much memory while the block runs."""
    call = threading.Thread(target=gateway.call, args=("probe",), kwargs={"mb": megabytes, "sleep": 5})
    call.start()
    try:
        yield
    finally:
        call.join()


def replica_working_set(gateway: Any) -> float:
    return gateway.metric("localfaas_replica_working_set_bytes", function_name="probe.openfaas-fn")


def cgroup_working_set(pid: int) -> int:
    """Return usage less inactive file pages of a process' control group, from the kernel's files."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if "memory" in controllers.split(","):
            base, usage, inactive = "/sys/fs/cgroup/memory", "memory.usage_in_bytes", "total_inactive_file"
            break
    else:
        base, usage, inactive = "/sys/fs/cgroup", "memory.current", "inactive_file"
    directory = Path(base + group)
    stat = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
    return int((directory / usage).read_text()) - int(stat[inactive])


def agrees(gateway: Any, read: Callable[[], float], least_bytes: int) -> bool:
    """Return whether the page says, within 5 %, what an independent reading before or after it does."""
    before, shown, after = read(), replica_working_set(gateway), read()
    return shown > least_bytes and any(abs(shown - truth) <= 0.05 * truth for truth in (before, after))


@pytest.mark.slow
def test_working_set_agrees_with_the_kernels_files(gateway: Any, until: Callable[..., Any]) -> None:
    memory_cgroup()
    pids = gateway.replica_pids("probe", 2)

    with holding(gateway, 100):
        until(
            lambda: agrees(gateway, lambda: max(map(cgroup_working_set, pids)), 100 << 20),
            "the page agrees with the control group's files",
        )


@pytest.mark.slow
def test_working_set_without_a_group_agrees_with_psutil(
    project: Any, make_gateway: Callable[..., Any], until: Callable[..., Any]
) -> None:
    project.add("probe")
    gateway = make_gateway("--memory-enforcement", "rlimit")
    gateway.deploy()
    process = psutil.Process(*gateway.replica_pids("probe", 1))

    def private_bytes() -> int:
        return process.memory_info().rss - process.memory_info().shared

    base_bytes = private_bytes() - replica_working_set(gateway)
    with holding(gateway, 100):
        until(
            lambda: agrees(gateway, lambda: private_bytes() - base_bytes, 100 << 20),
            "the page agrees with psutil",
        )


@pytest.mark.slow
def test_function_short_of_memory_shows_cache_reclaims_and_pressure_after_its_replica_too(
    gateway: Any, until: Callable[..., Any]
) -> None:
    memory_cgroup()
    gateway.project.add("hungry", HUNGRY, limits={"memory": "64Mi"})
    gateway.deploy()
    name = {"function_name": "hungry.openfaas-fn"}

    assert gateway.call("hungry").text == "done"

    source = families(gateway)["localfaas_build_info"].samples[0].labels["memory_source"]
    assert 0 < gateway.metric("localfaas_memory_cache_bytes", **name) <= 64 << 20
    assert gateway.metric("localfaas_memory_limit_bytes", **name) == 64 << 20
    reclaims = gateway.metric("localfaas_memory_reclaims_total", source=source, **name)
    pressure = gateway.metric("localfaas_memory_pressure_seconds_total", kind="some", **name)
    assert reclaims > 0
    if "localfaas_memory_pressure_seconds" in families(gateway):
        assert 0 < gateway.metric("localfaas_memory_pressure_seconds_total", kind="full", **name) <= pressure

    psutil.Process(*gateway.replica_pids("hungry", 1)).kill()
    until(lambda: gateway.metric("localfaas_replicas_lost_total", **name) == 1, "the loss is counted")
    gateway.wait_available("hungry", 1)

    assert gateway.metric("localfaas_memory_reclaims_total", source=source, **name) >= reclaims
    assert gateway.metric("localfaas_memory_pressure_seconds_total", kind="some", **name) >= pressure


@pytest.mark.slow
def test_metrics_are_those_of_the_document_and_go_with_their_function(
    project: Any, make_gateway: Callable[..., Any], until: Callable[..., Any]
) -> None:
    project.add("slowly", limits={"memory": "256Mi"})
    project.add("stays")
    gateway = make_gateway()
    gateway.deploy()
    gateway.call("slowly")
    requests.post(f"{gateway.url}/async-function/slowly?sleep=1", timeout=10)
    documented = documented_metrics("gateway")

    exported = exported_metrics(requests.get(f"{gateway.url}/metrics", timeout=10).text)

    if "localfaas_memory_pressure_seconds_total" not in exported:
        del documented["localfaas_memory_pressure_seconds_total"]
    assert exported == documented
    deployed_at = gateway.metric("localfaas_deployed_timestamp_seconds", function_name="slowly.openfaas-fn")
    assert deployed_at >= int(psutil.Process(gateway.process.pid).create_time())

    gateway.system("DELETE", "functions", json={"functionName": "slowly"})
    until(lambda: "slowly" not in requests.get(f"{gateway.url}/metrics", timeout=10).text, "it is gone")

    assert 'function_name="stays.openfaas-fn"' in requests.get(f"{gateway.url}/metrics", timeout=10).text
