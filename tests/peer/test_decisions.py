import signal

import pytest
from harness import SMALL
from msgspec.structs import replace

from peer.config import EarlyStopSpec, PlateauSpec, RunConfig
from peer.decisions import Progress, decide, decide_rounds, ends_with_meeting, total
from peer.messages import Evaluation, PeerManifest

STOP_AFTER_TWO = replace(SMALL, early_stop=EarlyStopSpec(patience=2))


def manifests(
    round_number: int, loss: float | None = None, stop: tuple[int, ...] = (0, 0, 0, 0)
) -> list[PeerManifest]:
    validation = None if loss is None else Evaluation(num_samples=10, num_correct=5, loss_sum=10 * loss)
    return [
        PeerManifest(
            run="run",
            generation=0,
            round=round_number,
            peer=peer,
            incarnation="",
            weights_sha256="",
            cpu="",
            validation=validation,
            training=Evaluation(num_samples=peer, num_correct=1, loss_sum=0.5),
            stop=stop[peer],
        )
        for peer in range(4)
    ]


def after(config: RunConfig, losses: list[float | None]) -> tuple[Progress, str]:
    progress, reason = Progress(learning_rate=1.0), ""
    for round_number, loss in enumerate(losses):
        decision = decide(config, progress, manifests(round_number, loss))
        progress, reason = decision.progress, decision.stop_reason
    return progress, reason


def test_rounds_without_evaluation_change_nothing() -> None:
    progress, reason = after(STOP_AFTER_TWO, [None] * 5)

    assert (progress, reason) == (Progress(learning_rate=1.0), "")


def test_better_loss_is_remembered_with_its_round() -> None:
    progress, _ = after(STOP_AFTER_TWO, [2.0, None, 1.0, 1.5])

    assert (progress.best_loss, progress.best_round, progress.evaluations_since_best) == (1.0, 2, 1)


@pytest.mark.parametrize(
    ("losses", "is_over"), [([1.0, 1.0], False), ([1.0, 1.0, 1.0], True), ([1.0, 1.0, 0.9, 1.0], False)]
)
def test_early_stop_after_two_evaluations_without_gain(losses: list[float | None], is_over: bool) -> None:
    _, reason = after(STOP_AFTER_TWO, losses)

    assert bool(reason) == is_over
    assert not is_over or "has not fallen for 2 evaluations (best 1.0000 in round 0)" in reason


def test_gain_below_min_delta_is_none() -> None:
    config = replace(SMALL, early_stop=EarlyStopSpec(patience=2, min_delta=0.1))

    _, reason = after(config, [1.0, 0.95, 0.91])

    assert reason


def test_plateau_lowers_the_rate_and_counts_anew() -> None:
    config = replace(SMALL, plateau=PlateauSpec(patience=2, factor=0.5))

    rates = [after(config, [1.0] * count)[0].learning_rate for count in range(1, 6)]

    assert rates == [1.0, 1.0, 0.5, 0.5, 0.25]


def test_stop_of_one_peer_stops_all_and_says_whose() -> None:
    signalled = manifests(3, stop=(0, 0, signal.SIGTERM, signal.SIGINT))

    decision = decide(SMALL, Progress(learning_rate=1.0), signalled)

    assert decision.stop_signal == signal.SIGTERM
    assert decision.stop_reason == "peer 2 was asked to stop"


def test_total_adds_in_peer_order_and_leaves_out_peers_without() -> None:
    parts = [Evaluation(num_samples=1, num_correct=1, loss_sum=loss) for loss in (1e16, 1.0, -1e16)]

    summed = total([parts[0], None, parts[1], parts[2]])

    assert summed == Evaluation(num_samples=3, num_correct=3, loss_sum=(1e16 + 1.0) - 1e16)
    assert total([None, None]) is None


@pytest.mark.parametrize(
    ("before", "used", "after"), [(0, (0, 0, 0, 0), 0), (0, (0, 8, 0, 4), 4), (8, (8, 8, 8, 8), 8)]
)
def test_next_round_begins_with_the_smallest_micro_batch(
    before: int, used: tuple[int, ...], after: int
) -> None:
    found = [replace(manifest, micro_batch=size) for manifest, size in zip(manifests(0), used, strict=True)]

    decision = decide(SMALL, Progress(learning_rate=1.0, micro_batch=before), found)

    assert decision.progress.micro_batch == after


def test_rounds_are_decided_one_after_the_other() -> None:
    rounds = [manifests(number, loss) for number, loss in enumerate((2.0, 1.0, 1.5))]

    together = decide_rounds(STOP_AFTER_TWO, Progress(learning_rate=1.0), rounds)

    one_by_one, _ = after(STOP_AFTER_TWO, [2.0, 1.0, 1.5])
    assert together.progress == one_by_one
    assert together.validation == total([manifest.validation for manifest in rounds[-1]])


def test_no_round_decides_nothing_and_the_first_reason_to_stop_counts() -> None:
    progress = Progress(learning_rate=1.0)
    signalled = [manifests(3, stop=(0, number, 0, 0)) for number in (signal.SIGTERM, signal.SIGINT)]

    nothing = decide_rounds(SMALL, progress, [])
    stopped = decide_rounds(SMALL, progress, [*signalled, manifests(5)])

    assert (nothing.progress, nothing.stop_reason, nothing.stop_signal) == (progress, "", 0)
    assert (stopped.stop_reason, stopped.stop_signal) == ("peer 1 was asked to stop", signal.SIGTERM)


@pytest.mark.parametrize(
    ("staleness", "every", "last_round", "meetings"),
    [(0, 0, None, [0, 1, 2, 3, 4, 5]), (2, 3, None, [2, 5]), (2, 0, None, [5]), (2, 4, 1, [1, 3, 5])],
)
def test_peers_meet_before_checkpoints_and_after_the_last_round(
    staleness: int, every: int, last_round: int | None, meetings: list[int]
) -> None:
    config = replace(SMALL, rounds=6, staleness=staleness, checkpoint_every=every)

    assert [number for number in range(6) if ends_with_meeting(config, number, last_round)] == meetings
