"""Heartbeats that a store holds back."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from conftest import StoreServer

from peer.config import Liveness, RunStart
from peer.errors import PeerLost
from peer.membership import Membership
from peer.messages import MemberRecord
from peer.store import keys
from peer.store.retry import Patience, poll
from peer.store.s3 import Store

LIVENESS = Liveness(heartbeat_seconds=0.25, peer_seconds=8.0)
SERVERS_LEFT = 3
"""Of a MinIO of four."""


class Holding:
    """A way to a server on which the next requests are never answered, one after the other."""

    def __init__(self, endpoint: str) -> None:
        server = urlsplit(endpoint)
        self._server = (server.hostname or "", server.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.num_to_hold = 0
        self.num_held = 0
        self._threads: list[threading.Thread] = []
        self._start(self._serve)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def _serve(self) -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._start(self._forward, client, server, True)
                self._start(self._forward, server, client, False)

    def _forward(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        is_held = False
        with suppress(OSError):  # either end has gone
            while data := source.recv(1 << 16):
                if is_request and self.num_held < self.num_to_hold and not is_held:
                    is_held = True
                    self.num_held += 1
                if not is_held:
                    target.sendall(data)
        with suppress(OSError):  # so that the other direction ends, too, and closes what it reads from
            target.shutdown(socket.SHUT_RDWR)
        source.close()


@pytest.fixture
def store(nanio_server: StoreServer) -> Iterator[Store]:
    store = Store(nanio_server.new_address())
    yield store
    store.close()


@pytest.fixture
def way(store: Store) -> Iterator[Holding]:
    way = Holding(store.address.endpoint)
    yield way
    way.close()


@pytest.fixture
def peer(store: Store, way: Holding) -> Iterator[Membership]:
    far = Store(replace(store.address, endpoint=way.endpoint))
    peer = Membership(far, "run", 0, LIVENESS)
    peer.claim(RunStart())
    yield peer
    peer.leave("finished")
    far.close()


def counter(store: Store) -> int:
    return store.get_message(keys.member("run", 0), MemberRecord).counter


@pytest.mark.slow
@pytest.mark.parametrize(("num_held", "is_lost"), [(SERVERS_LEFT, False), (100, True)])
def test_peer_whose_heartbeats_are_held_is_lost_only_if_more_hold_them_than_servers_are_left(
    store: Store, way: Holding, peer: Membership, num_held: int, is_lost: bool
) -> None:
    watch = Membership(store, "run", 1, LIVENESS).watch(0)
    before = counter(store)
    way.num_to_hold = num_held

    def has_ended() -> bool | None:
        watch.check()
        return True if way.num_held == num_held and counter(store) > before + 1 else None

    patience = Patience(total_seconds=60.0, first_seconds=0.05, longest_seconds=0.05)
    if not is_lost:
        assert poll(has_ended, patience)
        return
    with pytest.raises(PeerLost, match="peer 0 of run run .* is lost: no heartbeat for 8 s"):
        poll(has_ended, patience)
    way.num_to_hold = 0
