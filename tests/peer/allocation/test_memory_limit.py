"""Limits that rise: at a gateway that is a fake at the wire, and by asking peer 0 through a real store."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from harness import IMPATIENT
from provider import DESCRIPTION, Provider, serving

from peer.allocation.memory_limit import GatewayLimits, LimitHeld, LimitsByPeerZero, Rise
from peer.config import GatewayAddress, RunStart
from peer.errors import GatewayUnreachable
from peer.membership import RECORD_BYTES, Membership
from peer.store import keys
from peer.store.retry import Patience, poll
from peer.store.s3 import Store
from peer.store.servers import free_port

MIB = 1 << 20
GIB = 1 << 30
PATIENT = Patience(total_seconds=30.0)
QUICK = replace(IMPATIENT, heartbeat_seconds=0.1)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with serving() as provider:
        yield provider


def limits_of(provider: Provider, largest_bytes: int) -> GatewayLimits:
    return GatewayLimits(GatewayAddress(provider.url, password="secret"), largest_bytes)


@pytest.mark.parametrize(
    ("largest_bytes", "after_bytes", "memory"), [(8 * GIB, 4 * GIB, "4096Mi"), (3 * GIB, 3 * GIB, "3072Mi")]
)
def test_limit_doubles_up_to_the_largest_and_all_else_stays(
    provider: Provider, largest_bytes: int, after_bytes: int, memory: str
) -> None:
    rise = limits_of(provider, largest_bytes).raise_above("gradient", 2 * GIB)

    assert rise == Rise("gradient", 2 * GIB, after_bytes)
    limits = {"memory": memory, "cpu": "1"}
    kept = {key: value for key, value in DESCRIPTION.items() if key not in ("invocationCount", "createdAt")}
    assert provider.description == kept | {"limits": limits}


def test_limit_that_has_risen_already_is_left(provider: Provider) -> None:
    assert limits_of(provider, 8 * GIB).raise_above("gradient", GIB) is None
    assert provider.num_updates == 0


@pytest.mark.parametrize("ran_out_bytes", [0, 2 * GIB, 4 * GIB])
def test_replica_whose_limit_is_not_known_or_not_smaller_makes_it_rise(
    provider: Provider, ran_out_bytes: int
) -> None:
    assert limits_of(provider, 8 * GIB).raise_above("gradient", ran_out_bytes) is not None


def test_limit_at_the_largest_is_held(provider: Provider) -> None:
    with pytest.raises(LimitHeld, match="gradient is 2048 MiB already, and --largest-memory is 2048 MiB"):
        limits_of(provider, 2 * GIB).raise_above("gradient", 2 * GIB)

    assert provider.num_updates == 0


def test_limit_that_may_not_rise_is_held_without_asking() -> None:
    limits = GatewayLimits(GatewayAddress("http://127.0.0.1:1", password="secret"), 0)

    with pytest.raises(LimitHeld, match="--largest-memory allows it"):
        limits.raise_above("gradient", GIB)


def test_gateway_without_password_is_not_asked() -> None:
    limits = GatewayLimits(GatewayAddress("http://127.0.0.1:1"), 8 * GIB)

    assert limits.of("gradient") == 0
    with pytest.raises(LimitHeld, match="without the gateway's password"):
        limits.raise_above("gradient", GIB)


def test_function_without_a_limit_has_none_that_could_rise(provider: Provider) -> None:
    del provider.description["limits"]["memory"]
    limits = limits_of(provider, 8 * GIB)

    assert limits.of("gradient") == 0
    with pytest.raises(LimitHeld, match="no memory limit"):
        limits.raise_above("gradient", 0)


def test_limit_that_the_gateway_refuses_is_held_with_its_words(provider: Provider) -> None:
    provider.refusal = (400, "a function may have 2 GiB")

    with pytest.raises(LimitHeld, match="cannot rise.*a function may have 2 GiB"):
        limits_of(provider, 8 * GIB).raise_above("gradient", 2 * GIB)


def test_gateway_that_is_away_may_raise_it_later() -> None:
    address = GatewayAddress(f"http://127.0.0.1:{free_port()}", password="secret")

    with pytest.raises(GatewayUnreachable):
        GatewayLimits(address, 8 * GIB).raise_above("gradient", 2 * GIB)


def test_peer_that_runs_out_is_heard_by_peer_zero_while_that_waits_for_it(store: Store) -> None:
    heard: list[tuple[str, int]] = []
    zero, one = (Membership(store, "run", rank, QUICK) for rank in range(2))
    zero.on_short_of_memory = lambda function, limit_bytes: heard.append((function, limit_bytes))
    limits = LimitsByPeerZero(one, 4 * GIB)
    zero.claim(RunStart())
    one.claim(RunStart())

    def record_of_one() -> bytes:
        return bytes(store.get_if_exists(keys.member("run", 1)) or b"")

    def hears() -> bool | None:
        watch.check()
        return bool(heard) or None

    try:
        watch = zero.watch(1)
        assert limits.raise_above("gradient", 64 * MIB) is None
        assert poll(hears, PATIENT)
        record = record_of_one()
        limits.begin()
        assert poll(lambda: (b'"short_of_memory":{}' in record_of_one()) or None, PATIENT)
        silent = record_of_one()
    finally:
        one.leave("finished")
        zero.leave("finished")

    assert set(heard) == {("gradient", 64 * MIB)}
    assert len(record) == len(silent) == RECORD_BYTES


@pytest.mark.parametrize(
    ("ran_out_bytes", "largest_bytes", "text"),
    [
        (64 * MIB, 0, "is 64 MiB, and --largest-memory is not given"),
        (64 * MIB, 64 * MIB, "is 64 MiB, and --largest-memory is 64 MiB"),
        (0, 64 * MIB, "is not known, and --largest-memory is 64 MiB"),
    ],
)
def test_peer_does_not_ask_for_what_peer_zero_may_not_give(
    store: Store, ran_out_bytes: int, largest_bytes: int, text: str
) -> None:
    membership = Membership(store, "run", 1, QUICK)

    with pytest.raises(LimitHeld, match=text):
        LimitsByPeerZero(membership, largest_bytes).raise_above("gradient", ran_out_bytes)
