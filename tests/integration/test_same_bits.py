"""Runs of one configuration end with the same weights, wherever and on however many replicas."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from harness import LocalPlatform, Runner

from peer.config import EXCHANGES
from peer.gateway import Gateway
from peer.records.rounds import RoundRecord
from peer.store.retry import Patience, poll

pytestmark = pytest.mark.slow

OF_SEVERAL_PARTS = "synthetic-1500-1x96x96"


@pytest.fixture(scope="module")
def runner(platform: LocalPlatform, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(platform.surroundings(tmp_path_factory.mktemp("same-bits")))


@pytest.fixture(scope="module")
def reference(runner: Runner) -> str:
    return runner.train("reference")[0].weights.checksum


def test_run_again_has_the_same_weights(runner: Runner, reference: str) -> None:
    records: list[RoundRecord] = []

    results = runner.train("again", records.append)

    assert {result.weights.checksum for result in results} == {reference}
    by_round = defaultdict(set)
    for record in records:
        by_round[record.round].add(record.weights_sha256)
    assert len(records) == 4 * 6
    assert all(len(weights) == 1 for weights in by_round.values())
    assert len(set().union(*by_round.values())) == 6


@pytest.mark.parametrize("replicas", [1, 4])
def test_run_on_other_replicas_has_the_same_weights(
    platform: LocalPlatform, runner: Runner, reference: str, replicas: int
) -> None:
    gateway = Gateway(platform.gateway)
    gateway.scale("gradient", replicas)
    poll(
        lambda: gateway.describe("gradient")["availableReplicas"] == replicas or None,
        Patience(total_seconds=30.0),
    )

    results = runner.train(f"replicas-{replicas}")

    assert results[0].weights.checksum == reference


def test_run_computed_by_the_peers_has_the_same_weights(runner: Runner, reference: str) -> None:
    results = runner.train("local", compute="local")

    assert results[0].weights.checksum == reference


@pytest.mark.parametrize("strategy", EXCHANGES)
def test_run_has_the_same_weights_however_it_exchanges(runner: Runner, reference: str, strategy: str) -> None:
    results = runner.train(f"by-{strategy}", exchange=strategy)

    assert {result.weights.checksum for result in results} == {reference}


def test_run_that_measures_the_store_freezes_what_it_chose(runner: Runner, reference: str) -> None:
    said: list[str] = []

    config = runner.create("chosen", say=said.append, exchange="auto")
    results = runner.go(config)

    assert config.exchange in EXCHANGES
    assert [line.startswith(f"exchange {config.exchange}: ") for line in said] == [True]
    assert results[0].weights.checksum == reference


def test_run_that_fetches_ahead_has_the_same_weights(runner: Runner) -> None:
    settings = {"dataset": OF_SEVERAL_PARTS, "num_peers": 2, "rounds": 4, "evaluate_every": 0}
    apart = Runner(replace(runner.surroundings, is_overlapping=False))

    results = runner.train("with-overlap", **settings) + apart.train("without-overlap", **settings)

    assert len({result.weights.checksum for result in results}) == 1


def test_run_with_another_seed_has_other_weights(runner: Runner, reference: str) -> None:
    results = runner.train("other-seed", seed=1)

    assert results[0].weights.checksum != reference


def test_run_leaves_its_files(runner: Runner, reference: str) -> None:
    directory = runner.surroundings.directory / "reference"

    assert reference.startswith("sha256:")
    assert {path.name for path in directory.iterdir()} >= {"rounds.jsonl", "model.safetensors", "peer-0.log"}
    assert Path(directory / "model.safetensors").stat().st_size > 0
