"""Functions that take what they can, and do not let go: what holds them on each runtime."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from each_runtime import is_nothing_left, wait_available
from parts import missing

from localfaas.process_limit import MAX_PROCESSES

pytestmark = pytest.mark.slow

MAX_LOG_BYTES = 20 << 20


@pytest.fixture
def other(gateway: Any, image: str) -> str:
    """Another function, which is not hostile."""
    assert gateway.system("POST", "functions", json={"service": "other", "image": image}).status_code == 202
    wait_available(gateway, 1, "other")
    return "other"


def remove(gateway: Any, *functions: str) -> None:
    for name in functions:
        assert gateway.system("DELETE", "functions", json={"functionName": name}).status_code == 202


def test_function_that_forks_is_stopped_and_leaves_no_child(
    gateway: Any, deploy: Callable[..., None], runtime: str, other: str
) -> None:
    if runtime == "process" and "a replica has at most" not in gateway.errors:
        missing("no control group can limit the number of processes here")
    deploy()

    # A shell that cannot fork ends; in a container the server is one, too.
    reply = gateway.call("fn", fork=str(2 * MAX_PROCESSES))

    assert reply.status_code in (500, 502), reply.text
    assert gateway.call(other).status_code == 200
    gateway.until(lambda: gateway.call("fn").status_code == 200, "another replica serves")
    remove(gateway, "fn", other)
    gateway.until(lambda: is_nothing_left(gateway.state_dir, runtime), "no child is left")


def test_function_that_ignores_sigterm_within_a_call_is_killed(
    gateway: Any, deploy: Callable[..., None], runtime: str, other: str
) -> None:
    deploy(envVars={"exec_timeout": "600s"})

    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(gateway.call, "fn", ignore="600")
        gateway.until(lambda: gateway.metric("localfaas_requests_in_flight") == 1, "the call runs")
        remove(gateway, "fn")
        reply = call.result()

    assert (reply.status_code, reply.json()["error"]) == (502, "replica_lost")
    assert gateway.call(other).status_code == 200
    remove(gateway, other)
    gateway.until(lambda: is_nothing_left(gateway.state_dir, runtime), "nothing is left")


def test_function_that_floods_its_log_hinders_no_other(
    gateway: Any, deploy: Callable[..., None], other: str
) -> None:
    deploy(envVars={"combine_output": "false"})

    with ThreadPoolExecutor(1) as threads:
        flood = threads.submit(gateway.call, "fn", flood=str(30 << 20))
        answers = [gateway.call(other).status_code]
        while not flood.done():
            answers.append(gateway.call(other).status_code)

    assert flood.result().status_code == 200
    assert set(answers) == {200}
    gateway.until(lambda: "xxx" in gateway.system("GET", "logs?name=fn&tail=1").text, "its lines are there")
    logs = gateway.state_dir / "logs"
    assert sum(path.stat().st_size for path in logs.glob("fn.log*")) < MAX_LOG_BYTES
    assert len(gateway.system("GET", "logs?name=fn").content) < MAX_LOG_BYTES
    assert "xxx" not in gateway.system("GET", "logs?name=other").text
