"""nanio under `kill -9`: what it acknowledged is there afterwards, and no key is lost for good."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from peer.errors import StoreUnreachable
from peer.store.nanio_data import sweep
from peer.store.retry import Patience
from peer.store.s3 import Store
from peer.store.servers import ServerKind

if TYPE_CHECKING:
    from tests.conftest import StoreServer

NUM_KILLS = 50
NUM_WRITERS = 4
NUM_READERS = 4


def content(key: str, version: int) -> bytes:
    generator = random.Random(f"{key} {version}")
    return generator.randbytes(generator.choice([0, 100, 5_000, 200_000, 2_000_000]))


class Load:
    """Writers that overwrite half of their keys, with other lengths, and readers of the other half."""

    def __init__(self, store: Store, hasty_store: Store) -> None:
        self._store = store
        self._hasty_store = hasty_store
        self._is_over = threading.Event()
        self.acknowledgements = threading.Semaphore(0)
        self.acknowledged: dict[str, int] = {}
        self.attempted: dict[str, int] = {}
        self.failures: list[BaseException] = []
        self.num_lost_writes = 0
        self.num_reads = 0
        works = [(self._write, number) for number in range(NUM_WRITERS)]
        works += [(self._read, number) for number in range(NUM_READERS)]
        self._threads = [threading.Thread(target=self._guarded, args=work) for work in works]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, work, number: int) -> None:  # type: ignore[no-untyped-def]
        generator = random.Random(number)
        try:
            while not self._is_over.is_set():
                work(number, generator)
        except BaseException as error:  # handed to the test, which fails with it
            self.failures.append(error)
            self.acknowledgements.release(10_000)

    def _write(self, writer: int, generator: random.Random) -> None:
        kind = generator.choice(["once", "again"])
        number = generator.randrange(20) if kind == "again" else len(self.attempted)
        key = f"load/{writer}/{kind}-{number}"
        version = self.attempted[key] = self.attempted.get(key, 0) + 1
        try:
            (self._hasty_store if generator.random() < 0.3 else self._store).put_bytes(
                key, content(key, version)
            )
        except StoreUnreachable:
            self.num_lost_writes += 1
            return
        self.acknowledged[key] = version
        self.acknowledgements.release()

    def _read(self, _: int, generator: random.Random) -> None:
        once = [key for key in list(self.acknowledged) if "/once-" in key]
        if once:
            key = generator.choice(once)
            assert self._store.get(key) == content(key, 1)
            self.num_reads += 1


@pytest.fixture
def own_nanio(tmp_path, nanio_server: StoreServer) -> Iterator[StoreServer]:  # type: ignore[no-untyped-def]
    server = type(nanio_server)(ServerKind.NANIO, tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.mark.slow
def test_nanio_killed_fifty_times_under_load_keeps_what_it_acknowledged(own_nanio: StoreServer) -> None:
    address = own_nanio.new_address()
    store = Store(address, patience=Patience(30.0))
    hasty_store = Store(address, patience=Patience(0.0))
    generator = random.Random(0)
    swept = []

    with Load(store, hasty_store) as load:
        for _ in range(NUM_KILLS):
            for _ in range(generator.randrange(1, 40)):
                assert load.acknowledgements.acquire(timeout=30.0)
            own_nanio.kill()
            swept += sweep(own_nanio.data_dir / ServerKind.NANIO)
            own_nanio.start(wait=False)

    assert load.failures == []
    assert swept, "no kill left anything half-written: the sweep was not tried"
    assert load.num_lost_writes > 0
    assert load.num_reads > NUM_KILLS
    for key, version in load.acknowledged.items():
        possible = [content(key, number) for number in range(version, load.attempted[key] + 1)]
        assert store.get(key) in possible, key
    for key in load.attempted:
        store.put_bytes(key, b"writable")
        assert store.get(key) == b"writable", key
    assert {key for key, _ in store.list("")} == set(load.attempted)
    store.close()
    hasty_store.close()
