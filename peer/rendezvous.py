"""Where peers meet: each writes its manifest of a round, and reads everyone's."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TypeVar

from msgspec.structs import replace

from peer.errors import ObjectMissing, PeerDiverged
from peer.membership import Membership
from peer.messages import PeerManifest, ReducedManifest, ResidualManifest, StoredObject
from peer.records.phases import PhaseClock
from peer.store import keys, letters
from peer.store.ahead import Transfers
from peer.store.letters import Enclosed, Letter
from peer.store.retry import Patience
from peer.store.s3 import Store
from peer.store.tensors import EncodedTensors

_Found = TypeVar("_Found")

KeyOf = Callable[[str, int, int, int], str]
"""Where a peer's manifest is, by run, generation, round and peer: of a round, or of a meeting after it."""

_UNTIL_LOST = Patience(total_seconds=math.inf, first_seconds=0.003, longest_seconds=0.1, growth=1.25)
"""What has come is seen late by a quarter of the time that was waited for it, at most."""


def _allocate(num_bytes: int) -> memoryview:
    return memoryview(bytearray(num_bytes))


class Rendezvous:
    """One peer's view of a run's manifests.

    Args:
        store: where the manifests are.
        membership: this peer's hold on its rank; asked before each manifest.
        run: the run's name.
        generation: raised by every `resume`, so that nothing older can be read.
        num_peers: how many manifests make a round.
        clock: counts the time in which others' manifests are not there yet.
    """

    def __init__(
        self,
        store: Store,
        membership: Membership,
        run: str,
        generation: int,
        num_peers: int,
        clock: PhaseClock,
    ) -> None:
        self._store = store
        self._membership = membership
        self._run = run
        self._generation = generation
        self.num_peers = num_peers
        self._clock = clock
        self._transfers = Transfers()

    def publish(self, manifest: PeerManifest, key_of: KeyOf = keys.peer_manifest) -> None:
        """Make this peer's part of a round visible. All that it names is stored already.

        Raises:
            RankTaken: another process holds this rank now; nothing was written.
        """
        self._membership.confirm()
        self._store.put_message(self.key_of(manifest, key_of), manifest)

    def send(self, manifest: PeerManifest, parts: Sequence[Enclosed]) -> None:
        """Put each part under its key, in front of it this peer's manifest, which names that part alone.

        Raises:
            RankTaken: as `publish`.
        """
        self._membership.confirm()

        def put(enclosed: Enclosed) -> None:
            part, encoded = enclosed
            letters.put(self._store, part.key, replace(manifest, parts=[part]), encoded)

        self._transfers.map(put, parts)

    def key_of(self, manifest: PeerManifest, key_of: KeyOf = keys.peer_manifest) -> str:
        """Return where a manifest of this run is."""
        return key_of(self._run, self._generation, manifest.round, manifest.peer)

    def objects_of(self, manifest: PeerManifest, key_of: KeyOf = keys.peer_manifest) -> list[str]:
        """Return the keys of a manifest and of all that it names, once each."""
        return list(dict.fromkeys([self.key_of(manifest, key_of), *(part.key for part in manifest.parts)]))

    def manifest(self, round_number: int, peer: int) -> PeerManifest:
        """Return a peer's manifest of a round as soon as it is there; raises PeerLost as `collect`."""
        key = keys.peer_manifest(self._run, self._generation, round_number, peer)
        return self._awaited(lambda: self._store.get_message_if_exists(key, PeerManifest), peer)

    def manifest_if_there(self, round_number: int, peer: int) -> PeerManifest | None:
        """Return a peer's manifest of a round, None if it is not there yet."""
        key = keys.peer_manifest(self._run, self._generation, round_number, peer)
        return self._store.get_message_if_exists(key, PeerManifest)

    def collect(self, own: PeerManifest, key_of: KeyOf = keys.peer_manifest) -> Iterator[PeerManifest]:
        """Yield every peer's manifest of the round of `own`; see `letters`."""
        return (letter.message for letter in self.letters(own, key_of))

    def letters(
        self,
        own: PeerManifest,
        key_of: KeyOf = keys.peer_manifest,
        allocate: Callable[[int], memoryview] = _allocate,
    ) -> Iterator[Letter[PeerManifest]]:
        """Yield every peer's manifest of the round of `own`, and what it encloses, in peer order.

        Each as soon as it is there, `own` as it is; some are asked for ahead, once the first one has come.

        Args:
            own: this peer's.
            key_of: where manifests are.
            allocate: gives the memory that one is received into.

        Raises:
            PeerLost: a peer is not there and its heartbeat stands still.
            PeerDiverged: a peer's gradient belongs to other weights; names it and both CPUs.
        """
        others = [peer for peer in range(self.num_peers) if peer != own.peer]
        reads = {peer: partial(self._letter, own.round, peer, key_of, allocate) for peer in others}
        found_ahead = chain([None], self._transfers.ahead(reads[peer] for peer in others[1:]))
        for peer in range(self.num_peers):
            if peer == own.peer:
                yield Letter(own, memoryview(b""))
                continue
            letter = next(found_ahead) or self._awaited(reads[peer], peer)
            _check_weights(letter.message, own)
            yield letter

    def publish_reduced(
        self, parts: list[StoredObject], own: PeerManifest, enclosed: EncodedTensors | None = None
    ) -> str:
        """Make this peer's share of the mean visible; return the key that says so; see `publish`."""
        self._membership.confirm()
        key = self.reduced_key_of(own)
        reduced = ReducedManifest(
            run=own.run,
            generation=own.generation,
            round=own.round,
            peer=own.peer,
            incarnation=own.incarnation,
            parts=parts,
        )
        letters.put(self._store, key, reduced, enclosed)
        return key

    def reduced_key_of(self, own: PeerManifest) -> str:
        """Return where the peer of this manifest says that its share of the mean is there."""
        return keys.reduced_manifest(self._run, self._generation, own.round, own.peer)

    def reduced(
        self, round_number: int, peer: int, allocate: Callable[[int], memoryview]
    ) -> Letter[ReducedManifest]:
        """Return where a peer's share of the mean is, or the share, as soon as it says so; see `letters`."""
        key = keys.reduced_manifest(self._run, self._generation, round_number, peer)
        return self._awaited(lambda: letters.get_if_exists(self._store, key, ReducedManifest, allocate), peer)

    def publish_residual(self, round_number: int, part: StoredObject, own: PeerManifest) -> None:
        """Say that this peer's part of a checkpoint is stored; raises as `publish`."""
        self._membership.confirm()
        residual = ResidualManifest(
            run=own.run,
            generation=own.generation,
            round=round_number,
            peer=own.peer,
            incarnation=own.incarnation,
            part=part,
        )
        self._store.put_message(keys.residual_manifest(self._run, round_number, own.peer), residual)

    def residual(self, round_number: int, peer: int) -> ResidualManifest:
        """Return where a peer's part of a checkpoint is, as soon as it says so; raises as `reduced`."""
        key = keys.residual_manifest(self._run, round_number, peer)

        def read() -> ResidualManifest | None:
            found = self._store.get_message_if_exists(key, ResidualManifest)
            # a checkpoint's keys are the same in every generation
            return found if found is not None and found.generation == self._generation else None

        return self._awaited(read, peer)

    def _letter(
        self, round_number: int, peer: int, key_of: KeyOf, allocate: Callable[[int], memoryview]
    ) -> Letter[PeerManifest] | None:
        key = key_of(self._run, self._generation, round_number, peer)
        return letters.get_if_exists(self._store, key, PeerManifest, allocate)

    def _awaited(self, read: Callable[[], _Found | None], peer: int) -> _Found:
        """Return what `read` returns once it is not None, as long as this peer lives."""
        watch = self._membership.watch(peer)

        def probe() -> _Found:
            found = read()
            if found is None:
                watch.check()
                raise ObjectMissing(f"nothing of peer {peer} yet")
            return found

        return self._clock.wait_for(probe, _UNTIL_LOST)


def _check_weights(theirs: PeerManifest, own: PeerManifest) -> None:
    if theirs.weights_sha256 != own.weights_sha256:
        raise PeerDiverged(
            f"round {own.round} of run {own.run}: peer {theirs.peer} computed at weights "
            f"{theirs.weights_sha256[:12]} on {theirs.cpu}, peer {own.peer} at "
            f"{own.weights_sha256[:12]} on {own.cpu}. Peers must agree bit for bit: run them on "
            "machines with the same CPU capability and the same torch, then `peerless resume`"
        )
