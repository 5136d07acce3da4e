from collections.abc import Callable
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from peer.compression.codecs import codec_named
from peer.compression.noise import Noise
from peer.errors import ConfigurationError, DatasetError, FunctionRefused, ObjectCorrupt
from peer.learning import worker as worker_module
from peer.learning.seeds import derive_seed
from peer.learning.usage import usage
from peer.learning.worker import Worker
from peer.messages import Batch, ModelSpec, OptimizerSpec, RemoteObject, Usage
from peer.store import tensors
from peer.store.gradients import decode_gradient

BATCHES = [Batch(index=0, ranges=[(0, 2, 16), (2, 1, 3)]), Batch(index=1, ranges=[(1, 0, 16)])]


@pytest.mark.parametrize("model", ["cnn", "mobilenet_v3_small"])
def test_worker_gradient_does_not_depend_on_earlier_requests(bench: Any, model: str) -> None:
    request = bench.gradient_request(model, BATCHES)
    fresh = bench.worker()
    first = fresh.gradient(request)

    used = bench.worker()
    other_state = bench.first_state(request.model, seed=9)
    used.gradient(bench.gradient_request(model, BATCHES[1:], round=8, weights=bench.publish(other_state)))
    used.gradient(bench.gradient_request("resnet18", BATCHES))
    request = bench.gradient_request(model, BATCHES)
    again = used.gradient(request)

    assert first.checksum == again.checksum
    assert first.training == again.training
    assert first.training.num_samples == 32


def test_worker_gradient_result_is_what_its_reply_describes(bench: Any) -> None:
    reply = bench.worker().gradient(bench.gradient_request("cnn", BATCHES))

    result = bench.result()
    assert list(result) == ["gradient", "buffers", "counters"]
    assert result["gradient"].shape == (421_642,)
    assert reply.length == len(bench.objects["result"])
    assert reply.checksum.startswith("xxh3:")


@pytest.mark.parametrize("name", ["fp16", "bf16", "int8", "qsgd:8", "qsgd:4"])
@pytest.mark.parametrize("local", [None, OptimizerSpec(learning_rate=0.01)])
def test_worker_puts_what_the_codec_makes_of_the_gradient(
    bench: Any, name: str, local: OptimizerSpec | None
) -> None:
    worker, codec = bench.worker(), codec_named(name)
    request = bench.gradient_request("mobilenet_v3_small", BATCHES, local_optimizer=local)
    plain_reply, plain = worker.gradient(request), bench.result()

    reply = worker.gradient(replace(request, codec=name))
    found = decode_gradient(bytearray(bench.objects["result"]), 32, codec)
    again = worker.gradient(replace(request, codec=name, attempt="1"))

    noise = Noise(derive_seed("function", 11, 3, 1, 0))
    expected = codec.decode(codec.encode(plain["gradient"], noise), len(plain["gradient"]))
    assert torch.equal(found.values, expected)
    assert torch.equal(found.buffers, plain["buffers"])
    assert torch.equal(found.counters, plain["counters"])
    assert reply.training == plain_reply.training
    assert reply.length < 0.55 * plain_reply.length
    assert again.checksum == reply.checksum


@pytest.mark.parametrize("name", ["gzip", "topk:0.01"])
def test_worker_refuses_a_codec_that_it_cannot_have(bench: Any, name: str) -> None:
    request = bench.gradient_request("cnn", BATCHES, codec=name)

    with pytest.raises(ConfigurationError, match="codec"):
        bench.worker().gradient(request)

    assert "result" not in bench.objects


def test_worker_gradient_depends_on_round_and_peer_through_dropout_only(bench: Any) -> None:
    worker = bench.worker()

    def checksum(model: str, **changes: int) -> str:
        return str(worker.gradient(bench.gradient_request(model, BATCHES, **changes)).checksum)

    assert checksum("cnn", round=4) == checksum("cnn", peer=2)
    assert len({checksum("squeezenet1_1", **changes) for changes in ({}, {"round": 4}, {"peer": 2})}) == 3


def test_worker_fetches_weights_and_parts_once_while_they_fit(bench: Any) -> None:
    request = bench.gradient_request("cnn", BATCHES)
    worker = bench.worker()

    for _ in range(3):
        worker.gradient(request)

    assert sorted(bench.fetched) == ["part/0", "part/1", "part/2", "weights"]


def test_worker_without_cache_fetches_each_time(bench: Any) -> None:
    request = bench.gradient_request("cnn", BATCHES)
    worker = bench.worker(cache_bytes=0)

    checksums = {worker.gradient(request).checksum for _ in range(2)}

    assert len(checksums) == 1
    assert sorted(bench.fetched) == sorted(2 * ["part/0", "part/1", "part/2", "weights"])


@pytest.mark.parametrize(("room_bytes", "num_fetched"), [(1 << 30, 5), (4096, 7), (-4096, 7)])
def test_worker_whose_limit_leaves_no_room_keeps_as_much_as_one_request_needs(
    bench: Any, monkeypatch: pytest.MonkeyPatch, room_bytes: int, num_fetched: int
) -> None:
    def used(*arguments: Any, **names: Any) -> Usage:
        found = usage(*arguments, **names)
        return replace(found, working_set_bytes=1 << 30, memory_limit_bytes=(1 << 30) + room_bytes)

    monkeypatch.setattr(worker_module, "usage", used)
    one = bench.gradient_request("cnn", BATCHES)
    bench.objects["others"] = b"".join(tensors.encode(bench.first_state(one.model, seed=9).tensors()).chunks)
    other = bench.gradient_request("cnn", BATCHES, weights=bench.remote("others"))
    worker = bench.worker()

    checksums = [worker.gradient(request).checksum for request in (one, other, one, other)]

    assert checksums[0] != checksums[1]
    assert checksums[:2] == checksums[2:]
    assert len(bench.fetched) == num_fetched


def test_worker_prefetches_the_next_rounds_parts_once_the_gradient_is_put(bench: Any) -> None:
    data, events = bench.data(), []

    def fetch(remote: RemoteObject) -> bytearray:
        events.append(remote.url)
        return bytearray(bench.objects[remote.url])

    worker = Worker(fetch, lambda url, _: events.append(url))
    here, later = replace(data, parts=data.parts[:1]), replace(data, parts=data.parts[1:])
    this, following = [Batch(index=0, ranges=[(0, 0, 16)])], [Batch(index=1, ranges=[(0, 0, 16), (1, 0, 8)])]

    request = bench.gradient_request("cnn", this, data=here, next_parts=later.parts)
    worker.gradient(request)
    worker.gradient(bench.gradient_request("cnn", following, data=later, round=4, weights=request.weights))

    assert sorted(events[:2]) == ["part/0", "weights"]
    assert events[2] == "result"
    assert sorted(events[3:]) == ["part/1", "part/2", "result"]


def test_worker_whose_limit_leaves_no_room_prefetches_nothing(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used(*arguments: Any, **names: Any) -> Usage:
        return replace(usage(*arguments, **names), working_set_bytes=1 << 30, memory_limit_bytes=1 << 30)

    monkeypatch.setattr(worker_module, "usage", used)
    data, worker = bench.data(), bench.worker()
    here = replace(data, parts=data.parts[:1])

    for _ in range(2):
        worker.gradient(
            bench.gradient_request(
                "cnn", [Batch(index=0, ranges=[(0, 0, 16)])], data=here, next_parts=data.parts[1:]
            )
        )

    assert sorted(bench.fetched) == ["part/0", "weights"]


def test_worker_gradient_does_not_depend_on_what_is_prefetched(bench: Any) -> None:
    data, batches = bench.data(), [Batch(index=0, ranges=[(0, 0, 16)])]
    here = replace(data, parts=data.parts[:1])
    request = bench.gradient_request("cnn", batches, data=here)

    without = bench.worker().gradient(request)
    with_others = bench.worker().gradient(replace(request, next_parts=data.parts[1:]))

    assert with_others.checksum == without.checksum


def test_worker_usage_has_phases_and_one_cold_start(bench: Any) -> None:
    worker = bench.worker()
    request = bench.gradient_request("cnn", BATCHES)

    first, second = worker.gradient(request).usage, worker.gradient(request).usage

    assert set(first.phase_seconds) == {"load_model", "fetch", "preprocess", "compute", "upload"}
    assert (first.is_cold_start, second.is_cold_start) == (True, False)
    assert first.peak_rss_bytes > 0


def test_worker_evaluate_adds_up_over_any_split(bench: Any) -> None:
    worker = bench.worker()

    whole = worker.evaluate(bench.evaluate_request("cnn", [Batch(index=0, ranges=[(0, 0, 16), (1, 0, 16)])]))
    halves = [
        worker.evaluate(bench.evaluate_request("cnn", [Batch(index=0, ranges=[(part, 0, 16)])]))
        for part in (0, 1)
    ]

    assert whole.evaluation.num_samples == sum(half.evaluation.num_samples for half in halves) == 32
    assert whole.evaluation.num_correct == sum(half.evaluation.num_correct for half in halves)
    assert whole.evaluation.loss_sum == pytest.approx(
        sum(half.evaluation.loss_sum for half in halves), rel=1e-5
    )


def test_worker_evaluate_in_pieces_counts_the_same(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    request = bench.evaluate_request("cnn", BATCHES)
    whole = bench.worker().evaluate(request).evaluation
    monkeypatch.setattr(worker_module, "EVALUATION_CHUNK", 5)

    pieces = bench.worker().evaluate(request).evaluation

    assert (pieces.num_samples, pieces.num_correct) == (32, whole.num_correct)
    assert pieces.loss_sum == pytest.approx(whole.loss_sum, rel=1e-5)


@pytest.mark.parametrize(
    "ranges", [[], [(0, 0, 17)], [(3, 0, 1)], [(-1, 0, 1)], [(0, 4, 4)], [(0, -2, 3)], [(2, 0, 9)]]
)
def test_worker_ranges_outside_the_parts_are_refused(bench: Any, ranges: list[tuple[int, int, int]]) -> None:
    with pytest.raises(FunctionRefused, match="no samples|outside"):
        bench.worker().gradient(bench.gradient_request("cnn", [Batch(index=0, ranges=ranges)]))

    assert "result" not in bench.objects


def test_worker_corrupt_object_is_refused_and_not_kept(bench: Any) -> None:
    request = bench.gradient_request("cnn", BATCHES)
    worker = bench.worker()
    intact = bench.objects["part/1"]
    bench.objects["part/1"] = intact[:-1] + b"?"

    with pytest.raises(ObjectCorrupt, match="part/1"):
        worker.gradient(request)

    bench.objects["part/1"] = intact
    assert worker.gradient(request).training.num_samples == 32


def test_worker_weights_of_another_model_are_refused(bench: Any) -> None:
    weights = bench.publish(bench.first_state(ModelSpec(name="resnet18")))

    with pytest.raises(ConfigurationError, match="weights are of another model"):
        bench.worker().gradient(bench.gradient_request("cnn", BATCHES, weights=weights))


def test_worker_model_that_is_not_allowed_is_refused_before_anything_is_fetched(bench: Any) -> None:
    request = bench.gradient_request("cnn", BATCHES)

    with pytest.raises(FunctionRefused, match="not allowed"):
        bench.worker(allowed_models={"vgg11"}).gradient(request)

    assert bench.fetched == []


def test_worker_label_beyond_the_classes_is_refused(bench: Any) -> None:
    bench.objects["part/0"] = b"\x63" + bench.objects["part/0"][1:]
    request = bench.gradient_request("cnn", [Batch(index=0, ranges=[(0, 0, 16)])])

    with pytest.raises(DatasetError, match="a label is 99"):
        bench.worker().gradient(request)


def test_worker_colour_samples_reach_a_three_channel_model(make_bench: Callable[..., Any]) -> None:
    bench = make_bench(shape=(3, 32, 32))

    reply = bench.worker().gradient(bench.gradient_request("squeezenet1_1", BATCHES))

    assert reply.training.num_samples == 32
    assert torch.isfinite(bench.result()["gradient"]).all()


def test_worker_corrupt_text_hides_the_signature(bench: Any) -> None:
    request = bench.gradient_request("cnn", BATCHES)
    bench.objects["weights?X-Amz-Signature=secret"] = b"torn"
    weights = RemoteObject(
        url="weights?X-Amz-Signature=secret", length=request.weights.length, checksum=request.weights.checksum
    )

    with pytest.raises(ObjectCorrupt) as refusal:
        bench.worker().gradient(bench.gradient_request("cnn", BATCHES, weights=weights))

    assert "secret" not in str(refusal.value)
