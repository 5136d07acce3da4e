"""What is deleted once, and what again because somebody may still write it."""

import pytest

from peer.garbage import Garbage
from peer.store.s3 import Store


@pytest.fixture
def late(store: Store) -> str:
    """A key whose object is written again after it was deleted."""
    store.put_bytes("late", b"first attempt")
    return "late"


def test_late_object_is_deleted_by_a_later_deletion(store: Store, late: str) -> None:
    garbage = Garbage(store, is_kept=False)
    garbage.delete([late], late_seconds=60.0)
    garbage.delete([])
    garbage._pool.submit(lambda: None).result()
    assert store.head(late) is None

    store.put_bytes(late, b"written by a slow function")
    garbage.delete(["another"])
    garbage._pool.submit(lambda: None).result()

    assert store.head(late) is None
    garbage.close()


def test_late_object_is_deleted_at_the_end(store: Store, late: str) -> None:
    garbage = Garbage(store, is_kept=False)
    garbage.delete([late], late_seconds=60.0)
    garbage._pool.submit(lambda: None).result()

    store.put_bytes(late, b"written by a slow function")
    garbage.close()

    assert store.head(late) is None


def test_object_is_left_alone_once_nobody_can_be_late(store: Store, late: str) -> None:
    now = [0.0]
    garbage = Garbage(store, is_kept=False, clock=lambda: now[0])
    garbage.delete([late], late_seconds=60.0)
    garbage._pool.submit(lambda: None).result()
    now[0] = 61.0
    garbage.delete([])
    garbage._pool.submit(lambda: None).result()

    store.put_bytes(late, b"of somebody else")
    garbage.close()

    assert store.head(late) is not None
