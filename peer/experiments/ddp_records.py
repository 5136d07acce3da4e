"""What DistributedDataParallel is asked (`peer.experiments.ddp`), answers, and how a record has it."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from peer import messages
from peer.errors import ConfigurationError
from peer.experiments.records import Measure, PeerUse, RoundMeasure
from peer.messages import Message, ModelSpec, OptimizerSpec


class DdpOrder(Message, frozen=True):
    """What to train: as the options of `peerless train`, and where the dataset is."""

    store: dict[str, Any]
    dataset: str
    data_dir: str | None
    model: ModelSpec
    optimizer: OptimizerSpec
    num_peers: int
    rounds: int
    batch_size: int
    batches_per_round: int
    seed: int


class DdpRound(Message, frozen=True):
    """One round of one process. `compute_seconds` is until the last backward begins, which also reduces."""

    seconds: float
    compute_seconds: float
    reduce_seconds: float
    update_seconds: float
    loss_sum: float
    num_correct: int
    num_samples: int


class DdpProcess(Message, frozen=True):
    """What one process came to; `test_correct` is of rank 0, which alone evaluates."""

    rank: int
    rounds: list[DdpRound]
    cpu_seconds: float
    peak_rss_bytes: int
    gradient_bytes: int
    test_correct: int
    test_samples: int


class DdpResult(Message, frozen=True):
    """All processes, by rank, and the size of the training split."""

    processes: list[DdpProcess]
    training_samples: int


def measured(path: Path, warm_up_rounds: int) -> Measure:
    """Return what the result in this file says.

    Args:
        path: of a `DdpResult`.
        warm_up_rounds: so many at the beginning are marked.

    Raises:
        ConfigurationError: it is not there, or damaged.
    """
    try:
        found = messages.decode(path.read_bytes(), DdpResult)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(
            f"{path}, which the run should have left, cannot be read: {error}"
        ) from error
    rounds, ended_seconds = list[RoundMeasure](), 0.0
    for number, parts in enumerate(zip(*(each.rounds for each in found.processes), strict=True)):
        ended_seconds += fmean(part.seconds for part in parts)
        rounds.append(_round(number, parts, ended_seconds, is_warm_up=number < warm_up_rounds))
    samples, first = sum(each.samples for each in rounds), found.processes[0]
    return Measure(
        train_seconds=ended_seconds,
        rounds=rounds,
        samples=samples,
        epochs=samples / found.training_samples,
        weights_bytes=first.gradient_bytes,
        peers=[PeerUse(each.rank, each.cpu_seconds, each.peak_rss_bytes) for each in found.processes],
        exchange_bytes=first.gradient_bytes * len(found.processes) * len(rounds),
        test_accuracy=first.test_correct / first.test_samples if first.test_samples else None,
    )


def _round(number: int, parts: Sequence[DdpRound], ended_seconds: float, *, is_warm_up: bool) -> RoundMeasure:
    phases = {
        "compute": [part.compute_seconds for part in parts],
        "exchange": [part.reduce_seconds for part in parts],
        "update": [part.update_seconds for part in parts],
    }
    samples = sum(part.num_samples for part in parts)
    return RoundMeasure(
        round=number,
        is_warm_up=is_warm_up,
        seconds=fmean(part.seconds for part in parts),
        ended_seconds=ended_seconds,
        phase_seconds={name: fmean(seconds) for name, seconds in phases.items()},
        slowest_seconds={name: max(seconds) for name, seconds in phases.items()},
        send_seconds=0.0,
        receive_seconds=0.0,
        function_seconds={},
        invocation_seconds={},
        samples=samples,
        loss=sum(part.loss_sum for part in parts) / samples,
        accuracy=sum(part.num_correct for part in parts) / samples,
    )
