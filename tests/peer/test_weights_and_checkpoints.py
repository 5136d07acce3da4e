"""What peers publish, keep and delete, on a real store, without training anything."""

import pytest
import torch

from peer import checkpoint
from peer.checkpoint import Checkpoints
from peer.decisions import Progress
from peer.errors import CheckpointError, ObjectCorrupt
from peer.garbage import Garbage
from peer.learning.flat import FlatState
from peer.learning.optimizers import FlatOptimizer
from peer.messages import OptimizerSpec, StoredObject
from peer.phases import PhaseClock
from peer.store import keys
from peer.store.s3 import Store
from peer.weights import Weights, fetch


def state(number: int) -> FlatState:
    return FlatState(torch.full((100,), float(number)), torch.zeros(3), torch.tensor([number]))


def present(store: Store, prefix: str) -> set[str]:
    return {key.removeprefix(prefix) for key, _ in store.list(prefix)}


class Peers:
    """Two peers of a run that publish in turn, in one process."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.garbage = Garbage(store, is_kept=False)
        self.weights = [Weights(store, self.garbage, "run", rank, 2, PhaseClock()) for rank in range(2)]
        self.checkpoints = [
            Checkpoints(store, self.garbage, weights, "run", rank, 2)
            for rank, weights in enumerate(self.weights)
        ]

    def publish(self, round_number: int) -> StoredObject:
        writer = round_number % 2
        first = self.weights[writer].publish(round_number, state(round_number))
        second = self.weights[1 - writer].publish(round_number, state(round_number))
        assert first == second
        return first

    def checkpoint(self, round_number: int, progress: Progress) -> None:
        stored = self.publish(round_number)
        optimizer = FlatOptimizer(state(round_number).parameters, OptimizerSpec())
        for checkpoints in self.checkpoints:
            checkpoints.write(round_number, stored, optimizer, progress)


def test_published_weights_are_read_back_and_damage_is_noticed(store: Store) -> None:
    peers = Peers(store)

    stored = peers.publish(0)

    assert torch.equal(fetch(store, stored).parameters, state(0).parameters)
    damaged = store.get(stored.key)
    damaged[-1] ^= 1
    store.put_bytes(stored.key, damaged)
    with pytest.raises(ObjectCorrupt):
        fetch(store, stored)
    peers.garbage.close()


def test_weights_are_kept_for_two_rounds(store: Store) -> None:
    peers = Peers(store)

    published = [peers.publish(round_number) for round_number in range(6)]
    peers.garbage.close()

    assert present(store, keys.all_weights("run")) == {
        stored.key.rpartition("/")[2] for stored in published[-2:]
    }


def test_weights_that_do_not_change_are_not_deleted(store: Store) -> None:
    garbage = Garbage(store, is_kept=False)
    weights = Weights(store, garbage, "run", 0, 1, PhaseClock())

    stored = [weights.publish(round_number, state(1)) for round_number in range(5)][-1]
    garbage.close()

    assert store.head(stored.key) == stored.length


def test_peer_publishes_itself_if_the_writer_does_not(store: Store) -> None:
    garbage, clock = Garbage(store, is_kept=False), PhaseClock()

    with clock.phase("publish"):
        stored = Weights(store, garbage, "run", 1, 2, clock).publish(0, state(0))
    garbage.close()

    assert store.head(stored.key) == stored.length
    assert clock.take()["wait"] > 1.0


def test_newest_two_checkpoints_and_the_best_stay(store: Store) -> None:
    peers = Peers(store)

    for round_number in range(0, 12, 2):
        best = 2 if round_number >= 2 else -1
        peers.checkpoint(round_number, Progress(learning_rate=1.0, best_round=best))
        peers.publish(round_number + 1)
    peers.garbage.close()

    assert present(store, keys.checkpoints("run")) == {
        f"{kept}/{part}" for kept in (2, 8, 10) for part in ("manifest.json", "shared")
    }
    newest = checkpoint.newest(store, "run")
    assert newest.round == 10
    assert fetch(store, newest.weights).counters.tolist() == [10]
    assert fetch(store, checkpoint.read(store, "run", 2).weights).counters.tolist() == [2]
    assert len(present(store, keys.all_weights("run"))) == 4


def test_checkpoint_without_manifest_does_not_count(store: Store) -> None:
    store.put_bytes(keys.checkpoint("run", 4, "shared"), b"torn")

    with pytest.raises(CheckpointError, match="run run has no complete checkpoint"):
        checkpoint.newest(store, "run")


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_resumed_optimizer_steps_as_the_first_would_have(store: Store, name: str) -> None:
    spec = OptimizerSpec(name=name, learning_rate=0.1)  # type: ignore[arg-type]
    garbage = Garbage(store, is_kept=False)
    weights = Weights(store, garbage, "run", 0, 1, PhaseClock())
    checkpoints = Checkpoints(store, garbage, weights, "run", 0, 1)
    optimizer = FlatOptimizer(torch.linspace(-1, 1, 100), spec)
    gradients = torch.randn(4, 100, generator=torch.Generator().manual_seed(0))
    optimizer.step(gradients[0])
    optimizer.step(gradients[1])
    model = FlatState(optimizer.parameters, torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    checkpoints.write(2, weights.publish(2, model), optimizer, Progress(learning_rate=0.1))
    garbage.close()

    newest = checkpoint.newest(store, "run")
    resumed = FlatOptimizer(fetch(store, newest.weights).parameters, spec)
    checkpoint.load_optimizer(store, newest, resumed)
    for gradient in gradients[2:]:
        optimizer.step(gradient)
        resumed.step(gradient)

    assert torch.equal(resumed.parameters, optimizer.parameters)
