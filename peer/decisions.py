"""Decisions that change or end a run: pure functions of what every peer reads in one round's manifests."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from peer.config import RunConfig
from peer.messages import Evaluation, Message, PeerManifest


class Progress(Message, frozen=True):
    """What all peers remember from round to round; part of every checkpoint.

    `micro_batch` is what the next round begins with: what fitted all peers in the last one.
    """

    learning_rate: float
    best_loss: float | None = None
    best_round: int = -1
    evaluations_since_best: int = 0
    evaluations_since_change: int = 0
    micro_batch: int = 0


class Decision(NamedTuple):
    """What all peers do after a round, and why: `stop_reason` is empty while the run goes on."""

    progress: Progress
    stop_reason: str
    stop_signal: int
    validation: Evaluation | None


def total(evaluations: Sequence[Evaluation | None]) -> Evaluation | None:
    """Return the sum of evaluations in peer order (float64), None if no peer has one."""
    present = [evaluation for evaluation in evaluations if evaluation is not None]
    if not present:
        return None
    loss_sum = 0.0
    for evaluation in present:
        loss_sum += evaluation.loss_sum
    return Evaluation(
        num_samples=sum(evaluation.num_samples for evaluation in present),
        num_correct=sum(evaluation.num_correct for evaluation in present),
        loss_sum=loss_sum,
    )


def ends_with_meeting(config: RunConfig, round_number: int, last_round: int | None) -> bool:
    """Return whether after this round nothing is missing to any peer, and their weights are one.

    With peers in step that is every round; else each before a checkpoint, and the last.
    """
    after, every = round_number + 1, config.checkpoint_every
    is_before_checkpoint = every > 0 and after % every == 0
    is_last = after == config.rounds or round_number == last_round
    return not config.staleness or is_before_checkpoint or is_last


def decide_rounds(
    config: RunConfig, progress: Progress, rounds: Sequence[Sequence[PeerManifest]]
) -> Decision:
    """Return what follows from the manifests of no, one or several rounds, oldest first.

    The first reason to stop counts.
    """
    decision = Decision(progress, "", 0, None)
    for manifests in rounds:
        latest = decide(config, decision.progress, manifests)
        first = decision if decision.stop_reason else latest
        decision = Decision(
            latest.progress, first.stop_reason, first.stop_signal, latest.validation or decision.validation
        )
    return decision


def decide(config: RunConfig, progress: Progress, manifests: Sequence[PeerManifest]) -> Decision:
    """Return what follows from one round's manifests, given in peer order.

    Every peer calls this with the same arguments and so comes to the same decision without a further message.
    """
    validation = total([manifest.validation for manifest in manifests])
    round_number = manifests[0].round
    reason = ""
    micro_batch = smallest_split(manifest.micro_batch for manifest in manifests)
    progress = msgspec.structs.replace(progress, micro_batch=micro_batch)
    if validation is not None and validation.num_samples:
        progress = _after_evaluation(config, progress, round_number, validation)
        if 0 < config.early_stop.patience <= progress.evaluations_since_best:
            reason = (
                f"held-out loss has not fallen for {progress.evaluations_since_best} evaluations "
                f"(best {progress.best_loss:.4f} in round {progress.best_round})"
            )
    stopping = [manifest for manifest in manifests if manifest.stop]
    if stopping:
        return Decision(progress, f"peer {stopping[0].peer} was asked to stop", stopping[0].stop, validation)
    return Decision(progress, reason, 0, validation)


def smallest_split(micro_batches: Iterable[int]) -> int:
    """Return the smallest of these micro-batches, of which 0 stands for whole batches."""
    return min((size for size in micro_batches if size), default=0)


def _after_evaluation(
    config: RunConfig, progress: Progress, round_number: int, validation: Evaluation
) -> Progress:
    loss = validation.loss_sum / validation.num_samples
    if progress.best_loss is None or loss < progress.best_loss - config.early_stop.min_delta:
        return msgspec.structs.replace(
            progress,
            best_loss=loss,
            best_round=round_number,
            evaluations_since_best=0,
            evaluations_since_change=0,
        )
    since_change = progress.evaluations_since_change + 1
    learning_rate = progress.learning_rate
    if 0 < config.plateau.patience <= since_change:
        learning_rate *= config.plateau.factor
        since_change = 0
    return msgspec.structs.replace(
        progress,
        learning_rate=learning_rate,
        evaluations_since_best=progress.evaluations_since_best + 1,
        evaluations_since_change=since_change,
    )
