"""What every exchange strategy must do, against real stores: the same mean everywhere, bit for bit."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
import torch
from harness import IMPATIENT
from msgspec.structs import replace as replace_fields

from peer import exchange
from peer.aggregation import Gradient, WeightedMean
from peer.compression.codecs import codec_named
from peer.compression.names import parse
from peer.compression.noise import Noise
from peer.config import EXCHANGES, RunStart
from peer.errors import ObjectCorrupt, PeerDiverged, PeerLost, TrainingDiverged
from peer.exchange import Exchange, Exchanged
from peer.exchange.compressor import Compressor
from peer.exchange.traffic import Traffic
from peer.invocations.fanout import FanOut, RetryPolicy
from peer.invocations.invokers import Invoker
from peer.learning.seeds import derive_seed
from peer.learning.worker import Worker
from peer.membership import Membership
from peer.messages import AggregateReply, AggregateRequest, PeerManifest
from peer.records.phases import PhaseClock
from peer.rendezvous import Rendezvous
from peer.store import keys
from peer.store.letters import Letter
from peer.store.s3 import Store, StoreAddress
from peer.store.transfer import HttpTransfer

RUN = "run"
SEED = 5
CODECS = ("fp16", "bf16", "int8", "qsgd:8", "qsgd:3", "topk:0.01", "sparseloco")
LIVENESS = replace(IMPATIENT, join_seconds=2.0)
WEIGHTS = "a" * 64


def gradient_of(peer: int, values: int = 20_000, buffers: int = 0, counters: int = 0) -> Gradient:
    generator = torch.Generator().manual_seed(peer)
    return Gradient(
        torch.randn(values, generator=generator),
        torch.randn(buffers, generator=generator),
        torch.randint(0, 100, (counters,), generator=generator),
        num_samples=10 + 3 * peer,
    )


def decoded_of(codec: str, peer: int, values: int) -> Gradient:
    """Return what everybody has to make of a peer's gradient, by the codec alone."""
    gradient, compressed = gradient_of(peer, values, 30, 2), codec_named(codec)
    noise = Noise(derive_seed("exchange", SEED, 0, peer))
    decoded = compressed.decode(compressed.encode(gradient.values, noise), values)
    return replace(gradient, values=decoded)


def mean_of(gradients: list[Gradient]) -> Gradient:
    mean = WeightedMean()
    for gradient in gradients:
        mean.add(gradient)
    return mean.result()


class DirectInvoker:
    """The function `aggregate` without a gateway: the same worker, over the same signed URLs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        transfer = HttpTransfer()
        self._worker = Worker(
            lambda remote: transfer.get(remote.url, remote.length),
            lambda url, encoded: transfer.put(url, encoded.chunks, encoded.length),
        )

    def readable(self, key: str) -> str:
        return self._store.sign_get(key, 60)

    def writable(self, key: str) -> str:
        return self._store.sign_put(key, 60)

    def aggregate(self, request: AggregateRequest) -> AggregateReply:
        return self._worker.aggregate(request)


@dataclass
class Group:
    """Some peers, each with a store client of its own, that take part in one round."""

    address: StoreAddress
    strategy: str
    codec: str = "none"
    run: str = RUN
    bytes_moved: dict[str, int] = field(default_factory=lambda: {"put": 0, "get": 0})
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, operation: str, num_bytes: int, _seconds: float) -> None:
        with self.lock:
            self.bytes_moved[operation] = self.bytes_moved.get(operation, 0) + num_bytes

    def _exchange(self, store: Store, rendezvous: Rendezvous, codec: str) -> Exchange:
        invoker, fan_out = DirectInvoker(store), FanOut(1, RetryPolicy(max_failures=0), lambda _: None)
        name = parse(codec)
        compressor = Compressor(codec_named(name), SEED, decay=name.decay)
        traffic = Traffic(store, compressor)
        return exchange.create(self.strategy, traffic, rendezvous, cast(Invoker, invoker), fan_out)

    def round(
        self,
        gradients: dict[int, Gradient],
        num_peers: int,
        weights: Callable[[int], str] = lambda _: WEIGHTS,
        codecs: Mapping[int, str] | None = None,
    ) -> list[Exchanged]:
        """Return what each of these peers gets; the first error of any is raised."""

        def take_part(peer: int) -> Exchanged:
            store = Store(self.address, on_transfer=self.count)
            membership = Membership(store, self.run, peer, LIVENESS)
            membership.claim(RunStart())
            try:
                rendezvous = Rendezvous(store, membership, self.run, 0, num_peers, PhaseClock())
                incarnation = membership.incarnation
                manifest = PeerManifest(self.run, 0, 0, peer, incarnation, weights(peer), f"cpu-{peer}")
                codec = (codecs or {}).get(peer, self.codec)
                return self._exchange(store, rendezvous, codec).run(gradients[peer], manifest)
            finally:
                membership.leave("finished")
                store.close()

        with ThreadPoolExecutor(len(gradients)) as threads:
            return list(threads.map(take_part, gradients))


@pytest.fixture(params=EXCHANGES)
def group(request: pytest.FixtureRequest, store: Store) -> Group:
    return Group(store.address, request.param)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.numpy().tobytes()


@pytest.mark.parametrize("num_peers", [1, 2, 3, 5])
@pytest.mark.parametrize(("values", "buffers", "counters"), [(20_000, 0, 0), (4_097, 300, 7), (3, 1, 1)])
def test_exchange_gives_every_peer_the_bits_of_the_left_fold(
    group: Group, num_peers: int, values: int, buffers: int, counters: int
) -> None:
    gradients = {peer: gradient_of(peer, values, buffers, counters) for peer in range(num_peers)}
    expected = mean_of([gradient_of(peer, values, buffers, counters) for peer in range(num_peers)])

    exchanged = group.round(gradients, num_peers)

    for one in exchanged:
        assert bits(one.mean.values) == bits(expected.values)
        assert bits(one.mean.buffers) == bits(expected.buffers)
        assert bits(one.mean.counters) == bits(expected.counters)
        assert one.mean.num_samples == expected.num_samples
        assert [manifest.peer for manifest in one.manifests] == list(range(num_peers))
        assert [manifest.num_samples for manifest in one.manifests] == [10 + 3 * p for p in range(num_peers)]


def test_exchange_of_a_gradient_of_many_parts_gives_the_same_bits(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.exchange.parts.PART_BYTES", 32 << 10)
    expected = mean_of([gradient_of(peer, 100_000) for peer in range(3)])

    exchanged = group.round({peer: gradient_of(peer, 100_000) for peer in range(3)}, 3)

    assert all(bits(one.mean.values) == bits(expected.values) for one in exchanged)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("values", [3, 20_000])
def test_exchange_with_a_codec_gives_every_peer_the_bits_of_what_all_decode(
    group: Group, codec: str, values: int
) -> None:
    expected = mean_of([decoded_of(codec, peer, values) for peer in range(3)])

    compressed = replace(group, codec=codec)
    exchanged = compressed.round({peer: gradient_of(peer, values, 30, 2) for peer in range(3)}, 3)

    for one in exchanged:
        assert bits(one.mean.values) == bits(expected.values)
        assert bits(one.mean.buffers) == bits(expected.buffers)
        assert bits(one.mean.counters) == bits(expected.counters)


@pytest.mark.parametrize("codec", CODECS)
def test_exchange_of_many_compressed_parts_gives_the_same_bits(
    group: Group, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    monkeypatch.setattr("peer.exchange.parts.PART_BYTES", 32 << 10)
    expected = mean_of([decoded_of(codec, peer, 100_000) for peer in range(3)])

    compressed = replace(group, codec=codec)
    exchanged = compressed.round({peer: gradient_of(peer, 100_000, 30, 2) for peer in range(3)}, 3)

    assert all(bits(one.mean.values) == bits(expected.values) for one in exchanged)


def test_exchange_tells_how_large_its_parts_were_before(group: Group) -> None:
    gradients = {peer: gradient_of(peer, 100_000, 30, 2) for peer in range(3)}
    plain = group.round(
        {peer: replace(each, values=each.values.clone()) for peer, each in gradients.items()}, 3
    )
    sizes = [sum(part.length for part in one.manifests[peer].parts) for peer, one in enumerate(plain)]
    assert [one.uncompressed_bytes for one in plain] == sizes

    exchanged = replace(group, codec="int8", run="second").round(gradients, 3)

    assert [one.uncompressed_bytes for one in exchanged] == sizes
    for peer, one in enumerate(exchanged):
        assert sizes[peer] / sum(part.length for part in one.manifests[peer].parts) > 3.8


def test_exchange_of_a_gradient_that_is_not_finite_names_its_peer(group: Group) -> None:
    gradients = {peer: gradient_of(peer) for peer in range(2)}
    gradients[1].values[7] = float("nan")

    with pytest.raises(TrainingDiverged, match="peer 1, round 0 of run run: the gradient has .* nan"):
        replace(group, codec="int8").round({1: gradients[1]}, 2)


def test_exchange_with_a_peer_of_another_codec_names_it(store: Store) -> None:
    for strategy in EXCHANGES:
        group = Group(store.address, strategy, codec="int8", run=f"run-{strategy}")
        codecs = {0: "int8", 1: "qsgd:8"}

        with pytest.raises(ObjectCorrupt, match=r"/1(/\d|\.json): .*codec 'qsgd:8'"):
            group.round({peer: gradient_of(peer) for peer in range(2)}, 2, codecs=codecs)


@pytest.mark.parametrize("others", [100, 20_000])
def test_gradient_that_is_enclosed_by_one_peer_and_not_by_the_other_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    monkeypatch.setattr("peer.exchange.parts.PART_BYTES", 16 << 10)
    gradients = {0: gradient_of(0, 20_100 - others), 1: gradient_of(1, others)}

    with pytest.raises(ObjectCorrupt, match="another model|in 1 parts, not 5"):
        Group(store.address, "all_gather").round(gradients, 2)


@pytest.mark.parametrize("codec", ["none", "int8"])
def test_enclosed_gradient_with_a_flipped_bit_is_refused_and_its_peer_named(store: Store, codec: str) -> None:
    traffic, like = Traffic(store, Compressor(codec_named(codec))), gradient_of(1)
    manifest = PeerManifest(RUN, 0, 3, 1, "incarnation", WEIGHTS, "cpu", num_samples=13)
    part, encoded = traffic.enclose(manifest, [gradient_of(1)], ["its-key"])[0]
    letter = Letter(replace_fields(manifest, parts=[part]), memoryview(bytearray(b"".join(encoded.chunks))))
    assert traffic.open_enclosed(letter, like).shape == like.shape

    letter.enclosed[-1] ^= 1

    with pytest.raises(ObjectCorrupt, match=r"gradient of peer 1 in round 3: its-key: its bytes have xxh3"):
        traffic.open_enclosed(letter, like)


@pytest.mark.parametrize("part_bytes", [16 << 10, 8 << 20])
def test_exchange_names_all_that_it_stored(
    group: Group, store: Store, monkeypatch: pytest.MonkeyPatch, part_bytes: int
) -> None:
    monkeypatch.setattr("peer.exchange.parts.PART_BYTES", part_bytes)
    exchanged = group.round({peer: gradient_of(peer) for peer in range(3)}, 3)

    named = {key for one in exchanged for key in one.objects}
    stored = {key for key, _ in store.list(keys.generations(RUN))}
    assert named == stored
    assert all(len(one.objects) == len(set(one.objects)) for one in exchanged)


@pytest.mark.parametrize(("strategy", "num_objects"), [("all_gather", 1), ("scatter_reduce", 2 + 1)])
def test_small_gradient_takes_one_object_for_whoever_reads_it(
    store: Store, strategy: str, num_objects: int
) -> None:
    exchanged = Group(store.address, strategy).round({peer: gradient_of(peer) for peer in range(3)}, 3)

    assert [len(one.objects) for one in exchanged] == [num_objects] * 3


def test_exchange_without_a_peer_raises_that_names_it(group: Group) -> None:
    with pytest.raises(PeerLost, match="peer 2 of run run"):
        group.round({peer: gradient_of(peer) for peer in range(2)}, 3)


def test_exchange_with_a_peer_at_other_weights_raises_that_names_both(group: Group) -> None:
    def weights(peer: int) -> str:
        return "b" * 64 if peer == 1 else WEIGHTS

    with pytest.raises(PeerDiverged, match="cpu-"):
        group.round({peer: gradient_of(peer) for peer in range(2)}, 2, weights)


def test_exchange_of_unequal_shapes_is_refused(group: Group) -> None:
    gradients = {0: gradient_of(0, 20_000), 1: gradient_of(1, 30_000)}

    with pytest.raises(ObjectCorrupt, match="another model"):
        group.round(gradients, 2)


@pytest.mark.slow
@pytest.mark.parametrize("num_peers", [4, 8, 16])
def test_exchange_moves_the_bytes_of_its_formula(store: Store, num_peers: int) -> None:
    values = 16_000_000 // num_peers
    size = 4 * values
    formula = {
        "all_gather": {"put": 1.0, "get": num_peers - 1.0},
        "scatter_reduce": {"put": 1.0, "get": 2 * (num_peers - 1) / num_peers},
        "in_function": {"put": 1.0, "get": 1.0},
    }

    for strategy, gradients in formula.items():
        group = Group(store.address, strategy)
        group.round({peer: gradient_of(peer, values) for peer in range(num_peers)}, num_peers)
        store.delete([key for key, _ in store.list(keys.run(RUN))])

        for operation, expected in gradients.items():
            moved = group.bytes_moved[operation] / num_peers / size
            assert moved == pytest.approx(expected, rel=0.02), (strategy, operation)
