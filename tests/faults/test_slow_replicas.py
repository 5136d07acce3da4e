"""A replica hangs, or is slow: its invocation gets a second attempt, and the others do more of the work."""

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness import LocalPlatform, Runner, replicas_of

from peer.compute import Compute, Means
from peer.config import RunConfig
from peer.garbage import Garbage
from peer.invocations.fanout import FanOut, RetryPolicy
from peer.learning.datasets import catalogue
from peer.learning.shards import plan_shards
from peer.messages import Usage
from peer.records.phases import PhaseClock
from peer.records.rounds import RoundRecord, Work
from peer.session import initial_weights, invoker_for
from peer.store import keys

pytestmark = pytest.mark.slow

FAULT_AFTER_ROUND = 3
SETTINGS = {"num_peers": 2, "rounds": 8, "evaluate_every": 0, "checkpoint_every": 0}


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


class ByReplica(Work):
    """Counts the valid replies of each replica."""

    def __init__(self, replies: Counter[str]) -> None:
        super().__init__()
        self._replies = replies

    def add_reply(self, function: str, usage: Usage) -> None:
        self._replies[usage.replica] += 1
        super().add_reply(function, usage)


class Slowed:
    """Lets a process run for a sixth of the time, for the length of a block."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._hamper)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _hamper(self) -> None:
        while not self._is_over.is_set():
            self._process.send_signal(signal.SIGSTOP)
            self._is_over.wait(0.1)
            self._process.send_signal(signal.SIGCONT)
            self._is_over.wait(0.02)


def compute_as_peer(rank: int, runner: Runner, config: RunConfig, replies: Counter[str]) -> Any:
    """Return the gradient of a peer of two that has one invocation at once, its share of two replicas."""
    dataset = catalogue.find(runner.store, config.dataset)
    shard = plan_shards(dataset, config.num_peers, config.partition, config.seed)[rank]
    fan_out = FanOut(1, RetryPolicy(), lambda _error: None)
    garbage = Garbage(runner.store, is_kept=False)
    invoker = invoker_for(config, runner.surroundings, runner.store)
    means = Means(invoker, fan_out, garbage, PhaseClock(), ByReplica(replies))
    compute = Compute(config, 0, rank, dataset, shard, means)
    try:
        return compute.gradient(0, initial_weights(config), config.optimizer.learning_rate)
    finally:
        fan_out.close()
        garbage.close()


def test_slowed_replica_gets_less_work(platform: LocalPlatform, runner: Runner) -> None:
    config = runner.create("slowed", num_peers=2, batches_per_round=16, batches_per_invocation=1)
    replies: Counter[str] = Counter()

    with Slowed(replicas_of(platform, "gradient")[0]), ThreadPoolExecutor(2) as peers:
        list(peers.map(lambda rank: compute_as_peer(rank, runner, config, replies), range(2)))

    assert sum(replies.values()) == 32
    assert len(replies) == 2
    assert max(replies.values()) > 2 * min(replies.values())
