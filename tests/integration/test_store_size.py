"""Rounds leave nothing behind: a run's objects are as many bytes after 200 rounds as after 20."""

import re

import pytest
from harness import WITHOUT_FUNCTIONS, Runner

from peer.records.rounds import RoundRecord
from peer.store import keys

pytestmark = pytest.mark.slow


def stored_bytes(runner: Runner, run: str) -> int:
    return sum(length for _, length in runner.store.list(keys.run(run)))


def test_store_after_200_rounds_is_as_large_as_after_20(local_runner: Runner) -> None:
    small = {"compute": "local", "num_peers": 2, "batch_size": 2, "evaluate_every": 0, "checkpoint_every": 10}

    local_runner.train("short", rounds=20, **small)
    local_runner.train("long", rounds=200, **small)

    short, long = stored_bytes(local_runner, "short"), stored_bytes(local_runner, "long")
    assert short > 1_000_000
    assert long == pytest.approx(short, rel=0.1)


@pytest.mark.parametrize(
    ("strategy", "staleness"), [*((name, 0) for name in WITHOUT_FUNCTIONS), ("all_gather", 2)]
)
def test_finished_run_has_only_its_result_and_two_checkpoints(
    local_runner: Runner, strategy: str, staleness: int
) -> None:
    run, settings = f"{strategy}-{staleness}", {"exchange": strategy, "staleness": staleness}
    local_runner.train(run, compute="local", rounds=6, evaluate_every=0, **settings)

    prefix = keys.run(run)
    found = {key.removeprefix(prefix) for key, _ in local_runner.store.list(prefix)}

    assert {re.sub(r"[0-9a-f]{64}", "SHA", key) for key in found} == {
        "config.json",
        "weights/SHA",
        "checkpoints/4/manifest.json",
        "checkpoints/4/shared",
        "checkpoints/6/manifest.json",
        "checkpoints/6/shared",
        *(f"g0/rounds/6/{peer}.json" for peer in range(4)),
        *(f"members/{peer}.json" for peer in range(4)),
    }


def test_run_of_peers_apart_keeps_few_rounds(local_runner: Runner) -> None:
    staleness, num_rounds, most = 2, 24, 0

    def count(_record: RoundRecord) -> None:
        nonlocal most
        stored = [key for key, _ in local_runner.store.list(keys.generation("apart", 0))]
        most = max(most, len({match[1] for key in stored if (match := re.search(r"/rounds/(\d+)/", key))}))

    small = {"compute": "local", "num_peers": 2, "batch_size": 2, "evaluate_every": 0, "checkpoint_every": 0}
    local_runner.train("apart", count, rounds=num_rounds, staleness=staleness, **small)

    assert 2 <= most <= num_rounds / 2


def test_kept_objects_are_kept(local_runner: Runner) -> None:
    local_runner.train("kept", compute="local", rounds=2, keep_objects=True)

    found = [key for key, _ in local_runner.store.list(keys.run("kept"))]

    # two rounds' manifests with their gradients, and the last evaluation's
    assert sum(re.search(r"/rounds/\d/\d\.json$", key) is not None for key in found) == 3 * 4
