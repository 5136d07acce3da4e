"""Of two peers, the one that stores its gradient late waits for nobody: the other waits for it."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from peer.aggregation import Gradient
from peer.config import Liveness, RunStart
from peer.exchange.all_gather import AllGather
from peer.exchange.compressor import Compressor
from peer.exchange.traffic import Traffic
from peer.membership import Membership
from peer.messages import PeerManifest
from peer.records.phases import PhaseClock
from peer.rendezvous import Rendezvous
from peer.store.s3 import Store, StoreAddress

RUN = "run"


def gradient() -> Gradient:
    return Gradient(torch.ones(100), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 10)


def exchanged(
    address: StoreAddress, peer: int, before: Callable[[], object], on_get: Callable[[], None]
) -> dict[str, float]:
    """Return where one peer's time went; it calls `before` ahead of its exchange, `on_get` after each GET."""

    def told(operation: str, _seconds: float, _error: BaseException | None) -> None:
        if operation == "get":
            on_get()

    clock = PhaseClock()
    store = Store(address)
    membership = Membership(store, RUN, peer, Liveness())
    membership.claim(RunStart())
    watched = Store(address, on_request=told)
    try:
        rendezvous = Rendezvous(watched, membership, RUN, 0, 2, clock)
        exchange = AllGather(Traffic(watched, Compressor()), rendezvous)
        manifest = PeerManifest(RUN, 0, 0, peer, membership.incarnation, "0" * 64, "cpu")
        with clock.phase("exchange"):
            before()
            exchange.run(gradient(), manifest)
    finally:
        membership.leave("finished")
        watched.close()
        store.close()
    return clock.take()


def test_the_peer_that_others_wait_for_has_not_waited(store: Store) -> None:
    has_asked = threading.Event()

    def late() -> None:
        # the other one's first GET is of this peer's manifest, which is not there
        assert has_asked.wait(timeout=120)

    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(exchanged, store.address, 0, late, lambda: None)
        fast = threads.submit(exchanged, store.address, 1, lambda: None, has_asked.set)

    assert fast.result()["wait"] > 0.0
    assert slow.result()["wait"] == 0.0
    assert slow.result()["exchange"] > 0.0
    assert fast.result()["wait"] > 0.0
