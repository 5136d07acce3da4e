"""The dataflow that the paper published, re-created: what an epoch costs with it, on the same machine.

After `With_Serverless/` of github.com/AmineBarrak/PeerToPeerServerless, the code of Barrak et al. (IC2E 2023,
arXiv 2309.14139). One object and one invocation a batch; batches and gradients are pickles; each call builds
a model anew; a peer looks every two seconds whether its invocations are done, and sleeps two seconds after
each look for the other peers' gradients, also after the last; default allocator and memory layout.

Where that code is slow for other reasons it is given the benefit: processes are warm and have one thread, an
invocation costs a message on a pipe, a client of the store is made once, no weights are sent (the published
functions never load them), and a batch is stored as bytes, which the function normalises and resizes at once
(published: prepared image by image and stored as float32, twelve times as large).
"""

import io
import pickle
import time
import uuid
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from typing import Any
from urllib.parse import urlsplit

import torch
from epoch_setting import DATA, MODEL_INPUT, NUM_PEERS, SPAWN, Setting, timed_together
from minio import Minio
from minio.error import S3Error
from torch import Tensor
from torch.nn import functional
from torchvision.models import squeezenet1_1

from peer.store.s3 import StoreAddress

POLL_SECONDS = 2.0

Tasks = SimpleQueue[tuple[str, str, int] | None]
Replies = SimpleQueue[str]


class PickleStore:
    """Objects that are pickles, by key below a prefix."""

    def __init__(self, address: StoreAddress, prefix: str) -> None:
        self._client = Minio(
            urlsplit(address.endpoint).netloc, address.access_key, address.secret_key, secure=False
        )
        self._bucket = address.bucket
        self._prefix = prefix

    def put(self, key: str, value: Any) -> None:
        """Store a value."""
        body = pickle.dumps(value)
        self._client.put_object(self._bucket, self._prefix + key, io.BytesIO(body), len(body))

    def get(self, key: str) -> Any:
        """Return a stored value."""
        response = self._client.get_object(self._bucket, self._prefix + key)
        try:
            return pickle.loads(response.read())
        finally:
            response.close()
            response.release_conn()

    def has(self, key: str) -> bool:
        """Return whether there is such a value."""
        try:
            self._client.stat_object(self._bucket, self._prefix + key)
        except S3Error as error:
            if error.code != "NoSuchKey":
                raise
            return False
        return True


def epoch_seconds(setting: Setting, address: StoreAddress) -> float:
    """Return the seconds of one epoch of four peers, with as many function processes as the others have."""
    prefix = f"published-{uuid.uuid4().hex}/"
    _store_batches(setting, PickleStore(address, prefix))
    tasks: Tasks = SPAWN.SimpleQueue()
    replies: list[Replies] = [SPAWN.SimpleQueue() for _ in range(NUM_PEERS)]
    functions = [(_function, (address, prefix, tasks, replies)) for _ in range(setting.num_workers)]
    peers = [(_peer, (setting, address, prefix, rank, tasks, replies[rank])) for rank in range(NUM_PEERS)]
    try:
        return timed_together([*functions, *peers], time.perf_counter)
    finally:
        _remove(address, prefix)


def _store_batches(setting: Setting, store: PickleStore) -> None:
    records = torch.from_numpy(setting.records())
    for rank in range(NUM_PEERS):
        for index, batch in enumerate(setting.batches_of(rank)):
            chosen = records[batch]
            images = chosen[:, 1:].reshape(-1, *DATA.shape).clone()
            store.put(f"batch-{rank}-{index}", (images, chosen[:, 0].long()))


def _remove(address: StoreAddress, prefix: str) -> None:
    client = Minio(urlsplit(address.endpoint).netloc, address.access_key, address.secret_key, secure=False)
    for found in client.list_objects(address.bucket, prefix, recursive=True):
        client.remove_object(address.bucket, str(found.object_name))


def _function(
    barrier: Barrier, address: StoreAddress, prefix: str, tasks: Tasks, replies: list[Replies]
) -> None:
    torch.set_num_threads(1)
    store = PickleStore(address, prefix)
    _gradient(*store.get("batch-0-0"))
    barrier.wait()
    while (task := tasks.get()) is not None:
        batch_key, result_key, rank = task
        store.put(result_key, _gradient(*store.get(batch_key)))
        replies[rank].put(result_key)
    barrier.wait()


def _gradient(images: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    model = squeezenet1_1(num_classes=DATA.num_classes)
    pixels = images.float().div(255).sub(DATA.mean[0]).div(DATA.std[0])
    resized = functional.interpolate(pixels, (MODEL_INPUT.height, MODEL_INPUT.width), mode="bilinear")
    inputs = resized.repeat(1, MODEL_INPUT.channels, 1, 1)
    loss = functional.cross_entropy(model(inputs), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()]), loss.item()


def _peer(
    barrier: Barrier,
    setting: Setting,
    address: StoreAddress,
    prefix: str,
    rank: int,
    tasks: Tasks,
    replies: Replies,
) -> None:
    torch.set_num_threads(1)
    store = PickleStore(address, prefix)
    model = squeezenet1_1(num_classes=DATA.num_classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    num_batches = len(setting.batches_of(rank))
    barrier.wait()
    for index in range(num_batches):
        tasks.put((f"batch-{rank}-{index}", f"gradient-{rank}-{index}", rank))
    result_keys = _wait_for(num_batches, replies)
    store.put(f"mean-{rank}", _mean([store.get(key)[0] for key in result_keys]))
    mean = _mean(_all_means(store))
    sizes = [parameter.numel() for parameter in model.parameters()]
    for parameter, part in zip(model.parameters(), torch.split(mean, sizes), strict=True):
        parameter.grad = part.view_as(parameter)
    optimizer.step()
    if rank == 0:
        for _ in range(setting.num_workers):
            tasks.put(None)
    barrier.wait()


def _wait_for(num_batches: int, replies: Replies) -> list[str]:
    """Return the keys of all results, once all functions have replied."""
    result_keys: list[str] = []
    while True:
        while not replies.empty():
            result_keys.append(replies.get())
        if len(result_keys) == num_batches:
            return result_keys
        time.sleep(POLL_SECONDS)


def _all_means(store: PickleStore) -> list[Tensor]:
    means: dict[int, Tensor] = {}
    while len(means) < NUM_PEERS:
        for rank in set(range(NUM_PEERS)) - set(means):
            if store.has(f"mean-{rank}"):
                means[rank] = store.get(f"mean-{rank}")
        time.sleep(POLL_SECONDS)
    return list(means.values())


def _mean(gradients: list[Tensor]) -> Tensor:
    total = torch.zeros_like(gradients[0])
    for gradient in gradients:
        total += gradient
    return total / len(gradients)
