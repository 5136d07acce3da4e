"""What peers publish, keep and delete, on a real store, without training anything."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from harness import IMPATIENT

from peer import checkpoint
from peer.checkpoint import Checkpoints
from peer.compression.codecs import codec_named
from peer.config import RunStart
from peer.decisions import Progress
from peer.errors import CheckpointError, ObjectCorrupt, PeerLost
from peer.exchange.compressor import Compressor
from peer.garbage import Garbage
from peer.learning.flat import FlatState
from peer.learning.optimizers import FlatOptimizer
from peer.membership import Membership
from peer.messages import OptimizerSpec, PeerManifest, StoredObject
from peer.records.phases import PhaseClock
from peer.rendezvous import Rendezvous
from peer.residuals import Residuals
from peer.store import keys, tensors
from peer.store.s3 import Store
from peer.weights import Weights, fetch


def state(number: int) -> FlatState:
    return FlatState(torch.full((100,), float(number)), torch.zeros(3), torch.tensor([number]))


def present(store: Store, prefix: str) -> set[str]:
    return {key.removeprefix(prefix) for key, _ in store.list(prefix)}


def without_memory(store: Store, garbage: Garbage, num_peers: int) -> Residuals:
    membership = Membership(store, "run", 0, IMPATIENT)
    rendezvous = Rendezvous(store, membership, "run", 0, num_peers, PhaseClock())
    own = PeerManifest("run", 0, 0, 0, membership.incarnation, "", "cpu")
    return Residuals(store, garbage, rendezvous, Compressor(), own)


class Peers:
    """Two peers of a run that publish in turn, in one process."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.garbage = Garbage(store, is_kept=False)
        self.weights = [Weights(store, self.garbage, "run", rank, 2, PhaseClock()) for rank in range(2)]
        self.checkpoints = [
            Checkpoints(store, self.garbage, weights, without_memory(store, self.garbage, 2), "run", rank, 2)
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
    checkpoints = Checkpoints(store, garbage, weights, without_memory(store, garbage, 1), "run", 0, 1)
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


class PeersWithMemory:
    """Two peers whose codec leaves something out, in one process; each has left out its rank plus one."""

    def __init__(self, store: Store, generation: int = 0) -> None:
        self.garbage = Garbage(store, is_kept=False)
        self.compressors = [Compressor(codec_named("topk:0.1"), decay=1.0) for _ in range(2)]
        self.memberships = [Membership(store, "run", rank, IMPATIENT) for rank in range(2)]
        self.residuals = []
        for rank, membership in enumerate(self.memberships):
            membership.claim(RunStart(generation))
            self.compressors[rank].restore(torch.full((50,), rank + 1.0))
            rendezvous = Rendezvous(store, membership, "run", generation, 2, PhaseClock())
            own = PeerManifest("run", generation, 0, rank, membership.incarnation, "", "cpu")
            compressor = self.compressors[rank]
            self.residuals.append(Residuals(store, self.garbage, rendezvous, compressor, own))

    def leave(self) -> None:
        for membership in self.memberships:
            membership.leave("finished")
        self.garbage.close()


def checkpoints_of(store: Store, peers: PeersWithMemory, rank: int) -> tuple[Checkpoints, Weights]:
    weights = Weights(store, peers.garbage, "run", rank, 2, PhaseClock())
    return Checkpoints(store, peers.garbage, weights, peers.residuals[rank], "run", rank, 2), weights


def test_checkpoint_has_the_residual_of_every_peer_and_gives_it_back(store: Store) -> None:
    peers = PeersWithMemory(store)

    def take_part(rank: int) -> None:
        checkpoints, weights = checkpoints_of(store, peers, rank)
        for number in (0, 2, 4):
            stored = weights.publish(number, state(number))
            optimizer = FlatOptimizer(state(number).parameters, OptimizerSpec())
            checkpoints.write(number, stored, optimizer, Progress(learning_rate=1.0))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(take_part, range(2)))
    peers.leave()
    newest = checkpoint.newest(store, "run")
    resumed = PeersWithMemory(store, generation=1)
    for rank in range(2):
        resumed.compressors[rank].restore(torch.empty(0))
        checkpoints_of(store, resumed, rank)[0].adopt(newest)
    resumed.leave()

    assert newest.round == 4
    assert [part.key for part in newest.residuals] == [keys.residual("run", 4, rank) for rank in range(2)]
    assert [each.residual.tolist() for each in resumed.compressors] == [[1.0] * 50, [2.0] * 50]
    parts = ("0", "0.json", "1", "1.json", "manifest.json", "shared")
    assert present(store, keys.checkpoints("run")) == {f"{kept}/{part}" for kept in (2, 4) for part in parts}


def test_checkpoint_is_not_complete_without_a_peers_residual(store: Store) -> None:
    peers = PeersWithMemory(store)
    peers.memberships[1].leave("failed", "killed")

    checkpoints, weights = checkpoints_of(store, peers, 0)
    stored = weights.publish(0, state(0))
    with pytest.raises(PeerLost, match="peer 1 of run run"):
        checkpoints.write(
            0, stored, FlatOptimizer(state(0).parameters, OptimizerSpec()), Progress(learning_rate=1.0)
        )
    peers.leave()

    with pytest.raises(CheckpointError):
        checkpoint.newest(store, "run")


def test_residual_of_an_earlier_generation_does_not_count(store: Store) -> None:
    earlier = PeersWithMemory(store)
    earlier.residuals[1].put(0)
    earlier.leave()
    peers = PeersWithMemory(store, generation=1)
    peers.residuals[0].put(0)
    peers.memberships[1].leave("failed", "killed")

    with pytest.raises(PeerLost):
        peers.residuals[0].collect(0)

    peers.leave()


def test_residual_that_is_none_is_refused(store: Store) -> None:
    peers = PeersWithMemory(store)
    encoded = tensors.encode({"residual": torch.zeros(3, dtype=torch.int64)})
    store.put("foreign", encoded.chunks, encoded.length)

    with pytest.raises(ObjectCorrupt, match="foreign is no residual"):
        peers.residuals[0].restore([StoredObject("foreign", encoded.length, encoded.sha256())])

    peers.leave()


def test_checkpoint_without_residuals_is_refused_by_a_codec_that_needs_them(store: Store) -> None:
    peers = PeersWithMemory(store)

    with pytest.raises(CheckpointError, match="no residual of peer 0"):
        peers.residuals[0].restore([])

    peers.leave()
