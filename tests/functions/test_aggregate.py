"""The handler `aggregate`, against real stores over presigned URLs."""

import dataclasses

import msgspec
import torch
from function_site import RESULT_KEY, VALID_SECONDS, Site

from peer import messages
from peer.aggregation import Gradient, WeightedMean
from peer.compression.codecs import codec_named
from peer.compression.noise import Noise
from peer.messages import (
    AggregateReply,
    AggregateRequest,
    WeightedObject,
)
from peer.store.gradients import decode_gradient, encode_gradient


def weighted(
    site: Site, number: int, length: int = 1_000, codec: str = "none"
) -> tuple[Gradient, WeightedObject]:
    generator = torch.Generator().manual_seed(number)
    values = torch.randn(length, generator=generator)
    gradient = Gradient(values, torch.empty(0), torch.empty(0).long(), 8 + number)
    encoded = encode_gradient(gradient, codec_named(codec))
    key = f"runs/test/part-{number}"
    site.store.put(key, encoded.chunks, encoded.length)
    remote = site.remote(key, encoded.length, encoded.xxh3())
    return gradient, WeightedObject(remote, gradient.num_samples)


def aggregate_request(site: Site, parts: list[WeightedObject]) -> AggregateRequest:
    result_url = site.store.sign_put(RESULT_KEY, VALID_SECONDS)
    return AggregateRequest(messages.PROTOCOL_VERSION, "test", 1, 2, 0, "0", parts, result_url)


def test_aggregate_handler_stores_the_bits_of_the_left_fold(site: Site) -> None:
    gradients, parts = zip(*(weighted(site, number) for number in range(3)), strict=True)

    status, body = site.invoke("aggregate", messages.encode(aggregate_request(site, list(parts))))

    reply = messages.decode(body, AggregateReply)
    expected = WeightedMean()
    for gradient in gradients:
        expected.add(gradient)
    found = decode_gradient(site.store.get(RESULT_KEY, reply.length, reply.checksum), reply.num_samples)
    assert status == 200
    assert reply.num_samples == 8 + 9 + 10
    assert torch.equal(found.values, expected.result().values)


def test_aggregate_handler_reads_compressed_parts_and_refuses_unknown_codecs(site: Site) -> None:
    gradients, parts = zip(*(weighted(site, number, codec="int8") for number in range(3)), strict=True)
    request = msgspec.structs.replace(aggregate_request(site, list(parts)), codec="int8")

    status, body = site.invoke("aggregate", messages.encode(request))
    unknown = site.refused("aggregate", messages.encode(msgspec.structs.replace(request, codec="gzip")))
    other = site.refused("aggregate", messages.encode(msgspec.structs.replace(request, codec="fp16")))

    reply = messages.decode(body, AggregateReply)
    expected, codec = WeightedMean(), codec_named("int8")
    for gradient in gradients:
        decoded = codec.decode(codec.encode(gradient.values, Noise(0)), len(gradient.values))
        expected.add(dataclasses.replace(gradient, values=decoded))
    found = decode_gradient(site.store.get(RESULT_KEY, reply.length, reply.checksum), reply.num_samples)
    assert status == 200
    assert torch.equal(found.values, expected.result().values)
    assert (unknown[0], unknown[1].error) == (400, "bad_request") and "'gzip'" in unknown[1].message
    assert (other[0], other[1].error) == (502, "object_corrupt") and "part-0: " in other[1].message


def test_aggregate_handler_without_parts_is_a_bad_request(site: Site) -> None:
    status, refusal = site.refused("aggregate", messages.encode(aggregate_request(site, [])))

    assert (status, refusal.error) == (400, "bad_request")
    assert "at least one part" in refusal.message


def test_aggregate_handler_of_unequal_parts_is_a_bad_request(site: Site) -> None:
    parts = [weighted(site, 0)[1], weighted(site, 1, length=999)[1]]

    status, refusal = site.refused("aggregate", messages.encode(aggregate_request(site, parts)))

    assert (status, refusal.error) == (400, "bad_request")
    assert "do not add up" in refusal.message
    assert site.store.head(RESULT_KEY) is None


def test_aggregate_handler_of_another_store_is_not_allowed(site: Site) -> None:
    _, part = weighted(site, 0)
    remote = msgspec.structs.replace(part.object, url="http://attacker.example/part")
    request = aggregate_request(site, [msgspec.structs.replace(part, object=remote)])

    status, refusal = site.refused("aggregate", messages.encode(request))

    assert (status, refusal.error) == (403, "not_allowed")
