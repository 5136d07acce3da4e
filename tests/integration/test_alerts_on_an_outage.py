"""Alerts on a real Prometheus, of a training whose store is away: they name the run, which goes on."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import DATASET, LocalPlatform
from parts import missing, program
from prometheus_api import PrometheusApi

from peer.cli.dashboard import page
from peer.local.prometheus import run_prometheus
from peer.store.retry import Patience, poll
from peer.store.servers import find_minio, free_port

pytestmark = pytest.mark.slow

RUN = "outage"
_LONG = Patience(total_seconds=300.0, first_seconds=0.2, longest_seconds=1.0)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[LocalPlatform]:
    program("prometheus", "Debian's package prometheus has it")
    if find_minio() is None:
        missing("no minio program: scripts/install-minio.sh installs it")
    platform = LocalPlatform(tmp_path, store_server="minio")
    try:
        platform.up()
        yield platform
    finally:
        platform.down()


@contextmanager
def training(platform: LocalPlatform, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Train without functions while the block runs; then end it."""
    command = [
        *(sys.executable, "-m", "peer", "train", "--run", RUN, "--peers", "2", "--compute", "local"),
        *("--state-dir", str(platform.options.state_dir), "--runs-dir", "runs", "--rounds", "1000000"),
        *("--dataset", DATASET, "--model-arguments", "{input_size: 20}", "--batch-size", "8"),
        *("--batches-per-round", "1", "--evaluate-every", "0", "--outage-patience", "600"),
    ]
    with (directory / "train.log").open("wb") as log_file:
        process = subprocess.Popen(command, cwd=directory, stdout=log_file, stderr=log_file)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def num_rounds(directory: Path) -> int:
    path = directory / "runs" / RUN / "rounds.jsonl"
    return path.read_text().count('"peer":0') if path.is_file() else 0


def is_told(prometheus: PrometheusApi, alert: str) -> bool:
    return any(found["alertname"] == alert and found["run"] == RUN for found in prometheus.firing())


def test_store_that_is_away_is_told_by_the_runs_name_and_the_run_goes_on(
    platform: LocalPlatform, tmp_path: Path
) -> None:
    page_url = platform.platform.accompany(page(platform.options.state_dir, free_port()), print)
    prometheus = PrometheusApi(run_prometheus(platform.platform, page_url, free_port(), print))

    with training(platform, tmp_path) as process:
        scraped = f'peerless_rounds_total{{run="{RUN}"}} > 0'
        assert poll(lambda: len(prometheus.now(scraped)) == 2 or None, _LONG), "both peers are scraped"
        platform.kill("store")
        told = poll(lambda: is_told(prometheus, "StoreErrors") or None, _LONG)
        platform.up()
        rounds = num_rounds(tmp_path)
        went_on = poll(lambda: num_rounds(tmp_path) > rounds + 3 or None, _LONG)

        assert told, "StoreErrors fires"
        assert went_on, (tmp_path / "train.log").read_text()
        assert process.poll() is None
