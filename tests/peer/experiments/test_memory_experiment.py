"""The memory experiment on a real platform: a real model, real kills for want of memory."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from harness import CHECKOUT, DATASET, LocalPlatform, Runner
from parts import program

from peer.errors import OutOfMemory
from peer.experiments.function_limit import ORIGINAL
from peer.gateway import Gateway
from peer.store.retry import Patience, poll
from peer.store.s3 import Store
from peer.store.servers import free_port

MIB = 1 << 20
PATIENT = Patience(total_seconds=120.0, longest_seconds=0.1)
SMALL = ("--dataset", DATASET, "--model-arguments", "{input_size: 20}", "--step-seconds", "0")
UNTOUCHED = ({"memory": "2Gi", "cpu": "1"}, False)

pytestmark = pytest.mark.slow


def start(platform: LocalPlatform, output: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "peer", "experiment", "memory", *SMALL, "--output", str(output)]
    command += ["--state-dir", str(platform.directory / "state"), *options]
    return subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=400)
    return process.returncode, out, err


def results(output: Path) -> list[dict[str, Any]]:
    path = output / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def resources(platform: LocalPlatform) -> tuple[dict[str, str], bool]:
    """Return the gradient function's limits, and whether it carries the experiment's note."""
    description = Gateway(platform.gateway).describe("gradient")
    return description["limits"], ORIGINAL in description.get("annotations", {})


def wait_until_lowered(platform: LocalPlatform, output: Path, num_measured: int) -> None:
    """Return once so many limits are measured and the next one is set."""

    def probe() -> bool | None:
        is_lowered = resources(platform) != UNTOUCHED
        return (is_lowered and len(results(output)) >= num_measured) or None

    assert poll(probe, PATIENT), f"{num_measured} measurements did not come"


def deploy_with(platform: LocalPlatform, limit_bytes: int) -> None:
    """Give the gradient function another limit, as any client of OpenFaaS would."""
    url, auth = platform.gateway.url, (platform.gateway.user, platform.gateway.password)
    found = requests.get(f"{url}/system/function/gradient", auth=auth, timeout=30).json()
    body = {key: found[key] for key in ("image", "envVars", "labels", "annotations") if key in found}
    body |= {"service": "gradient", "limits": {"memory": str(limit_bytes)}}
    requests.put(f"{url}/system/functions", json=body, auth=auth, timeout=30).raise_for_status()

    def probe() -> bool | None:
        status = requests.get(f"{url}/system/function/gradient", auth=auth, timeout=30).json()
        is_so = status["limits"]["memory"] == str(limit_bytes) and status["availableReplicas"] > 0
        return is_so or None

    assert poll(probe, PATIENT)


def kills(platform: LocalPlatform) -> int:
    page = requests.get(f"{platform.gateway.url}/metrics", timeout=30).text
    return sum(
        int(float(n)) for n in re.findall(r"^localfaas_oom_kills_total\{.*gradient.*\} (\S+)", page, re.M)
    )


def does_train_with(platform: LocalPlatform, directory: Path, limit_mib: int, batch_size: int) -> bool:
    """Return whether an ordinary training of one peer goes through without a kill."""
    deploy_with(platform, limit_mib * MIB)
    before = kills(platform)
    runner = Runner(platform.surroundings(directory))
    try:
        small = {"num_peers": 1, "rounds": 2, "batches_per_round": 1, "no_adapt": True}
        runner.train(f"under-{limit_mib}", batch_size=batch_size, **small)
    except OutOfMemory:
        assert kills(platform) > before
    return kills(platform) == before


def test_experiment_finds_a_limit_between_one_that_trains_and_one_that_does_not(
    mortal_platform: LocalPlatform, tmp_path: Path
) -> None:
    output = tmp_path / "found"
    options = ("--batch-sizes", "32,256", "--largest-limit", "256Mi", "--resolution", "8Mi")
    options += ("--invocations", "2")

    code, out, err = finish(start(mortal_platform, output, *options, "--json"))

    assert code == 0, err
    found, measured = json.loads(out), results(output)
    small, large = found["needs"]
    assert (small["batch_size"], large["batch_size"]) == (32, 256)
    assert small["needed_bytes"] < large["needed_bytes"]
    for need in (small, large):
        of_this = {m["limit_bytes"]: m for m in measured if m["batch_size"] == need["batch_size"]}
        assert need["needed_bytes"] - need["failing_bytes"] <= 8 * MIB
        assert of_this[need["needed_bytes"]]["outcome"] == "ok"
        # right at the edge a second attempt may fit where the first did not
        assert of_this[need["failing_bytes"]]["outcome"] in ("out_of_memory", "retried")
        assert of_this[need["failing_bytes"]]["retries"]["OutOfMemory"] >= 1
        assert all(m["oom_kills"] >= 1 for m in of_this.values() if m["outcome"] != "ok")
        assert all(m["peak_bytes"] <= limit + MIB for limit, m in of_this.items())
        assert 1 * MIB < need["working_set_bytes"] <= need["needed_bytes"] + MIB
    assert {m["settings_hash"] for m in measured} == {found["settings_hash"]}
    assert found["settings"]["memory"] in ("cgroup-v1", "cgroup-v2", "rlimit")
    assert all(m["host"]["cores"] and m["settings"]["versions"]["torch"] for m in measured)
    assert resources(mortal_platform) == UNTOUCHED
    assert (output / "memory.png").stat().st_size < 200_000
    assert [key for key, _ in Store(mortal_platform.store_address).list("runs/")] == []

    enough, too_little = large["needed_bytes"] // MIB + 24, large["failing_bytes"] // MIB - 24

    assert does_train_with(mortal_platform, tmp_path / "runs", enough, 256)
    assert not does_train_with(mortal_platform, tmp_path / "runs", too_little, 256)


def test_experiment_that_is_stopped_or_killed_goes_on_and_the_limit_is_put_back(
    mortal_platform: LocalPlatform, tmp_path: Path
) -> None:
    options = ("--batch-sizes", "16", "--invocations", "1", "--largest-limit", "128Mi", "--resolution", "8Mi")
    output = tmp_path / "found"

    stopped = start(mortal_platform, output, *options)
    wait_until_lowered(mortal_platform, output, 1)
    stopped.send_signal(signal.SIGINT)
    code, _, err = finish(stopped)

    assert code == 130
    assert "stopped by SIGINT; the memory limit is what it was" in err
    assert resources(mortal_platform) == UNTOUCHED

    killed = start(mortal_platform, output, *options)
    before = len(results(output))
    wait_until_lowered(mortal_platform, output, before + 1)
    os.kill(killed.pid, signal.SIGKILL)
    finish(killed)
    kept = results(output)

    assert resources(mortal_platform) != UNTOUCHED

    code, out, err = finish(start(mortal_platform, output, *options))

    assert code == 0, err
    measured = results(output)
    limits = [found["limit_bytes"] for found in measured]
    assert f"{len(kept)} measurements are there already" in err
    assert measured[: len(kept)] == kept
    assert len(limits) == len(set(limits)) > len(kept)
    assert "is not charged" in out
    assert resources(mortal_platform) == UNTOUCHED

    code, _, err = finish(start(mortal_platform, output, *options, "--seed", "1"))

    assert code == 2
    assert err.splitlines()[-1].startswith("peerless: ")
    assert "seed was 0, is 1" in err
    assert results(output) == measured


@pytest.fixture
def prometheus(mortal_platform: LocalPlatform, tmp_path: Path) -> Iterator[str]:
    """A Prometheus that reads the gateway each second; its address."""
    command = [program("prometheus", "apt-get install prometheus")]
    config, url = tmp_path / "prometheus.yml", f"http://127.0.0.1:{free_port()}"
    target = mortal_platform.gateway.url.removeprefix("http://")
    jobs = [{"job_name": "localfaas", "static_configs": [{"targets": [target]}]}]
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    command += [f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}"]
    command += [f"--web.listen-address={url.removeprefix('http://')}", "--log.level=error"]
    process = subprocess.Popen(command)
    yield url
    process.terminate()
    process.wait(timeout=60)


def samples(prometheus: str, metric: str) -> list[float]:
    """Return all values of the gradient function's series that Prometheus has."""
    query = {"query": f'{metric}{{function_name="gradient.openfaas-fn"}}[1h]'}
    answer = requests.get(f"{prometheus}/api/v1/query", params=query, timeout=30).json()
    return [float(value) for series in answer["data"]["result"] for _, value in series["values"]]


def test_experiment_is_seen_by_prometheus_step_by_step(
    mortal_platform: LocalPlatform, prometheus: str, tmp_path: Path
) -> None:
    options = ("--batch-sizes", "256", "--largest-limit", "128Mi", "--resolution", "32Mi")
    options += ("--invocations", "1", "--step-seconds", "5")

    code, _, err = finish(start(mortal_platform, tmp_path / "found", *options))

    assert code == 0, err
    measured = results(tmp_path / "found")
    limits = {float(found["limit_bytes"]) for found in measured}
    seen = samples(prometheus, "localfaas_memory_limit_bytes")
    assert len(limits) >= 2
    assert limits <= set(seen)
    num_kills = sum(found["oom_kills"] for found in measured)
    assert num_kills >= 1
    assert max(samples(prometheus, "localfaas_oom_kills_total")) == num_kills
    assert max(samples(prometheus, "localfaas_memory_peak_bytes")) > 64 * MIB
    assert max(samples(prometheus, "localfaas_replica_working_set_bytes")) > 64 * MIB
    assert samples(prometheus, "gateway_function_invocation_total") != []
