"""Where the two stores differ, so that docs/decisions/store-servers.md stays true.

peerless needs nothing of this in plain rounds. A test that fails here after an update of nanio is good news.
"""

from __future__ import annotations

import http.client
import os
import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from peer.errors import StoreUnreachable
from peer.store.retry import Patience
from peer.store.s3 import Store
from peer.store.servers import ServerKind

if TYPE_CHECKING:
    from tests.conftest import StoreServer


def status_of(method: str, url: str, headers: dict[str, str], body: bytes = b"") -> int:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)
    connection.request(method, f"{parts.path}?{parts.query}", body, headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_conditional_write_is_decided_by_minio_only(store: Store, store_server: StoreServer) -> None:
    store.put_bytes("a/key", b"first")

    status = status_of("PUT", store.sign_put("a/key", 60), {"If-None-Match": "*"}, b"other")

    is_minio = store_server.kind is ServerKind.MINIO
    assert status == (412 if is_minio else 200)
    assert store.get("a/key") == (b"first" if is_minio else b"other")


def test_range_past_the_end_is_shortened_by_minio_and_refused_by_nanio(
    store: Store, store_server: StoreServer
) -> None:
    store.put_bytes("a/key", b"0123456789")

    status = status_of("GET", store.sign_get("a/key", 60), {"Range": "bytes=5-20"})
    status_of_empty = status_of("GET", store.sign_get("a/key", 60), {"Range": "bytes=5-4"})

    is_minio = store_server.kind is ServerKind.MINIO
    assert status == (206 if is_minio else 400)
    assert status_of_empty == (416 if is_minio else 400)


def test_key_below_another_key_is_refused_by_nanio(nanio_server: StoreServer) -> None:
    store = Store(nanio_server.new_address(), patience=Patience(0.0))
    store.put_bytes("a/key", b"data")

    with pytest.raises(StoreUnreachable, match="a/key/below"):
        store.put_bytes("a/key/below", b"data")

    assert store.get("a/key") == b"data"
    store.close()


def test_overwriting_with_another_length_is_atomic_on_minio(minio_server: StoreServer) -> None:
    store = Store(minio_server.new_address())
    versions = [os.urandom(length) for length in (1_000, 300_000)]
    store.put_bytes("a/key", versions[0])
    is_over = threading.Event()

    def overwrite() -> None:
        for number in range(100):
            store.put_bytes("a/key", versions[number % 2])
        is_over.set()

    writer = threading.Thread(target=overwrite)
    writer.start()
    while not is_over.is_set():
        assert store.get("a/key") in versions
    writer.join()
    store.close()


def test_overwriting_with_the_same_length_is_atomic_on_both(store: Store) -> None:
    versions = [os.urandom(300_000) for _ in range(2)]
    store.put_bytes("a/key", versions[0])
    is_over = threading.Event()

    def overwrite() -> None:
        for number in range(50):
            store.put_bytes("a/key", versions[number % 2])
        is_over.set()

    writer = threading.Thread(target=overwrite)
    writer.start()
    while not is_over.is_set():
        assert store.get("a/key") in versions
    writer.join()
