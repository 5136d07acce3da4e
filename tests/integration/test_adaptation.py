"""Runs whose function has too little memory, on a real platform: they adapt, or say why they cannot."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import bare_gateway
import pytest
import requests
import torch
from bare_gateway import Telling
from harness import LocalPlatform, Runner, ignore
from safetensors.torch import load_file

from peer import runs
from peer.allocation.memory_limit import with_memory
from peer.config import RunConfig, RunStart
from peer.errors import OutOfMemory, PeerlessError
from peer.gateway import Gateway
from peer.messages import ModelSpec
from peer.records import rounds, summary
from peer.records.rounds import RoundRecord
from peer.records.summary import Summary
from peer.store.retry import Patience, poll

pytestmark = pytest.mark.slow

MIB = 1 << 20
AMPLE = 1024 * MIB
BATCH = 512
WIDE = {
    "dataset": "synthetic-1600-1x20x20",
    "num_peers": 2,
    "rounds": 4,
    "batch_size": BATCH,
    "batches_per_round": 1,
    "evaluate_every": 2,
}
RESNET = {"model": ModelSpec("resnet18", {"input_size": 20}), "batch_size": 64}
_PATIENT = Patience(total_seconds=120.0, longest_seconds=0.1)


class Starving:
    """A platform whose gradient function is given this limit and that."""

    def __init__(self, platform: LocalPlatform, directory: Path) -> None:
        self.platform = platform
        self.runner = Runner(platform.surroundings(directory))

    def limit(self, limit_bytes: int) -> None:
        """Give the function a limit, and return once a replica under it is there."""
        gateway = Gateway(self.platform.gateway)
        gateway.update(with_memory(gateway.describe("gradient"), limit_bytes))
        text = f"{limit_bytes // MIB}Mi"

        def probe() -> bool | None:
            found = gateway.describe("gradient")
            return (found["limits"]["memory"] == text and found["availableReplicas"] > 0) or None

        assert poll(probe, _PATIENT)

    def limit_now(self) -> str:
        return str(Gateway(self.platform.gateway).describe("gradient")["limits"]["memory"])

    def peak_bytes(self) -> int:
        """Return the most that one replica has used since the limit was set."""
        page = requests.get(f"{self.platform.gateway.url}/metrics", timeout=30).text
        return int(float(re.findall(r"^localfaas_memory_peak_bytes\{.*gradient\..*\} (\S+)", page, re.M)[0]))

    def train(self, name: str, on_record: Any = ignore, **changes: Any) -> Summary:
        """Train, and return the run's summary, for which the weights of all peers were equal."""
        config = self.runner.create(name, **(WIDE | changes))
        return self.go(config, on_record)

    def go(self, config: RunConfig, on_record: Any = ignore) -> Summary:
        results = self.runner.go(config, RunStart(), on_record)
        assert len({result.weights.checksum for result in results}) == 1
        records = rounds.read(self.runner.surroundings.directory / config.run / "rounds.jsonl")
        return summary.summarise(config, results[0], records, 1000)

    def weights(self, name: str) -> torch.Tensor:
        tensors = load_file(self.runner.surroundings.directory / name / "model.safetensors")
        return torch.cat([tensors[key].flatten() for key in sorted(tensors)])


@pytest.fixture(scope="module")
def starving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starving]:
    directory = tmp_path_factory.mktemp("starving")
    platform = LocalPlatform(directory)
    try:
        platform.up()
        yield Starving(platform, directory / "runs")
    finally:
        platform.down()


@pytest.fixture(scope="module")
def undisturbed(starving: Starving) -> Summary:
    starving.limit(AMPLE)
    return starving.train("undisturbed")


@pytest.fixture(scope="module")
def half(starving: Starving, undisturbed: Summary) -> int:
    """A limit that holds half of the batch and not all of it, in whole MiB.

    Replicas differ by some MiB in what they need, so it is a third of the way from one to the other.
    """
    assert undisturbed.adaptations == []
    whole_bytes = starving.peak_bytes()
    starving.limit(AMPLE)
    starving.train("halved", micro_batch=BATCH // 2, no_adapt=True)
    half_bytes = starving.peak_bytes()
    assert whole_bytes - half_bytes > 20 * MIB
    return (2 * half_bytes + whole_bytes) // 3 // MIB * MIB


def changes(found: Summary) -> list[tuple[str, int, int]]:
    return [(each.what, each.before, each.after) for each in found.adaptations]


def test_run_whose_function_holds_half_a_batch_splits_it_and_has_the_same_weights_to_float_error(
    starving: Starving, undisturbed: Summary, half: int
) -> None:
    starving.limit(half)

    found = starving.train("split")

    assert changes(found) == [("micro_batch", BATCH, BATCH // 2)]
    assert found.adaptations[0].reason == f"gradient ran out of memory 2 times at {half // MIB} MiB"
    assert found.weights_sha256 != undisturbed.weights_sha256
    torch.testing.assert_close(starving.weights("split"), starving.weights("undisturbed"), rtol=0, atol=1e-4)
    assert starving.limit_now() == f"{half // MIB}Mi"
    assert runs.load(starving.runner.store, "split").micro_batch == BATCH // 2

    again = starving.train("remembered")

    assert changes(again) == [("micro_batch", BATCH, BATCH // 2)]
    assert again.adaptations[0].reason == f"so run split fitted at {half // MIB} MiB"
    assert again.retries == {}
    assert again.functions["gradient"].out_of_memory == 0
    assert again.weights_sha256 == found.weights_sha256


@pytest.mark.parametrize(("telling", "batch"), [("502", BATCH - 1), ("reset", BATCH - 2)])
def test_kill_that_the_gateway_does_not_tell_of_is_adapted_to(
    starving: Starving, half: int, telling: Telling, batch: int
) -> None:
    """The function is really killed; a server before the gateway makes nothing of it, as OpenFaaS may."""
    starving.limit(half)
    runner, name = starving.runner, f"untold-{telling}"
    with bare_gateway.before(starving.platform.gateway.url, telling) as server:
        address = replace(starving.platform.gateway, url=f"http://127.0.0.1:{server.server_address[1]}")
        surroundings = replace(runner.surroundings, gateway=address)
        # of this batch size nothing is remembered
        config = Runner(surroundings).create(name, **(WIDE | {"batch_size": batch, "rounds": 2}))
        results = Runner(surroundings).go(config)

    assert server.num_kills >= 2
    assert len({result.weights.checksum for result in results}) == 1
    assert [(each.what, each.before, each.after) for each in config.adaptations] == [
        ("micro_batch", batch, (batch + 1) // 2)
    ]
    assert config.adaptations[0].reason.startswith("the reply of gradient was lost 2 times")
    assert starving.limit_now() == f"{half // MIB}Mi"


def test_run_whose_limit_may_rise_has_the_same_bits(
    starving: Starving, undisturbed: Summary, half: int
) -> None:
    starving.limit(half)
    before = Gateway(starving.platform.gateway).describe("gradient")

    found = starving.train("raised", largest_memory_bytes=AMPLE)

    after = Gateway(starving.platform.gateway).describe("gradient")
    assert changes(found) == [("memory_limit", half, 2 * half)]
    assert found.weights_sha256 == undisturbed.weights_sha256
    kept = ("image", "envProcess", "envVars", "labels", "annotations", "requests", "secrets")
    assert {name: before.get(name) for name in kept} == {name: after.get(name) for name in kept}
    assert after["limits"] == before["limits"] | {"memory": f"{2 * half // MIB}Mi"}


def test_killed_calls_of_a_queue_are_known_as_out_of_memory(
    starving: Starving, undisturbed: Summary, half: int
) -> None:
    starving.limit(half)
    queued = Starving(starving.platform, starving.runner.surroundings.directory)
    queued.runner.surroundings = replace(queued.runner.surroundings, invoke="async")

    found = queued.train("queued", largest_memory_bytes=AMPLE)

    assert changes(found) == [("memory_limit", half, 2 * half)]
    assert found.weights_sha256 == undisturbed.weights_sha256


def test_run_that_had_more_memory_last_time_does_not_begin_with_what_fitted_then(
    starving: Starving, undisturbed: Summary
) -> None:
    starving.limit(AMPLE)

    found = starving.train("relieved")

    assert found.adaptations == []
    assert found.weights_sha256 == undisturbed.weights_sha256


@pytest.mark.parametrize("largest_bytes", [0, AMPLE])
def test_limit_that_falls_in_the_middle_of_a_run_is_adapted_to(
    starving: Starving, undisturbed: Summary, half: int, largest_bytes: int
) -> None:
    starving.limit(AMPLE)
    name, has_fallen = f"fallen-{largest_bytes}", []

    def fall(record: RoundRecord) -> None:
        if record.round == 0 and not has_fallen:
            has_fallen.append(record)
            starving.limit(half)

    found = starving.train(name, fall, largest_memory_bytes=largest_bytes)

    assert has_fallen
    records = rounds.read(starving.runner.surroundings.directory / name / "rounds.jsonl")
    last = {record.peer: record.micro_batch for record in records if record.round == WIDE["rounds"] - 1}
    if largest_bytes:
        assert changes(found) == [("memory_limit", half, 2 * half)]
        assert found.weights_sha256 == undisturbed.weights_sha256
        assert last == {0: 0, 1: 0}
    else:
        assert set(changes(found)) == {("micro_batch", BATCH, BATCH // 2)}
        difference = starving.weights(name) - starving.weights("undisturbed")
        assert difference.abs().max() <= 1e-4
        assert last == {0: BATCH // 2, 1: BATCH // 2}


def test_peer_that_alone_is_short_of_memory_has_peer_zero_raise_the_limit(starving: Starving) -> None:
    lopsided = {"partition": "dirichlet:0.1", "seed": 2, "batch_size": 841}
    starving.limit(AMPLE)
    undisturbed = starving.train("lopsided", **lopsided)
    # peer 0 has half of the samples that peer 1 has
    between = starving.peak_bytes() * 7 // 10 // MIB * MIB
    starving.limit(AMPLE)
    has_fallen = []

    def fall(record: RoundRecord) -> None:
        if record.round == 0 and not has_fallen:
            has_fallen.append(record)
            starving.limit(between)

    found = starving.train("asked", fall, largest_memory_bytes=AMPLE, **lopsided)

    records = rounds.read(starving.runner.surroundings.directory / "asked" / "rounds.jsonl")
    assert {(record.round, record.peer): record.peer_samples for record in records}[0, 0] == 439
    assert "OutOfMemory" not in {name for each in records if each.peer == 0 for name in each.retries}
    assert [(each.what, each.peer, each.after) for each in found.adaptations] == [
        ("memory_limit", 0, 2 * between)
    ]
    assert found.adaptations[0].reason == (
        f"gradient of another peer ran out of memory at {between // MIB} MiB"
    )
    assert found.weights_sha256 == undisturbed.weights_sha256


def test_batchnorm_without_memory_says_why_nothing_can_be_adapted(starving: Starving) -> None:
    starving.limit(48 * MIB)

    text = (
        r"--batch-size 64 does not fit: function gradient ran out of memory: limit 48 MiB.*"
        r"Nothing is left to adapt: the memory limit of gradient may not rise "
        r"\(--largest-memory allows it\); "
        r"batches of resnet18 cannot be split: \S+ \(BatchNorm2d\) depends on all of one"
    )
    with pytest.raises(OutOfMemory, match=text) as failure:
        starving.train("stuck", **RESNET)

    assert failure.value.exit_code == 26


def test_batchnorm_without_memory_in_the_middle_of_a_run_ends_it_with_the_reason(starving: Starving) -> None:
    starving.limit(AMPLE)

    def fall(record: RoundRecord) -> None:
        if (record.round, record.peer) == (0, 0):
            starving.limit(48 * MIB)

    with pytest.raises(PeerlessError, match="cannot be split") as failure:
        starving.train("stuck-later", fall, **RESNET)

    assert failure.value.exit_code == 26


def test_run_that_may_not_adapt_ends(starving: Starving, half: int) -> None:
    starving.limit(half)

    with pytest.raises(OutOfMemory, match="ran out of memory") as failure:
        starving.train("held", no_adapt=True)

    assert "Nothing is left" not in str(failure.value)
    assert starving.limit_now() == f"{half // MIB}Mi"
