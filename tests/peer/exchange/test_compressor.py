"""What a peer's gradients are compressed to, round after round."""

import pytest
import torch

from peer.aggregation import Gradient
from peer.compression.codecs import codec_named
from peer.compression.interface import CHUNK_ELEMENTS
from peer.errors import CheckpointError
from peer.exchange.compressor import Compressor
from peer.messages import PeerManifest
from peer.store.gradients import decode_gradient

LENGTH = 3 * CHUNK_ELEMENTS + 100


def manifest(round_number: int, peer: int = 0) -> PeerManifest:
    return PeerManifest("run", 0, round_number, peer, "incarnation", "a" * 64, "cpu")


def gradient_of(seed: int) -> Gradient:
    values = torch.randn(LENGTH, generator=torch.Generator().manual_seed(seed))
    return Gradient(values, torch.empty(0), torch.empty(0, dtype=torch.int64), 8)


def sent(compressor: Compressor, gradient: Gradient, round_number: int, peer: int = 0) -> torch.Tensor:
    encoded = compressor.compress(gradient, 0, LENGTH, manifest(round_number, peer))
    buffer = bytearray(b"".join(encoded.chunks))
    return decode_gradient(buffer, 8, compressor.codec).values


def test_peer_keeps_what_the_others_decode() -> None:
    for name in ("fp16", "bf16", "int8", "qsgd:4", "topk:0.1", "sparseloco"):
        gradient = gradient_of(1)

        decoded = sent(Compressor(codec_named(name)), gradient, 0)

        assert torch.equal(gradient.values, decoded)


def test_what_is_left_out_is_sent_later_and_nothing_is_lost() -> None:
    compressor = Compressor(codec_named("topk:0.1"), decay=1.0)
    given, received = torch.zeros(LENGTH), torch.zeros(LENGTH)

    for number in range(20):
        given += gradient_of(number).values
        received += sent(compressor, gradient_of(number), number)
        assert torch.allclose(received + compressor.residual, given, atol=1e-4)

    assert compressor.residual.abs().max() < 20
    assert (received - given).norm() < 0.6 * given.norm()


def test_residual_that_decays_is_a_part_of_what_was_left_out() -> None:
    compressor = Compressor(codec_named("sparseloco"), decay=0.5)
    first, second = gradient_of(0), gradient_of(1)

    left = first.values - sent(compressor, gradient_of(0), 0)
    received = sent(compressor, gradient_of(1), 1)

    assert torch.equal(compressor.residual, left * 0.5 + second.values - received)


def test_restored_compressor_sends_the_same_bits() -> None:
    first = Compressor(codec_named("topk:0.05"), decay=1.0)
    sent(first, gradient_of(0), 0)
    second = Compressor(codec_named("topk:0.05"), decay=1.0)

    second.restore(first.residual.clone())

    for number in (1, 2):
        ours, theirs = (sent(each, gradient_of(number), number) for each in (first, second))
        assert torch.equal(ours, theirs)
    assert torch.equal(first.residual, second.residual)


def test_residual_of_another_model_is_refused() -> None:
    compressor = Compressor(codec_named("topk:0.05"), decay=1.0)
    compressor.restore(torch.zeros(LENGTH - 1))

    with pytest.raises(CheckpointError, match=f"has {LENGTH - 1} elements, the model {LENGTH}"):
        sent(compressor, gradient_of(0), 0)


def test_codec_without_memory_leaves_nothing() -> None:
    compressor = Compressor(codec_named("qsgd:2"))

    sent(compressor, gradient_of(0), 0)

    assert len(compressor.residual) == 0


def test_noise_differs_between_rounds_and_peers_and_seeds() -> None:
    codec = codec_named("qsgd:4")
    variants = [(0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)]

    decoded = [sent(Compressor(codec, seed), gradient_of(1), number, peer) for seed, number, peer in variants]

    assert all(not torch.equal(decoded[0], other) for other in decoded[1:])
    assert torch.equal(decoded[0], sent(Compressor(codec, 0), gradient_of(1), 0))
