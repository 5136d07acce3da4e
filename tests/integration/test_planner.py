"""Runs with `--optimize` on a real platform: measured once, planned, frozen, in force, and put back."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import LocalPlatform, Runner, child_of_rank

from peer import runs
from peer.allocation.planning import in_force
from peer.allocation.plans import TARGETS
from peer.config import RunConfig, RunStart
from peer.errors import PeerlessError
from peer.gateway import Gateway
from peer.local.gateway import ready_replicas
from peer.records import rounds, summary
from peer.records.rounds import RoundRecord
from peer.sizes import MIB, parse_size
from peer.store.retry import Patience, retry

pytestmark = pytest.mark.slow

WIDE = {
    "dataset": "synthetic-1600-1x20x20",
    "num_peers": 2,
    "rounds": 2,
    "batch_size": 64,
    "batches_per_round": 6,
    "batches_per_invocation": 0,
    "evaluate_every": 0,
    "checkpoint_every": 0,
}
GENEROUS = {"largest_memory_bytes": 4096 * MIB, "most_replicas": 3}


@dataclass
class Function:
    """The gradient function as the gateway describes it."""

    gateway: Gateway

    def sizes(self) -> tuple[int, str]:
        found = self.gateway.describe("gradient")
        return found["replicas"], found["limits"]["memory"]

    def num_invocations(self) -> int:
        return int(self.gateway.describe("gradient")["invocationCount"])


@pytest.fixture(scope="module")
def function(platform: LocalPlatform) -> Iterator[Function]:
    """The function with replicas that have done nothing yet: what they hold is what a run needs."""
    gateway = Gateway(platform.gateway)
    gateway.scale("gradient", 0)
    gateway.scale("gradient", 2)
    retry(lambda: ready_replicas(gateway, "gradient"), Patience(60.0, longest_seconds=0.1))
    yield Function(gateway)


@pytest.fixture(scope="module")
def runner(platform: LocalPlatform, tmp_path_factory: pytest.TempPathFactory, function: Function) -> Runner:
    return Runner(platform.surroundings(tmp_path_factory.mktemp("planned")))


def planned(runner: Runner, name: str, **changes: object) -> tuple[RunConfig, list[str]]:
    """Return a new run's configuration, and what was said of it."""
    lines: list[str] = []
    return runner.create(name, lines.append, **(WIDE | changes)), lines


@pytest.mark.parametrize("target", TARGETS)
def test_run_follows_its_plan_and_leaves_the_function_as_it_was(
    runner: Runner, function: Function, target: str
) -> None:
    before, during = function.sizes(), []

    def look(record: RoundRecord) -> None:
        during.append(function.sizes())

    config, lines = planned(runner, f"plan-{target}", optimize=target, **GENEROUS)
    with in_force(config, runner.surroundings.gateway):
        results = runner.go(config, RunStart(), look)

    plan = config.plan
    assert plan is not None and plan == runs.load(runner.store, config.run).plan
    assert (config.batches_per_invocation, config.micro_batch) == (
        plan.batches_per_invocation,
        plan.micro_batch,
    )
    assert [line for line in lines if line.startswith(f"plan for {target}: ")] == [
        f"plan for {target}: {reason}" for reason in plan.reasons
    ]
    # the autoscaler may add replicas
    assert parse_size(during[0][1]) == plan.limit_bytes
    assert min(replicas for replicas, _ in during) >= plan.replicas
    assert function.sizes()[1] == before[1]
    assert len({result.weights.checksum for result in results}) == 1
    records = rounds.read(runner.surroundings.directory / config.run / "rounds.jsonl")
    assert {record.invocations for record in records} == {-(-6 // plan.batches_per_invocation)}
    assert {record.micro_batch for record in records} == {plan.micro_batch}
    assert summary.summarise(config, results[0], records, 1000).plan == plan
    if target != "time":
        assert plan.limit_bytes < parse_size(before[1])


@pytest.mark.parametrize("how", ["signalled", "lost"])
def test_function_is_as_it_was_after_a_run_that_ends_early(
    runner: Runner, function: Function, how: str
) -> None:
    before, during = function.sizes(), []
    config, _ = planned(runner, f"plan-{how}", optimize="memory", rounds=50, **GENEROUS)

    def look_and_end(record: RoundRecord) -> None:
        during.append(function.sizes()[1])
        if len(during) == 1 and how == "signalled":
            os.kill(os.getpid(), signal.SIGINT)
        elif len(during) == 1:
            os.kill(child_of_rank(1), signal.SIGKILL)

    with pytest.raises(PeerlessError), in_force(config, runner.surroundings.gateway):
        runner.go(config, RunStart(), look_and_end)

    assert 0 < len(during) < 100
    assert parse_size(during[0]) < parse_size(before[1])
    assert function.sizes()[1] == before[1]


def test_profile_that_a_run_has_measured_is_the_next_runs(runner: Runner, function: Function) -> None:
    (_, first), before = (
        planned(runner, "measuring", batch_size=48, optimize="time"),
        function.num_invocations(),
    )
    (again, second), after = (
        planned(runner, "reusing", batch_size=48, optimize="cost"),
        function.num_invocations(),
    )

    assert any(line.startswith("profile measured by ") for line in first)
    assert "profile as run measuring measured it" in second
    assert after == before + 1
    assert again.plan is not None and again.plan.target == "cost"


def test_what_is_asked_for_is_what_the_run_has(runner: Runner) -> None:
    asked = {"batches_per_invocation": 5, "micro_batch": 16}

    config, _ = planned(runner, "asked", optimize="memory", **asked)

    assert (config.batches_per_invocation, config.micro_batch) == (5, 16)


def test_explain_compares_the_targets(platform: LocalPlatform, runner: Runner, tmp_path: Path) -> None:
    planned(runner, "explained", optimize="time")
    program = str(Path(sys.executable).with_name("peerless"))
    options = ["--dataset", str(WIDE["dataset"]), "--model-arguments", "{input_size: 20}", "--peers", "2"]
    options += ["--batches-per-round", "6", "--optimize", "memory", "--state-dir"]

    done = subprocess.run(
        [program, "explain", *options, str(platform.options.state_dir)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines if line.startswith(TARGETS)] == list(TARGETS)
    assert any(line.startswith("  predicted: ") for line in lines)
