"""Weights and data parts as a replica has them: kept, under way, or asked of the store, a few at once."""

import logging
import threading
from collections.abc import Callable, Container, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from peer.errors import PeerlessError
from peer.learning.cache import Cache
from peer.messages import RemoteObject
from peer.store.ahead import AT_ONCE
from peer.store.checksums import verify

log = logging.getLogger(__name__)

Fetch = Callable[[RemoteObject], bytearray]

_STACK_BYTES = 1 << 20
"""Of a thread that fetches; the system's own choice would be 8 MiB."""


class Objects:
    """What a replica has of the store. One thread uses it; it has others that only fetch.

    An object is known by its checksum. One that is under way is kept like one that has come, so nothing is
    asked for twice. What fails is forgotten, and asked for again when it is needed.

    What other threads have fetched and nobody keeps any more can be used again by the first one only where
    all have one heap (`glibc.malloc.arena_max=1`, in `stack.yml`).

    Args:
        fetch: returns the bytes of an object; their checksum is verified here. Called from several threads.
        most_bytes: that are kept, ever; `fit` may lower it for a while.
    """

    def __init__(self, fetch: Fetch, most_bytes: int) -> None:
        self._fetch = fetch
        self._most_bytes = most_bytes
        self._kept: Cache[Future[bytearray]] = Cache(most_bytes)
        # begins no thread before its first task: a replica is forked from a process that must have one only
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch")

    @property
    def bytes_under_way(self) -> int:
        """What will be kept and has not come yet, so that no working set counts it."""
        return sum(size for _, future, size in self._kept.entries() if not future.done())

    def fit(self, more_bytes: int) -> None:
        """Let what is kept grow by at most `more_bytes` from now on."""
        self._kept.capacity = min(self._most_bytes, self._kept.size + more_bytes)

    def get(self, remotes: Sequence[RemoteObject]) -> list[bytearray]:
        """Return the objects, in their order; those that are missing are fetched a few at once.

        One of them is fetched by the calling thread: the usual case, a round's new weights, needs no other.

        Raises:
            StoreError: of the first that could not be read, or was not what its checksum says. Others may
                still be under way, and are kept.
        """
        wanted = {remote.checksum: remote for remote in remotes}
        self._let_go(wanted)
        there = [remote for remote in wanted.values() if remote.checksum in self._kept]
        missing = [remote for remote in wanted.values() if remote.checksum not in self._kept]
        # those that are there count as used before room is made for others; the calling thread begins last
        futures = {remote.checksum: self._future(remote, self._fetch_now) for remote in there}
        futures |= {remote.checksum: self._future(remote, self._fetch_beside) for remote in missing[1:]}
        futures |= {remote.checksum: self._future(remote, self._fetch_now) for remote in missing[:1]}
        for remote in there:
            if futures[remote.checksum].exception() is not None:  # it was prefetched, and has failed since
                self._kept.discard(remote.checksum)
                futures[remote.checksum] = self._future(remote, self._fetch_now)
        return [futures[remote.checksum].result() for remote in remotes]

    def get_once(self, remote: RemoteObject) -> bytearray:
        """Return an object that is not kept; raises as `get`."""
        buffer = self._fetch(remote)
        verify(buffer, remote.checksum, remote.url.partition("?")[0])
        return buffer

    def prefetch(self, remotes: Iterable[RemoteObject]) -> None:
        """Begin to fetch those that are missing and for which there is room: nothing is driven out for them.

        What fails is logged. A later `get` waits for those that it needs, and gives up those of the others
        that wait for a thread, so that they do not stand in its way.
        """
        for remote in remotes:
            has_room = self._kept.size + remote.length <= self._kept.capacity
            if remote.checksum in self._kept or not has_room:
                continue
            try:
                self._future(remote, lambda each: self._submit(self._get_logged, each))
            except RuntimeError as error:
                log.warning("nothing is fetched ahead of its need, for no thread began: %s", error)
                return

    def _let_go(self, wanted: Container[str]) -> None:
        """Forget what has failed, and what has not begun and is not wanted now."""
        for checksum, future, _ in self._kept.entries():
            is_given_up = checksum not in wanted and future.cancel()
            if is_given_up or (future.done() and future.exception() is not None):
                self._kept.discard(checksum)

    def _future(
        self, remote: RemoteObject, fetch: Callable[[RemoteObject], Future[bytearray]]
    ) -> Future[bytearray]:
        return self._kept.get(remote.checksum, remote.length, lambda: fetch(remote))

    def _fetch_now(self, remote: RemoteObject) -> Future[bytearray]:
        future: Future[bytearray] = Future()
        future.set_result(self.get_once(remote))
        return future

    def _fetch_beside(self, remote: RemoteObject) -> Future[bytearray]:
        try:
            return self._submit(self.get_once, remote)
        except RuntimeError as error:
            # a limit of memory or of processes has no room for a thread, and may yet be enough
            log.warning("one object is fetched after the other, for no thread began: %s", error)
            return self._fetch_now(remote)

    def _submit(self, task: Fetch, remote: RemoteObject) -> Future[bytearray]:
        # may begin a thread, whose stack counts where RLIMIT_DATA holds a memory limit
        usual_bytes = threading.stack_size(_STACK_BYTES)
        try:
            return self._threads.submit(task, remote)
        finally:
            threading.stack_size(usual_bytes)

    def _get_logged(self, remote: RemoteObject) -> bytearray:
        try:
            return self.get_once(remote)
        except Exception as error:
            # the boundary of a thread whose result nobody may ever ask for
            reason = error if isinstance(error, PeerlessError) else repr(type(error))
            log.warning("an object was not fetched ahead of its need: %s", reason)
            raise
