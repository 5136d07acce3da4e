"""Checkpoints: weights, optimizer and schedule of one round in the store; the manifest is written last.

Everything random derives from (seed, round, peer, batch) and the data position from the round, so a
checkpoint needs nothing of a single peer but what its codec has left out so far. The peer r mod P, which
publishes the weights of round r, writes and deletes what all share.
"""

from collections.abc import Callable

from peer.decisions import Progress
from peer.errors import CheckpointError, ObjectMissing
from peer.garbage import Garbage
from peer.learning.optimizers import FlatOptimizer
from peer.messages import Message, StoredObject
from peer.residuals import Residuals
from peer.store import keys, tensors
from peer.store.s3 import Store
from peer.weights import Weights

_NEWEST_KEPT = 2


class CheckpointManifest(Message, frozen=True):
    """A complete checkpoint: the state before `round`. `retained` are those still kept, and their weights.

    `residuals` are the peers', in peer order; there are none without a codec that has a memory.
    """

    run: str
    round: int
    weights: StoredObject
    optimizer: StoredObject
    progress: Progress
    retained: list[tuple[int, str]] = []
    residuals: list[StoredObject] = []


class Checkpoints:
    """Writes checkpoints and keeps the newest two and the best.

    Args:
        store: where they go.
        garbage: what deletes.
        published: keeps the weights that a checkpoint names.
        residuals: this peer's own part.
        run: the run's name.
        rank: this peer.
        num_peers: P.
        on_written: told of each checkpoint that this peer has written.
    """

    def __init__(
        self,
        store: Store,
        garbage: Garbage,
        published: Weights,
        residuals: Residuals,
        run: str,
        rank: int,
        num_peers: int,
        on_written: Callable[[], None] | None = None,
    ) -> None:
        self._store = store
        self._garbage = garbage
        self._published = published
        self._residuals = residuals
        self._run = run
        self._rank = rank
        self._num_peers = num_peers
        self._on_written = on_written
        self._retained: dict[int, str] = {}

    def adopt(self, manifest: CheckpointManifest) -> None:
        """Take over what a resumed run has kept so far, and this peer's residual; raises as `Residuals`."""
        self._residuals.restore(manifest.residuals)
        self._retained = dict(manifest.retained)
        for key in self._retained.values():
            self._published.keep(key)

    def write(
        self, round_number: int, stored_weights: StoredObject, optimizer: FlatOptimizer, progress: Progress
    ) -> None:
        """Make the state before `round_number` resumable, and drop what is neither new nor best.

        Every peer calls this with equal arguments and keeps the same account; one of them writes.

        Raises:
            PeerLost: a peer's residual does not come; the checkpoint is not complete.
        """
        self._residuals.put(round_number)
        self._published.keep(stored_weights.key)
        self._retained[round_number] = stored_weights.key
        dropped = self._drop(progress.best_round)
        if round_number % self._num_peers == self._rank:
            self._store_checkpoint(round_number, stored_weights, optimizer, progress)
        for old_round, key in dropped.items():
            self._delete(old_round, key)

    def _store_checkpoint(
        self, round_number: int, stored_weights: StoredObject, optimizer: FlatOptimizer, progress: Progress
    ) -> None:
        encoded = tensors.encode(optimizer.state_tensors())
        shared = StoredObject(
            key=keys.checkpoint(self._run, round_number, "shared"),
            length=encoded.length,
            checksum=encoded.sha256(),
        )
        self._store.put(shared.key, encoded.chunks, encoded.length)
        manifest = CheckpointManifest(
            run=self._run,
            round=round_number,
            weights=stored_weights,
            optimizer=shared,
            progress=progress,
            retained=sorted(self._retained.items()),
            residuals=self._residuals.collect(round_number),
        )
        self._store.put_message(keys.checkpoint(self._run, round_number, "manifest.json"), manifest)
        if self._on_written is not None:
            self._on_written()

    def _drop(self, best_round: int) -> dict[int, str]:
        newest = sorted(self._retained)[-_NEWEST_KEPT:]
        dropped = {old: key for old, key in self._retained.items() if old not in newest and old != best_round}
        for old in dropped:
            del self._retained[old]
        return dropped

    def _delete(self, old_round: int, weights_key: str) -> None:
        """Manifest first: a checkpoint is never complete without its objects."""
        if old_round % self._num_peers == self._rank:
            self._garbage.delete([keys.checkpoint(self._run, old_round, "manifest.json")])
            self._garbage.delete([keys.checkpoint(self._run, old_round, "shared")])
            if weights_key not in self._retained.values():
                self._published.release(weights_key)
        self._residuals.delete(old_round)


def newest(store: Store, run: str) -> CheckpointManifest:
    """Return the newest complete checkpoint of a run.

    Raises:
        CheckpointError: it has none.
    """
    rounds = [keys.round_of_checkpoint(key) for key, _ in store.list(keys.checkpoints(run))]
    complete = sorted((found for found in rounds if found is not None), reverse=True)
    for round_number in complete:
        try:
            return read(store, run, round_number)
        except ObjectMissing:
            continue
    raise CheckpointError(
        f"run {run} has no complete checkpoint: begin anew with `peerless train --run NAME`"
    )


def read(store: Store, run: str, round_number: int) -> CheckpointManifest:
    """Return the checkpoint of one round."""
    return store.get_message(keys.checkpoint(run, round_number, "manifest.json"), CheckpointManifest)


def load_optimizer(store: Store, manifest: CheckpointManifest, optimizer: FlatOptimizer) -> None:
    """Load a checkpoint's optimizer state.

    Raises:
        ObjectMissing, ObjectCorrupt: the object is gone or damaged.
    """
    stored = manifest.optimizer
    buffer = store.get(stored.key, stored.length, stored.checksum)
    optimizer.load(tensors.decode(buffer).tensors)
