"""A stored dataset in memory, requests that point into it, and a worker that answers them."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from peer.learning.flat import FlatState, Layout
from peer.learning.models import initialise
from peer.learning.worker import Worker
from peer.messages import Batch, DataParts, EvaluateRequest, GradientRequest, ModelSpec, RemoteObject
from peer.store import tensors
from peer.store.checksums import checksum


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@dataclass
class Bench:
    """Objects by URL, and a worker that reads and writes them."""

    shape: tuple[int, int, int] = (1, 28, 28)
    num_samples: int = 40
    samples_per_part: int = 16
    objects: dict[str, bytes] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        random = np.random.default_rng(1)
        self.images = random.integers(0, 256, (self.num_samples, *self.shape), dtype=np.uint8)
        self.labels = random.integers(0, 10, self.num_samples)
        records = np.concatenate(
            [self.labels.astype(np.uint8)[:, None], self.images.reshape(self.num_samples, -1)], axis=1
        )
        for part, start in enumerate(range(0, self.num_samples, self.samples_per_part)):
            self.objects[f"part/{part}"] = records[start : start + self.samples_per_part].tobytes()

    def worker(self, **options: object) -> Worker:
        return Worker(self._fetch, self._upload, **options)  # type: ignore[arg-type]

    def _fetch(self, remote: RemoteObject) -> bytearray:
        self.fetched.append(remote.url)
        return bytearray(self.objects[remote.url])

    def _upload(self, url: str, encoded: tensors.EncodedTensors) -> None:
        self.objects[url] = b"".join(encoded.chunks)

    def remote(self, url: str) -> RemoteObject:
        content = self.objects[url]
        return RemoteObject(url=url, length=len(content), checksum=checksum("sha256", [content]))

    def data(self) -> DataParts:
        parts = [self.remote(url) for url in sorted(self.objects) if url.startswith("part/")]
        channels = self.shape[0]
        return DataParts(
            shape=self.shape,
            label_bytes=1,
            num_classes=10,
            mean=[0.5] * channels,
            std=[0.25] * channels,
            parts=parts,
        )

    def publish(self, state: FlatState) -> RemoteObject:
        encoded = tensors.encode(state.tensors())
        self.objects["weights"] = b"".join(encoded.chunks)
        return self.remote("weights")

    def first_state(self, spec: ModelSpec, seed: int = 5) -> FlatState:
        model = initialise(spec, 10, seed, self.shape)
        return Layout.of(model).flatten(model)

    def gradient_request(
        self, model: str | ModelSpec, batches: list[Batch], **changes: object
    ) -> GradientRequest:
        spec = model if isinstance(model, ModelSpec) else ModelSpec(name=model)
        fields: dict[str, object] = {
            "protocol": 1,
            "run": "run",
            "round": 3,
            "peer": 1,
            "invocation": 0,
            "attempt": "0",
            "model": spec,
            "loss": "cross_entropy",
            "data": self.data(),
            "batches": batches,
            "micro_batch": 0,
            "seed": 11,
            "result_url": "result",
        }
        fields["weights"] = changes.pop("weights", None) or self.publish(self.first_state(spec))
        return GradientRequest(**{**fields, **changes})  # type: ignore[arg-type]

    def evaluate_request(self, model: str, batches: list[Batch], **changes: object) -> EvaluateRequest:
        spec = ModelSpec(name=model)
        fields: dict[str, object] = {
            "protocol": 1,
            "run": "run",
            "round": 3,
            "peer": 1,
            "invocation": 0,
            "attempt": "0",
            "model": spec,
            "loss": "cross_entropy",
            "data": self.data(),
            "batches": batches,
        }
        fields["weights"] = changes.pop("weights", None) or self.publish(self.first_state(spec))
        return EvaluateRequest(**{**fields, **changes})  # type: ignore[arg-type]

    def result(self) -> dict[str, torch.Tensor]:
        return tensors.decode(bytearray(self.objects["result"])).tensors


@pytest.fixture
def make_bench() -> Callable[..., Bench]:
    return Bench


@pytest.fixture
def bench() -> Bench:
    return Bench()
