"""A peer is killed, stopped, doubled, or differs: what the others do, and what `resume` gives."""

import os
import signal
import threading
from collections.abc import Callable

import pytest
import torch
from harness import IMPATIENT, WITHOUT_FUNCTIONS, Runner, child_of_rank

from peer import checkpoint, runs, training
from peer.aggregation import Gradient
from peer.config import Liveness, RunStart
from peer.decisions import Decision
from peer.errors import (
    CheckpointError,
    ConfigurationError,
    PeerDiverged,
    PeerlessError,
    PeerLost,
    RankTaken,
    TrainingDiverged,
)
from peer.membership import Membership
from peer.records.rounds import RoundRecord
from peer.store import keys

pytestmark = pytest.mark.slow

LOCAL = {"compute": "local", "rounds": 10, "checkpoint_every": 3, "evaluate_every": 4}
"""Checkpoints and evaluations do not fall on the same rounds."""


def once_after_round(round_number: int, act: Callable[[], None]) -> Callable[[RoundRecord], None]:
    done = threading.Event()

    def on_record(record: RoundRecord) -> None:
        if record.round == round_number and not done.is_set():
            done.set()
            act()

    return on_record


@pytest.fixture(scope="module")
def undisturbed(local_runner: Runner) -> str:
    return local_runner.train("undisturbed", **LOCAL)[0].weights.checksum


@pytest.mark.parametrize("strategy", WITHOUT_FUNCTIONS)
def test_killed_peer_is_named_and_resume_ends_with_the_same_weights(
    local_runner: Runner, undisturbed: str, strategy: str
) -> None:
    kill, run = once_after_round(4, lambda: os.kill(child_of_rank(2), signal.SIGKILL)), f"killed-{strategy}"

    message = rf"peer 2 of run {run} .*SIGKILL.*peerless resume {run}"
    with pytest.raises(PeerlessError, match=message) as failure:
        local_runner.train(run, kill, **LOCAL, exchange=strategy)
    logs = [(local_runner.surroundings.directory / run / f"peer-{rank}.log") for rank in (0, 1, 3)]
    results = local_runner.resume(run)

    assert failure.value.exit_code == PeerLost.exit_code
    assert all(f"peer 2 of run {run}" in log.read_text() for log in logs)
    assert {result.weights.checksum for result in results} == {undisturbed}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signalled_run_checkpoints_and_resume_ends_with_the_same_weights(
    local_runner: Runner, undisturbed: str, number: signal.Signals
) -> None:
    stop = once_after_round(4, lambda: os.kill(os.getpid(), number))

    with pytest.raises(PeerlessError, match="checkpointed") as stopped:
        local_runner.train(number.name, stop, **LOCAL)
    _, start = runs.resume(local_runner.store, number.name, IMPATIENT)
    results = local_runner.resume(number.name)

    assert stopped.value.exit_code == 128 + number
    assert start.resumed_round is not None and 5 <= start.resumed_round < 10
    assert {result.weights.checksum for result in results} == {undisturbed}


@pytest.mark.parametrize("how", ["killed", "stopped"])
@pytest.mark.parametrize("strategy", WITHOUT_FUNCTIONS)
def test_resumed_run_has_what_its_codec_had_left_out(local_runner: Runner, strategy: str, how: str) -> None:
    changes = {**LOCAL, "exchange": strategy, "compression": "topk:0.02"}
    undisturbed = local_runner.train(f"left-out-{strategy}-{how}", **changes)[0].weights.checksum
    run = f"left-out-{strategy}-{how}-{how}"

    def end() -> None:
        if how == "killed":
            os.kill(child_of_rank(2), signal.SIGKILL)
        else:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(PeerlessError, match="SIGKILL" if how == "killed" else "checkpointed"):
        local_runner.train(run, once_after_round(4, end), **changes)
    checkpointed = checkpoint.newest(local_runner.store, run)
    results = local_runner.resume(run)

    assert checkpointed.round > 0 and len(checkpointed.residuals) == 4
    assert {result.weights.checksum for result in results} == {undisturbed}


def test_peer_that_differs_is_noticed_in_the_next_manifest(
    local_runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = training.Peer._update

    def update_and_flip_a_bit(
        self: training.Peer, state: training.State, mean: Gradient, decision: Decision
    ) -> float:
        norm = update(self, state, mean, decision)
        if self._manifest.peer == 1 and state.round == 3:
            state.model.parameters.view(torch.int32)[7] ^= 1
        return norm

    monkeypatch.setattr(training.Peer, "_update", update_and_flip_a_bit)
    records: list[RoundRecord] = []

    message = r"round 4 of run differs: peer \d computed at weights"
    with pytest.raises(PeerlessError, match=message) as failure:
        local_runner.train("differs", records.append, **LOCAL)

    assert failure.value.exit_code == PeerDiverged.exit_code
    assert max(record.round for record in records) == 3


def test_rank_that_is_held_is_refused_and_the_holder_goes_on(local_runner: Runner) -> None:
    holder = Membership(local_runner.store, "held", 0, IMPATIENT)
    holder.claim(RunStart())

    message = "rank 0 of run held is held by a live process"
    with pytest.raises(RankTaken, match=message):
        Membership(local_runner.store, "held", 0, IMPATIENT).claim(RunStart())

    holder.confirm()
    holder.leave("finished")


def test_rank_of_a_dead_process_is_free_and_the_dead_one_stops_if_it_comes_back(local_runner: Runner) -> None:
    frozen = Membership(local_runner.store, "frozen", 0, Liveness(heartbeat_seconds=3600.0))
    frozen.claim(RunStart())
    successor = Membership(local_runner.store, "frozen", 0, IMPATIENT)

    successor.claim(RunStart(generation=1))

    with pytest.raises(RankTaken):
        frozen.confirm()
    successor.confirm()
    successor.leave("finished")


def test_finished_or_unknown_run_is_not_resumed(local_runner: Runner) -> None:
    with pytest.raises(ConfigurationError, match="there is no run 'nobody'"):
        local_runner.resume("nobody")
    config = local_runner.create("begun", **LOCAL)
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        local_runner.resume("begun")
    with pytest.raises(ConfigurationError, match="run begun exists"):
        local_runner.create(config.run)


def test_run_with_a_live_peer_is_not_resumed_and_loses_nothing(local_runner: Runner) -> None:
    local_runner.create("live", **LOCAL)
    holder = Membership(local_runner.store, "live", 1, IMPATIENT)
    holder.claim(RunStart())
    local_runner.store.put_bytes(keys.exchange("live", 0, 0, 1, 0), b"needed")

    with pytest.raises(RankTaken, match="rank 1 of run live"):
        local_runner.resume("live")

    assert local_runner.store.head(keys.exchange("live", 0, 0, 1, 0)) == 6
    holder.leave("finished")


def test_gradient_that_explodes_stops_the_run_with_advice(local_runner: Runner) -> None:
    spec = local_runner.create("probe", **LOCAL).optimizer

    with pytest.raises(PeerlessError, match=r"round \d+ of run explodes.*learning rate") as failure:
        local_runner.train("explodes", optimizer=type(spec)(name="sgd", learning_rate=1e12), **LOCAL)

    assert failure.value.exit_code == TrainingDiverged.exit_code


APART = {**LOCAL, "staleness": 2}


def test_killed_peer_of_a_run_apart_is_named_and_resume_ends_with_one_result(local_runner: Runner) -> None:
    kill = once_after_round(4, lambda: os.kill(child_of_rank(2), signal.SIGKILL))

    with pytest.raises(PeerlessError, match=r"peer 2 of run apart-killed .*SIGKILL") as failure:
        local_runner.train("apart-killed", kill, **APART, compression="topk:0.1")
    checkpointed = checkpoint.newest(local_runner.store, "apart-killed")
    records: list[RoundRecord] = []
    results = local_runner.resume("apart-killed", records.append)

    assert failure.value.exit_code == PeerLost.exit_code
    assert checkpointed.round >= 3 and len(checkpointed.residuals) == 4
    assert len({result.weights.checksum for result in results}) == 1
    assert applied_by_peer(records) == dict.fromkeys(range(4), 3 * (10 - checkpointed.round))


def test_signalled_run_apart_checkpoints_after_a_meeting_and_resume_ends_it(local_runner: Runner) -> None:
    records: list[RoundRecord] = []
    stop = once_after_round(3, lambda: os.kill(os.getpid(), signal.SIGINT))

    def on_record(record: RoundRecord) -> None:
        records.append(record)
        stop(record)

    with pytest.raises(PeerlessError, match="checkpointed") as stopped:
        local_runner.train("apart-stopped", on_record, **{**APART, "checkpoint_every": 0, "rounds": 20})
    checkpointed = checkpoint.newest(local_runner.store, "apart-stopped")
    before = applied_by_peer(records)
    records.clear()
    results = local_runner.resume("apart-stopped", records.append)

    assert stopped.value.exit_code == 128 + signal.SIGINT
    assert 4 + 2 <= checkpointed.round < 20
    assert before == dict.fromkeys(range(4), 3 * checkpointed.round)
    assert applied_by_peer(records) == dict.fromkeys(range(4), 3 * (20 - checkpointed.round))
    assert len({result.weights.checksum for result in results}) == 1


def applied_by_peer(records: list[RoundRecord]) -> dict[int, int]:
    """Return how many gradients of the others each peer has applied."""
    applied: dict[int, int] = {}
    for record in records:
        applied[record.peer] = applied.get(record.peer, 0) + sum(record.staleness)
    return applied
