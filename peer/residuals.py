"""What a codec has left out so far, one object a peer: the part of a checkpoint that peers do not share.

Each peer puts its own and then says so; who writes the checkpoint waits for all of them and names them in its
manifest, which is written last. Codecs without a memory have none, and nothing is put or awaited.
"""

import torch

from peer.errors import CheckpointError, ObjectCorrupt
from peer.exchange.compressor import Compressor
from peer.garbage import Garbage
from peer.messages import PeerManifest, StoredObject
from peer.rendezvous import Rendezvous
from peer.store import keys, tensors
from peer.store.s3 import Store


class Residuals:
    """One peer's residual in checkpoints.

    Args:
        store: where it goes.
        garbage: what deletes.
        rendezvous: this peer's.
        compressor: has the residual.
        own: this peer's manifest, of any round.
    """

    def __init__(
        self,
        store: Store,
        garbage: Garbage,
        rendezvous: Rendezvous,
        compressor: Compressor,
        own: PeerManifest,
    ) -> None:
        self._store = store
        self._garbage = garbage
        self._rendezvous = rendezvous
        self._compressor = compressor
        self._own = own

    def put(self, round_number: int) -> None:
        """Store what has been left out before this round, and say that it is there.

        Raises:
            RankTaken: another process holds this rank now.
        """
        if not self._compressor.has_memory:
            return
        encoded = tensors.encode({"residual": self._compressor.residual})
        stored = StoredObject(
            key=keys.residual(self._own.run, round_number, self._own.peer),
            length=encoded.length,
            checksum=encoded.sha256(),
        )
        self._store.put(stored.key, encoded.chunks, encoded.length)
        self._rendezvous.publish_residual(round_number, stored, self._own)

    def collect(self, round_number: int) -> list[StoredObject]:
        """Return where every peer's residual is, in peer order, once all have said so.

        Raises:
            PeerLost: a peer does not come.
        """
        if not self._compressor.has_memory:
            return []
        peers = range(self._rendezvous.num_peers)
        return [self._rendezvous.residual(round_number, peer).part for peer in peers]

    def restore(self, stored: list[StoredObject]) -> None:
        """Go on from a checkpoint with these residuals, which are all peers'.

        Raises:
            CheckpointError: there is none of this peer.
            ObjectMissing, ObjectCorrupt: it is gone or damaged.
        """
        if not self._compressor.has_memory:
            return
        run, peer = self._own.run, self._own.peer
        if peer >= len(stored):
            raise CheckpointError(f"the checkpoint of run {run} has no residual of peer {peer}")
        found = stored[peer]
        buffer = self._store.get(found.key, found.length, found.checksum)
        named = tensors.decode(buffer).tensors
        forms = {name: (tensor.dtype, tensor.dim()) for name, tensor in named.items()}
        if forms != {"residual": (torch.float32, 1)}:
            raise ObjectCorrupt(f"{found.key} is no residual: it has {forms}")
        self._compressor.restore(named["residual"])

    def delete(self, round_number: int) -> None:
        """Delete this peer's part of a checkpoint that is dropped."""
        if self._compressor.has_memory:
            run, peer = self._own.run, self._own.peer
            self._garbage.delete(
                [keys.residual_manifest(run, round_number, peer), keys.residual(run, round_number, peer)]
            )
