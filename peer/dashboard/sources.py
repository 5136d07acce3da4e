"""What is read, and how: the gateway, the store with its runs, and the peers' own metrics."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests

from peer.config import GatewayAddress
from peer.dashboard.functions import FunctionHistory
from peer.dashboard.runs import Member, Seen, StoreRuns
from peer.dashboard.scrape import PageUnreadable, Scrape, fetch
from peer.errors import ConfigurationError, FunctionError, GatewayUnreachable
from peer.gateway import Gateway
from peer.store.retry import Patience
from peer.store.s3 import Store, StoreAddress
from peer.store.transfer import Timeouts

_FETCHES_AT_ONCE = 8


@dataclass(frozen=True)
class Places:
    """Where everything is; gateway and store are asked for each time, since `peerless up` may move them.

    Args:
        gateway: returns its address, or raises ConfigurationError if there is none.
        store: likewise.
        runs_dir: where the files of runs on this machine are.
        run: the run to show; None follows the newest.
    """

    gateway: Callable[[], GatewayAddress]
    store: Callable[[], StoreAddress]
    runs_dir: Path
    run: str | None = None


class GatewaySource:
    """Reads the functions and their metrics."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._session = _session()
        self._history = FunctionHistory()

    def read(self) -> tuple[FunctionHistory, str]:
        """Return what is known of the functions now.

        Raises:
            ConfigurationError: there is no gateway.
            GatewayUnreachable: it does not answer; what was known stays.
        """
        address = self._places.gateway()
        listing, note = [], ""
        if address.password:
            try:
                listing = Gateway(address).functions()
            except FunctionError as error:
                note = str(error)
        else:
            note = "without its password the functions are not listed"
        try:
            scrape = fetch(self._session, f"{address.url}/metrics")
        except PageUnreadable as error:
            if not listing:
                raise GatewayUnreachable(
                    f"{address.url}/metrics {error}: is the gateway running? `peerless up` starts it"
                ) from error
            scrape, note = None, f"its /metrics {error}, so there are no figures"
        self._history.add(scrape, listing, time.monotonic())
        return self._history, f"{address.url}{' — ' if note else ''}{note}"


class StoreSource:
    """Reads the runs."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._runs = StoreRuns(places.run)
        self._address: StoreAddress | None = None
        self._store: Store | None = None

    def read(self) -> tuple[Seen, str]:
        """Return what the store says of the run that is shown.

        Raises:
            ConfigurationError: there is no store.
            StoreError: it cannot be asked.
        """
        address = self._places.store()
        if self._store is None or address != self._address:
            if self._store is not None:
                self._store.close()
            self._address = address
            timeouts = Timeouts(connect_seconds=2.0, read_seconds=5.0)
            self._store = Store(address, patience=Patience(total_seconds=0.0), timeouts=timeouts)
        return self._runs.look(self._store), address.endpoint


@dataclass(frozen=True)
class PeerPages:
    """The peers' pages as they were at one time (since 1970), by rank."""

    time: float
    pages: dict[int, Scrape]


class PeerSource:
    """Reads the metrics of the peers that are shown.

    Args:
        members: returns the members of the run that is shown, by rank.
    """

    def __init__(self, members: Callable[[], Mapping[int, Member]]) -> None:
        self._members = members
        self._session = _session()
        self._pool = ThreadPoolExecutor(_FETCHES_AT_ONCE, thread_name_prefix="peer-metrics")

    def read(self) -> tuple[PeerPages, str]:
        """Return the pages that answer.

        Raises:
            ConfigurationError: no running peer serves metrics.
            PageUnreadable: none of those that should does.
        """
        urls = {
            rank: member.facts.metrics_url
            for rank, member in self._members().items()
            if member.status == "running" and is_page(member.facts.metrics_url)
        }
        if not urls:
            raise ConfigurationError(
                "no peer that runs now serves metrics; the run's files tell of its rounds"
            )
        found: dict[int, Scrape] = {}
        problems = []
        for rank, page in zip(urls, self._pool.map(self._fetch, urls.values()), strict=True):
            if isinstance(page, Scrape):
                found[rank] = page
            else:
                problems.append(f"peer {rank} at {urls[rank]} {page}")
        if not found:
            raise PageUnreadable("; ".join(problems))
        text = f"{len(found)} of {len(urls)} peers' /metrics"
        return PeerPages(time.time(), found), "; ".join([text, *problems])

    def close(self) -> None:
        """Wait for nothing; fetches under way end by their time-outs."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _fetch(self, url: str) -> Scrape | PageUnreadable:
        try:
            return fetch(self._session, url)
        except PageUnreadable as error:
            return error


def is_page(url: str) -> bool:
    """Return whether this is the address of a page that may be fetched."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.headers["Accept"] = "text/plain"
    return session
