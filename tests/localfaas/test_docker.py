"""What only containers have: how they are confined, adopted and removed, and what their daemon does."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from docker_images import busybox_image, containers, docker, networks, require_docker

from localfaas.config import StatePaths

pytestmark = pytest.mark.slow

TWO_REPLICAS = {"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "5"}


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    require_docker()
    with busybox_image() as name:
        yield name


@pytest.fixture
def gateway(image: str, make_gateway: Callable[..., Any]) -> Any:
    return make_gateway("--runtime", "docker", "--pull-policy", "never")


@pytest.fixture
def identity(gateway: Any) -> str:
    return StatePaths(gateway.state_dir).identity


@pytest.fixture
def deploy(gateway: Any, image: str) -> Callable[..., None]:
    """Deploy `fn` and wait for its replicas."""

    def do(method: str = "POST", *, is_awaited: bool = True, **fields: Any) -> None:
        reply = gateway.system(method, "functions", json={"service": "fn", "image": image, **fields})
        assert reply.status_code == 202, reply.text
        replicas = int(fields.get("labels", {}).get("com.openfaas.scale.min", 1))
        if is_awaited:
            gateway.until(lambda: gateway.status("fn")["availableReplicas"] == replicas, "replicas of fn")

    return do


def inspect(container: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", container))[0]
    return found


def test_container_is_confined(gateway: Any, identity: str, deploy: Callable[..., None]) -> None:
    deploy(
        limits={"memory": "5Mi", "cpu": "500m"},
        requests={"memory": "1Mi", "cpu": "250m"},
        labels={"team": "a"},
        annotations={"topic": "t"},
        envProcess="cat",
    )
    (container,) = containers(identity)

    found = inspect(container)

    host, config = found["HostConfig"], found["Config"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (6 << 20, 6 << 20, 500_000_000)
    assert (host["MemoryReservation"], host["CpuShares"]) == (6 << 20, 256)
    assert "no-new-privileges:true" in host["SecurityOpt"] and "NET_RAW" in host["CapDrop"]
    assert host["PidsLimit"] == 1024 and host["Init"] is True and host["Privileged"] is False
    assert [each["HostIp"] for each in found["NetworkSettings"]["Ports"]["8080/tcp"]] == ["127.0.0.1"]
    assert (config["Labels"]["team"], config["Labels"]["topic"]) == ("a", "t")
    assert "fprocess=cat" in config["Env"] and config["Cmd"][0] == "sh"
    assert host["LogConfig"]["Config"]["max-size"] == "8m"
    assert gateway.status("fn")["limits"] == {"memory": "5Mi", "cpu": "500m"}
    assert "limits.memory is 5Mi" in gateway.errors


def test_read_only_root_has_a_writable_tmp(gateway: Any, deploy: Callable[..., None]) -> None:
    deploy(readOnlyRootFilesystem=True)

    assert gateway.call("fn", write="/tmp/file").text == "written\n"
    assert gateway.call("fn", write="/file").status_code == 500


def test_secret_folder_is_read_only(gateway: Any, deploy: Callable[..., None]) -> None:
    gateway.system("POST", "secrets", json={"name": "key", "value": "v"})
    deploy(secrets=["key"])

    assert gateway.call("fn", secret="key").text == "v"
    assert gateway.call("fn", write="/var/openfaas/secrets/other").status_code == 500
    assert (gateway.state_dir / "mounts").stat().st_mode & 0o777 == 0o700


def test_functions_do_not_reach_each_other(gateway: Any, identity: str, deploy: Callable[..., None]) -> None:
    deploy(labels=TWO_REPLICAS)
    addresses = [
        next(iter(inspect(each)["NetworkSettings"]["Networks"].values()))["IPAddress"]
        for each in containers(identity)
    ]

    replies = [gateway.call("fn", reach=address) for address in addresses]

    # One of the two is the replica itself.
    assert sorted(reply.text for reply in replies) == ["not reached\n", "reached\n"]


def test_gateway_adopts_what_a_killed_one_left(
    gateway: Any, identity: str, deploy: Callable[..., None]
) -> None:
    gateway.system("POST", "secrets", json={"name": "key", "value": "v"})
    deploy(labels=TWO_REPLICAS, secrets=["key"], envVars={"start": "echo began >&2"})
    before = containers(identity)
    gateway.kill()

    gateway.start()

    gateway.until(lambda: gateway.status("fn")["availableReplicas"] == 2, "both go on")
    assert containers(identity) == before
    reply = gateway.call("fn", secret="key")
    assert reply.text == "v" and "X-Cold-Start" not in reply.headers
    texts = [json.loads(line)["text"] for line in gateway.system("GET", "logs?name=fn").text.splitlines()]
    assert texts.count("began") == 2, "no line is read twice"
    docker("kill", before[0])
    gateway.until(lambda: len(set(containers(identity)) - set(before)) == 1, "a new one for the killed one")


def test_gateway_removes_containers_that_fit_no_deployment(
    gateway: Any, identity: str, deploy: Callable[..., None]
) -> None:
    deploy(labels=TWO_REPLICAS)
    before = containers(identity)
    gateway.kill()
    docker("kill", before[0])
    path = gateway.state_dir / "functions" / "fn.json"
    record = json.loads(path.read_text())
    record["deployment"]["env_vars"] = {"colour": "blue"}
    path.write_text(json.dumps(record))

    gateway.start()

    gateway.until(lambda: gateway.status("fn")["availableReplicas"] == 2, "two of the new deployment")
    assert not set(containers(identity)) & set(before)
    assert "colour=blue" in gateway.call("fn", env="").text


def test_scaled_down_gateway_keeps_no_surplus(
    gateway: Any, identity: str, deploy: Callable[..., None]
) -> None:
    deploy(labels=TWO_REPLICAS)
    gateway.kill()
    path = gateway.state_dir / "functions" / "fn.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "replicas": 1}))

    gateway.start()

    gateway.until(lambda: len(containers(identity)) == 1, "one container")
    assert gateway.call("fn").status_code == 200


def test_container_killed_within_a_request_is_a_502_and_replaced(
    gateway: Any, identity: str, deploy: Callable[..., None]
) -> None:
    deploy()
    (before,) = containers(identity)

    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(gateway.call, "fn", sleep="30")
        gateway.until(lambda: gateway.metric("localfaas_requests_in_flight") == 1, "the request runs")
        docker("kill", before)
        reply = pending.result()

    assert (reply.status_code, reply.json()["error"]) == (502, "replica_lost")
    assert "SIGKILL" in reply.json()["message"]
    assert gateway.call("fn").status_code == 200
    assert before not in containers(identity)


def test_container_that_is_removed_by_hand_is_replaced(
    gateway: Any, identity: str, deploy: Callable[..., None]
) -> None:
    deploy()
    (before,) = containers(identity)

    docker("rm", "--force", before)

    gateway.until(lambda: [each for each in containers(identity) if each != before], "another container")
    gateway.until(lambda: gateway.call("fn").status_code == 200, "it serves")


def test_container_that_dies_at_its_start_shows_its_last_words(
    gateway: Any, identity: str, deploy: Callable[..., None]
) -> None:
    deploy(is_awaited=False, envVars={"start": "echo cannot find the model >&2; exit 7"})

    def last_error() -> str:
        return str(gateway.status("fn")["annotations"].get("localfaas.last-error", ""))

    gateway.until(lambda: "cannot find the model" in last_error(), "its last words in describe")
    assert "exit status 7" in last_error()
    gateway.until(lambda: gateway.call("fn").status_code == 503, "requests are refused")
    deploy("PUT")
    assert gateway.call("fn").status_code == 200


def test_slow_start_is_waited_for(gateway: Any, deploy: Callable[..., None]) -> None:
    deploy(is_awaited=False, envVars={"start": "sleep 3"})

    assert gateway.call("fn", b"early").status_code == 200


def test_container_that_ignores_sigterm_is_killed(
    gateway: Any, identity: str, deploy: Callable[..., None]
) -> None:
    deploy(envVars={"start": "trap '' TERM"})

    assert gateway.stop() == 0

    assert not containers(identity) and not networks(identity)


def test_flood_of_output_fills_no_disk(gateway: Any, identity: str, deploy: Callable[..., None]) -> None:
    deploy()

    assert gateway.call("fn", flood=str(60 << 20)).status_code == 200

    (container,) = containers(identity)
    log = Path(inspect(container)["LogPath"])
    if os.access(log.parent, os.R_OK):
        assert sum(path.stat().st_size for path in log.parent.glob("*.log*")) < 20 << 20
    kept = gateway.state_dir / "logs"
    assert sum(path.stat().st_size for path in kept.iterdir()) < 20 << 20
    assert gateway.call("fn", print="still-here").status_code == 200
    gateway.until(lambda: "still-here" in gateway.system("GET", "logs?name=fn&tail=5").text, "later lines")


def test_image_that_cannot_be_started_is_seen_in_describe(
    make_gateway: Callable[..., Any], image: str
) -> None:
    with busybox_image('FROM scratch\nCMD ["/no/such/program"]\n') as broken:
        gateway = make_gateway("--runtime", "docker")
        gateway.system("POST", "functions", json={"service": "fn", "image": broken})

        def last_error() -> str:
            return str(gateway.status("fn")["annotations"].get("localfaas.last-error", ""))

        gateway.until(lambda: "/no/such/program" in last_error(), "what Docker says")
        identity = StatePaths(gateway.state_dir).identity
        gateway.stop()

    assert not containers(identity) and not networks(identity)


@pytest.mark.parametrize("policy", ["missing", "always"])
def test_image_that_cannot_be_pulled_is_refused(
    make_gateway: Callable[..., Any], image: str, policy: str
) -> None:
    gateway = make_gateway("--runtime", "docker", "--pull-policy", policy)
    # Nobody listens at this registry.
    absent = {"service": "fn", "image": "127.0.0.1:1/no/such:1"}

    reply = gateway.system("POST", "functions", json=absent, timeout=120)

    assert reply.status_code == 400
    assert "127.0.0.1:1/no/such:1" in reply.text and "cannot be pulled" in reply.text
    local = gateway.system("POST", "functions", json={"service": "fn", "image": image}, timeout=120)
    assert local.status_code == 202, local.text
    assert gateway.call("fn").status_code == 200


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
