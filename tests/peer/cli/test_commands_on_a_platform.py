"""The commands on a real platform that is made worse, test by test: one for all of them, so order matters."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from harness import CHECKOUT, LocalPlatform

from peer.local.platform import FUNCTIONS
from peer.store.servers import free_port

pytestmark = pytest.mark.slow

TINY = ("--dataset", "synthetic-640-1x20x20", "--model-arguments", "{input_size: 20}")
TINY_RUN = (*TINY, "--batch-size", "16", "--peers", "2", "--rounds", "2", "--batches-per-round", "1")


@pytest.fixture(scope="module")
def hurt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    """A platform whose wanted store port somebody else has."""
    platform = LocalPlatform(tmp_path_factory.mktemp("hurt"), store_server="nanio")
    with socket.create_server(("127.0.0.1", platform.options.store_port)):
        platform.up()
    yield platform
    platform.down()


@pytest.fixture(scope="module")
def command(hurt: LocalPlatform, tmp_path_factory: pytest.TempPathFactory):
    """Runs the installed command on that platform and returns how it ended."""
    directory = tmp_path_factory.mktemp("work")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        program = str(Path(sys.executable).with_name("peerless"))
        state_dir = str(hurt.options.state_dir)
        return subprocess.run(
            [program, *arguments, "--state-dir", state_dir], capture_output=True, text=True, cwd=directory
        )

    return run


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_port_in_use_is_left_alone(hurt, command):
    state = hurt.platform.state()

    status = command("status", "--json")

    assert not state.store.endpoint.endswith(f":{hurt.options.store_port}")
    assert status.returncode == 0
    assert json.loads(status.stdout)["parts"] == {"store": "running", "gateway": "running"}


def test_second_up_keeps_what_runs(hurt, command):
    before = hurt.platform.state()

    done = command("up", "--replicas", "2")

    assert done.returncode == 0
    assert done.stderr.count("ran already") == 2
    assert hurt.platform.state() == before


def test_doctor_of_a_sound_platform_finds_nothing(command):
    done = command("doctor", "--json")

    assert done.returncode == 0
    assert all(finding["ok"] for finding in json.loads(done.stdout).values())


def test_run_is_trained_shown_and_not_begun_or_resumed_again(command, hurt):
    trained = command("train", *TINY_RUN, "--run", "tiny", "--json")
    again = command("train", *TINY_RUN, "--run", "tiny")
    resumed = command("resume", "tiny")
    shown = command("runs", "show", "tiny")
    listed = command("runs", "list", "--json")

    assert trained.returncode == 0
    assert json.loads(trained.stdout)["rounds"] == 2
    assert (again.returncode, resumed.returncode) == (2, 45)
    assert "run tiny exists" in last_line(again)
    assert "run tiny is finished" in last_line(resumed)
    assert "test accuracy" in shown.stdout
    assert json.loads(listed.stdout)["state"] == "finished"


def test_wrong_gateway_password_has_exit_code_22(command, hurt, monkeypatch):
    monkeypatch.setenv("PEERLESS_GATEWAY_PASSWORD", "guessed")

    done = command("train", *TINY_RUN, "--gateway", hurt.gateway.url)

    assert done.returncode == 22
    assert "refused user 'admin': set --gateway-password-file" in last_line(done)


def test_dead_parts_are_named_and_up_starts_them_where_they_were(command, hurt):
    before = hurt.platform.state()
    hurt.kill("gateway")
    without_gateway = command("train", *TINY_RUN)
    hurt.kill("store")
    without_store = command("train", *TINY_RUN)
    down = command("status")

    up = command("up")

    assert (without_gateway.returncode, without_store.returncode, down.returncode) == (21, 11, 50)
    assert before.gateway.url in last_line(without_gateway)
    assert before.store.endpoint in last_line(without_store)
    assert up.returncode == 0
    assert hurt.platform.state().store.endpoint == before.store.endpoint
    assert hurt.platform.state().gateway.url == before.gateway.url
    assert command("runs", "show", "tiny", "--json").returncode == 0


def test_model_that_does_not_fit_names_limit_and_peak(command, tmp_path, hurt):
    small = (CHECKOUT / "stack.yml").read_text().replace("memory: 2Gi", "memory: 150Mi")
    stack = CHECKOUT / f"stack-{tmp_path.name}.yml"
    stack.write_text(small.replace("memory: 256Mi", "memory: 64Mi"))
    try:
        assert command("up", "--stack", str(stack)).returncode == 0
    finally:
        stack.unlink()

    done = command("train", *TINY[:2], "--model", "vgg11", "--batch-size", "64", "--rounds", "1")

    assert done.returncode == 26
    assert "limit 150 MiB, peak" in last_line(done)
    assert "Raise `limits.memory`" in last_line(done)


def test_function_that_is_not_deployed_has_exit_code_23(command, hurt):
    gateway = hurt.gateway
    requests.delete(
        f"{gateway.url}/system/functions",
        json={"functionName": "evaluate"},
        auth=(gateway.user, gateway.password),
        timeout=10,
    ).raise_for_status()

    done = command("train", *TINY_RUN)

    assert done.returncode == 23
    assert "function evaluate is not deployed" in last_line(done)
    assert "peerless up" in last_line(done)


def test_up_with_the_live_page_says_where_it_is(command, hurt):
    first = command("up", "--dashboard", "--dashboard-port", str(free_port()))
    second = command("up", "--dashboard")

    url = hurt.platform.state().companions["dashboard"].url
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stderr.splitlines()[-1] == f"dashboard {url}"
    assert second.stderr.splitlines()[-1] == f"dashboard {url}  (ran already)"
    assert json.loads(command("status", "--json").stdout)["parts"]["dashboard"] == "running"
    functions = requests.get(f"{url}/api/state", timeout=30).json()["functions"]
    assert {function["name"] for function in functions} == {*FUNCTIONS}


def test_down_ends_everything_and_can_be_said_twice(command, hurt):
    state = hurt.platform.state()

    first, second = command("down"), command("down")

    assert (first.returncode, second.returncode) == (0, 0)
    assert second.stderr == "nothing was running\n"
    for part in (state.store, state.gateway, state.companions["dashboard"]):
        assert not Path(f"/proc/{part.process.pid}/cwd").exists()
