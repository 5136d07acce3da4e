"""Replicas, warm parents and gateways that end when nobody asked them to."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from parts import memory_cgroup

from localfaas.config import StatePaths
from localfaas.deploy import GatewayClient
from localfaas.errors import DeployFailed

LIMITED = {"limits": {"memory": "80Mi"}, "labels": {"com.openfaas.scale.min": "1"}}


def in_flight(gateway: Any) -> bool:
    return gateway.metric("localfaas_requests_in_flight") == 1


def test_replica_killed_within_a_call_is_a_typed_502_and_replaced(
    gateway: Any, until: Callable[..., Any]
) -> None:
    pids = gateway.replica_pids("probe", 2)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(gateway.call, "probe", sleep=20)
        until(lambda: in_flight(gateway), "the call runs")

        for pid in pids:
            os.kill(pid, signal.SIGKILL)

        reply = call.result()
    assert reply.status_code == 502
    fields = reply.json()
    assert (fields["error"], fields["function"]) == ("replica_lost", "probe")
    assert "killed by SIGKILL" in fields["message"]
    gateway.wait_available("probe", 2)
    assert gateway.call("probe").status_code == 200
    assert gateway.metric("localfaas_replicas_lost_total") >= 1
    assert "ended unexpectedly: killed by SIGKILL" in gateway.system("GET", "logs?name=probe").text


def test_replica_that_exits_within_a_call_is_a_502(gateway: Any) -> None:
    reply = gateway.call("probe", exit=3)

    assert (reply.status_code, reply.json()["error"]) == (502, "replica_lost")
    assert "exit status 3" in reply.json()["message"]
    gateway.wait_available("probe", 2)


def test_replica_killed_within_its_reply_breaks_the_connection(
    gateway: Any, until: Callable[..., Any]
) -> None:
    url = "/function/probe?stream=100&pause=0.1"
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    pids = gateway.replica_pids("probe", 2)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        reply = connection.makefile("rb")
        assert b" 200 " in reply.readline()

        for pid in pids:
            os.kill(pid, signal.SIGKILL)

        rest = reply.read()
    assert not rest.endswith(b"0\r\n\r\n"), "a cut-off reply must not look complete"
    gateway.wait_available("probe", 2)


def test_replica_children_end_with_it(
    gateway: Any, running: Callable[[int], bool], until: Callable[..., Any]
) -> None:
    child = gateway.call("probe", fork=1).json()["child"]
    assert running(child)

    for pid in gateway.replica_pids("probe", 3)[:3]:
        if pid != child:
            os.kill(pid, signal.SIGKILL)

    until(lambda: not running(child), "the child has ended")
    gateway.wait_available("probe", 2)


@pytest.mark.parametrize("enforcement", ["cgroup", "rlimit"])
def test_out_of_memory_is_a_507_with_its_figures(
    make_gateway: Callable[..., Any], project: Any, enforcement: str
) -> None:
    if enforcement == "cgroup":
        memory_cgroup()
    project.add("probe", **LIMITED)
    gateway = make_gateway("--memory-enforcement", enforcement)
    gateway.deploy()
    assert gateway.call("probe", mb=30).status_code == 200

    reply = gateway.call("probe", mb=300)

    assert reply.status_code == 507
    fields = reply.json()
    assert (fields["error"], fields["function"], fields["limit_bytes"]) == (
        "out_of_memory",
        "probe",
        80 << 20,
    )
    assert 25 << 20 < fields["peak_bytes"] < 110 << 20
    assert fields["replica"].startswith("probe-")
    gateway.wait_available("probe", 1)
    assert gateway.call("probe", mb=30).status_code == 200
    assert gateway.metric("localfaas_oom_kills_total") == 1
    assert gateway.metric("localfaas_memory_limit_bytes") == 80 << 20
    assert gateway.metric("localfaas_memory_peak_bytes") > 30 << 20
    assert "out of memory" in gateway.system("GET", "logs?name=probe").text
    assert "memory limits are held by" in gateway.errors


def test_memory_peak_after_another_deployment_counts_anew(
    make_gateway: Callable[..., Any], project: Any, until: Callable[..., Any]
) -> None:
    project.add("probe", **LIMITED)
    gateway = make_gateway()
    gateway.deploy()
    gateway.call("probe", mb=50)
    before = gateway.metric("localfaas_memory_peak_bytes")

    gateway.deploy()
    until(lambda: gateway.status("probe")["availableReplicas"] > 0, "a replica of the new deployment")
    gateway.call("probe", mb=5)

    assert before > 50 << 20
    assert 5 << 20 < gateway.metric("localfaas_memory_peak_bytes") < 45 << 20


def test_out_of_memory_of_an_execd_command_is_found_by_the_watchdog(
    make_gateway: Callable[..., Any], project: Any
) -> None:
    project.add("probe", fprocess="python -u index.py", environment={"eager": "1"}, **LIMITED)
    template = project.directory / "template" / "peerless" / "template.yml"
    template.write_text("language: peerless\nfprocess: python index.py\n")
    gateway = make_gateway("--memory-enforcement", "rlimit")
    gateway.deploy()

    reply = gateway.call("probe", mb=300, sleep=5)

    assert (reply.status_code, reply.json()["limit_bytes"]) == (507, 80 << 20)
    assert reply.json()["peak_bytes"] > 80 << 20
    gateway.wait_available("probe", 1)


def deploy_the_impossible(gateway: Any) -> str:
    """Deploy `probe`, which cannot start; return why that failed, once the gateway knows."""
    assert gateway.run("build", "-f", "stack.yml").returncode == 0
    done = gateway.run("deploy", "-f", "stack.yml", "--gateway", gateway.url, "--wait", "0.1")
    assert (done.returncode, "not available after" in done.stderr) == (3, True)
    gateway.until(lambda: "localfaas.last-error" in gateway.status("probe")["annotations"], "an error")
    with pytest.raises(DeployFailed) as failed:
        GatewayClient(gateway.url, gateway.state_dir / "basic-auth-password").wait_available("probe", 0)
    return str(failed.value)


def test_function_that_dies_at_start_shows_why(
    make_gateway: Callable[..., Any], project: Any, until: Callable[..., Any]
) -> None:
    project.add("probe", "import no_such_module_anywhere\n")
    gateway = make_gateway()

    error = deploy_the_impossible(gateway)

    assert "No module named 'no_such_module_anywhere'" in error
    until(lambda: gateway.call("probe").status_code == 503, "calls are refused")
    refused = gateway.call("probe")
    assert refused.json()["error"] == "function_unavailable"
    assert "no_such_module_anywhere" in refused.json()["message"]
    assert "no_such_module_anywhere" in gateway.status("probe")["annotations"]["localfaas.last-error"]


def test_function_out_of_memory_at_start_shows_that(make_gateway: Callable[..., Any], project: Any) -> None:
    handler = 'block = b"x" * (300 << 20)\ndef handle(event, context):\n    return "ready"\n'
    project.add("probe", handler, **LIMITED)
    gateway = make_gateway()

    error = deploy_the_impossible(gateway)

    assert "out of memory: peak" in error
    assert f"of {80 << 20} bytes" in error


def test_function_without_its_program_says_so(make_gateway: Callable[..., Any], project: Any) -> None:
    project.add("probe", fprocess="no-such-program --x")

    assert "no program 'no-such-program'" in deploy_the_impossible(make_gateway())


def test_warm_parent_killed_is_replaced_with_its_replicas(
    gateway: Any, running: Callable[[int], bool], until: Callable[..., Any]
) -> None:
    pids = gateway.replica_pids("probe", 2)
    parent = psutil.Process(pids[0]).ppid()
    assert "warm_parent" in " ".join(psutil.Process(parent).cmdline())

    os.kill(parent, signal.SIGKILL)

    until(lambda: not any(map(running, pids)), "its replicas have ended")
    until(lambda: gateway.call("probe").status_code == 200, "calls are answered again")
    gateway.wait_available("probe", 2)


def test_gateway_killed_leaves_no_process_and_comes_back_as_it_was(
    make_gateway: Callable[..., Any], project: Any, running: Callable[[int], bool], until: Callable[..., Any]
) -> None:
    project.add("probe", limits={"memory": "200Mi"}, labels={"topic": "x"})
    gateway = make_gateway()
    gateway.deploy()
    gateway.system("POST", "scale-function/probe", json={"replicas": 3})
    gateway.wait_available("probe", 3)
    child = gateway.call("probe", fork=1, session=1).json()["child"]
    before = gateway.status("probe")
    pids = gateway.all_pids()
    assert child in pids

    gateway.kill()

    until(lambda: not any(map(running, set(pids) - {child})), "replicas and warm parent have ended")
    gateway.start()
    gateway.wait_available("probe", 3)
    assert {**gateway.status("probe"), "invocationCount": 0} == {**before, "invocationCount": 0}
    assert gateway.call("probe").status_code == 200
    if "held by the kernel" in gateway.errors:
        assert "control groups of an earlier gateway" in gateway.errors
        assert not running(child), "a process that left its session is found by its control group"
    else:
        os.kill(child, signal.SIGKILL)


def test_gateway_told_to_stop_ends_running_calls_and_leaves_nothing(
    make_gateway: Callable[..., Any], project: Any, running: Callable[[int], bool], until: Callable[..., Any]
) -> None:
    project.add("probe")
    gateway = make_gateway()
    gateway.deploy()
    pids = gateway.all_pids()
    groups = re.search(r"cgroup v1 under (\S+)", gateway.errors)
    with ThreadPoolExecutor(2) as threads:
        call = threads.submit(gateway.call, "probe", sleep=1)
        until(lambda: in_flight(gateway), "the call runs")
        waiting = threads.submit(gateway.call, "probe")
        until(lambda: gateway.metric("localfaas_requests_waiting") == 1, "another waits")

        code = gateway.stop()

        assert (call.result().status_code, waiting.result().status_code) == (200, 503)
    assert code == 0
    assert not any(map(running, pids))
    state = gateway.state_dir
    assert not (state / "gateway.json").exists()
    assert not list(state.rglob("*.sock"))
    if groups:
        assert not (Path(groups[1]) / f"localfaas-{StatePaths(state).identity}").exists()


def test_replica_that_ignores_sigterm_is_killed(make_gateway: Callable[..., Any], project: Any) -> None:
    project.add("probe", fprocess="sh server.sh", environment={"PYTHONSTARTUP": ""})
    handler = project.directory / "template" / "peerless" / "server.sh"
    handler.write_text(
        f"trap '' TERM\nexec {sys.executable} "
        "-c 'import signal, index; signal.signal = lambda *_: 0; index.main()'\n"
    )
    gateway = make_gateway()
    gateway.deploy()

    assert gateway.stop() == 0


def test_second_gateway_on_one_state_directory_is_refused(make_gateway: Callable[..., Any]) -> None:
    gateway = make_gateway()

    done = gateway.run("serve", "--port", "0")

    assert done.returncode == 2
    assert "runs on" in done.stderr


def test_port_in_use_is_an_error_or_another_is_taken(make_gateway: Callable[..., Any]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        first = make_gateway("--port", port, "--port-fallback")

        refused = subprocess.run(
            [
                sys.executable,
                "-m",
                "localfaas",
                "serve",
                "--port",
                port,
                "--state-dir",
                str(first.state_dir) + "2",
            ],
            capture_output=True,
            text=True,
            timeout=20,
        )

    assert f"port {port} of 127.0.0.1 is in use" in first.errors
    assert not first.url.endswith(f":{port}")
    assert json.loads((first.state_dir / "gateway.json").read_text())["url"] == first.url
    assert refused.returncode == 2
    assert "--port-fallback" in refused.stderr


def test_state_directory_with_a_long_path_works(make_gateway: Callable[..., Any], project: Any) -> None:
    project.add("probe")
    gateway = make_gateway(state="long-" * 30)
    gateway.deploy()

    assert gateway.call("probe").status_code == 200


@pytest.mark.slow
def test_thousand_calls_with_kills_leak_nothing(gateway: Any, until: Callable[..., Any]) -> None:
    assert gateway.process is not None
    process = psutil.Process(gateway.process.pid)
    gateway.call("probe")
    gateway.wait_available("probe", 2)
    before = process.num_fds()
    codes: list[int] = []

    def call(number: int) -> int:
        if number % 50 == 0:
            os.kill(gateway.replica_pids("probe", 2)[0], signal.SIGKILL)
        return gateway.call("probe").status_code

    with ThreadPoolExecutor(4) as threads:
        codes = list(threads.map(call, range(1_000)))

    assert set(codes) <= {200, 502}
    assert codes.count(502) <= 20
    gateway.wait_available("probe", 2)
    until(lambda: process.num_fds() <= before + 4, "no descriptor has leaked")
    assert len(gateway.replica_pids("probe", 2)) == 2
    assert len(process.children()) <= 2, "warm parents only"
