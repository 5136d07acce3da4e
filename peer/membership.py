"""Who holds a rank: heartbeats in the store, and what follows when one stands still.

A counter is compared with itself, by the reader's own monotonic clock; no two machines' clocks are compared.
"""

import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable

import msgspec

from peer import messages
from peer.config import Liveness, RunStart
from peer.errors import PeerLost, RankTaken, StoreError
from peer.messages import MemberRecord
from peer.store import keys
from peer.store.retry import Patience, poll
from peer.store.s3 import Store
from peer.store.transfer import Timeouts

log = logging.getLogger(__name__)

RECORD_BYTES = 1024
"""Every version of a member object has this length, so that no server can show a torn one as shorter."""

_REASON_CHARACTERS = 300
_COUNTER_DIGITS = 20
_INTERVALS_TO_WATCH = 3
_TRIES = 4
"""Of a heartbeat's request, before others take the peer for lost. When one server of a MinIO of four has
died, each of the three that are left may hold one."""


class Membership:
    """One peer's hold on its rank, and its view of the other ranks.

    Args:
        store: where the member objects are.
        run: the run's name.
        rank: the rank to hold.
        liveness: the heartbeat's interval, and how long another peer's may stand still.
        metrics_url: where this peer's metrics are, empty for nowhere.

    Attributes:
        on_short_of_memory: told, by function, above which limit another peer asks this one to raise it.
    """

    def __init__(self, store: Store, run: str, rank: int, liveness: Liveness, metrics_url: str = "") -> None:
        self.on_short_of_memory: Callable[[str, int], None] | None = None
        self._short_of_memory: dict[str, int] = {}
        self._store = store
        self._liveness = liveness
        self._key = keys.member(run, rank)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._record = MemberRecord(
            run=run,
            peer=rank,
            generation=0,
            incarnation=uuid.uuid4().hex,
            counter=0,
            host=socket.gethostname(),
            state="running",
            metrics_url=metrics_url,
        )

    @property
    def incarnation(self) -> str:
        """The identifier of this process' hold on the rank."""
        return self._record.incarnation

    def claim(self, start: RunStart) -> None:
        """Hold the rank and beat from now on, in a thread, until `leave`.

        Raises:
            RankTaken: another process holds it: its counter moved while this one watched. Nothing was
                written.
        """
        check_free(self._store, self._record.run, [self._record.peer], self._liveness)
        self._record = msgspec.structs.replace(
            self._record, generation=start.generation, resumed_round=start.resumed_round
        )
        self._beat(self._store)
        self._thread = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)
        self._thread.start()

    def confirm(self) -> None:
        """Return if this process still holds the rank; called before each manifest is written.

        Raises:
            RankTaken: another incarnation has written the member object.
        """
        self._confirm(self._store)

    def leave(self, state: str, reason: str = "") -> None:
        """Stop beating and say why: `finished`, `stopped` or `failed`. A lost store is only logged."""
        self._ended.set()
        if self._thread is None:
            return
        self._thread.join()
        left = msgspec.structs.replace(self._record, state=state, reason=reason[:_REASON_CHARACTERS])
        self._record = _fitting(left)
        try:
            self.confirm()
            self._beat(self._store)
        except (RankTaken, StoreError) as error:
            log.warning("rank %d could not record that it %s: %s", self._record.peer, state, error)

    def watch(self, rank: int) -> "Watch":
        """Return a watch on another rank, whose patience begins now."""
        return Watch(self._store, self._record.run, rank, self._liveness, self.on_short_of_memory)

    def ask_for_memory(self, function: str, limit_bytes: int) -> None:
        """Ask, from the next heartbeat on, for a limit above this one, until `ask_for_no_memory`."""
        self._short_of_memory = {**self._short_of_memory, function: limit_bytes}

    def ask_for_no_memory(self) -> None:
        """Ask for no memory any more."""
        self._short_of_memory = {}

    def _keep_beating(self) -> None:
        # a request that hangs is given up, and made again, before the others take this peer for lost
        seconds = self._liveness.peer_seconds
        store = self._store.with_patience(Patience(seconds), Timeouts(read_seconds=seconds / _TRIES))
        while not self._ended.wait(self._liveness.heartbeat_seconds):
            try:
                self._confirm(store)
                self._beat(store)
            except RankTaken:
                # whoever wrote last holds the rank; writing over it would stop both
                break
            except StoreError as error:
                log.warning("a heartbeat of rank %d was not stored: %s", self._record.peer, error)
        store.close()

    def _confirm(self, store: Store) -> None:
        now = store.get_message_if_exists(self._key, MemberRecord)
        if now is not None and now.incarnation != self.incarnation:
            raise _taken(now)

    def _beat(self, store: Store) -> None:
        self._record = msgspec.structs.replace(
            self._record, counter=self._record.counter + 1, short_of_memory=self._short_of_memory
        )
        store.put_bytes(self._key, messages.encode(self._record).ljust(RECORD_BYTES))


class Watch:
    """Whether another rank is alive and has memory enough, asked while something of it is awaited."""

    def __init__(
        self,
        store: Store,
        run: str,
        rank: int,
        liveness: Liveness,
        on_short_of_memory: Callable[[str, int], None] | None = None,
    ) -> None:
        self._on_short_of_memory = on_short_of_memory
        self._store = store
        self._run = run
        self._rank = rank
        self._liveness = liveness
        self._counter: int | None = None
        self._still_seconds = 0.0
        self._asked_at = time.monotonic()

    def check(self) -> None:
        """Return if the rank may still answer. Asks the store at most twice a heartbeat.

        Time in which the store did not answer counts against nobody.

        Raises:
            PeerLost: its heartbeat stands still, it left with an error, or it never joined.
        """
        now = time.monotonic()
        if now - self._asked_at < self._liveness.heartbeat_seconds / 2:
            return
        record = self._store.get_message_if_exists(keys.member(self._run, self._rank), MemberRecord)
        waited = min(now - self._asked_at, self._liveness.heartbeat_seconds)
        self._asked_at = time.monotonic()
        if record is not None and record.state == "failed":
            raise PeerLost(f"peer {self._rank} of run {self._run} on {record.host} failed: {record.reason}")
        if record is not None and self._on_short_of_memory is not None:
            for function, limit_bytes in record.short_of_memory.items():
                self._on_short_of_memory(function, limit_bytes)
        counter = -1 if record is None else record.counter
        self._still_seconds = self._still_seconds + waited if counter == self._counter else 0.0
        self._counter = counter
        limit = self._liveness.join_seconds if record is None else self._liveness.peer_seconds
        if self._still_seconds > limit:
            raise PeerLost(self._describe(record))

    def _describe(self, record: MemberRecord | None) -> str:
        if record is None:
            return (
                f"peer {self._rank} of run {self._run} has not joined within "
                f"{self._liveness.join_seconds:.0f} s: "
                f"start it with `peerless peer {self._run} --rank {self._rank}`"
            )
        return (
            f"peer {self._rank} of run {self._run} on {record.host} is lost: no heartbeat for "
            f"{self._still_seconds:.0f} s (state {record.state}). "
            f"Go on from the last checkpoint with `peerless resume {self._run}`"
        )


def check_free(store: Store, run: str, ranks: Iterable[int], liveness: Liveness) -> None:
    """Return if no live process holds one of these ranks; watches for three heartbeats if one seems to.

    Raises:
        RankTaken: one does: its counter moved.
    """
    seen = {rank: record for rank in ranks if (record := _running(store, run, rank)) is not None}
    if not seen:
        return
    log.info("ranks %s of run %s were held; watching whether they are alive", sorted(seen), run)
    watched_seconds = _INTERVALS_TO_WATCH * liveness.heartbeat_seconds
    patience = Patience(watched_seconds, liveness.heartbeat_seconds / 4, liveness.heartbeat_seconds / 4)

    def probe() -> MemberRecord | None:
        for rank, before in seen.items():
            now = _running(store, run, rank)
            if now is not None and now.counter != before.counter:
                return now
        return None

    holder = poll(probe, patience)
    if holder is not None:
        raise _taken(holder)


def _fitting(record: MemberRecord) -> MemberRecord:
    """Return the record with as much of its reason as leaves it within its length, counter included."""
    while record.reason and len(messages.encode(record)) > RECORD_BYTES - _COUNTER_DIGITS:
        record = msgspec.structs.replace(record, reason=record.reason[:-1])
    return record


def _running(store: Store, run: str, rank: int) -> MemberRecord | None:
    record = store.get_message_if_exists(keys.member(run, rank), MemberRecord)
    return record if record is not None and record.state == "running" else None


def _taken(holder: MemberRecord) -> RankTaken:
    return RankTaken(
        f"rank {holder.peer} of run {holder.run} is held by a live process on {holder.host}: "
        "stop that one, or take another rank"
    )
