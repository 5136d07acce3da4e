"""The bare side of `exchange.py`: a strategy's objects, random bytes, by `http.client` over signed URLs."""

import http.client
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from peer.exchange.parts import parts_for
from peer.store.s3 import Store

_AT_ONCE = 4
"""Transfers at once, as in `peer.exchange.traffic`."""
_PAUSE_SECONDS = 0.003
_VALID_SECONDS = 3600


class BareExchange:
    """One peer's objects of each round, put and read in a strategy's order; nothing is checked or summed.

    Args:
        store: signs the URLs; its server holds the objects.
        strategy: one of `peer.config.EXCHANGES`.
        run: names the objects.
        rank: of this peer.
        num_peers: how many put and read.
        num_bytes: of one gradient.
    """

    def __init__(
        self, store: Store, strategy: str, run: str, rank: int, num_peers: int, num_bytes: int
    ) -> None:
        self._store = store
        self._strategy = strategy
        self._run = run
        self._rank = rank
        self._num_peers = num_peers
        self._data = bytearray(num_bytes)
        self._threads = ThreadPoolExecutor(_AT_ONCE)
        self._local = threading.local()

    def round(self, number: int) -> list[str]:
        """Put and read what a round of the strategy puts and reads; return the keys of what this peer put."""
        everyone = range(self._num_peers)
        others = [peer for peer in everyone if peer != self._rank]
        if self._strategy == "all_gather":
            sizes = self._sizes(parts_for(len(self._data)))
            left = self._put([(self._key(number, self._rank, part), size) for part, size in enumerate(sizes)])
            self._get([self._key(number, peer, part) for peer in others for part in range(len(sizes))])
            return left
        # by functions a peer's own part takes the same way as the others'
        partners = everyone if self._strategy == "in_function" else others
        parts_each = 1 if self._strategy == "in_function" else parts_for(len(self._data) // self._num_peers)
        sizes = self._sizes(self._num_peers * parts_each)
        share = {peer: range(peer * parts_each, (peer + 1) * parts_each) for peer in everyone}
        own = share[self._rank]
        left = self._put(
            [(self._key(number, self._rank, part), sizes[part]) for p in partners for part in share[p]]
        )
        self._get([self._key(number, peer, part) for peer in partners for part in own])
        left += self._put([(self._key(number, self._rank, f"reduced-{part}"), sizes[part]) for part in own])
        self._get([self._key(number, p, f"reduced-{part}") for p in partners for part in share[p]])
        return left

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def _sizes(self, num_parts: int) -> list[int]:
        length = -(-len(self._data) // num_parts)
        return [min(length, len(self._data) - start) for start in range(0, len(self._data), length)]

    def _key(self, number: int, peer: int, part: int | str) -> str:
        return f"bare/{self._run}/{number}/{peer}/{part}"

    def _put(self, objects: Sequence[tuple[str, int]]) -> list[str]:
        list(self._threads.map(self._put_one, objects))
        return [key for key, _ in objects]

    def _get(self, keys: Sequence[str]) -> None:
        list(self._threads.map(self._get_one, keys))

    def _put_one(self, named: tuple[str, int]) -> None:
        key, size = named
        url = self._store.sign_put(key, _VALID_SECONDS)
        response = self._request("PUT", url, memoryview(self._data)[:size])
        response.read()
        if response.status != 200:
            raise RuntimeError(f"PUT answered {response.status}")

    def _get_one(self, key: str) -> None:
        """Read an object into memory of its own, as soon as it is there."""
        while True:
            response = self._request("GET", self._store.sign_get(key, _VALID_SECONDS), None)
            if response.status == 200:
                response.readinto(bytearray(response.length or 0))
                response.read()
                return
            response.read()
            if response.status != 404:
                raise RuntimeError(f"GET answered {response.status}")
            time.sleep(_PAUSE_SECONDS)

    def _request(self, method: str, url: str, body: memoryview | None) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection(parts.netloc)
        connection: http.client.HTTPConnection = self._local.connection
        connection.request(method, f"{parts.path}?{parts.query}", body)
        return connection.getresponse()
