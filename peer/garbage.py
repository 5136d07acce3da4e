"""Deletes objects by known key, by their writer, beside the round and not in its way."""

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from peer.errors import StoreError
from peer.store.retry import Patience
from peer.store.s3 import Store
from peer.store.transfer import Timeouts

log = logging.getLogger(__name__)

_PATIENCE = Patience(total_seconds=20.0)
_TIMEOUTS = Timeouts(read_seconds=10.0)
"""MinIO holds a deletion for a minute or two if one of its servers dies meanwhile."""


class Garbage:
    """One thread that deletes. What cannot be deleted is logged; `peerless runs gc` finds it later.

    Args:
        store: where the objects are.
        is_kept: delete nothing (`--keep-objects`).
        clock: seconds, never backwards.
    """

    def __init__(self, store: Store, *, is_kept: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store.with_patience(_PATIENCE, _TIMEOUTS)
        self._is_kept = is_kept
        self._clock = clock
        self._late: dict[str, float] = {}
        self._has_failed = self._is_closing = False
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
        """Wait until everything is deleted; a store that deletes nothing is waited for once."""
        self._is_closing = True
        if not self._is_kept:
            self._pool.submit(self._delete, [], 0.0)
        self._pool.shutdown()
        self._store.close()

    def _delete(self, new_keys: list[str], late_seconds: float) -> None:
        now = self._clock()
        object_keys = list(dict.fromkeys([*self._late, *new_keys]))
        self._late = {key: until for key, until in self._late.items() if until > now}
        if late_seconds:
            self._late |= dict.fromkeys(new_keys, now + late_seconds)
        if self._is_closing and self._has_failed:
            log.warning("%d objects were not deleted: the store did not delete others", len(object_keys))
            return
        try:
            self._store.delete(object_keys)
            self._has_failed = False
        except StoreError as error:
            self._has_failed = True
            log.warning("%d objects were not deleted: %s", len(object_keys), error)
