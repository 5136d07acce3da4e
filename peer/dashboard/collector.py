"""Reads every source and makes one `State` of it, again and again."""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping

from peer.dashboard.curves import CurveHistory
from peer.dashboard.findings import find
from peer.dashboard.poller import Poller
from peer.dashboard.rounds_file import RoundsFile
from peer.dashboard.runs import Member, RunFacts, Seen, local_run
from peer.dashboard.shown import Shown, run_state
from peer.dashboard.sources import GatewaySource, PeerSource, Places, StoreSource
from peer.dashboard.state import Source, State

log = logging.getLogger(__name__)

_WATCHED_SECONDS = 1.0
_UNWATCHED_SECONDS = 5.0


class Collector:
    """Keeps the newest `State`.

    Args:
        places: where to read.
        on_state: told of each new state, in the collector's own thread.
    """

    def __init__(self, places: Places, on_state: Callable[[State], None] = lambda _state: None) -> None:
        self._places = places
        self._on_state = on_state
        self._id = uuid.uuid4().hex[:12]
        self._watched_at = time.monotonic()
        self._ended = threading.Event()
        self._peer_source = PeerSource(self._members)
        self._gateway = Poller("gateway", GatewaySource(places).read, self._interval_seconds)
        self._store = Poller("store", StoreSource(places).read, lambda: 2 * self._interval_seconds())
        self._pages = Poller("peers", self._peer_source.read, self._interval_seconds)
        self._thread = threading.Thread(target=self._run, name="collector", daemon=True)
        self._shown: Shown | None = None

    def start(self) -> None:
        """Read from now on, in threads."""
        for poller in (self._gateway, self._store, self._pages):
            poller.start()
        self._thread.start()

    def stop(self) -> None:
        """Read no more."""
        self._ended.set()
        for poller in (self._gateway, self._store, self._pages):
            poller.stop()
        self._peer_source.close()

    def read_once(self) -> State:
        """Return the state as it is now, read in the caller's thread, by a collector that was not started."""
        for poller in (self._gateway, self._store, self._pages):
            poller.read_once()
        return self.compose()

    def watch(self) -> None:
        """Read at full rate for the next seconds, because somebody looks."""
        self._watched_at = time.monotonic()

    def living(self) -> list[Member]:
        """Return the members of every run that lives."""
        seen = self._store.value
        return list(seen.living) if seen else []

    def _interval_seconds(self) -> float:
        is_watched = time.monotonic() - self._watched_at < 2 * _UNWATCHED_SECONDS
        return _WATCHED_SECONDS if is_watched else _UNWATCHED_SECONDS

    def _members(self) -> Mapping[int, Member]:
        return self._store.value.members if self._store.value else {}

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._on_state(self.compose())
            except Exception:
                log.exception("a state could not be made")
            self._ended.wait(self._interval_seconds())

    def compose(self) -> State:
        """Return what all sources say together."""
        now = time.time()
        seen = self._store.value or Seen()
        facts, summary = seen.facts, seen.summary
        if facts is None:
            facts, summary = local_run(self._places.runs_dir, self._places.run)
        files = self._follow(facts)
        run = run_state(now, facts, seen, summary, self._shown) if facts and self._shown else None
        history = self._gateway.value
        functions = history.functions if history else []
        invocations = history.invocations if history else []
        members = {rank: (member.status, member.facts.host) for rank, member in seen.members.items()}
        peers = self._shown.peers.lanes(members) if self._shown else []
        curves = (self._shown.curves if self._shown else CurveHistory()).view()
        sources = [self._gateway.source, self._store.source, self._pages.source, files]
        last_round_at = self._shown.last_round_at if self._shown else None
        return State(
            now=now,
            server=self._id,
            is_following=self._places.run is None,
            sources=sources,
            findings=find(now, sources, run, curves, functions, invocations, peers, last_round_at),
            run=run,
            curves=curves,
            functions=functions,
            invocations=invocations,
            retries=self._shown.peers.retries() if self._shown else {},
            peers=peers,
        )

    def _follow(self, facts: RunFacts | None) -> Source:
        """Take what is new of the run with these facts, and return how its files are."""
        if facts is None:
            self._shown = None
            return Source("files", "absent", f"no run in {self._places.runs_dir}")
        path = self._places.runs_dir / facts.run / "rounds.jsonl"
        if self._shown is None or self._shown.name != facts.run:
            self._shown = Shown(facts.run, RoundsFile(path, facts.run))
        shown = self._shown
        try:
            lines, is_replaced = shown.file.read()
        except OSError as error:
            return Source("files", "failed", f"{path} cannot be read: {error.strerror}")
        if is_replaced:
            shown = self._shown = Shown(facts.run, shown.file)
        for line in lines:
            shown.add_line(line)
        pages = self._pages.value
        if pages is not None and self._pages.count > shown.pages_taken:
            shown.pages_taken = self._pages.count
            for rank, page in pages.pages.items():
                if facts.run in page.values_of("run") | {""}:
                    shown.add_page(rank, page, pages.time)
        if not path.exists():
            return Source("files", "absent", f"{path} is not on this machine")
        return Source("files", "ok", str(path), time.time())
