"""A peer's gradients on their way out: compressed once, and what that leaves out kept for the next round."""

import threading

import torch
from torch import Tensor

from peer.aggregation import Gradient
from peer.compression.codecs import UNCOMPRESSED, Codec
from peer.compression.noise import Noise
from peer.errors import CheckpointError, TrainingDiverged
from peer.learning.seeds import derive_seed
from peer.messages import PeerManifest
from peer.store.gradients import encode_compressed, encode_gradient
from peer.store.tensors import EncodedTensors


class Compressor:
    """Compresses one peer's gradients; safe between threads that compress different parts.

    Args:
        codec: of the run.
        seed: of the run; with round and peer it seeds the noise of stochastic rounding.
        decay: what part of what has been lost so far is added to the next gradient (error feedback); 0 for
            none of it.
    """

    def __init__(self, codec: Codec = UNCOMPRESSED, seed: int = 0, *, decay: float = 0.0) -> None:
        self.codec = codec
        self.has_memory = decay > 0
        self._decay = decay
        self._seed = seed
        self._residual = torch.empty(0)
        self._lock = threading.Lock()

    @property
    def residual(self) -> Tensor:
        """What has been left out so far: float32 of shape (P,), of shape (0,) before the first round."""
        return self._residual

    def restore(self, residual: Tensor) -> None:
        """Go on from the `residual` of a checkpoint; the tensor belongs to this object from now on."""
        self._residual = residual

    def compress(
        self, piece: Gradient, first_element: int, num_elements: int, manifest: PeerManifest
    ) -> EncodedTensors:
        """Return the wire form of one part, and leave in `piece` what everybody else decodes from it.

        Args:
            piece: elements `first_element` and on of the peer's gradient; its values are overwritten.
            first_element: a multiple of the codec's chunk.
            num_elements: P, of the whole gradient.
            manifest: says whose gradient, of which round.

        Raises:
            TrainingDiverged: a value is not finite; names the peer. The run cannot go on.
            CheckpointError: the residual that was restored is of another model.
        """
        if self.codec is UNCOMPRESSED:
            return encode_gradient(piece)
        values = piece.values
        kept = self._kept(first_element, len(values), num_elements)
        if kept is not None:
            values.add_(kept.mul_(self._decay))
        noise = Noise(derive_seed("exchange", self._seed, manifest.round, manifest.peer), first_element)
        try:
            compressed = self.codec.encode(values, noise)
        except TrainingDiverged as error:
            where = f"peer {manifest.peer}, round {manifest.round} of run {manifest.run}"
            raise TrainingDiverged(f"{where}: {error}") from error
        decoded = self.codec.decode(compressed, len(values))
        if kept is not None:
            torch.sub(values, decoded, out=kept)
        values.copy_(decoded)
        return encode_compressed(compressed, piece, self.codec)

    def _kept(self, first_element: int, length: int, num_elements: int) -> Tensor | None:
        """Return what was left out of these elements, None of a codec that leaves nothing for later."""
        if not self.has_memory:
            return None
        with self._lock:
            if not len(self._residual):
                self._residual = torch.zeros(num_elements)
            if len(self._residual) != num_elements:
                raise CheckpointError(
                    f"the checkpoint's residual has {len(self._residual)} elements, the model {num_elements}"
                )
            return self._residual[first_element : first_element + length]
