"""What a run's own files say, as an experiment's record has it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import msgspec

from peer.errors import ConfigurationError
from peer.experiments.records import FunctionUse, Measure, PeerUse, RoundMeasure
from peer.records import rounds
from peer.records.phases import PHASES
from peer.records.rounds import FunctionMemory, RoundRecord

_DIGITS = 6


class _Summary(msgspec.Struct, frozen=True):
    """What is read of `summary.json`; reading all of it would import torch."""

    train_seconds: float
    samples: int
    epochs: float
    compute: str
    retries: dict[str, int]
    object_bytes: dict[str, int]
    exchange_bytes: int
    compression_ratio: float
    test_accuracy: float | None
    test_loss: float | None
    weights_sha256: str


class _Config(msgspec.Struct, frozen=True):
    """What is read of `config.json`."""

    initial_weights_bytes: int


def of_run(directory: Path, warm_up_rounds: int) -> Measure:
    """Return what the files of a finished run say.

    Args:
        directory: the run's, with config.json, rounds.jsonl and summary.json.
        warm_up_rounds: so many at the beginning are marked.

    Raises:
        ConfigurationError: a file is not there, or damaged.
    """
    path = directory
    try:
        path = directory / "summary.json"
        summary = msgspec.json.decode(path.read_bytes(), type=_Summary)
        path = directory / "config.json"
        config = msgspec.json.decode(path.read_bytes(), type=_Config)
        path = directory / "rounds.jsonl"
        records = rounds.read(path)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(
            f"{path}, which the run should have left, cannot be read: {error}"
        ) from error
    has_functions = summary.compute == "functions"
    return Measure(
        train_seconds=summary.train_seconds,
        rounds=_rounds(records, warm_up_rounds),
        samples=summary.samples,
        epochs=summary.epochs,
        weights_bytes=config.initial_weights_bytes,
        cold_starts=sum(record.cold_starts for record in records) if has_functions else 0,
        functions=_functions(records) if has_functions else {},
        peers=_peers(records),
        retries=summary.retries,
        object_bytes=summary.object_bytes,
        exchange_bytes=summary.exchange_bytes,
        compression_ratio=summary.compression_ratio,
        test_accuracy=summary.test_accuracy,
        test_loss=summary.test_loss,
        weights_sha256=summary.weights_sha256,
    )


def _rounds(records: Sequence[RoundRecord], warm_up_rounds: int) -> list[RoundMeasure]:
    by_round: dict[int, list[RoundRecord]] = {}
    for record in records:
        by_round.setdefault(record.round, []).append(record)
    found, ended_seconds = [], 0.0
    for number in sorted(by_round):
        measured = _round(by_round[number], ended_seconds, is_warm_up=number < warm_up_rounds)
        ended_seconds = measured.ended_seconds
        found.append(measured)
    return found


def _round(records: Sequence[RoundRecord], began_seconds: float, *, is_warm_up: bool) -> RoundMeasure:
    """Return what the peers' records of one round say together."""
    phases = {name: [record.phase_seconds.get(name, 0.0) for record in records] for name in PHASES}
    means = {name: fmean(seconds) for name, seconds in phases.items()}
    send_seconds = fmean(record.send_seconds for record in records)
    seconds = sum(means.values())
    first = records[0]
    return RoundMeasure(
        round=first.round,
        is_warm_up=is_warm_up,
        seconds=seconds,
        ended_seconds=began_seconds + seconds,
        phase_seconds=_rounded(means),
        slowest_seconds=_rounded({name: max(each) for name, each in phases.items()}),
        send_seconds=send_seconds,
        receive_seconds=means["exchange"] - send_seconds,
        function_seconds=_rounded(_sums(record.function_seconds for record in records)),
        invocation_seconds=_joined(record.invocation_seconds for record in records),
        samples=first.num_samples,
        loss=first.loss,
        accuracy=first.accuracy,
        validation_loss=first.validation_loss,
        validation_accuracy=first.validation_accuracy,
        phase_cpu_seconds=_rounded(_means(record.phase_cpu_seconds for record in records)),
        phase_peak_bytes=_largest(record.phase_peak_bytes for record in records),
    )


def _functions(records: Sequence[RoundRecord]) -> dict[str, FunctionUse]:
    memory: dict[str, FunctionMemory] = {}
    for record in records:
        for name, used in record.functions.items():
            memory[name] = memory.get(name, FunctionMemory()) + used
    cpu_seconds = _sums(record.function_cpu_seconds for record in records)
    return {
        name: FunctionUse(
            invocations=used.invocations,
            out_of_memory=used.out_of_memory,
            cpu_seconds=cpu_seconds.get(name, 0.0),
            memory_limit_bytes=used.limit_bytes,
            working_set_bytes=used.working_set_bytes,
            peak_rss_bytes=used.peak_rss_bytes,
        )
        for name, used in memory.items()
    }


def _peers(records: Sequence[RoundRecord]) -> list[PeerUse]:
    cpu_seconds: dict[int, float] = {}
    peak_bytes: dict[int, int] = {}
    for record in records:
        cpu_seconds[record.peer] = cpu_seconds.get(record.peer, 0.0) + record.cpu_seconds
        peak_bytes[record.peer] = max(peak_bytes.get(record.peer, 0), record.peak_rss_bytes)
    return [PeerUse(peer, cpu_seconds[peer], peak_bytes[peer]) for peer in sorted(cpu_seconds)]


def _sums(counts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for counted in counts:
        for name, number in counted.items():
            sums[name] = sums.get(name, 0.0) + number
    return sums


def _means(counts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each name over the mappings that have it."""
    found = list(counts)
    numbers = Counter(name for each in found for name in each)
    return {name: total / numbers[name] for name, total in _sums(found).items()}


def _largest(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    largest: dict[str, int] = {}
    for counted in counts:
        for name, number in counted.items():
            largest[name] = max(largest.get(name, 0), number)
    return largest


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return seconds to a microsecond: more digits would only make lines longer."""
    return {name: round(each, _DIGITS) for name, each in seconds.items()}


def _joined(lists: Iterable[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    joined: dict[str, list[float]] = {}
    for named in lists:
        for name, values in named.items():
            joined.setdefault(name, []).extend(values)
    return joined
