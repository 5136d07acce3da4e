"""What every runtime does alike: one function, `containers/probe.sh`, as a process and in a container."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from each_runtime import is_nothing_left, wait_available
from parts import missing

pytestmark = pytest.mark.slow

TWO_REPLICAS = {"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "5"}


def test_every_part_of_a_request_reaches_the_function(gateway: Any, deploy: Callable[..., None]) -> None:
    deploy()
    url = f"{gateway.url}/function/fn/a/b%20c?x=1&y=%C3%A4"

    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        reply = requests.request(method, url, data=b"the body", headers={"X-Own-Thing": "a: b"}, timeout=60)

        lines = reply.text.splitlines()
        assert reply.status_code == 200, reply.text
        assert f"Http_Method={method}" in lines
        assert "Http_Path=/a/b%20c" in lines
        assert "Http_Query=x=1&y=%C3%A4" in lines
        assert "http_x_own_thing=a: b" in [line.lower() for line in lines]
        assert "body=the body" in lines
        assert reply.headers["X-Call-Id"] and reply.headers["X-Duration-Seconds"]
    head = requests.head(url, timeout=60)
    assert (head.status_code, head.content) == (200, b"")
    assert gateway.call("fn", b"x" * 500_000).text.splitlines()[-1] == "body=" + "x" * 500_000


def test_deployment_comes_back_as_given(gateway: Any, image: str, deploy: Callable[..., None]) -> None:
    given = {
        "labels": {"com.openfaas.scale.min": "2", "team": "a"},
        "annotations": {"topic": "t", "owner": "me"},
        "envVars": {"colour": "blue"},
        "limits": {"memory": "5Mi" if gateway.options[1] == "docker" else "64Mi"},
        "requests": {"memory": "1Mi"},
    }

    deploy(**given)

    status = gateway.status("fn")
    assert gateway.system("GET", "functions").json() == [status]
    for name, value in given.items():
        assert value.items() <= status[name].items()
    assert (status["image"], status["replicas"], status["availableReplicas"]) == (image, 2, 2)
    usage = gateway.system("GET", "function/fn?usage=1").json()["usage"]
    assert usage["totalMemoryBytes"] > 0


def test_environment_is_the_images_with_the_deployments_above(
    gateway: Any, deploy: Callable[..., None]
) -> None:
    deploy(envVars={"colour": "light blue", "empty": ""})

    lines = gateway.call("fn", env="").text.splitlines()

    assert {"colour=light blue", "empty=", "from_image=yes", "OPENFAAS_NAME=fn"} <= set(lines)
    replica = gateway.call("fn").headers["X-Replica"]
    assert f"HOSTNAME={replica}" in lines


def test_process_of_the_deployment_goes_before_the_images(gateway: Any, deploy: Callable[..., None]) -> None:
    deploy(envProcess="cat")

    assert gateway.call("fn", b"as it is").text == "as it is"


def test_secrets_are_files_that_only_their_function_has(gateway: Any, deploy: Callable[..., None]) -> None:
    for name, value in (("one", "first value"), ("two", "second value")):
        gateway.system("POST", "secrets", json={"name": name, "value": value})

    deploy(secrets=["one"])

    assert gateway.call("fn", secret="one").text == "first value"
    assert "two" not in gateway.call("fn", secrets="").text
    gateway.system("PUT", "secrets", json={"name": "one", "value": "changed"})
    deploy("PUT", secrets=["one"])
    gateway.until(lambda: gateway.call("fn", secret="one").text == "changed", "the new value")
    for shown in (gateway.system("GET", "function/fn").text, gateway.errors):
        assert "changed" not in shown and "first value" not in shown


def test_output_is_in_the_log_under_its_replica(gateway: Any, deploy: Callable[..., None]) -> None:
    # A classic watchdog puts what a process writes to stderr into its reply, unless it is told not to.
    deploy(envVars={"combine_output": "false"})

    replica = gateway.call("fn", print="some words").headers["X-Replica"]

    def lines() -> list[str]:
        return gateway.system("GET", "logs?name=fn&instance=" + replica).text.splitlines()

    gateway.until(lambda: any("some+words" in line for line in lines()), "log")


def test_scaling_keeps_so_many_replicas(gateway: Any, deploy: Callable[..., None]) -> None:
    deploy(labels={"com.openfaas.scale.max": "3", "com.openfaas.scale.factor": "0"})

    for replicas in (3, 1, 0):
        gateway.system("POST", "scale-function/fn", json={"serviceName": "fn", "replicas": replicas})
        wait_available(gateway, replicas)

    assert gateway.call("fn", b"wakes it").status_code == 200
    wait_available(gateway, 1)


def test_request_wakes_a_function_that_has_no_replica(gateway: Any, deploy: Callable[..., None]) -> None:
    deploy()
    scaled = gateway.system("POST", "scale-function/fn", json={"serviceName": "fn", "replicas": 0})
    assert scaled.status_code == 202
    wait_available(gateway, 0)

    reply = gateway.call("fn", b"early")

    assert reply.status_code == 200 and "body=early" in reply.text
    assert reply.headers["X-Cold-Start"] == "1"


def test_load_brings_replicas_and_quiet_takes_them_away(gateway: Any, deploy: Callable[..., None]) -> None:
    scaling = {"type": "capacity", "target": "1", "max": "2"}
    deploy(labels={f"com.openfaas.scale.{name}": value for name, value in scaling.items()})

    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(gateway.call, "fn", sleep="4") for _ in range(4)]
        gateway.until(lambda: gateway.status("fn")["replicas"] == 2, "two replicas")
        replies = [call.result() for call in calls]

    assert {reply.status_code for reply in replies} == {200}
    gateway.until(lambda: gateway.status("fn")["replicas"] == 1, "one again", 180)
    wait_available(gateway, 1)


def test_function_of_a_namespace_is_another_one(
    gateway: Any, image: str, deploy: Callable[..., None]
) -> None:
    assert gateway.system("POST", "namespace/", json={"name": "dev", "labels": {}}).status_code == 201
    gateway.system("POST", "secrets", json={"name": "one", "value": "of the default"})
    gateway.system("POST", "secrets", json={"name": "one", "value": "of dev", "namespace": "dev"})
    deploy(secrets=["one"])

    body = {"service": "fn", "image": image, "namespace": "dev", "secrets": ["one"]}
    assert gateway.system("POST", "functions", json=body).status_code == 202

    assert gateway.call("fn", secret="one").text == "of the default"
    assert gateway.call("fn.dev", secret="one").text == "of dev"
    assert [each["namespace"] for each in gateway.system("GET", "functions?namespace=dev").json()] == ["dev"]
    gone = {"functionName": "fn", "namespace": "dev"}
    assert gateway.system("DELETE", "functions", json=gone).status_code == 202
    assert gateway.call("fn.dev").status_code == 404
    assert gateway.call("fn", secret="one").text == "of the default"


def test_asynchronous_call_is_run_later(gateway: Any, deploy: Callable[..., None]) -> None:
    deploy(envVars={"combine_output": "false"})

    url = f"{gateway.url}/async-function/fn?print=later"
    reply = requests.post(url, data=b"x", headers={"X-Call-Id": "call-1"}, timeout=60)

    assert (reply.status_code, reply.headers["X-Call-Id"]) == (202, "call-1")
    gateway.until(lambda: "later" in gateway.system("GET", "logs?name=fn").text, "it ran")


def test_update_replaces_the_replicas(gateway: Any, deploy: Callable[..., None]) -> None:
    deploy(envVars={"version": "1"})
    before = gateway.call("fn").headers["X-Replica"]

    deploy("PUT", envVars={"version": "2"})

    gateway.until(lambda: "version=2" in gateway.call("fn", env="").text.splitlines(), "the update")
    assert gateway.call("fn").headers["X-Replica"] != before


def test_out_of_memory_is_a_507_and_the_next_replica_serves(
    gateway: Any, deploy: Callable[..., None]
) -> None:
    deploy(limits={"memory": "48Mi"})
    labels = {"function_name": "fn.openfaas-fn"}

    reply = gateway.call("fn", hungry=str(200 << 20))

    assert (reply.status_code, reply.json()["error"]) == (507, "out_of_memory"), reply.text
    assert reply.json()["limit_bytes"] == 48 << 20
    assert reply.json()["peak_bytes"] >= 40 << 20
    assert gateway.call("fn").status_code == 200
    gateway.until(lambda: gateway.metric("localfaas_oom_kills_total", **labels) >= 1, "the metric")
    assert gateway.metric("localfaas_memory_limit_bytes", **labels) == 48 << 20
    assert gateway.metric("localfaas_memory_peak_bytes", **labels) >= 40 << 20
    assert "out of memory" in gateway.system("GET", "logs?name=fn").text


def test_every_figure_of_memory_and_cpu_says_what_measured_it(
    gateway: Any, deploy: Callable[..., None]
) -> None:
    deploy(limits={"memory": "48Mi"})
    labels = {"function_name": "fn.openfaas-fn"}
    before = gateway.metric("pod_cpu_usage_seconds_total", **labels)

    assert gateway.call("fn", hungry=str(16 << 20)).status_code == 200

    assert gateway.metric("localfaas_memory_peak_bytes", **labels) >= 16 << 20
    assert 0 < gateway.metric("pod_memory_working_set_bytes", **labels) < 48 << 20
    assert gateway.metric("pod_cpu_usage_seconds_total", **labels) > before
    page = requests.get(f"{gateway.url}/metrics", timeout=30).text
    (source,) = set(re.findall(r'memory_source="([^"]+)"', page))
    for name in ("localfaas_memory_reclaims_total", "localfaas_major_faults_total"):
        assert re.search(rf'^{name}{{.*source="{source}"}}', page, re.MULTILINE), f"{name} of {source}"
    assert source in ("cgroup-v1", "cgroup-v2", "rlimit")


def test_limit_that_is_reached_is_counted(gateway: Any, deploy: Callable[..., None]) -> None:
    deploy(limits={"memory": "48Mi"})
    if 'memory_source="rlimit"' in requests.get(f"{gateway.url}/metrics", timeout=30).text:
        missing("no control group can be made here, and RLIMIT_DATA counts nothing")

    assert gateway.call("fn", hungry=str(200 << 20)).status_code == 507

    gateway.until(lambda: gateway.metric("localfaas_memory_reclaims_total") >= 1, "the limit was reached")


def test_unknown_image_is_refused_with_what_to_do(gateway: Any) -> None:
    reply = gateway.system("POST", "functions", json={"service": "fn", "image": "no/such:1"})

    assert reply.status_code == 400
    assert "no/such:1" in reply.text and "build" in reply.text
    assert gateway.system("GET", "functions").json() == []


def test_failing_process_is_a_500_and_the_replica_stays(gateway: Any, deploy: Callable[..., None]) -> None:
    deploy()
    before = gateway.call("fn").headers["X-Replica"]

    reply = gateway.call("fn", fail="")

    assert (reply.status_code, "failed as asked" in reply.text) == (500, True)
    assert gateway.call("fn").headers["X-Replica"] == before


@pytest.mark.parametrize("ending", ["kill", "stop"])
def test_gateway_that_starts_again_has_the_same_functions(
    gateway: Any, deploy: Callable[..., None], ending: str
) -> None:
    gateway.system("POST", "secrets", json={"name": "one", "value": "v"})
    deploy(labels=TWO_REPLICAS, secrets=["one"], envVars={"colour": "blue"})
    before = gateway.status("fn")

    gateway.kill() if ending == "kill" else gateway.stop()
    gateway.start()

    wait_available(gateway, 2)
    after = gateway.status("fn")
    for status in (before, after):
        status.pop("invocationCount")
    assert after == before
    assert "colour=blue" in gateway.call("fn", env="").text
    assert [secret["name"] for secret in gateway.system("GET", "secrets").json()] == ["one"]


def test_sigterm_leaves_nothing_running(
    gateway: Any, deploy: Callable[..., None], runtime: str, running: Callable[[int], bool]
) -> None:
    deploy(labels=TWO_REPLICAS)
    pids = gateway.all_pids()

    assert gateway.stop() == 0

    assert not any(running(pid) for pid in pids)
    assert is_nothing_left(gateway.state_dir, runtime)


def test_remove_leaves_nothing_of_the_function(
    gateway: Any, deploy: Callable[..., None], runtime: str
) -> None:
    gateway.system("POST", "secrets", json={"name": "one", "value": "v"})
    deploy(labels=TWO_REPLICAS, secrets=["one"])

    assert gateway.system("DELETE", "functions", json={"functionName": "fn"}).status_code == 202

    assert gateway.call("fn").status_code == 404
    gateway.until(lambda: is_nothing_left(gateway.state_dir, runtime), "nothing is left")
    gateway.until(lambda: not list((gateway.state_dir / "mounts").iterdir()), "no copies of secrets")
    assert not (gateway.state_dir / "logs" / "fn.log").exists()
