"""A gateway without a queue that has fewer replicas than a peer keeps busy: it really answers 429."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import LocalPlatform, OnRecord, Runner, ignore

from peer.config import RunConfig, RunStart
from peer.gateway import Gateway, specification_of
from peer.invocations.in_flight import BUSY_REPLIES
from peer.local import gateway as local_gateway
from peer.local.gateway import ready_replicas
from peer.records import rounds, summary
from peer.records.rounds import RoundRecord
from peer.records.summary import Summary
from peer.store.retry import Patience, retry

pytestmark = pytest.mark.slow

WIDTH = 3
LONG_ENOUGH = {
    "dataset": "synthetic-3200-1x20x20",
    "num_peers": 1,
    "rounds": 3,
    "batch_size": 256,
    "batches_per_round": 6,
    "evaluate_every": 0,
    "checkpoint_every": 0,
}


@pytest.fixture
def without_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalPlatform]:
    """A platform whose gateway lets nothing wait for a replica."""
    command = local_gateway._command

    def with_no_queue(arguments: list[str]) -> list[str]:
        return command(arguments) + (["--max-waiting", "0"] if arguments[0] == "serve" else [])

    monkeypatch.setattr(local_gateway, "_command", with_no_queue)
    platform = LocalPlatform(tmp_path / "platform", store_server="nanio")
    platform.directory.mkdir()
    try:
        platform.up()
        yield platform
    finally:
        platform.down()


def hold_replicas(gateway: Gateway, number: int) -> None:
    """Return once the function has exactly so many replicas, which the autoscaler leaves alone."""
    found = gateway.describe("gradient")
    bounds = {f"com.openfaas.scale.{bound}": str(number) for bound in ("min", "max")}
    gateway.update({**specification_of(found), "labels": found["labels"] | bounds})
    gateway.scale("gradient", number)
    assert retry(lambda: ready_replicas(gateway, "gradient"), Patience(120.0, longest_seconds=0.1)) == number


def go(runner: Runner, config: RunConfig, on_record: OnRecord) -> tuple[Summary, str]:
    (result,) = runner.go(config, RunStart(), on_record)
    records = rounds.read(runner.surroundings.directory / config.run / "rounds.jsonl")
    return summary.summarise(config, result, records, 1000), result.weights.checksum


def test_refused_invocations_are_fewer_at_once_and_end_with_the_same_weights(
    without_queue: LocalPlatform, tmp_path: Path
) -> None:
    gateway = Gateway(without_queue.gateway)
    hold_replicas(gateway, WIDTH)
    runner = Runner(without_queue.surroundings(tmp_path / "runs"))
    has_shrunk: list[int] = []

    def shrink(record: RoundRecord) -> None:
        if not has_shrunk:
            has_shrunk.append(record.round)
            hold_replicas(gateway, 1)

    config = runner.create("refused", **LONG_ENOUGH)
    found, weights = go(runner, config, shrink)

    undisturbed = runner.create("undisturbed", **LONG_ENOUGH)
    calm, expected = go(runner, undisturbed, ignore)
    assert has_shrunk == [0]
    assert found.retries["FunctionBusy"] >= BUSY_REPLIES
    changes = [(each.what, each.before, each.after) for each in found.adaptations]
    assert ("in_flight", WIDTH, WIDTH - 1) in changes
    assert {what for what, _, _ in changes} == {"in_flight"}
    assert calm.retries.get("FunctionBusy", 0) == 0
    assert weights == expected
