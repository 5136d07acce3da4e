"""Peers that are started one by one, as on several machines, with the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import LocalPlatform

pytestmark = pytest.mark.slow

OPTIONS = ["--peers", "2", "--dataset", "synthetic-640-1x20x20", "--model-arguments", "{input_size: 20}"]
OPTIONS += ["--rounds", "4", "--batch-size", "16", "--evaluate-every", "2", "--checkpoint-every", "2"]


def peer(
    platform: LocalPlatform, directory: Path, run: str, rank: int, *options: str
) -> subprocess.Popen[str]:
    """Start one peer on the platform of another `peerless`, addressed as a remote one would be."""
    address = platform.store_address
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PEERLESS_")}
    environment |= {
        "PEERLESS_STORE": address.endpoint,
        "PEERLESS_STORE_ACCESS_KEY": address.access_key,
        "PEERLESS_STORE_SECRET_KEY": address.secret_key,
        "PEERLESS_GATEWAY": platform.gateway.url,
        "PEERLESS_GATEWAY_PASSWORD": platform.gateway.password,
        "PEERLESS_RUNS_DIR": str(directory / f"machine-{rank}"),
        "PEERLESS_STATE_DIR": str(directory / "nothing-here"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "peer", "peer", run, "--rank", str(rank), "--heartbeat", "0.5", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_peers_started_apart_train_together(platform: LocalPlatform, tmp_path: Path) -> None:
    peers = [
        peer(platform, tmp_path, "apart", 0, "--json", *OPTIONS),
        peer(platform, tmp_path, "apart", 1, "--json"),
    ]

    outputs = [process.communicate(timeout=120) for process in peers]

    assert [process.returncode for process in peers] == [0, 0], outputs
    summaries = [json.loads(output) for output, _ in outputs]
    assert summaries[0]["weights_sha256"] == summaries[1]["weights_sha256"]
    assert summaries[0]["test_accuracy"] == summaries[1]["test_accuracy"]
    assert summaries[0]["rounds"] == 4


def test_peer_with_other_options_is_refused_and_names_them(platform: LocalPlatform, tmp_path: Path) -> None:
    first = peer(platform, tmp_path, "differing", 0, *OPTIONS)
    try:
        second = peer(platform, tmp_path, "differing", 1, "--batch-size", "32", "--seed", "7")

        _, error = second.communicate(timeout=120)

        assert second.returncode == 44
        assert "--batch-size is 32 here and 16 in the run" in error
        assert "--seed is 7 here and 0 in the run" in error
        assert "Traceback" not in error
    finally:
        first.kill()
        first.communicate()


def test_rank_that_runs_already_is_refused(platform: LocalPlatform, tmp_path: Path) -> None:
    holder = peer(platform, tmp_path, "doubled", 0, *OPTIONS)
    try:
        waiting = peer(platform, tmp_path, "doubled", 1)
        waiting_too = peer(platform, tmp_path, "doubled", 1)

        ended = [process.communicate(timeout=120)[1] for process in (waiting, waiting_too)]

        codes = sorted((waiting.returncode, waiting_too.returncode))
        assert codes == [0, 41], ended
        assert any("rank 1 of run doubled is held by a live process" in error for error in ended)
        assert holder.wait(timeout=60) == 0
    finally:
        holder.kill()
        holder.communicate()
