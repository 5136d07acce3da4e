"""Runs whose peers may be some rounds apart: what they wait for, what they apply, and how they end."""

import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import DATASET, Runner

from peer.aggregation import Gradient
from peer.compute import Compute
from peer.config import EarlyStopSpec
from peer.learning.datasets import catalogue
from peer.messages import Evaluation, ModelSpec, StoredObject
from peer.records.rounds import RoundRecord, accuracy
from peer.store import keys
from peer.store.gradients import decode_gradient
from peer.store.retry import Patience, poll
from peer.store.s3 import Store, StoreAddress
from peer.weights import fetch

pytestmark = pytest.mark.slow

_PATIENT = Patience(total_seconds=120.0, first_seconds=0.003, longest_seconds=0.05)
S = 2
NUM_PEERS, SLOW = 4, 3
APART: dict[str, Any] = {
    "compute": "local",
    "rounds": 10,
    "evaluate_every": 4,
    "checkpoint_every": 5,
    "staleness": S,
}
MEETINGS = (4, 9)
"""The rounds of `APART` after which peers meet."""


class Tardy:
    """Makes one peer begin each round when the others have gone as far ahead as they may, and no further."""

    def __init__(self, address: StoreAddress, run: str) -> None:
        self._address = address
        self._run = run

    def gradient(
        self, compute: Compute, round_number: int, weights: StoredObject, learning_rate: float
    ) -> tuple[Gradient, Evaluation | None]:
        if compute._rank == SLOW:
            self._wait(round_number)
        return GRADIENT(compute, round_number, weights, learning_rate)

    def _wait(self, round_number: int) -> None:
        store = Store(self._address)
        meeting = next(number for number in MEETINGS if number >= round_number)
        furthest = min(round_number + S, meeting)

        for peer in range(NUM_PEERS):
            if peer != SLOW:
                key = keys.peer_manifest(self._run, 0, furthest, peer)
                assert poll(lambda key=key: store.head(key), _PATIENT), f"no {key}"
                assert store.head(keys.peer_manifest(self._run, 0, furthest + 1, peer)) is None
        store.close()


GRADIENT = Compute.gradient


@dataclass
class Trained:
    """A run with one peer that is always as late as may be: its last weights, and what each peer recorded."""

    weights: StoredObject
    by_peer: dict[int, list[RoundRecord]]


@pytest.fixture(scope="module")
def tardy(local_runner: Runner) -> Trained:
    records = defaultdict(list)
    slowed = Tardy(local_runner.surroundings.store, "tardy")

    def gradient(compute: Compute, *arguments: Any) -> tuple[Gradient, Evaluation | None]:
        return slowed.gradient(compute, *arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Compute, "gradient", gradient)
        results = local_runner.train(
            "tardy", lambda record: records[record.peer].append(record), **APART, keep_objects=True
        )
    first, *others = [result.weights for result in results]
    assert others == [first] * (NUM_PEERS - 1)
    return Trained(first, records)


def test_peers_apply_every_gradient_of_the_others_once(tardy: Trained) -> None:
    applied = {
        peer: sum(sum(record.staleness) for record in records) for peer, records in tardy.by_peer.items()
    }
    samples = {peer: sum(record.num_samples for record in records) for peer, records in tardy.by_peer.items()}

    assert applied == dict.fromkeys(range(NUM_PEERS), 10 * (NUM_PEERS - 1))
    assert samples == dict.fromkeys(range(NUM_PEERS), 10 * NUM_PEERS * 2 * 16)


def test_peers_are_never_further_apart_than_asked(tardy: Trained) -> None:
    furthest = {peer: max(record.lead for record in records) for peer, records in tardy.by_peer.items()}

    assert furthest == {0: S, 1: S, 2: S, SLOW: 0}


def test_fast_peers_use_stale_gradients_instead_of_waiting(tardy: Trained) -> None:
    for peer in range(NUM_PEERS - 1):
        # of the slow one, in each part of the run: rounds 0, 1 and 2 two late, 3 one, 4 at once
        stale = [record.staleness[S] for record in tardy.by_peer[peer]]
        assert [stale[number] for number in (0, 1, 5, 6)] == [0, 0, 0, 0]
        assert all(stale[number] >= 1 for number in (2, 3, 4, 7, 8, 9))
        assert [tardy.by_peer[peer][number].phase_seconds["wait"] for number in (0, 1)] == [0.0, 0.0]


def test_held_out_losses_are_decided_by_in_the_same_rounds(tardy: Trained) -> None:
    losses = {
        peer: {r.round: r.validation_loss for r in records if r.validation_loss is not None}
        for peer, records in tardy.by_peer.items()
    }

    assert list(losses[0]) == [0 + S, 4, 9]
    assert all(theirs == losses[0] for theirs in losses.values())


def test_last_weights_are_the_mean_of_all_peers(local_runner: Runner, tardy: Trained) -> None:
    store, last = local_runner.store, MEETINGS[-1]
    before = {records[-1].weights_sha256 for records in tardy.by_peer.values()}

    objects = [store.get(keys.meeting("tardy", 0, last, peer, 0)) for peer in range(NUM_PEERS)]
    states = [decode_gradient(each, 1).values.double() for each in objects]
    trained = fetch(store, tardy.weights).parameters

    # fast peers may have taken the same steps; none can have taken the slow one's
    assert len(before) > 1
    assert not torch.equal(states[0], states[SLOW])
    assert torch.allclose(trained.double(), torch.stack(states).mean(0), atol=1e-6)


def test_run_in_step_has_the_same_weights_with_the_option_as_without(local_runner: Runner) -> None:
    changes = {"compute": "local", "rounds": 2, "evaluate_every": 0, "checkpoint_every": 0}

    plain = local_runner.train("plain", **changes)
    in_step = local_runner.train("in-step", **changes, staleness=0)

    assert {result.weights.checksum for result in [*plain, *in_step]} == {plain[0].weights.checksum}


def test_peers_apart_learn_mnist(local_runner: Runner) -> None:
    records: list[RoundRecord] = []

    results = local_runner.train(
        "mnist",
        records.append,
        compute="local",
        dataset="mnist",
        model=ModelSpec("cnn"),
        rounds=20,
        batch_size=32,
        batches_per_round=1,
        evaluate_every=0,
        checkpoint_every=10,
        staleness=S,
    )

    first = [record.loss for record in records if record.round == 0]
    last = [record.loss for record in records if record.round == 19]
    assert min(first) > 2.0
    assert max(last) < 1.0
    assert len({result.weights.checksum for result in results}) == 1
    assert accuracy(results[0].test) > 0.8


def test_early_stop_ends_all_peers_after_the_same_round(local_runner: Runner) -> None:
    without_gain = EarlyStopSpec(patience=1, min_delta=100.0)
    settings = {**APART, "evaluate_every": 1, "checkpoint_every": 0, "rounds": 20}

    results = local_runner.train("early", early_stop=without_gain, **settings)

    # round 1 is the first without a gain; all have read of it in round 1 + S, and meet after the next one
    assert [result.rounds for result in results] == [1 + S + 2] * NUM_PEERS
    assert len({result.weights.checksum for result in results}) == 1


def test_peer_alone_is_never_apart_from_itself(local_runner: Runner) -> None:
    records: list[RoundRecord] = []
    alone = {"num_peers": 1, "compute": "local", "rounds": 4}

    apart = local_runner.train("alone-apart", records.append, **alone, staleness=S)
    in_step = local_runner.train("alone-in-step", **alone)

    assert apart[0].weights.checksum == in_step[0].weights.checksum
    assert {record.lead for record in records} == {0}


def test_command_line_says_what_the_option_means(local_runner: Runner, tmp_path: Path) -> None:
    catalogue.push(local_runner.store, DATASET)
    address = local_runner.surroundings.store
    (tmp_path / "secret").write_text(address.secret_key)
    place = [
        "--store",
        address.endpoint,
        "--bucket",
        address.bucket,
        "--store-access-key",
        address.access_key,
    ]
    place += ["--store-secret-key-file", str(tmp_path / "secret"), "--dataset", DATASET]
    program = str(Path(sys.executable).with_name("peerless"))

    def said(command: str, *options: str) -> str:
        done = subprocess.run(
            [
                program,
                command,
                *place,
                "--compute",
                "local",
                "--model-arguments",
                "{input_size: 20}",
                *options,
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    explained = said("explain", "--staleness", "2")
    trained = said("train", "--staleness", "2", "--rounds", "3", "--peers", "2", "--batch-size", "8")

    assert "pace      at most 2 rounds apart; weights depend on timing" in explained
    assert "all_gather: " in explained and "scatter_reduce: " not in explained
    assert "exchange all_gather: the one in which peers need not be in the same round" in trained
    assert "peers at most 2 rounds apart; weights depend on timing" in trained
    assert "rounds late  " in trained and "they depend on timing" in trained
