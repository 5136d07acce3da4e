"""A replica, the gateway or the store is killed in the middle of a round: the run ends with the same bits."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import LocalPlatform, Runner, children_of

from peer.gateway import Gateway
from peer.records.rounds import RoundRecord
from peer.store.retry import Patience, poll

pytestmark = pytest.mark.slow

ROUNDS = 12
FAULT_AFTER_ROUND = 3


class Fault:
    """Does something once, in a thread beside the run, when peer 0 has completed a round."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act
        self._thread: threading.Thread | None = None
        self.records: list[RoundRecord] = []

    def __call__(self, record: RoundRecord) -> None:
        self.records.append(record)
        if record.round == FAULT_AFTER_ROUND and self._thread is None:
            self._thread = threading.Thread(target=self._act)
            self._thread.start()

    def join(self) -> None:
        """Wait until it is done."""
        assert self._thread is not None
        self._thread.join()

    def retries(self) -> set[str]:
        """Return what was retried so far, which proves that the fault fired."""
        return {reason for record in self.records for reason in record.retries if reason != "FunctionBusy"}


@pytest.fixture
def runner(mortal_platform: LocalPlatform, tmp_path: Path) -> Runner:
    return Runner(mortal_platform.surroundings(tmp_path / "runs"))


def test_killed_replica_ends_with_the_same_weights(mortal_platform: LocalPlatform, runner: Runner) -> None:
    undisturbed = runner.train("undisturbed", rounds=ROUNDS)[0].weights.checksum
    gateway_pid = mortal_platform.platform.state().gateway.process.pid  # type: ignore[union-attr]
    gateway = Gateway(mortal_platform.gateway)

    def is_whole() -> bool | None:
        """Tell whether every replica has started: one that is killed before is a start that failed."""
        return all(each["availableReplicas"] == each["replicas"] for each in gateway.functions()) or None

    def kill_replicas_until_one_was_busy() -> None:
        for _ in range(10):
            assert poll(is_whole, Patience(total_seconds=60))
            for pid in children_of(gateway_pid):
                if not children_of(pid):
                    os.kill(pid, signal.SIGKILL)
            if poll(lambda: fault.retries() or None, Patience(total_seconds=0.5)):
                return

    fault = Fault(kill_replicas_until_one_was_busy)
    results = runner.train("disturbed", fault, rounds=ROUNDS)

    fault.join()
    assert fault.retries()
    assert {result.weights.checksum for result in results} == {undisturbed}


@pytest.mark.parametrize("part", ["gateway", "store"])
def test_killed_part_that_comes_back_ends_with_the_same_weights(
    mortal_platform: LocalPlatform, runner: Runner, part: str
) -> None:
    undisturbed = runner.train("undisturbed", rounds=ROUNDS)[0].weights.checksum

    def kill_and_start_again() -> None:
        mortal_platform.kill(part)
        mortal_platform.up()

    fault = Fault(kill_and_start_again)
    results = runner.train("disturbed", fault, rounds=ROUNDS)

    fault.join()
    assert fault.retries()
    assert {result.weights.checksum for result in results} == {undisturbed}
