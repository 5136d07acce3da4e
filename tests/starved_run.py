"""A training whose gradient function is short of memory, under a real Prometheus: the fixture `starved_run`.

Nothing is simulated: the function's limit is lowered to just above what it uses, and a second run, with
batches that do not fit, has its replicas killed.
"""

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from harness import DATASET, LocalPlatform
from parts import missing, program
from prometheus_api import PrometheusApi

from peer.cli.dashboard import page
from peer.gateway import Gateway
from peer.local.prometheus import run_prometheus
from peer.store.retry import Patience, poll
from peer.store.servers import find_minio, free_port

FUNCTION = "gradient.openfaas-fn"
RUN = "starved"
_LONG = Patience(total_seconds=300.0, first_seconds=0.2, longest_seconds=1.0)
_SPECIFICATION = ("image", "envProcess", "envVars", "labels", "limits", "requests")
_AMPLE_BYTES = 1 << 30
_BATCH = 64
# so many times the batch: does not fit where one batch hardly does
_GREED = 8
_FULLNESS = 0.96
# the alert fires above 0.9
_LEAST_FULLNESS = 0.92


def eventually(probe: Callable[[], Any], what: str) -> Any:
    """Return the first true result of `probe`; the test fails if there is none within five minutes."""
    found = poll(lambda: probe() or None, _LONG)
    if found is None:
        pytest.fail(f"after {_LONG.total_seconds:g} s still not: {what}")
    return found


@dataclass
class StarvedRun:
    """A platform with Prometheus and a training on it, which goes on until the fixture ends."""

    platform: LocalPlatform
    prometheus: PrometheusApi
    directory: Path
    page_url: str
    """Of `peerless dashboard`, which tells Prometheus where the peers are."""

    def starve(self) -> None:
        """Return once the alerts for memory fire: the function hardly fits, and replicas were killed."""
        if self._fires("FunctionMemoryNearLimit") and self._fires("FunctionOutOfMemory"):
            return
        # a status that comes for the first time has a rate if the function is no news to Prometheus
        known = f'gateway_function_invocation_started{{function_name="{FUNCTION}"}} offset 1m'
        eventually(lambda: self.prometheus.now(known), "Prometheus has known the function for a minute")
        self.limit_memory(_AMPLE_BYTES)
        self._fit_limit()
        self.run_out_of_memory()
        eventually(lambda: self._fires("FunctionOutOfMemory"), "the alert for OOM kills fires")
        self._fit_limit()
        eventually(lambda: self._fires("FunctionMemoryNearLimit"), "the alert for memory fires")

    def relieve(self) -> None:
        """Give the function memory enough; the alert resolves when Prometheus has seen it."""
        self.limit_memory(_AMPLE_BYTES)

    def run_out_of_memory(self) -> None:
        """Train with batches that do not fit, until that run gives up; the other one repeats what it lost."""
        before = self._metric("localfaas_oom_kills_total")
        done = subprocess.run(
            [*self._train(f"greedy-{int(before)}", _BATCH * _GREED), "--rounds", "1"],
            cwd=self.directory,
            capture_output=True,
            text=True,
        )
        assert self._metric("localfaas_oom_kills_total") > before, done.stderr

    def limit_memory(self, num_bytes: int) -> None:
        """Deploy the gradient function again, with this limit and otherwise as it was."""
        specification = self.specification()
        specification["limits"]["memory"] = str(num_bytes)
        specification["envVars"]["peerless_cache_bytes"] = "1000000"
        address = self.platform.gateway
        auth = (address.user, address.password)
        answer = requests.put(f"{address.url}/system/functions", json=specification, auth=auth, timeout=60)
        assert answer.ok, answer.text
        eventually(lambda: self._metric("localfaas_memory_limit_bytes") == num_bytes, "the new limit holds")

    def specification(self) -> dict[str, Any]:
        """Return what the gradient function was deployed with."""
        found = Gateway(self.platform.gateway).describe("gradient")
        return {"service": found["name"]} | {key: found[key] for key in _SPECIFICATION if key in found}

    def num_rounds(self, run: str = RUN) -> int:
        """Return how many rounds a training has completed."""
        path = self.directory / "runs" / run / "rounds.jsonl"
        return path.read_text().count('"peer":0') if path.is_file() else 0

    @contextmanager
    def training(self, run: str = RUN) -> Iterator[None]:
        """Train while the block runs, which begins after the first round; then control-C."""
        log_path = self.directory / f"{run}.log"
        command = [*self._train(run, _BATCH), "--rounds", "1000000", "--evaluate-every", "3"]
        with log_path.open("wb") as log_file:
            process = subprocess.Popen(
                [*command, "--checkpoint-every", "5"], cwd=self.directory, stdout=log_file, stderr=log_file
            )
        try:
            eventually(lambda: self.num_rounds(run) or process.poll() is not None, "a round is completed")
            assert process.poll() is None, log_path.read_text()
            yield
            assert process.poll() is None, log_path.read_text()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()

    def _train(self, run: str, batch_size: int) -> list[str]:
        return [
            *(sys.executable, "-m", "peer", "train", "--run", run, "--peers", "2"),
            *("--state-dir", str(self.platform.options.state_dir), "--runs-dir", "runs"),
            *("--dataset", DATASET, "--model-arguments", "{input_size: 20}"),
            # it is to stay short of memory, and to give up where nothing fits
            *("--batch-size", str(batch_size), "--batches-per-round", "1", "--no-adapt"),
        ]

    def _fit_limit(self) -> None:
        """Lower the limit until the function hardly fits; replicas differ in what they use."""

        def is_full() -> bool:
            size, limit = self._settled_bytes(), self._metric("localfaas_memory_limit_bytes")
            if size < _LEAST_FULLNESS * limit:
                self.limit_memory(int(size / _FULLNESS))
            return size >= _LEAST_FULLNESS * limit

        eventually(is_full, "the function hardly fits")

    def _settled_bytes(self) -> float:
        """Return the working set of one replica, once a few more rounds make it no larger."""
        name = "localfaas_replica_working_set_bytes"
        sizes = [0.0]

        def grows_no_more() -> bool:
            first = self.num_rounds()
            eventually(lambda: self.num_rounds() >= first + 3, "three more rounds")
            sizes.append(self._metric(name))
            return sizes[-1] <= 1.01 * sizes[-2]

        eventually(grows_no_more, "the working set grows no more")
        return max(sizes)

    def _fires(self, alert: str) -> bool:
        return any(
            labels["alertname"] == alert and labels["function_name"] == FUNCTION
            for labels in self.prometheus.firing()
        )

    def _metric(self, name: str) -> float:
        """Return a figure of the gradient function as the gateway shows it now."""
        text = requests.get(f"{self.platform.gateway.url}/metrics", timeout=30).text
        (value,) = re.findall(rf'^{name}{{function_name="{re.escape(FUNCTION)}"}} (\S+)$', text, re.M)
        return float(value)


@contextmanager
def begun(directory: Path) -> Iterator[StarvedRun]:
    """A starved run whose alerts for memory fire; everything has ended after the block."""
    program("prometheus", "Debian's package prometheus has it")
    if find_minio() is None:
        missing("no minio program: scripts/install-minio.sh installs it")
    platform = LocalPlatform(directory, store_server="minio")
    try:
        platform.up()
        page_url = platform.platform.accompany(page(platform.options.state_dir, free_port()), print)
        url = run_prometheus(platform.platform, page_url, free_port(), print)
        run = StarvedRun(platform, PrometheusApi(url), directory, page_url)
        with run.training():
            run.starve()
            yield run
    finally:
        platform.down()
