"""Deletes objects by known key, by their writer, beside the round and not in its way."""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from peer.errors import StoreError
from peer.store.s3 import Store

log = logging.getLogger(__name__)


class Garbage:
    """One thread that deletes. What cannot be deleted is logged; `peerless runs gc` finds it later.

    Args:
        store: where the objects are.
        is_kept: delete nothing (`--keep-objects`).
    """

    def __init__(self, store: Store, *, is_kept: bool) -> None:
        self._store = store
        self._is_kept = is_kept
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="garbage")

    def delete(self, object_keys: Iterable[str]) -> None:
        """Delete these objects soon."""
        if not self._is_kept:
            self._pool.submit(self._delete, list(object_keys))

    def close(self) -> None:
        """Wait until everything is deleted."""
        self._pool.shutdown()

    def _delete(self, object_keys: list[str]) -> None:
        try:
            self._store.delete(object_keys)
        except StoreError as error:
            log.warning("%d objects were not deleted: %s", len(object_keys), error)
