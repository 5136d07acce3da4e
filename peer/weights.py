"""A round's weights, once in the store: content-addressed, so that peers that agree share one object."""

from collections import deque

from peer.errors import ObjectMissing
from peer.garbage import Garbage
from peer.learning.flat import FlatState
from peer.messages import StoredObject
from peer.records.phases import PhaseClock
from peer.store import keys, tensors
from peer.store.retry import Patience
from peer.store.s3 import Store

_ROUNDS_KEPT = 2
"""This round's, and the last one's, which a late attempt may still read."""
_WAIT_FOR_WRITER = Patience(total_seconds=2.0, first_seconds=0.003, longest_seconds=0.1)


def encode(state: FlatState) -> tensors.EncodedTensors:
    """Return the wire form of weights; the tensors are not copied."""
    return tensors.encode(state.tensors())


def fetch(store: Store, stored: StoredObject) -> FlatState:
    """Return the weights under a key, checked against their SHA-256.

    Raises:
        ObjectMissing, ObjectCorrupt: they are gone, or not what was stored.
    """
    buffer = store.get(stored.key, stored.length, stored.checksum)
    return FlatState.from_tensors(tensors.decode(buffer).tensors)


class Weights:
    """Publishes weights round by round, and deletes what nobody reads any more.

    Args:
        store: where they go.
        garbage: what deletes.
        run: the run's name.
        rank: this peer; it writes (and later deletes) the weights of the rounds r with r mod P = rank.
        num_peers: P.
        clock: counts the time in which another peer's weights are not there yet.
        staleness: how many rounds another peer may be behind, and still read what all share.
    """

    def __init__(
        self,
        store: Store,
        garbage: Garbage,
        run: str,
        rank: int,
        num_peers: int,
        clock: PhaseClock,
        staleness: int = 0,
    ) -> None:
        self._store = store
        self._garbage = garbage
        self._run = run
        self._rank = rank
        self._num_peers = num_peers
        self._clock = clock
        self._rounds_kept = _ROUNDS_KEPT + staleness
        self._recent: deque[tuple[int, str, bool]] = deque()
        self._kept: set[str] = set()

    def publish(self, round_number: int, state: FlatState, *, is_shared: bool = True) -> StoredObject:
        """Return the weights' object once it is in the store.

        What all peers share is written by one of them and awaited by the others; a peer that has waited 2 s
        writes the same bytes itself, so that no single peer can hold up a round.
        """
        encoded = encode(state)
        checksum = encoded.sha256()
        stored = StoredObject(
            key=keys.weights(self._run, checksum.removeprefix("sha256:")),
            length=encoded.length,
            checksum=checksum,
        )
        is_writer = not is_shared or round_number % self._num_peers == self._rank
        if is_writer or not self._appears(stored.key):
            self._store.put(stored.key, encoded.chunks, encoded.length)
        self._recent.append((round_number, stored.key, is_writer))
        self._delete_older_than(round_number - self._rounds_kept + 1)
        return stored

    def keep(self, key: str) -> None:
        """Exempt weights that a checkpoint names from deletion."""
        self._kept.add(key)

    def release(self, key: str) -> None:
        """Delete weights that only a dropped checkpoint named."""
        self._kept.discard(key)
        if key not in [recent for _, recent, _ in self._recent]:
            self._garbage.delete([key])

    def finish(self) -> None:
        """Delete all but the last weights; nobody computes at the others any more."""
        self._delete_older_than(self._recent[-1][0])

    def _appears(self, key: str) -> bool:
        def probe() -> None:
            if self._store.head(key) is None:
                raise ObjectMissing(f"{key} is not there yet")

        try:
            self._clock.wait_for(probe, _WAIT_FOR_WRITER)
        except ObjectMissing:
            return False
        return True

    def _delete_older_than(self, round_number: int) -> None:
        while self._recent[0][0] < round_number:
            _, key, is_writer = self._recent.popleft()
            in_use = self._kept.union(recent for _, recent, _ in self._recent)
            if is_writer and key not in in_use:
                self._garbage.delete([key])
