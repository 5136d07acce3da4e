"""What only containers have: how they are confined, measured, adopted, replaced and removed."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from docker_images import (
    busybox_image,
    containers,
    control_groups,
    docker,
    docker_stats_bytes,
    inspect,
    networks,
)

from localfaas.config import StatePaths

pytestmark = pytest.mark.slow

TWO_REPLICAS = {"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "5"}


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
    assert (host["Memory"], host["NanoCpus"]) == (6 << 20, 500_000_000)
    assert host["MemorySwap"] - host["Memory"] <= 4 << 20, "next to no swap"
    assert (host["MemoryReservation"], host["CpuShares"]) == (6 << 20, 256)
    assert "no-new-privileges:true" in host["SecurityOpt"] and "NET_RAW" in host["CapDrop"]
    assert host["PidsLimit"] == 1024 and host["Init"] is True and host["Privileged"] is False
    assert [each["HostIp"] for each in found["NetworkSettings"]["Ports"]["8080/tcp"]] == ["127.0.0.1"]
    assert (config["Labels"]["team"], config["Labels"]["topic"]) == ("a", "t")
    assert "fprocess=cat" in config["Env"] and config["Cmd"][0] == "sh"
    assert host["LogConfig"]["Config"]["max-size"] == "8m"
    assert gateway.status("fn")["limits"] == {"memory": "5Mi", "cpu": "500m"}
    assert "limits.memory is 5Mi" in gateway.errors


@pytest.mark.parametrize("is_read_only", [True, False])
def test_read_only_root_has_a_writable_tmp(
    gateway: Any, root_image: str, deploy: Callable[..., None], is_read_only: bool
) -> None:
    deploy(image=root_image, readOnlyRootFilesystem=is_read_only, envVars={"start": "mkdir -p /tmp"})

    assert gateway.call("fn", write="/tmp/file").text == "written\n"
    assert gateway.call("fn", write="/file").status_code == (500 if is_read_only else 200)


def test_tmp_of_a_read_only_root_takes_half_of_the_memory_and_is_new_in_the_next_container(
    gateway: Any, identity: str, root_image: str, deploy: Callable[..., None]
) -> None:
    variables = {"start": "mkdir -p /tmp"}
    deploy(image=root_image, readOnlyRootFilesystem=True, limits={"memory": "64Mi"}, envVars=variables)
    (container,) = containers(identity)

    reply = gateway.call("fn", fill="/tmp/file")

    assert (reply.status_code, "No space left on device" in reply.text) == (500, True)
    assert gateway.call("fn", size="/tmp/file").text.strip() == str(32 << 20)
    assert containers(identity) == [container], "it lives, and says so itself"
    docker("kill", container)
    gateway.until(lambda: containers(identity) not in ([], [container]), "another container")
    assert gateway.call("fn", write="/tmp/file").text == "written\n"


def test_secrets_cannot_be_written(gateway: Any, root_image: str, deploy: Callable[..., None]) -> None:
    gateway.system("POST", "secrets", json={"name": "key", "value": "v"})
    deploy(image=root_image, secrets=["key"])

    assert gateway.call("fn", secret="key").text == "v"
    for path in ("key", "other"):
        assert gateway.call("fn", write=f"/var/openfaas/secrets/{path}").status_code == 500
    assert gateway.call("fn", secret="key").text == "v"
    assert (gateway.state_dir / "mounts").stat().st_mode & 0o777 == 0o700


def test_secrets_are_readable_whoever_a_function_runs_as(gateway: Any, deploy: Callable[..., None]) -> None:
    gateway.system("POST", "secrets", json={"name": "key", "value": "v"})
    deploy(secrets=["key"])

    assert "uid=65534" in gateway.call("fn", id="").text
    assert gateway.call("fn", secret="key").text == "v"


def test_removed_function_leaves_no_volume_and_no_control_group(
    gateway: Any, identity: str, root_image: str, deploy: Callable[..., None]
) -> None:
    deploy(image=root_image)
    (container,) = containers(identity)
    (volume,) = [each["Name"] for each in inspect(container)["Mounts"]]
    assert control_groups(container), "they are looked for where they are"

    gateway.system("DELETE", "functions", json={"functionName": "fn"})

    gateway.until(lambda: not containers(identity) and not networks(identity), "nothing is left")
    assert volume not in docker("volume", "ls", "--quiet").split()
    gateway.until(lambda: not control_groups(container), "no control group")


@pytest.mark.parametrize("_", range(4))
def test_function_removed_while_it_starts_hinders_no_other(
    gateway: Any, identity: str, image: str, deploy: Callable[..., None], _: int
) -> None:
    # Two replicas: one makes the network, one waits for it. Whether the next one comes meanwhile is luck.
    labels = {"com.openfaas.scale.min": "2"}
    gateway.system("POST", "functions", json={"service": "gone", "image": image, "labels": labels})
    gateway.system("DELETE", "functions", json={"functionName": "gone"})

    deploy()

    assert gateway.call("fn").status_code == 200
    assert len(networks(identity)) == 1
    gateway.system("DELETE", "functions", json={"functionName": "fn"})
    gateway.until(lambda: not containers(identity) and not networks(identity), "nothing is left")


def test_redirect_goes_to_the_caller(gateway: Any, deploy: Callable[..., None]) -> None:
    deploy(envVars={"destination": "http://example.com/there"})

    reply = gateway.call("fn/redirect")

    assert (reply.status_code, reply.headers["Location"]) == (302, "http://example.com/there")


def test_working_set_is_what_docker_stats_shows(
    gateway: Any, identity: str, root_image: str, deploy: Callable[..., None]
) -> None:
    # Shared memory cannot be reclaimed and counts; what was written to a file can be, and does not.
    held = "head -c 50000000 /dev/zero >/dev/shm/held; head -c 40000000 /dev/zero >/written"
    deploy(image=root_image, limits={"memory": "256Mi"}, envVars={"start": held})
    (container,) = containers(identity)

    def working_set() -> float:
        return float(gateway.metric("pod_memory_working_set_bytes", function_name="fn.openfaas-fn"))

    gateway.until(lambda: working_set() > 50_000_000, "it holds its memory")
    before = working_set()
    shown = docker_stats_bytes(container)
    after = working_set()

    assert shown > 50_000_000
    assert before == pytest.approx(shown, rel=0.05) and after == pytest.approx(shown, rel=0.05)
    usage = gateway.system("GET", "function/fn?usage=1").json()["usage"]
    assert usage["totalMemoryBytes"] == pytest.approx(shown, rel=0.05)
    assert gateway.metric("localfaas_memory_cache_bytes", function_name="fn.openfaas-fn") > 80_000_000


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
