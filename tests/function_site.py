"""The deployed handlers as tests call them: loaded from their folders, with a stored dataset to work on."""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peer import messages
from peer.learning.datasets.manifest import SHUFFLED, TRAIN, DatasetManifest
from peer.learning.flat import Layout
from peer.learning.models import initialise
from peer.learning.shards import locate, plan_shards
from peer.messages import (
    Batch,
    DataParts,
    GradientRequest,
    ModelSpec,
    Refusal,
    RemoteObject,
)
from peer.store import tensors
from peer.store.s3 import Store

FUNCTIONS = Path(__file__).resolve().parents[1] / "functions"
NAMES = ("gradient", "evaluate", "aggregate")
VALID_SECONDS = 600
RESULT_KEY = "runs/test/result"


@dataclass
class Event:
    body: bytes
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


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
