"""What a peer records of each round: one JSON line in `rounds.jsonl`, one event for the progress display."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import msgspec

from peer import messages
from peer.decisions import Decision, total
from peer.errors import PeerlessError
from peer.files import append_line
from peer.messages import Adaptation, Evaluation, Message, Usage

if TYPE_CHECKING:
    # whoever shows records does not wait for torch
    from peer.exchange.pace import Step

_DIGITS_OF_A_SECOND = 6


class FunctionMemory(Message, frozen=True):
    """Memory of one function in a peer's invocations: the largest figures of one replica, and sums.

    0 stands for what the kernel does not tell; so does None for the pressure. `out_of_memory` counts the
    invocations that were repeated for it.
    """

    invocations: int = 0
    out_of_memory: int = 0
    limit_bytes: int = 0
    working_set_bytes: int = 0
    peak_rss_bytes: int = 0
    pressure_seconds: float | None = None
    reclaims: int = 0
    major_faults: int = 0

    def __add__(self, other: "FunctionMemory") -> "FunctionMemory":
        """Return the figures of both together; working set and limit are those of the fuller replica."""
        fuller = max(other, self, key=FunctionMemory._fullness)
        pressures = [each for each in (self.pressure_seconds, other.pressure_seconds) if each is not None]
        return FunctionMemory(
            invocations=self.invocations + other.invocations,
            out_of_memory=self.out_of_memory + other.out_of_memory,
            limit_bytes=fuller.limit_bytes,
            working_set_bytes=fuller.working_set_bytes,
            peak_rss_bytes=max(self.peak_rss_bytes, other.peak_rss_bytes),
            pressure_seconds=sum(pressures) if pressures else None,
            reclaims=self.reclaims + other.reclaims,
            major_faults=self.major_faults + other.major_faults,
        )

    def _fullness(self) -> tuple[float, int, int]:
        share = self.working_set_bytes / self.limit_bytes if self.limit_bytes else 0.0
        return share, self.working_set_bytes, self.limit_bytes


class RoundRecord(Message, frozen=True):
    """One round as one peer saw it.

    Loss, accuracy and `num_samples` are over all peers' samples, at the weights the round began with;
    seconds, invocations, bytes and `peer_samples` are this peer's own. `function_seconds` sums the phases
    inside the functions, which overlap. `exchange_bytes` is what the peer published for the others, and
    `uncompressed_bytes` what that would have been without a codec; `micro_batch` is what its last batches
    were split into, 0 for whole ones. `send_seconds` is the part of the phase `exchange` until the peer's own
    gradient was stored. `invocation_seconds` has, by function, each invocation's time inside it, and
    `function_cpu_seconds` the CPU of all; `cpu_seconds` and `peak_rss_bytes` are of the peer's own process,
    the latter since its begin, `phase_cpu_seconds` and `phase_peak_bytes` of that by phase. `hedges` are
    second attempts of invocations that took long, of which `hedges_won` had the first result.

    Of peers that may be apart (`--staleness`), loss, accuracy and `num_samples` are over the samples of the
    gradients in the round's step, `weights_sha256` is the peer's own, and `validation_*` of so many rounds
    before. `staleness` has how many of the others' gradients in the step were 0, 1, 2 … rounds late, `lead`
    how many rounds the peer was ahead of the slowest.
    """

    run: str
    peer: int
    round: int
    time: float
    weights_sha256: str
    num_samples: int
    loss: float | None
    accuracy: float | None
    learning_rate: float
    gradient_norm: float
    phase_seconds: dict[str, float]
    function_seconds: dict[str, float]
    invocations: int
    cold_starts: int
    retries: dict[str, int]
    object_bytes: dict[str, int]
    peak_function_bytes: int
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    peer_samples: int = 0
    exchange_bytes: int = 0
    uncompressed_bytes: int = 0
    functions: dict[str, FunctionMemory] = {}
    micro_batch: int = 0
    adaptations: list[Adaptation] = []
    send_seconds: float = 0.0
    invocation_seconds: dict[str, list[float]] = {}
    function_cpu_seconds: dict[str, float] = {}
    cpu_seconds: float = 0.0
    peak_rss_bytes: int = 0
    phase_cpu_seconds: dict[str, float] = {}
    phase_peak_bytes: dict[str, int] = {}
    hedges: int = 0
    hedges_won: int = 0
    staleness: list[int] = []
    lead: int = 0


class Work:
    """What a peer's invocations and transfers amounted to since it was last taken. Safe between threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts = _Counts()

    def add_reply(self, function: str, usage: Usage) -> None:
        """Count one valid reply of a function."""
        memory = FunctionMemory(
            invocations=1,
            limit_bytes=usage.memory_limit_bytes,
            working_set_bytes=usage.working_set_bytes,
            peak_rss_bytes=usage.peak_rss_bytes,
            pressure_seconds=usage.memory_pressure_seconds,
            reclaims=usage.memory_reclaims,
            major_faults=usage.major_faults,
        )
        with self._lock:
            counts = self._counts
            counts.invocations += 1
            counts.cold_starts += usage.is_cold_start
            counts.peak_function_bytes = max(counts.peak_function_bytes, usage.peak_rss_bytes)
            for phase, seconds in usage.phase_seconds.items():
                counts.function_seconds[phase] = counts.function_seconds.get(phase, 0.0) + seconds
            inside_seconds = round(sum(usage.phase_seconds.values()), _DIGITS_OF_A_SECOND)
            counts.invocation_seconds.setdefault(function, []).append(inside_seconds)
            cpu_seconds = counts.function_cpu_seconds.get(function, 0.0) + usage.cpu_seconds
            counts.function_cpu_seconds[function] = cpu_seconds
            self._add_memory(function, memory)

    def add_out_of_memory(self, function: str) -> None:
        """Count an invocation of a function that ran out of memory."""
        with self._lock:
            self._add_memory(function, FunctionMemory(out_of_memory=1))

    def _add_memory(self, function: str, memory: FunctionMemory) -> None:
        functions = self._counts.functions
        functions[function] = functions.get(function, FunctionMemory()) + memory

    def add_bytes(self, kind: str, num_bytes: int) -> None:
        """Count the bytes of objects: `put` and `get` by this peer, `function_put` by its functions."""
        with self._lock:
            self._counts.object_bytes[kind] = self._counts.object_bytes.get(kind, 0) + num_bytes

    def add_retry(self, error: PeerlessError) -> None:
        """Count an attempt that was repeated, by the error that made it so."""
        with self._lock:
            reason = type(error).__name__
            self._counts.retries[reason] = self._counts.retries.get(reason, 0) + 1

    def add_hedge(self) -> None:
        """Count a second attempt of an invocation, beside the first."""
        with self._lock:
            self._counts.hedges += 1

    def add_hedge_won(self) -> None:
        """Count one that had a valid result before the first attempt had."""
        with self._lock:
            self._counts.hedges_won += 1

    def add_adaptation(self, adaptation: Adaptation) -> None:
        """Count what was changed so that invocations fit."""
        with self._lock:
            self._counts.adaptations.append(adaptation)

    def take(self) -> dict[str, Any]:
        """Return the counts under the names that `RoundRecord` has for them, and begin anew."""
        with self._lock:
            taken, self._counts = self._counts, _Counts()
        return vars(taken)


@dataclass
class _Counts:
    invocations: int = 0
    cold_starts: int = 0
    peak_function_bytes: int = 0
    function_seconds: dict[str, float] = field(default_factory=dict)
    object_bytes: dict[str, int] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)
    functions: dict[str, FunctionMemory] = field(default_factory=dict)
    invocation_seconds: dict[str, list[float]] = field(default_factory=dict)
    function_cpu_seconds: dict[str, float] = field(default_factory=dict)
    adaptations: list[Adaptation] = field(default_factory=list)
    hedges: int = 0
    hedges_won: int = 0


class RoundLog:
    """Writes a peer's rounds to a file, and hands them to whoever shows progress.

    Args:
        path: appended to; several peers of one machine may share it, a line is written at once.
        on_record: called with each record, after it is written.
    """

    def __init__(self, path: Path, on_record: Callable[[RoundRecord], None]) -> None:
        self._path = path
        self._on_record = on_record
        self._cpu_seconds = time.process_time()

    def write(
        self,
        step: "Step",
        decision: Decision,
        gradient_norm: float,
        phase_seconds: dict[str, float],
        work: dict[str, Any],
    ) -> None:
        """Append one record, of the round of this step."""
        cpu_before, self._cpu_seconds = self._cpu_seconds, time.process_time()
        manifest = step.own
        training = total([each.training for each in step.manifests])
        record = RoundRecord(
            run=manifest.run,
            peer=manifest.peer,
            round=manifest.round,
            time=time.time(),
            weights_sha256=manifest.weights_sha256,
            num_samples=training.num_samples if training else 0,
            loss=mean_loss(training),
            accuracy=accuracy(training),
            validation_loss=mean_loss(decision.validation),
            validation_accuracy=accuracy(decision.validation),
            learning_rate=decision.progress.learning_rate,
            gradient_norm=gradient_norm,
            phase_seconds=phase_seconds,
            peer_samples=manifest.training.num_samples if manifest.training else 0,
            exchange_bytes=sum(part.length for part in manifest.parts),
            micro_batch=manifest.micro_batch,
            uncompressed_bytes=step.uncompressed_bytes,
            send_seconds=step.send_seconds,
            cpu_seconds=self._cpu_seconds - cpu_before,
            staleness=step.staleness,
            lead=step.lead,
            **work,
        )
        append_line(self._path, messages.encode(record))
        self._on_record(record)


def read(path: Path) -> list[RoundRecord]:
    """Return the records of a file; a line that a kill or a full disk tore is left out."""
    records = []
    for line in path.read_bytes().splitlines():
        with suppress(msgspec.DecodeError):
            records.append(messages.decode(line, RoundRecord))
    return records


def mean_staleness(counts: Sequence[int]) -> float:
    """Return how many rounds late the gradients were, of which `counts` has how many were 0, 1, 2 … late."""
    rounds_late = sum(late * count for late, count in enumerate(counts))
    return rounds_late / max(1, sum(counts))


def mean_loss(evaluation: Evaluation | None) -> float | None:
    """Return the loss a sample, None without samples."""
    return evaluation.loss_sum / evaluation.num_samples if evaluation and evaluation.num_samples else None


def accuracy(evaluation: Evaluation | None) -> float | None:
    """Return the fraction of correct predictions, None without samples."""
    return evaluation.num_correct / evaluation.num_samples if evaluation and evaluation.num_samples else None
