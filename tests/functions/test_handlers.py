"""The deployed handlers, against real stores over presigned URLs."""

import dataclasses
import importlib.util
import json
import logging
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import torch

from peer import messages
from peer.aggregation import Gradient, WeightedMean
from peer.compression.codecs import codec_named
from peer.compression.noise import Noise
from peer.learning.datasets import catalogue
from peer.learning.datasets.manifest import SHUFFLED, TRAIN, DatasetManifest
from peer.learning.flat import Layout
from peer.learning.models import initialise
from peer.learning.serving import Settings
from peer.learning.shards import locate, plan_shards
from peer.learning.worker import Worker
from peer.messages import (
    AggregateReply,
    AggregateRequest,
    Batch,
    DataParts,
    EvaluateReply,
    EvaluateRequest,
    GradientReply,
    GradientRequest,
    ModelSpec,
    Refusal,
    RemoteObject,
    WeightedObject,
)
from peer.store import tensors
from peer.store.gradients import decode_gradient, encode_gradient
from peer.store.s3 import Store
from peer.store.servers import free_port

FUNCTIONS = Path(__file__).resolve().parents[2] / "functions"
NAMES = ("gradient", "evaluate", "aggregate")
VALID_SECONDS = 600
RESULT_KEY = "runs/test/result"


@dataclass
class Event:
    body: bytes


@dataclass
class Site:
    """A dataset and weights in a real store, and the requests that point to them."""

    store: Store
    manifest: DatasetManifest
    handlers: dict[str, Any]
    endpoint: str

    def remote(self, key: str, length: int, checksum: str) -> RemoteObject:
        return RemoteObject(url=self.store.sign_get(key, VALID_SECONDS), length=length, checksum=checksum)

    def fields(self, model: str) -> dict[str, Any]:
        network = initialise(ModelSpec(name=model), 10, 1, self.manifest.shape)
        encoded = tensors.encode(Layout.of(network).flatten(network).tensors())
        self.store.put("runs/test/weights", encoded.chunks, encoded.length)
        (shard,) = plan_shards(self.manifest, 1, "iid", 1)
        numbers, located = locate([shard.batch(index, 32)[1] for index in range(2)], shard.samples_per_part)
        stored = self.manifest.splits[TRAIN].orders[SHUFFLED]
        data = DataParts(
            shape=self.manifest.shape,
            label_bytes=self.manifest.label_bytes,
            num_classes=self.manifest.num_classes,
            mean=self.manifest.mean,
            std=self.manifest.std,
            parts=[
                self.remote(part.key, part.length, part.checksum)
                for part in (stored.parts[number] for number in numbers)
            ],
        )
        return {
            "protocol": messages.PROTOCOL_VERSION,
            "run": "test",
            "round": 0,
            "peer": 0,
            "invocation": 0,
            "attempt": "0",
            "model": ModelSpec(name=model),
            "loss": "cross_entropy",
            "weights": self.remote("runs/test/weights", encoded.length, encoded.sha256()),
            "data": data,
            "batches": [Batch(index=index, ranges=ranges) for index, ranges in enumerate(located)],
        }

    def gradient_request(self, model: str = "cnn", **changes: Any) -> GradientRequest:
        fields = self.fields(model) | {
            "micro_batch": 0,
            "seed": 1,
            "result_url": self.store.sign_put(RESULT_KEY, VALID_SECONDS),
        }
        return GradientRequest(**(fields | changes))

    def invoke(self, function: str, body: bytes) -> tuple[int, bytes]:
        reply = self.handlers[function].handle(Event(body), None)
        assert reply["headers"] == {"Content-Type": "application/json"}
        return reply["statusCode"], reply["body"]

    def refused(self, function: str, body: bytes) -> tuple[int, Refusal]:
        status, reply = self.invoke(function, body)
        return status, messages.decode(reply, Refusal)


def load_handler(function: str) -> Any:
    spec = importlib.util.spec_from_file_location(
        f"handler_of_{function}", FUNCTIONS / function / "handler.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def site(store: Store, monkeypatch: pytest.MonkeyPatch) -> Site:
    torch.set_num_threads(1)
    parts = urlsplit(store.sign_get("any", VALID_SECONDS))
    endpoint = f"{parts.scheme}://{parts.netloc}"
    monkeypatch.setenv("peerless_store_origins", f"http://elsewhere:9000, {endpoint}")
    monkeypatch.setenv("peerless_models", "cnn,squeezenet1_1")
    handlers = {function: load_handler(function) for function in NAMES}
    return Site(store, catalogue.push(store, "synthetic-100", held_out=0), handlers, endpoint)


def test_gradient_handler_stores_what_a_local_worker_computes(site: Site) -> None:
    request = site.gradient_request()

    status, body = site.invoke("gradient", messages.encode(request))

    reply = messages.decode(body, GradientReply)
    kept: list[bytes] = []
    local = Worker(
        lambda remote: site.store.get(urlsplit(remote.url).path.split("/", 2)[2]),
        lambda _, encoded: kept.append(b"".join(encoded.chunks)),
    )
    expected = local.gradient(request)
    assert status == 200
    assert reply.training.num_samples == 64
    assert (reply.checksum, reply.training) == (expected.checksum, expected.training)
    assert bytes(site.store.get(RESULT_KEY, reply.length)) == kept[0]


def test_evaluate_handler_counts_every_sample(site: Site) -> None:
    request = EvaluateRequest(**site.fields("cnn"))

    status, body = site.invoke("evaluate", messages.encode(request))

    evaluation = messages.decode(body, EvaluateReply).evaluation
    assert status == 200
    assert evaluation.num_samples == 64
    assert evaluation.loss_sum > 0


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


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"\xff\xfe", b'{"protocol": 1}', b"[" * 100_000, b'{"protocol": "1"}']
)
@pytest.mark.parametrize("function", NAMES)
def test_handler_something_else_is_a_bad_request(site: Site, function: str, body: bytes) -> None:
    status, refusal = site.refused(function, body)

    assert (status, refusal.error) == (400, "bad_request")
    assert f"not a {function.title()}Request" in refusal.message


def test_handler_unknown_field_is_a_bad_request(site: Site) -> None:
    fields = json.loads(messages.encode(site.gradient_request()))

    status, refusal = site.refused("gradient", json.dumps(fields | {"colour": 1}).encode())

    assert (status, refusal.error) == (400, "bad_request")
    assert "colour" in refusal.message


def test_handler_other_protocol_is_told_which_it_speaks(site: Site) -> None:
    status, refusal = site.refused("gradient", b'{"protocol": 2, "a_new_field": true}')

    assert (status, refusal.error, refusal.speaks) == (409, "version_differs", [1])


def test_handler_model_that_is_not_allowed_is_refused(site: Site) -> None:
    request = site.gradient_request(model="cnn")

    status, refusal = site.refused(
        "gradient", messages.encode(changed(request, model=ModelSpec(name="os:system")))
    )

    assert (status, refusal.error) == (403, "not_allowed")
    assert "peerless_models" in refusal.message


def changed(request: GradientRequest, **changes: Any) -> GradientRequest:
    return msgspec.structs.replace(request, **changes)


def moved_result(request: GradientRequest, origin: str) -> GradientRequest:
    return changed(request, result_url=f"{origin}/bucket/key?X-Amz-Signature=secret")


def moved_weights(request: GradientRequest, origin: str) -> GradientRequest:
    weights = request.weights
    moved = RemoteObject(url=f"{origin}/b/k?secret", length=weights.length, checksum=weights.checksum)
    return changed(request, weights=moved)


def moved_part(request: GradientRequest, origin: str) -> GradientRequest:
    part = RemoteObject(url=f"{origin}/b/k?secret", length=1, checksum="")
    return changed(request, data=msgspec.structs.replace(request.data, parts=[*request.data.parts, part]))


@pytest.mark.parametrize("move", [moved_result, moved_weights, moved_part])
@pytest.mark.parametrize(
    "origin", ["http://169.254.169.254", "file://", "http://[", "http://elsewhere:9000@evil"]
)
def test_handler_store_that_is_not_allowed_is_refused(
    site: Site, move: Callable[[GradientRequest, str], GradientRequest], origin: str
) -> None:
    status, refusal = site.refused("gradient", messages.encode(move(site.gradient_request(), origin)))

    assert (status, refusal.error) == (403, "not_allowed")
    assert "peerless_store_origins" in refusal.message
    assert "secret" not in refusal.message


def test_handler_without_allowed_stores_refuses_everything(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("peerless_store_origins")

    status, refusal = site.refused("gradient", messages.encode(site.gradient_request()))

    assert (status, refusal.error) == (403, "not_allowed")
    assert "peerless_store_origins, which has nothing" in refusal.message


def test_handler_missing_object_is_worth_another_try_and_hides_the_signature(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    weights = replace_url(
        site.gradient_request().weights, site.store.sign_get("runs/test/gone", VALID_SECONDS)
    )
    request = changed(site.gradient_request(), weights=weights)

    with caplog.at_level(logging.DEBUG):
        status, refusal = site.refused("gradient", messages.encode(request))

    assert (status, refusal.error) == (502, "object_missing")
    assert "runs/test/gone" in refusal.message
    assert "X-Amz" not in refusal.message + caplog.text


def replace_url(remote: RemoteObject, url: str) -> RemoteObject:
    return RemoteObject(url=url, length=remote.length, checksum=remote.checksum)


def test_handler_tampered_signature_is_denied(site: Site) -> None:
    request = site.gradient_request()
    weights = replace_url(request.weights, request.weights.url[:-6] + "000000")

    status, refusal = site.refused("gradient", messages.encode(changed(request, weights=weights)))

    assert (status, refusal.error) == (400, "store_denied")


def test_handler_store_that_is_gone_is_unreachable(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("peerless_store_origins", f"{gone},{site.endpoint}")
    request = moved_weights(site.gradient_request(), gone)

    status, refusal = site.refused("gradient", messages.encode(request))

    assert (status, refusal.error) == (502, "store_unreachable")


def test_handler_corrupt_object_is_told_so(site: Site) -> None:
    request = site.gradient_request()
    content = bytearray(site.store.get("runs/test/weights"))
    content[-1] ^= 1
    site.store.put_bytes("runs/test/weights", bytes(content))

    status, refusal = site.refused("gradient", messages.encode(request))

    assert (status, refusal.error) == (502, "object_corrupt")


def test_handler_wrong_model_argument_is_a_bad_request(site: Site) -> None:
    request = changed(site.gradient_request(), model=ModelSpec(name="cnn", arguments={"input_size": 5}))

    status, refusal = site.refused("gradient", messages.encode(request))

    assert (status, refusal.error) == (400, "bad_request")
    assert "input_size" in refusal.message


def test_handler_gradient_that_is_not_finite_is_told_so(site: Site) -> None:
    request = site.gradient_request()
    state = tensors.decode(site.store.get("runs/test/weights")).tensors
    state["parameters"].fill_(float("nan"))
    encoded = tensors.encode(state)
    site.store.put("runs/test/diverged", encoded.chunks, encoded.length)
    weights = site.remote("runs/test/diverged", encoded.length, encoded.sha256())

    status, refusal = site.refused("gradient", messages.encode(changed(request, weights=weights)))

    assert (status, refusal.error) == (400, "not_finite")
    assert site.store.head(RESULT_KEY) is None


def test_settings_of_an_empty_environment_allow_built_in_models_and_no_store() -> None:
    settings = Settings.from_environment({})

    assert "resnet18" in settings.models
    assert settings.store_origins == frozenset()
    assert settings.cache_bytes == 256 << 20


@pytest.mark.parametrize("function", NAMES)
def test_requirements_of_a_function_are_among_the_projects(function: str) -> None:
    with (FUNCTIONS.parent / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]["dependencies"]

    required = (FUNCTIONS / function / "requirements.txt").read_text().split()

    assert set(required) <= set(project)


def test_handlers_are_short() -> None:
    assert all(len(file.read_text().splitlines()) < 100 for file in FUNCTIONS.glob("*/handler.py"))
