"""What a run amounts to: `summary.json`, from the records of its rounds and the results of its peers."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import save_file

from peer import messages
from peer.allocation.adaptation import merged
from peer.allocation.plans import Plan
from peer.compression.names import NONE
from peer.config import RunConfig
from peer.files import replace_file, writing
from peer.learning.flat import FlatState, Layout
from peer.learning.models import build
from peer.messages import Adaptation, Evaluation, Message, StoredObject
from peer.records.phases import PHASES
from peer.records.rounds import FunctionMemory, RoundRecord, accuracy, mean_loss
from peer.training import Outcome

_MEBIBYTE = 1 << 20

Number = TypeVar("Number", int, float, FunctionMemory)


class PeerResult(Message, frozen=True):
    """How one peer's run ended; but for `peer` and its `adaptations` after the last round, equal on all."""

    peer: int
    rounds: int
    weights: StoredObject
    test: Evaluation | None
    best_loss: float | None
    best_round: int
    stop_reason: str
    adaptations: list[Adaptation] = []


class SlowestPeer(Message, frozen=True):
    """Who spent most time in a phase, and what the median of all peers is."""

    peer: int
    seconds: float
    median_seconds: float


class Summary(Message, frozen=True):
    """A finished run. Seconds are means over the peers; counts and bytes are sums over peers and rounds.

    `object_bytes`: `put` and `get` by peers, `function_put` by functions. `peak_function_mb` is the largest
    resident set of a replica, in MiB. `train_seconds` is from the first round's begin to the last weights.
    `functions` and `slowest` tell which function is short of memory, and which peer is slow, by phase; the
    others `wait` for a slow one. `adaptations` are what the run has changed of itself.
    `exchange_bytes` is the size of the gradients that peers put for each other, `compression_ratio` how many
    times as large they were without `compression`. `hedges` are second attempts of invocations that took
    long, of which `hedges_won` had the first result. `plan` is what `--optimize` has chosen and predicted.
    `staleness` is how many rounds peers might be apart, `late` how many gradients of others they applied
    0, 1, 2 … rounds late.
    """

    run: str
    dataset: str
    model: str
    num_peers: int
    compute: str
    rounds: int
    samples: int
    epochs: float
    train_seconds: float
    phase_seconds: dict[str, float]
    function_seconds: dict[str, float]
    test_accuracy: float | None
    test_loss: float | None
    best_validation_loss: float | None
    best_round: int
    stop_reason: str
    weights_sha256: str
    weights_key: str
    invocations: int
    cold_starts: int
    retries: dict[str, int]
    object_bytes: dict[str, int]
    peak_function_mb: float
    functions: dict[str, FunctionMemory] = {}
    slowest: dict[str, SlowestPeer] = {}
    adaptations: list[Adaptation] = []
    compression: str = NONE
    function_compression: str = NONE
    exchange_bytes: int = 0
    compression_ratio: float = 1.0
    hedges: int = 0
    hedges_won: int = 0
    plan: Plan | None = None
    staleness: int = 0
    late: list[int] = []


def peer_result(rank: int, outcome: Outcome, adaptations: list[Adaptation]) -> PeerResult:
    """Return what the others need not know of an outcome left out.

    Args:
        rank: this peer.
        outcome: of its run.
        adaptations: that no round's record has: those of the last evaluation.
    """
    return PeerResult(
        peer=rank,
        rounds=outcome.rounds,
        weights=outcome.weights,
        test=outcome.test,
        best_loss=outcome.progress.best_loss,
        best_round=outcome.progress.best_round,
        stop_reason=outcome.stop_reason,
        adaptations=adaptations,
    )


def summarise(
    config: RunConfig, result: PeerResult, records: Sequence[RoundRecord], num_training_samples: int
) -> Summary:
    """Return the summary of a run.

    Args:
        config: the run's.
        result: of any peer; of peer 0, which alone adapts in the last evaluation, if it ran here.
        records: of the rounds that ran here; of a round that ran twice (before and after `resume`) the last
            counts.
        num_training_samples: of the dataset; an epoch has so many.
    """
    last = list({(record.peer, record.round): record for record in records}.values())
    num_peers = max(1, len({record.peer for record in last}))
    # every peer applies all samples once, but with staleness not in the same rounds
    any_peer = min((record.peer for record in last), default=0)
    samples = sum(record.num_samples for record in last if record.peer == any_peer)
    phases = {name: sum(record.phase_seconds[name] for record in last) / num_peers for name in PHASES}
    functions = [record.functions for record in last] if config.compute == "functions" else []
    exchange_bytes, compression_ratio = _compression(last)
    return Summary(
        run=config.run,
        dataset=config.dataset,
        model=config.model.name,
        num_peers=config.num_peers,
        compute=config.compute,
        rounds=result.rounds,
        samples=samples,
        epochs=samples / num_training_samples,
        train_seconds=sum(phases.values()),
        phase_seconds=phases,
        function_seconds=_sums(record.function_seconds for record in last),
        test_accuracy=accuracy(result.test),
        test_loss=mean_loss(result.test),
        best_validation_loss=result.best_loss,
        best_round=result.best_round,
        stop_reason=result.stop_reason,
        weights_sha256=result.weights.checksum.removeprefix("sha256:"),
        weights_key=result.weights.key,
        invocations=sum(record.invocations for record in last),
        cold_starts=sum(record.cold_starts for record in last),
        retries=_sums(record.retries for record in last),
        object_bytes=_sums(record.object_bytes for record in last),
        peak_function_mb=max((record.peak_function_bytes for record in last), default=0) / _MEBIBYTE,
        functions=_sums(functions),
        slowest=_slowest(last) if num_peers > 1 else {},
        adaptations=merged([*config.adaptations, *_adaptations(last), *result.adaptations]),
        compression=config.compression,
        function_compression=config.function_compression,
        exchange_bytes=exchange_bytes,
        compression_ratio=compression_ratio,
        hedges=sum(record.hedges for record in last),
        hedges_won=sum(record.hedges_won for record in last),
        plan=config.plan,
        staleness=config.staleness,
        late=[sum(counts) for counts in zip(*(record.staleness for record in last), strict=True)],
    )


def _adaptations(records: Sequence[RoundRecord]) -> Iterator[Adaptation]:
    for record in records:
        yield from record.adaptations


def _slowest(records: Sequence[RoundRecord]) -> dict[str, SlowestPeer]:
    by_peer: dict[int, dict[str, float]] = {}
    for record in records:
        by_peer[record.peer] = _sums([by_peer.get(record.peer, {}), record.phase_seconds])
    found = {}
    for phase in PHASES:
        seconds = {peer: phases[phase] for peer, phases in by_peer.items()}
        peer = max(sorted(seconds), key=lambda each: seconds[each])
        found[phase] = SlowestPeer(peer, seconds[peer], median(seconds.values()))
    return found


def _compression(records: Sequence[RoundRecord]) -> tuple[int, float]:
    """Return the bytes of exchanged gradients, and how many times as large they were without a codec."""
    exchange_bytes = sum(record.exchange_bytes for record in records)
    uncompressed_bytes = sum(record.uncompressed_bytes for record in records)
    return exchange_bytes, uncompressed_bytes / exchange_bytes if exchange_bytes else 1.0


def write(path: Path, summary: Summary) -> None:
    """Replace the file by this summary."""
    replace_file(path, messages.encode(summary) + b"\n")


def export_weights(path: Path, num_classes: int, config: RunConfig, state: FlatState) -> None:
    """Write the weights under the model's own names: `safetensors.torch.load_file`, `load_state_dict`."""
    layout = Layout.of(build(config.model, num_classes))
    named = {name: tensor.contiguous() for name, tensor in layout.to_state_dict(state).items()}
    with writing(path, (OSError, SafetensorError)):
        save_file(named, path, metadata={"model": config.model.name, "run": config.run})


def _sums(counts: Iterable[dict[str, Number]]) -> dict[str, Number]:
    sums: dict[str, Number] = {}
    for counted in counts:
        for name, number in counted.items():
            sums[name] = sums[name] + number if name in sums else number
    return sums
