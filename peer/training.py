"""The round loop: data-parallel SGD among peers whose gradients are computed by functions.

Barrak et al., "Exploring the Impact of Serverless Computing on Peer To Peer Training Machine Learning" (IC2E
2023, arXiv 2309.14139), with one step for every `batches_per_round` batches a peer; all of them is the
paper's setting. Peers are in step, or, with `staleness`, so many rounds apart (`peer.exchange.pace`).
"""

from dataclasses import dataclass

from msgspec.structs import replace

from peer.aggregation import Gradient
from peer.allocation.adaptation import Adapter
from peer.checkpoint import Checkpoints
from peer.compute import Compute
from peer.config import RunConfig, RunStart
from peer.decisions import (
    Decision,
    Progress,
    decide_rounds,
    ends_with_meeting,
    smallest_split,
    total,
)
from peer.errors import StopRequested, TrainingDiverged
from peer.exchange import Pace
from peer.garbage import Garbage
from peer.learning.flat import FlatState
from peer.learning.optimizers import FlatOptimizer
from peer.local.signals import StopFlag
from peer.messages import Evaluation, PeerManifest, StoredObject
from peer.records.phases import PhaseClock
from peer.records.rounds import RoundLog, Work
from peer.rendezvous import Rendezvous
from peer.weights import Weights


@dataclass(frozen=True)
class Parts:
    """What one peer works with; each is described in its own module."""

    weights: Weights
    compute: Compute
    adapter: Adapter
    pace: Pace
    rendezvous: Rendezvous
    checkpoints: Checkpoints
    garbage: Garbage
    log: RoundLog
    work: Work
    clock: PhaseClock
    stop: StopFlag


@dataclass
class State:
    """What changes from round to round; after a meeting it is equal on all peers.

    The optimizer owns the parameters. `last_round` is None while nothing but the run's length ends it;
    `has_met` says whether there was a meeting just before `round`, or is one after it.
    """

    round: int
    model: FlatState
    optimizer: FlatOptimizer
    progress: Progress
    stop_reason: str = ""
    stop_signal: int = 0
    last_round: int | None = None
    has_met: bool = True

    @property
    def has_stopped(self) -> bool:
        """Whether the last round is over, and was so for a reason."""
        return self.last_round is not None and self.round > self.last_round


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its last weights, and what they make of the test split."""

    rounds: int
    weights: StoredObject
    model: FlatState
    test: Evaluation | None
    progress: Progress
    stop_reason: str


class Peer:
    """One peer of a run.

    Args:
        config: the run's, equal on all peers.
        start: which generation, from which round.
        manifest: this peer's manifest of the first round, but for what the round itself fills in.
        parts: what it works with.
    """

    def __init__(self, config: RunConfig, start: RunStart, manifest: PeerManifest, parts: Parts) -> None:
        self._config = config
        self._start = start
        self._manifest = manifest
        self._left: list[tuple[int, list[str]]] = []
        self._parts = parts

    def train(self, state: State) -> Outcome:
        """Return the outcome once all rounds are done, or the run has stopped early.

        Raises:
            StopRequested: a signal reached one of the peers; the round was completed and checkpointed.
            MembershipError, StoreError, FunctionError, TrainingDiverged: the run cannot go on; its last
                checkpoint is complete.
        """
        weights = self._publish(state)
        while state.round < self._config.rounds and not state.has_stopped:
            self._round(state, weights)
            state.round += 1
            weights = self._publish(state)
        if state.stop_signal:
            raise StopRequested(
                f"{state.stop_reason}: run {self._config.run} stopped after {state.round} rounds and is "
                f"checkpointed. Go on with `peerless resume {self._config.run}`",
                state.stop_signal,
            )
        return self._finish(state, weights)

    def _round(self, state: State, weights: StoredObject) -> None:
        config, parts, clock = self._config, self._parts, self._parts.clock
        manifest = self._manifest_of(state.round, weights)
        state.has_met = ends_with_meeting(config, state.round, state.last_round)
        # what all have agreed on may be some rounds old, and this peer's own memory be short since
        micro_batch = smallest_split([state.progress.micro_batch, parts.adapter.micro_batch])
        parts.adapter.begin(state.round, micro_batch)

        if config.evaluate_every and state.round % config.evaluate_every == 0:
            with clock.phase("evaluate"):
                validation = parts.compute.evaluate(state.round, weights, "validation")
                manifest = replace(manifest, validation=validation)

        learning_rate = state.progress.learning_rate
        gradient, training = parts.compute.gradient(state.round, weights, learning_rate)

        with clock.phase("exchange"):
            manifest = replace(
                manifest,
                training=training,
                stop=parts.stop.signal_number,
                micro_batch=parts.adapter.micro_batch,
            )
            step = parts.pace.step(gradient, manifest, is_meeting=state.has_met)

        with clock.phase("update"):
            decision = decide_rounds(config, state.progress, step.decided)
            gradient_norm = self._update(state, step.mean, decision)
            self._delete_read(step.read_before)
            self._left.append((state.round, step.objects))
        if state.has_met:
            with clock.phase("exchange"):
                self._left.append((state.round, parts.pace.meet(state.optimizer, step)))
        parts.log.write(step, decision, gradient_norm, clock.take(), parts.work.take() | clock.take_use())

    def _publish(self, state: State) -> StoredObject:
        """Return this round's weights once they are in the store, and in a checkpoint if one is due."""
        parts, every = self._parts, self._config.checkpoint_every
        with parts.clock.phase("publish"):
            weights = parts.weights.publish(state.round, state.model, is_shared=state.has_met)
            is_stopped = state.has_stopped and state.stop_signal
            is_due = is_stopped or (every and state.round % every == 0)
            if is_due and state.round != self._start.resumed_round:
                parts.checkpoints.write(state.round, weights, state.optimizer, state.progress)
        return weights

    def _update(self, state: State, mean: Gradient, decision: Decision) -> float:
        """Take one optimizer step, in place, and return the norm of the gradient."""
        gradient_norm = float(mean.values.norm())
        if not gradient_norm < float("inf"):
            raise TrainingDiverged(
                f"round {state.round} of run {self._config.run}: the mean gradient has norm {gradient_norm}. "
                "Try a smaller --learning-rate"
            )
        if not self._config.local_steps:
            state.optimizer.learning_rate = decision.progress.learning_rate
        state.optimizer.step(mean.values)
        state.model = FlatState(state.optimizer.parameters, mean.buffers, mean.counters)
        state.progress = decision.progress
        if decision.stop_reason and state.last_round is None:
            state.stop_reason, state.stop_signal = decision.stop_reason, decision.stop_signal
            # all peers decide this in the same round, and a run ends with a meeting: this one, or the next
            state.last_round = state.round if state.has_met else state.round + 1
        return gradient_norm

    def _finish(self, state: State, weights: StoredObject) -> Outcome:
        """Evaluate the test split, this once, each peer its part; everyone learns the sum."""
        parts = self._parts
        manifest = self._manifest_of(state.round, weights)
        test = parts.compute.evaluate(state.round, weights, "test")
        manifest = replace(manifest, test=test)
        parts.rendezvous.publish(manifest)
        manifests = list(parts.rendezvous.collect(manifest))
        self._delete_read(manifest.round)
        parts.weights.finish()
        return Outcome(
            rounds=state.round,
            weights=weights,
            model=state.model,
            test=total([theirs.test for theirs in manifests]),
            progress=state.progress,
            stop_reason=state.stop_reason,
        )

    def _manifest_of(self, round_number: int, weights: StoredObject) -> PeerManifest:
        sha256 = weights.checksum.removeprefix("sha256:")
        return replace(self._manifest, round=round_number, weights_sha256=sha256)

    def _delete_read(self, read_before: int) -> None:
        """Delete what this peer has left in rounds that everybody has read."""
        for number, objects in self._left:
            if number < read_before:
                self._parts.garbage.delete(objects)
        self._left = [(number, objects) for number, objects in self._left if number >= read_before]
