"""A store that is killed, and comes back, in the middle of what a peer does."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from peer.errors import ObjectCorrupt, StoreUnreachable
from peer.store.retry import Patience
from peer.store.s3 import Store

if TYPE_CHECKING:
    from tests.conftest import StoreServer

MIB = 1 << 20
DOWN_SECONDS = 0.3


class Outage:
    """Kills the server the first time that it is told to, and starts it again a moment later."""

    def __init__(self, server: StoreServer) -> None:
        self._server = server
        self._restart = threading.Timer(DOWN_SECONDS, lambda: server.start(wait=False))
        self.num_kills = 0

    def strike(self) -> None:
        if self.num_kills == 0:
            self.num_kills += 1
            self._server.kill()
            self._restart.start()

    def join(self) -> None:
        self._restart.join()


@pytest.fixture
def outage(mortal_server: StoreServer) -> Iterator[Outage]:
    outage = Outage(mortal_server)
    yield outage
    if outage.num_kills:
        outage.join()


@contextmanager
def patient_store(server: StoreServer, total_seconds: float = 30.0) -> Iterator[Store]:
    store = Store(server.new_address(), patience=Patience(total_seconds))
    yield store
    store.close()


class StrikingChunks(Sequence[memoryview]):
    """64 MiB in chunks; when half of them are sent for the first time, the server is struck."""

    def __init__(self, data: bytes, outage: Outage) -> None:
        self._chunks = [memoryview(data)[start : start + MIB] for start in range(0, len(data), MIB)]
        self._outage = outage

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if index == len(self._chunks) // 2:
            self._outage.strike()
        return self._chunks[index]


def test_put_through_an_outage_in_its_middle_succeeds(mortal_server: StoreServer, outage: Outage) -> None:
    data = os.urandom(64 * MIB)

    with patient_store(mortal_server) as store:
        store.put("a/key", StrikingChunks(data, outage), len(data))
        received = store.get("a/key")

    assert outage.num_kills == 1
    assert received == data


def test_get_through_an_outage_in_its_middle_succeeds(
    mortal_server: StoreServer, outage: Outage, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(64 * MIB)
    read_into = http.client.HTTPResponse.readinto

    def striking_readinto(response: http.client.HTTPResponse, view: memoryview) -> int:
        num_bytes = read_into(response, view)
        outage.strike()
        return num_bytes

    with patient_store(mortal_server) as store:
        store.put_bytes("a/key", data)
        monkeypatch.setattr(http.client.HTTPResponse, "readinto", striking_readinto)
        received = store.get("a/key", len(data))

    assert outage.num_kills == 1
    assert received == data


@pytest.mark.slow
def test_operations_wait_for_a_store_that_comes_back(mortal_server: StoreServer) -> None:
    with patient_store(mortal_server) as store:
        store.put_bytes("a/key", b"data")
        operations = [
            lambda: store.get_if_exists("a/key"),
            lambda: store.put_bytes("a/other", b"data"),
            lambda: store.delete(["a/other"]),
        ]

        for operation in operations:
            outage = Outage(mortal_server)
            outage.strike()
            operation()
            outage.join()

        assert list(store.list("")) == [("a/key", 4)]


def test_outage_longer_than_patience_is_told(mortal_server: StoreServer) -> None:
    with patient_store(mortal_server, total_seconds=0.5) as store:
        mortal_server.kill()
        start = time.monotonic()

        with pytest.raises(StoreUnreachable, match=r"gave up after \d+ tries in 0.5 s"):
            store.get("a/key")

        assert time.monotonic() - start < 5.0


def test_upload_that_is_torn_by_a_kill_is_invisible(mortal_server: StoreServer) -> None:
    class TornByKill(Exception):
        pass

    class KillingOutage(Outage):
        def strike(self) -> None:
            self.num_kills += 1
            mortal_server.kill()
            raise TornByKill

    outage = KillingOutage(mortal_server)
    with patient_store(mortal_server) as store:
        with pytest.raises(TornByKill):
            store.put("a/torn", StrikingChunks(os.urandom(64 * MIB), outage), 64 * MIB)
        mortal_server.start()

        assert outage.num_kills == 1
        assert store.get_if_exists("a/torn") is None
        assert list(store.list("")) == []


def test_object_truncated_on_disk_is_never_returned(mortal_server: StoreServer) -> None:
    data = os.urandom(4 * MIB)

    with patient_store(mortal_server, total_seconds=0.2) as store:
        store.put_bytes("a/key", data)
        store.put_bytes("a/sound", data)
        files = sorted(mortal_server.data_dir.rglob("*key*/**/part.1")) or [
            mortal_server.data_dir / "nanio" / store.address.bucket / "a" / "key"
        ]
        os.truncate(files[0], MIB)

        with pytest.raises((ObjectCorrupt, StoreUnreachable)):
            store.get("a/key", len(data))

        assert store.get("a/sound") == data
