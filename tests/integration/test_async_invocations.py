"""`--invoke async`: the same run through the gateway's queue, whatever becomes of a call."""

import re
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from harness import LocalPlatform, Runner, replicas_of

from peer.records.rounds import RoundRecord
from peer.store import keys
from peer.store.retry import Patience, poll

pytestmark = pytest.mark.slow

SETTINGS = {
    "num_peers": 2,
    "rounds": 4,
    "evaluate_every": 2,
    "checkpoint_every": 0,
    "exchange": "in_function",
}
GRADIENTS, EVALUATIONS, AGGREGATIONS = 2 * 2 * 4, 2 * (2 + 1), 2 * 4


def queued(platform: LocalPlatform, directory: Path) -> Runner:
    return Runner(replace(platform.surroundings(directory), invoke="async"))


def num_replies(runner: Runner, run: str) -> int:
    return len(list(runner.store.list(keys.replies(run))))


def test_queued_invocations_end_with_the_same_weights(platform: LocalPlatform, tmp_path: Path) -> None:
    waited_for = Runner(platform.surroundings(tmp_path)).train("waited-for", **SETTINGS)[0]
    runner = queued(platform, tmp_path)

    results = runner.train("queued", keep_objects=True, **SETTINGS)

    assert {result.weights.checksum for result in results} == {waited_for.weights.checksum}
    assert results[0].test == waited_for.test
    assert num_replies(runner, "queued") >= GRADIENTS + EVALUATIONS + AGGREGATIONS


class Outages:
    """Kills the gateway twice, with calls in its queue, which is lost the second time."""

    def __init__(self, platform: LocalPlatform) -> None:
        self._platform = platform
        self._threads: dict[int, threading.Thread] = {}
        self._lock = threading.Lock()
        self.num_kills = 0

    def __call__(self, record: RoundRecord) -> None:
        with self._lock:
            if record.round in (1, 3) and record.round not in self._threads:
                thread = threading.Thread(target=self._kill, args=[record.round == 3])
                self._threads[record.round] = thread
                thread.start()

    def join(self) -> None:
        """Wait until everything runs again."""
        for thread in self._threads.values():
            thread.join()

    def _kill(self, is_queue_lost: bool) -> None:
        for replica in replicas_of(self._platform, "gradient"):
            replica.send_signal(signal.SIGSTOP)
        assert poll(self._depth, Patience(total_seconds=30.0))
        self._platform.kill("gateway")
        if is_queue_lost:
            for path in self._platform.platform.state_dir.rglob("calls.sqlite*"):
                path.unlink()
        self._platform.up()
        self.num_kills += 1

    def _depth(self) -> float | None:
        page = requests.get(f"{self._platform.gateway.url}/metrics", timeout=30).text
        found = re.search(r'^localfaas_async_queue_depth\{[^}]*"gradient\.[^}]*\} (\S+)', page, re.M)
        return float(found[1]) if found and float(found[1]) else None


def test_gateway_killed_with_calls_in_its_queue_ends_with_the_same_weights(
    mortal_platform: LocalPlatform, tmp_path: Path
) -> None:
    settings: dict[str, Any] = SETTINGS | {"rounds": 6, "evaluate_every": 0, "invocation_seconds": 6.0}
    undisturbed = Runner(mortal_platform.surroundings(tmp_path)).train("undisturbed", **settings)[0]
    runner, outages = queued(mortal_platform, tmp_path), Outages(mortal_platform)

    results = runner.train("disturbed", outages, **settings)

    outages.join()
    assert outages.num_kills == 2
    assert {result.weights.checksum for result in results} == {undisturbed.weights.checksum}
    assert num_replies(runner, "disturbed") == 0
