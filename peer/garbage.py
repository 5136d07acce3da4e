"""Deletes objects by known key, by their writer, beside the round and not in its way."""

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from peer.errors import StoreError
from peer.store.s3 import Store

log = logging.getLogger(__name__)


class Garbage:
    """One thread that deletes. What cannot be deleted is logged; `peerless runs gc` finds it later.

    Args:
        store: where the objects are.
        is_kept: delete nothing (`--keep-objects`).
        clock: seconds, never backwards.
    """

    def __init__(self, store: Store, *, is_kept: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._is_kept = is_kept
        self._clock = clock
        self._late: dict[str, float] = {}
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="garbage")

    def delete(self, object_keys: Iterable[str], late_seconds: float = 0.0) -> None:
        """Delete these objects soon.

        Args:
            object_keys: of what nobody reads any more.
            late_seconds: for so long somebody may still write one of them: each later deletion until then
                includes them again, and so does `close`.
        """
        if not self._is_kept:
            self._pool.submit(self._delete, list(object_keys), late_seconds)

    def close(self) -> None:
        """Wait until everything is deleted."""
        if not self._is_kept:
            self._pool.submit(self._delete, [], 0.0)
        self._pool.shutdown()

    def _delete(self, new_keys: list[str], late_seconds: float) -> None:
        now = self._clock()
        object_keys = list(dict.fromkeys([*self._late, *new_keys]))
        self._late = {key: until for key, until in self._late.items() if until > now}
        if late_seconds:
            self._late |= dict.fromkeys(new_keys, now + late_seconds)
        try:
            self._store.delete(object_keys)
        except StoreError as error:
            log.warning("%d objects were not deleted: %s", len(object_keys), error)
