"""A replica hangs, or is slow: its invocation gets a second attempt, and the others do more of the work."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from harness import LocalPlatform, Runner

from peer.rounds import RoundRecord
from peer.store import keys

pytestmark = pytest.mark.slow

FAULT_AFTER_ROUND = 3
SETTINGS = {"num_peers": 2, "rounds": 8, "evaluate_every": 0, "checkpoint_every": 0}


def replicas_of(platform: LocalPlatform, function: str) -> list[psutil.Process]:
    """Return the processes that run a function, which each have its folder as working directory."""
    gateway = platform.platform.state().gateway
    assert gateway is not None
    found = []
    for process in psutil.Process(gateway.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).name == function and not process.children():
                found.append(process)
    return found


@pytest.fixture
def runner(platform: LocalPlatform, tmp_path: Path) -> Runner:
    return Runner(platform.surroundings(tmp_path / "runs"))


class Hang:
    """Stops a replica of `gradient` in the middle of a run, until a hedge has won."""

    def __init__(self, platform: LocalPlatform) -> None:
        self._platform = platform
        self._stopped: psutil.Process | None = None
        self._lock = threading.Lock()
        self.records: list[RoundRecord] = []

    def __call__(self, record: RoundRecord) -> None:
        with self._lock:
            self.records.append(record)
            if record.round == FAULT_AFTER_ROUND and self._stopped is None:
                self._stopped = replicas_of(self._platform, "gradient")[0]
                self._stopped.send_signal(signal.SIGSTOP)
            if self._stopped and record.hedges_won:
                self._stopped.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Leave nothing stopped."""
        if self._stopped is not None:
            self._stopped.send_signal(signal.SIGCONT)


@pytest.fixture
def hang(platform: LocalPlatform) -> Iterator[Hang]:
    hang = Hang(platform)
    yield hang
    hang.end()


def test_hung_replica_is_hedged_and_the_weights_are_the_same(runner: Runner, hang: Hang) -> None:
    undisturbed = runner.train("undisturbed", **SETTINGS)[0].weights.checksum

    results = runner.train("hung", hang, **SETTINGS)

    assert sum(record.hedges_won for record in hang.records) >= 1
    assert max(sum(record.phase_seconds.values()) for record in hang.records) < 60
    assert {result.weights.checksum for result in results} == {undisturbed}
    gradients = [key for key, _ in runner.store.list(keys.generation("hung", 0)) if "/gradients/" in key]
    assert gradients == []
