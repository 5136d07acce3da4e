"""What happens while the Docker daemon is away, and after a reply of it was lost."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker_daemon import DaemonInBetween
from docker_images import containers, docker, networks

pytestmark = pytest.mark.slow


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonInBetween]:
    with DaemonInBetween(tmp_path / "docker.sock") as daemon:
        yield daemon


@pytest.fixture
def gateway(
    daemon: DaemonInBetween, image: str, make_gateway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Any:
    with monkeypatch.context() as patch:
        patch.setenv("DOCKER_HOST", daemon.url)
        return make_gateway("--runtime", "docker", "--pull-policy", "never")


def test_daemon_that_is_away_for_a_while_costs_no_request(
    gateway: Any, daemon: DaemonInBetween, identity: str, deploy: Callable[..., None]
) -> None:
    deploy()
    before = containers(identity)

    daemon.go_away()
    assert gateway.call("fn", print="meanwhile").status_code == 200
    refused = gateway.system("POST", "functions", json={"service": "other", "image": "x"})
    daemon.come_back()

    assert refused.status_code == 503 and "daemon does not answer" in refused.text, refused.text
    gateway.until(lambda: "meanwhile" in gateway.system("GET", "logs?name=fn").text, "its log goes on")
    assert gateway.call("fn").status_code == 200
    assert containers(identity) == before


def test_container_lost_while_the_daemon_is_away_is_replaced(
    gateway: Any, daemon: DaemonInBetween, identity: str, deploy: Callable[..., None]
) -> None:
    deploy()
    (before,) = containers(identity)

    daemon.go_away()
    docker("kill", before)
    assert gateway.call("fn").status_code >= 500
    daemon.come_back()

    gateway.until(lambda: gateway.call("fn").status_code == 200, "another replica")
    gateway.until(lambda: before not in containers(identity), "nothing of the first")


@pytest.mark.parametrize("request_line", [b"/containers/create", b"/start HTTP"])
def test_container_whose_start_nobody_heard_of_is_removed(
    gateway: Any, daemon: DaemonInBetween, identity: str, deploy: Callable[..., None], request_line: bytes
) -> None:
    daemon.lose_reply_to = request_line

    deploy()

    assert daemon.lose_reply_to == b"", "a reply was lost"
    gateway.until(lambda: len(containers(identity)) == 1, "one container, the second")
    assert "does not answer" in gateway.errors
    assert gateway.call("fn").status_code == 200


def test_gateway_that_stops_without_a_daemon_ends_and_the_next_removes(
    gateway: Any,
    daemon: DaemonInBetween,
    identity: str,
    deploy: Callable[..., None],
    until: Callable[..., Any],
) -> None:
    deploy()
    daemon.go_away()

    assert gateway.stop() == 0

    assert len(containers(identity)) == 1
    (gateway.state_dir / "functions" / "fn.json").unlink()
    gateway.start()
    until(lambda: not containers(identity) and not networks(identity), "nothing is left", 60)


def test_daemon_that_does_not_answer_is_said_at_the_start(tmp_path: Path) -> None:
    def serve(host: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "localfaas", "serve", "--runtime", "docker", "--port", "0"]
        return subprocess.run(
            [*command, "--state-dir", str(tmp_path / "state")],
            env={**os.environ, "DOCKER_HOST": host},
            capture_output=True,
            text=True,
            timeout=60,
        )

    away = serve(f"unix://{tmp_path}/no.sock")
    remote = serve("tcp://10.0.0.1:2375")

    assert away.returncode == 2 and "no Docker daemon answers" in away.stderr, away.stderr
    assert "--runtime process" in away.stderr and "Traceback" not in away.stderr
    assert remote.returncode == 2 and "DOCKER_HOST is tcp://10.0.0.1:2375" in remote.stderr
