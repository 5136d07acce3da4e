"""The outside reference: plain PyTorch DistributedDataParallel over gloo, on the same samples and batches.

    python -m peer.experiments.ddp < order.json      prints its `DdpResult` as JSON

A process a peer, as many as the run has peers, each with one thread; no gateway, no store in the loop, no
exchange of ours. Samples are read from the store once, before the clock starts, and stay in memory as uint8;
each batch is normalised and resized as the functions do it. Where a round has several batches, gradients add
up without communication, and the last `backward` reduces them, as PyTorch's documentation advises
(`DistributedDataParallel.no_sync`). DDP weighs processes alike, whatever their samples.
"""

import ctypes
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import torch
from torch import distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from peer import messages
from peer.errors import ConfigurationError, DatasetError, PeerlessError
from peer.experiments.ddp_records import DdpOrder, DdpProcess, DdpResult, DdpRound
from peer.learning import preprocess
from peer.learning.datasets import catalogue
from peer.learning.datasets.manifest import SHUFFLED, TRAIN, DatasetManifest
from peer.learning.models import ModelInput, initialise, input_of
from peer.learning.preprocess import Records
from peer.learning.shards import Range, Shard, plan_shards
from peer.learning.threads import use_one_thread
from peer.messages import DataParts, OptimizerSpec
from peer.store.s3 import Store, StoreAddress

_PR_SET_PDEATHSIG = 1
_TEST_CHUNK = 256


def run(order: DdpOrder) -> DdpResult:
    """Return the result of all processes, forked from this one, which computes nothing.

    Raises:
        PeerlessError: a process failed; its traceback is on stderr.
    """
    use_one_thread()
    store = Store(StoreAddress(**order.store))
    manifest = _dataset(store, order)
    context = get_context("fork")
    with tempfile.TemporaryDirectory(prefix="peerless-ddp-") as directory:
        pipes, processes = [], []
        for rank in range(order.num_peers):
            receiver, sender = context.Pipe(duplex=False)
            arguments = (order, manifest, rank, f"file://{directory}/rendezvous", sender)
            process = context.Process(target=_run_process, args=arguments, daemon=True)
            process.start()
            sender.close()
            pipes.append(receiver)
            processes.append(process)
        results = [_received(pipe, rank) for rank, pipe in enumerate(pipes)]
        for process in processes:
            process.join()
    return DdpResult(results, manifest.splits[TRAIN].num_samples)


def _dataset(store: Store, order: DdpOrder) -> DatasetManifest:
    try:
        return catalogue.find(store, order.dataset)
    except DatasetError:
        data_dir = Path(order.data_dir) if order.data_dir else None
        return catalogue.push(store, order.dataset, data_dir=data_dir)


def _received(pipe: Connection, rank: int) -> DdpProcess:
    try:
        return messages.decode(pipe.recv_bytes(), DdpProcess)
    except EOFError as error:
        raise PeerlessError(f"process {rank} of DistributedDataParallel failed; see above") from error


def _run_process(
    order: DdpOrder, manifest: DatasetManifest, rank: int, rendezvous: str, sender: Connection
) -> None:
    # else it would go on alone: a signal to the parent does not reach it
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    use_one_thread()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    samples = _Samples(Store(StoreAddress(**order.store)), manifest, order, rank)
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=order.num_peers)
    try:
        result = _train(order, samples, rank)
    finally:
        distributed.destroy_process_group()
    sender.send_bytes(messages.encode(result))


class _Samples:
    """A process' samples, in memory."""

    def __init__(self, store: Store, manifest: DatasetManifest, order: DdpOrder, rank: int) -> None:
        self.data = DataParts(
            shape=manifest.shape,
            label_bytes=manifest.label_bytes,
            num_classes=manifest.num_classes,
            mean=manifest.mean,
            std=manifest.std,
            parts=[],
        )
        self._store, self._manifest = store, manifest
        self.shard: Shard = plan_shards(manifest, order.num_peers, "iid", order.seed)[rank]
        self._train = self._records(TRAIN)
        self.test = self._records("test") if rank == 0 else None

    def batch(self, ranges: list[Range]) -> Records:
        """Return the records of sample ranges in the stored order."""
        return preprocess.select([self._train], [(0, start, stop) for start, stop in ranges])

    def _records(self, split: str) -> Records:
        parts = self._manifest.splits[split].orders[SHUFFLED].parts
        whole = bytearray().join(self._store.get(part.key, part.length) for part in parts)
        return preprocess.as_records(whole, self.data)


def _train(order: DdpOrder, samples: _Samples, rank: int) -> DdpProcess:
    model = initialise(order.model, samples.data.num_classes, order.seed, samples.data.shape)
    model_input = input_of(order.model, model, samples.data.shape)
    model.to(memory_format=torch.channels_last)
    parallel = DistributedDataParallel(model)
    optimizer = _optimizer(order.optimizer, parallel)
    count = order.batches_per_round or samples.shard.num_batches(order.batch_size)
    torch.manual_seed(order.seed * order.num_peers + rank)
    cpu_before = time.process_time()
    rounds = []
    for number in range(order.rounds):
        indices = range(number * count, (number + 1) * count)
        batches = [samples.batch(samples.shard.batch(index, order.batch_size)[1]) for index in indices]
        distributed.barrier()
        rounds.append(_round(parallel, optimizer, batches, samples.data, model_input))
    cpu_seconds = time.process_time() - cpu_before
    correct = 0 if samples.test is None else _correct(model, samples.test, samples.data, model_input)
    distributed.barrier()
    return DdpProcess(
        rank=rank,
        rounds=rounds,
        cpu_seconds=cpu_seconds,
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        gradient_bytes=sum(each.numel() * each.element_size() for each in model.parameters()),
        test_correct=correct,
        test_samples=0 if samples.test is None else len(samples.test),
    )


def _round(
    model: DistributedDataParallel,
    optimizer: torch.optim.Optimizer,
    batches: list[Records],
    data: DataParts,
    model_input: ModelInput,
) -> DdpRound:
    """Take one step at the mean gradient of these batches, and return where the time went."""
    began = time.perf_counter()
    total = sum(len(records) for records in batches)
    optimizer.zero_grad(set_to_none=False)
    loss_sum, correct, reducing = 0.0, 0, began
    for number, records in enumerate(batches):
        is_last = number == len(batches) - 1
        with nullcontext() if is_last else model.no_sync():
            labels = preprocess.labels_of(records, data)
            logits = model(preprocess.inputs_of(records, data, model_input))
            loss = functional.cross_entropy(logits, labels, reduction="sum")
            loss_sum += float(loss.detach())
            correct += int((logits.detach().argmax(1) == labels).sum())
            reducing = time.perf_counter()
            (loss / total).backward()  # type: ignore[no-untyped-call]
    updating = time.perf_counter()
    optimizer.step()
    ended = time.perf_counter()
    return DdpRound(
        seconds=ended - began,
        compute_seconds=reducing - began,
        reduce_seconds=updating - reducing,
        update_seconds=ended - updating,
        loss_sum=loss_sum,
        num_correct=correct,
        num_samples=total,
    )


def _optimizer(spec: OptimizerSpec, model: nn.Module) -> torch.optim.Optimizer:
    if spec.name == "sgd":
        return torch.optim.SGD(
            model.parameters(), spec.learning_rate, momentum=spec.momentum, weight_decay=spec.weight_decay
        )
    return torch.optim.AdamW(
        model.parameters(), spec.learning_rate, spec.betas, spec.epsilon, weight_decay=spec.weight_decay
    )


def _correct(model: nn.Module, records: Records, data: DataParts, model_input: ModelInput) -> int:
    """Return how many samples the model predicts; it is in evaluation mode afterwards."""
    model.eval()
    with torch.no_grad():
        return sum(
            int((model(preprocess.inputs_of(piece, data, model_input)).argmax(1) == labels).sum())
            for piece, labels in _labelled(records, data)
        )


def _labelled(records: Records, data: DataParts) -> Iterator[tuple[Records, torch.Tensor]]:
    for start in range(0, len(records), _TEST_CHUNK):
        piece = records[start : start + _TEST_CHUNK]
        yield piece, preprocess.labels_of(piece, data)


def main() -> None:
    """Read an order from stdin, and print its result."""
    try:
        result = run(messages.decode(sys.stdin.buffer.read(), DdpOrder))
    except (PeerlessError, msgspec.DecodeError) as error:
        print(f"peerless: {error}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, PeerlessError) else ConfigurationError.exit_code)
    sys.stdout.buffer.write(messages.encode(result) + b"\n")


if __name__ == "__main__":
    main()
