"""What every side of the epoch benchmark computes, and how its processes are started and timed."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from peer.learning.datasets import idx
from peer.learning.models import ModelInput
from peer.messages import DataParts

MNIST = Path(__file__).resolve().parents[1] / "data" / "mnist"
MODEL = "squeezenet1_1"
NUM_PEERS = 4
BATCH_SIZE = 512
TEST_SAMPLES = 1_000
MODEL_INPUT = ModelInput(channels=3, height=32, width=32)
DATA = DataParts(shape=(1, 28, 28), label_bytes=1, num_classes=10, mean=[0.1307], std=[0.3081], parts=[])

SPAWN = get_context("spawn")
_LONGEST_SECONDS = 600.0

Records = npt.NDArray[np.uint8]
Task = Callable[..., None]


@dataclass(frozen=True)
class Setting:
    """One epoch: how many samples, where they are, and how many processes compute.

    Attributes:
        directory: has `records.npy`, a label and 784 pixels a row, and the same samples as an IDX dataset.
        num_samples: of the training split.
        num_workers: processes that compute gradients, on every side.
    """

    directory: Path
    num_samples: int
    num_workers: int

    def records(self) -> Records:
        """Return all training samples, in memory."""
        records: Records = np.load(self.directory / "records.npy")
        return records

    def batches_of(self, peer: int) -> list[slice]:
        """Return the batches of one peer's shard, the last one as small as it comes."""
        start, stop = (self.num_samples * rank // NUM_PEERS for rank in (peer, peer + 1))
        return [slice(at, min(at + BATCH_SIZE, stop)) for at in range(start, stop, BATCH_SIZE)]

    def batches(self) -> list[slice]:
        """Return the batches of all peers."""
        return [batch for peer in range(NUM_PEERS) for batch in self.batches_of(peer)]


def write_samples(directory: Path, num_samples: int) -> None:
    """Leave the first `num_samples` of MNIST in `directory`, once as records and once as IDX files."""
    files = idx.find_files(MNIST)
    if files is None:
        raise SystemExit(f"{MNIST} has no MNIST: run this in a peerless checkout")
    kept = (num_samples, num_samples, TEST_SAMPLES, TEST_SAMPLES)
    arrays = [idx.read(file)[:count] for file, count in zip(files, kept, strict=True)]
    for name, array in zip(idx.FILES, arrays, strict=True):
        sizes = b"".join(size.to_bytes(4) for size in array.shape)
        (directory / name).write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())
    images, labels = arrays[:2]
    np.save(directory / "records.npy", np.hstack([labels[:, None], images.reshape(len(images), -1)]))


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Give processes started inside the block these variables; the C library reads some before `main`."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def timed_together(tasks: Sequence[tuple[Task, tuple[Any, ...]]], clock: Callable[[], float]) -> float:
    """Return the seconds from when all tasks, each in a new process, are ready until all are done.

    A task is called with a barrier before its arguments; it passes it when it is ready, and again when done.

    Raises:
        threading.BrokenBarrierError: a task failed; its traceback is on stderr.
    """
    barrier = SPAWN.Barrier(len(tasks) + 1)
    processes = [
        SPAWN.Process(target=_guarded, args=(task, barrier, *rest), daemon=True) for task, rest in tasks
    ]
    for process in processes:
        process.start()
    try:
        barrier.wait(_LONGEST_SECONDS)
        start = clock()
        barrier.wait(_LONGEST_SECONDS)
        return clock() - start
    finally:
        for process in processes:
            process.kill()  # those that are done have nothing left to say
            process.join()


def _guarded(task: Task, barrier: Barrier, *rest: Any) -> None:
    try:
        task(barrier, *rest)
    except BaseException:
        barrier.abort()
        raise
