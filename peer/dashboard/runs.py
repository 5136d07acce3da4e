"""Which run is shown, and what the store and the run's folder say of it. Only ever read."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from peer.errors import InvalidName
from peer.messages import ModelSpec
from peer.store import keys
from peer.store.s3 import Store

_STILL_SECONDS = 15.0
_WATCHED_RUNS = 12

Facts = TypeVar("Facts", bound=msgspec.Struct)


class RunFacts(msgspec.Struct, frozen=True):
    """What the page needs of a run's `config.json`; other versions' runs can be looked at, too."""

    run: str
    dataset: str = ""
    num_peers: int = 0
    rounds: int = 0
    batch_size: int = 0
    batches_per_round: int = 0
    compute: str = ""
    exchange: str = ""
    model: ModelSpec = ModelSpec(name="")


class MemberFacts(msgspec.Struct, frozen=True):
    """What it needs of a member object."""

    run: str
    peer: int
    counter: int = 0
    incarnation: str = ""
    host: str = ""
    state: str = ""
    reason: str = ""
    metrics_url: str = ""


class SummaryFacts(msgspec.Struct, frozen=True):
    """What it needs of a `summary.json`."""

    run: str
    rounds: int = 0
    train_seconds: float = 0.0
    test_accuracy: float | None = None
    stop_reason: str = ""


@dataclass(frozen=True)
class Member:
    """A member object, and whether its heartbeat moves."""

    facts: MemberFacts
    is_alive: bool

    @property
    def status(self) -> str:
        """`running`, `finished`, `stopped` or `failed` by its own word; `lost` if it fell silent."""
        return self.facts.state if self.is_alive or self.facts.state != "running" else "lost"


@dataclass(frozen=True)
class Seen:
    """What one look saw: of the run that is shown, and the members of every run that lives."""

    facts: RunFacts | None = None
    created_at: float | None = None
    members: dict[int, Member] = field(default_factory=dict)
    summary: SummaryFacts | None = None
    living: list[Member] = field(default_factory=list)


class _Heartbeats:
    """Which counters move, by this process' own clock."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[object, float]] = {}

    def moves(self, key: str, beat: object, now: float) -> bool:
        """Take one reading, and return whether the counter moved, or was first seen, within 15 s."""
        known = self._seen.get(key)
        if known is None or known[0] != beat:
            self._seen[key] = (beat, now)
            return True
        return now - known[1] < _STILL_SECONDS


class StoreRuns:
    """Looks at the runs in a store.

    Args:
        wanted: the run to show; without one the newest that lives, else the newest.
    """

    def __init__(self, wanted: str | None) -> None:
        self._wanted = wanted
        self._created: dict[str, float] = {}
        self._beats = _Heartbeats()

    def look(self, store: Store) -> Seen:
        """Return what is there now.

        Raises:
            StoreError: the store cannot be asked.
        """
        now = time.monotonic()
        self._list(store)
        living: dict[str, dict[int, Member]] = {}
        newest = sorted(self._created, key=lambda name: self._created[name], reverse=True)
        for name in newest[:_WATCHED_RUNS]:
            first = self._member(store, name, 0, now)
            if first is not None and first.status == "running":
                living[name] = {0: first}
        shown = self._wanted or next(iter(living), None) or next(iter(newest), None)
        seen = Seen() if shown is None or shown not in self._created else self._look_at(store, shown, now)
        for name, members in living.items():
            if name == shown:
                members.update(seen.members)
            else:
                facts = _read(store, keys.run_config(name), RunFacts)
                members.update(self._members(store, name, facts.num_peers if facts else 1, now))
        return Seen(
            seen.facts,
            seen.created_at,
            seen.members,
            seen.summary,
            [member for members in living.values() for member in members.values()],
        )

    def _list(self, store: Store) -> None:
        names = {self._wanted} if self._wanted else {_name(entry) for entry in store.names("runs/")}
        for name in names - self._created.keys():
            try:
                created_at = store.modified(keys.run_config(name)) if name else None
            except InvalidName:
                created_at = None
            if created_at is not None:
                self._created[name] = created_at
        if self._wanted is None:
            for gone in self._created.keys() - names:
                del self._created[gone]

    def _look_at(self, store: Store, name: str, now: float) -> Seen:
        facts = _read(store, keys.run_config(name), RunFacts)
        if facts is None:
            self._created.pop(name, None)
            return Seen()
        members = self._members(store, name, facts.num_peers, now)
        is_over = not any(member.status == "running" for member in members.values())
        summary = _read(store, keys.run_summary(name), SummaryFacts) if is_over else None
        return Seen(facts, self._created.get(name), members, summary)

    def _members(self, store: Store, name: str, num_peers: int, now: float) -> dict[int, Member]:
        found = {rank: self._member(store, name, rank, now) for rank in range(num_peers)}
        return {rank: member for rank, member in found.items() if member is not None}

    def _member(self, store: Store, name: str, rank: int, now: float) -> Member | None:
        facts = _read(store, keys.member(name, rank), MemberFacts)
        if facts is None:
            return None
        beat = (facts.incarnation, facts.counter)
        return Member(facts, self._beats.moves(f"{name}/{rank}", beat, now))


def local_run(runs_dir: Path, wanted: str | None) -> tuple[RunFacts | None, SummaryFacts | None]:
    """Return what a run's folder on this machine says: that of `wanted`, else of the newest run in it."""
    if wanted is None:
        newest = max(_folders(runs_dir), default=None)
        if newest is None:
            return None, None
        wanted = newest[1].name
    folder = runs_dir / wanted
    return _load(folder / "config.json", RunFacts), _load(folder / "summary.json", SummaryFacts)


def _folders(runs_dir: Path) -> Iterable[tuple[float, Path]]:
    for path in runs_dir.glob("*/config.json"):
        try:
            yield path.stat().st_mtime, path.parent
        except OSError:
            continue


def _name(entry: str) -> str:
    return entry.rstrip("/")


def _load(path: Path, kind: type[Facts]) -> Facts | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _read(store: Store, key: str, kind: type[Facts]) -> Facts | None:
    """Return an object, None if there is none or it is something else: the page goes on without it."""
    body = store.get_if_exists(key)
    if body is None:
        return None
    try:
        return msgspec.json.decode(bytes(body), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
