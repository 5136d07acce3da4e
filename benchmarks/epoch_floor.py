"""The compute floor of an epoch: nothing but preprocessing, forward and backward, in one process a core."""

import time
from multiprocessing.synchronize import Barrier

import torch
from epoch_setting import DATA, MODEL_INPUT, Setting, environment, timed_together
from torch import nn
from torch.nn import functional
from torchvision.models import squeezenet1_1

from peer.learning.preprocess import inputs_of, labels_of


def epoch_seconds(setting: Setting, tuned: dict[str, str]) -> float:
    """Return the seconds of one epoch in `num_workers` warm processes that share nothing.

    Args:
        setting: what to compute.
        tuned: the environment that functions have.
    """
    with environment(tuned):
        tasks = [(_work, (setting, worker)) for worker in range(setting.num_workers)]
        return timed_together(tasks, time.perf_counter)


def _work(barrier: Barrier, setting: Setting, worker: int) -> None:
    torch.set_num_threads(1)
    records = setting.records()
    model = squeezenet1_1(num_classes=DATA.num_classes).to(memory_format=torch.channels_last)
    batches = setting.batches()[worker :: setting.num_workers]
    warm_up = [batches[0], batches[0], min(batches, key=lambda batch: batch.stop - batch.start)]

    def compute(batches: list[slice]) -> None:
        for batch in batches:
            _forward_backward(
                model, inputs_of(records[batch], DATA, MODEL_INPUT), labels_of(records[batch], DATA)
            )

    compute(warm_up)
    barrier.wait()
    compute(batches)
    barrier.wait()


def _forward_backward(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    functional.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
