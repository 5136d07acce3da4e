"""Runs in which peers exchange once in several steps: K-AVG, and DiLoCo's outer momentum."""

import os
import signal
from typing import Any

import pytest
import torch
from harness import LocalPlatform, Runner
from plain_pytorch import read_samples
from safetensors.torch import load_file
from torch import nn

from peer import session
from peer.config import EXCHANGES, OuterSpec
from peer.errors import PeerlessError, TrainingDiverged
from peer.learning.datasets import catalogue
from peer.learning.flat import Layout
from peer.learning.gradients import batch_seed
from peer.learning.models import build
from peer.learning.shards import plan_shards
from peer.messages import OptimizerSpec
from peer.records.rounds import RoundRecord
from peer.weights import fetch

pytestmark = pytest.mark.slow

STEPS = 4
AVERAGED = {"local_steps": STEPS, "batches_per_round": STEPS, "batches_per_invocation": STEPS}
DILOCO: dict[str, Any] = {**AVERAGED, "outer": OuterSpec(learning_rate=0.7, momentum=0.9)}


@pytest.fixture(scope="module")
def runner(platform: LocalPlatform, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(platform.surroundings(tmp_path_factory.mktemp("local-steps")))


@pytest.fixture(scope="module")
def reference(runner: Runner) -> str:
    return runner.train("diloco", **DILOCO)[0].weights.checksum


@pytest.mark.parametrize("strategy", EXCHANGES)
def test_run_has_the_same_weights_however_it_exchanges(runner: Runner, reference: str, strategy: str) -> None:
    results = runner.train(f"diloco-{strategy}", **DILOCO, exchange=strategy)

    assert {result.weights.checksum for result in results} == {reference}


def test_run_computed_by_the_peers_has_the_same_weights(runner: Runner, reference: str) -> None:
    results = runner.train("diloco-local", **DILOCO, compute="local")

    assert results[0].weights.checksum == reference


def test_stopped_run_goes_on_with_its_momentum(runner: Runner, reference: str) -> None:
    def stop(record: RoundRecord) -> None:
        if (record.round, record.peer) == (3, 0):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(PeerlessError, match="checkpointed"):
        runner.train("diloco-stopped", stop, **DILOCO)
    results = runner.resume("diloco-stopped")

    assert {result.weights.checksum for result in results} == {reference}


def test_run_exchanges_as_often_as_it_has_rounds(runner: Runner) -> None:
    each: list[RoundRecord] = []
    seldom: list[RoundRecord] = []

    runner.train("each", each.append, rounds=8, batches_per_round=1)
    runner.train("seldom", seldom.append, rounds=8 // STEPS, **AVERAGED)

    def sent(records: list[RoundRecord]) -> int:
        return sum(record.object_bytes["put"] for record in records)

    assert sum(record.num_samples for record in each) == sum(record.num_samples for record in seldom)
    assert 0.8 < sent(each) / sent(seldom) / STEPS < 1.2


def test_one_peer_that_averages_with_itself_is_plain_pytorch(local_runner: Runner) -> None:
    config = local_runner.create(
        "alone",
        **AVERAGED,
        num_peers=1,
        rounds=3,
        optimizer=OptimizerSpec(name="sgd", learning_rate=0.05, momentum=0.9),
        evaluate_every=0,
        compute="local",
        keep_objects=True,
    )
    manifest = catalogue.find(local_runner.store, config.dataset)
    samples = read_samples(local_runner, manifest)
    (shard,) = plan_shards(manifest, 1, "iid", 0)
    plain = build(config.model, manifest.num_classes)
    first = fetch(local_runner.store, session.initial_weights(config))
    plain.load_state_dict(Layout.of(plain).to_state_dict(first))
    for round_number in range(3):
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)
        for index in range(round_number * STEPS, (round_number + 1) * STEPS):
            chosen = torch.cat([torch.arange(start, stop) for start, stop in shard.batch(index, 16)[1]])
            torch.manual_seed(batch_seed(0, round_number, 0, index))
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(plain(samples.images[chosen]), samples.labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    local_runner.go(config, session.RunStart())

    trained = load_file(local_runner.surroundings.directory / "alone" / "model.safetensors")
    begun = Layout.of(plain).to_state_dict(first)
    plainly = {name: tensor for name, tensor in plain.state_dict().items() if tensor.is_floating_point()}
    moved, differed = (
        torch.cat([(plainly[name] - other[name]).flatten() for name in plainly]).norm().item()
        for other in (begun, trained)
    )
    assert differed < 1e-2 * moved


def test_steps_that_diverge_end_the_run_with_the_peer_named(local_runner: Runner) -> None:
    rate = OptimizerSpec(name="sgd", learning_rate=1e30)

    with pytest.raises(PeerlessError, match=r"peer \d, round 0 of run diverging: .*learning rate") as failure:
        local_runner.train("diverging", **AVERAGED, optimizer=rate, compute="local")

    assert failure.value.exit_code == TrainingDiverged.exit_code


def test_steps_that_may_take_too_long_are_noticed_before_the_first_round(local_runner: Runner) -> None:
    said: list[str] = []

    local_runner.create("long", said.append, **AVERAGED, compute="local", invocation_seconds=1e-6)

    assert any(line.startswith("local steps") and "--invocation-timeout" in line for line in said)
