"""One peer's share of a round: which samples, packed into which invocations, and how they are folded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from peer.aggregation import Gradient, WeightedMean
from peer.config import ALL_BATCHES, RunConfig
from peer.decisions import total
from peer.errors import OutOfMemory, TrainingDiverged
from peer.garbage import Garbage
from peer.invocations.fanout import FanOut
from peer.invocations.invocation import Attempt, Stored
from peer.invocations.invokers import Invoker
from peer.learning.datasets.manifest import SHUFFLED, TRAIN, DatasetManifest, PartEntry
from peer.learning.shards import Range, Shard, locate, split_range
from peer.messages import (
    PROTOCOL_VERSION,
    Batch,
    DataParts,
    EvaluateRequest,
    Evaluation,
    GradientRequest,
    RemoteObject,
    StoredObject,
)
from peer.records.phases import PhaseClock
from peer.records.rounds import Work
from peer.store import keys

IndexedBatch = tuple[int, list[Range]]
"""A batch's number in its peer's endless stream, and its sample ranges in the stored order."""

EVALUATION_SAMPLES = 2500
"""How many samples one `evaluate` invocation covers."""

_LATE_DEADLINES = 2
"""Deadlines of an invocation after which no attempt of it writes any more: one in a queue, one at work."""


@dataclass(frozen=True)
class Means:
    """How a peer gets its requests answered, and whether those who do may fetch for the next round."""

    invoker: Invoker
    fan_out: FanOut
    garbage: Garbage
    clock: PhaseClock
    work: Work
    is_prefetching: bool = False


class Compute:
    """Computes gradients and evaluations of one peer's samples.

    Args:
        config: the run's.
        generation: of the run; part of every result key.
        rank: this peer.
        dataset: where the samples are.
        shard: which of them are this peer's.
        means: who computes.
    """

    def __init__(
        self,
        config: RunConfig,
        generation: int,
        rank: int,
        dataset: DatasetManifest,
        shard: Shard,
        means: Means,
    ) -> None:
        self._config = config
        self._generation = generation
        self._rank = rank
        self._dataset = dataset
        self._shard = shard
        self._means = means
        # what the next round will compute, so that a round's batches are worked out once
        self._planned: dict[int, list[list[IndexedBatch]]] = {}

    def gradient(
        self, round_number: int, weights: StoredObject, learning_rate: float
    ) -> tuple[Gradient, Evaluation | None]:
        """Return the mean gradient of this round's batches, folded in the order of the invocations.

        With local steps, which take `learning_rate`, it is the mean of what they came to.

        Raises:
            FunctionError, StoreError: an invocation was given up; see `FanOut`.
            TrainingDiverged: a loss or gradient is not finite.
        """
        means, result_keys = self._means, list[str]()
        groups = self._planned.pop(round_number, None) or self._groups_of(round_number)
        new_parts = self._new_parts(round_number + 1, groups)
        attempts = [
            self._gradient_attempt(round_number, index, group, parts, weights, learning_rate, result_keys)
            for index, (group, parts) in enumerate(zip(groups, new_parts, strict=True))
        ]
        results = means.fan_out.run(attempts, "gradient", [len(group) for group in groups])
        mean, training = WeightedMean(), list[Evaluation | None]()
        for _ in groups:
            with means.clock.phase("compute"):
                gradient, evaluation = self._next(results, round_number)
            with means.clock.phase("average"):
                mean.add(gradient)
                training.append(evaluation)
        # of an attempt more than there are invocations, some function may still be at work
        late_seconds = _LATE_DEADLINES * self._config.invocation_seconds
        means.garbage.delete(result_keys, late_seconds if len(result_keys) > len(groups) else 0.0)
        return mean.result(), total(training)

    def _next(
        self, results: Iterator[tuple[Gradient, Evaluation]], round_number: int
    ) -> tuple[Gradient, Evaluation]:
        try:
            return next(results)
        except TrainingDiverged as error:
            where = f"peer {self._rank}, round {round_number} of run {self._config.run}"
            raise TrainingDiverged(f"{where}: {error}") from error

    def evaluate(self, round_number: int, weights: StoredObject, split: str) -> Evaluation | None:
        """Return the evaluation of this peer's part of a split, None if the part is empty.

        Raises:
            FunctionError, StoreError: as `gradient`.
        """
        if split not in self._dataset.splits:
            return None
        num_samples = self._dataset.splits[split].num_samples
        start, stop = split_range(num_samples, self._config.num_peers, self._rank)
        samples = [
            (begin, min(begin + EVALUATION_SAMPLES, stop)) for begin in range(start, stop, EVALUATION_SAMPLES)
        ]
        attempts = [
            self._evaluate_attempt(round_number, index, split, each, weights)
            for index, each in enumerate(samples)
        ]
        sizes = [end - begin for begin, end in samples]
        return total(list(self._means.fan_out.run(attempts, "evaluate", sizes)))

    def _batches_of(self, round_number: int) -> list[IndexedBatch]:
        """Return this peer's batches of a round; a peer goes through its shard again and again."""
        size, num_batches = self._config.batch_size, self._config.batches_per_round
        if num_batches == ALL_BATCHES:
            num_batches = self._shard.num_batches(size)
        first = round_number * num_batches
        return [(index, self._shard.batch(index, size)[1]) for index in range(first, first + num_batches)]

    def _new_parts(self, next_round: int, groups: list[list[IndexedBatch]]) -> list[list[PartEntry]]:
        """Return the parts that each of these invocations needs in the next round, and not in this one."""
        if not self._means.is_prefetching or next_round >= self._config.rounds:
            return [[] for _ in groups]
        self._planned = {next_round: self._groups_of(next_round)}
        stored = self._dataset.splits[TRAIN].orders[self._shard.order]

        def parts_of(group: list[IndexedBatch]) -> set[int]:
            return set(locate([ranges for _, ranges in group], stored.samples_per_part)[0])

        return [
            [stored.parts[number] for number in sorted(parts_of(later) - parts_of(group))]
            for group, later in zip(groups, self._planned[next_round], strict=True)
        ]

    def _groups_of(self, round_number: int) -> list[list[IndexedBatch]]:
        """Return this peer's batches of a round, those of one invocation together."""
        batches, packing = self._batches_of(round_number), self._config.batches_per_invocation
        return [batches[start : start + packing] for start in range(0, len(batches), packing)]

    def _gradient_attempt(
        self,
        round_number: int,
        invocation: int,
        batches: list[IndexedBatch],
        next_parts: list[PartEntry],
        weights: StoredObject,
        learning_rate: float,
        result_keys: list[str],
    ) -> Attempt[tuple[Gradient, Evaluation]]:
        config = self._config
        local = replace(config.optimizer, learning_rate=learning_rate) if config.local_steps else None

        def attempt(number: int) -> Stored[tuple[Gradient, Evaluation]]:
            invoker = self._means.invoker
            result_key = keys.gradient(
                config.run, self._generation, round_number, self._rank, invocation, str(number)
            )
            result_keys.append(result_key)
            request = GradientRequest(
                **self._common(round_number, invocation, number, weights),
                **self._located(TRAIN, self._shard.order, batches),
                micro_batch=config.micro_batch,
                seed=config.seed,
                result_url=invoker.writable(result_key),
                local_optimizer=local,
                codec=config.function_compression,
                next_parts=list(map(self._readable, next_parts)),
            )
            with self._noticing_out_of_memory("gradient"):
                reply, stored = invoker.gradient(request, result_key)
            self._means.work.add_reply("gradient", reply.usage)
            self._means.work.add_bytes("function_put", reply.length)
            return Stored(lambda: (stored.fetch(), reply.training))

        return attempt

    def _evaluate_attempt(
        self, round_number: int, invocation: int, split: str, samples: tuple[int, int], weights: StoredObject
    ) -> Callable[[int], Evaluation]:
        def attempt(number: int) -> Evaluation:
            request = EvaluateRequest(
                **self._common(round_number, invocation, number, weights),
                **self._located(split, SHUFFLED, [(0, [samples])]),
            )
            with self._noticing_out_of_memory("evaluate"):
                reply = self._means.invoker.evaluate(request)
            self._means.work.add_reply("evaluate", reply.usage)
            return reply.evaluation

        return attempt

    @contextmanager
    def _noticing_out_of_memory(self, function: str) -> Iterator[None]:
        try:
            yield
        except OutOfMemory:
            self._means.work.add_out_of_memory(function)
            raise

    def _common(
        self, round_number: int, invocation: int, number: int, weights: StoredObject
    ) -> dict[str, Any]:
        return {
            "protocol": PROTOCOL_VERSION,
            "run": self._config.run,
            "round": round_number,
            "peer": self._rank,
            "invocation": invocation,
            "attempt": str(number),
            "model": self._config.model,
            "loss": self._config.loss,
            "weights": self._readable(weights),
        }

    def _readable(self, stored: StoredObject | PartEntry) -> RemoteObject:
        url = self._means.invoker.readable(stored.key)
        return RemoteObject(url=url, length=stored.length, checksum=stored.checksum)

    def _located(self, split: str, order: str, indexed: list[IndexedBatch]) -> dict[str, Any]:
        """Return as `data` the stored parts that these batches need, and `batches` pointing into them."""
        dataset = self._dataset
        stored = dataset.splits[split].orders[order]
        part_numbers, located = locate([ranges for _, ranges in indexed], stored.samples_per_part)
        data = DataParts(
            shape=dataset.shape,
            label_bytes=dataset.label_bytes,
            num_classes=dataset.num_classes,
            mean=dataset.mean,
            std=dataset.std,
            parts=[self._readable(stored.parts[number]) for number in part_numbers],
        )
        numbers = [index for index, _ in indexed]
        batches = [Batch(index, ranges) for index, ranges in zip(numbers, located, strict=True)]
        return {"data": data, "batches": batches}
