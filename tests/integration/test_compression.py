"""Whole runs whose peers exchange compressed gradients, by every strategy."""

import pytest
from harness import LocalPlatform, Runner

from peer import runs
from peer.records.rounds import RoundRecord, accuracy
from peer.records.summary import PeerResult, summarise

pytestmark = pytest.mark.slow

LEAST_RATIOS = {"fp16": 1.9, "int8": 3.8, "qsgd:4": 7.3, "topk:0.05": 18}
TRAINING = {"num_peers": 2, "rounds": 20, "evaluate_every": 0, "checkpoint_every": 10}
LOCAL = {"compute": "local", **TRAINING}


@pytest.fixture(scope="module")
def runner(platform: LocalPlatform, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(platform.surroundings(tmp_path_factory.mktemp("compression")))


@pytest.fixture(scope="module")
def uncompressed(runner: Runner) -> list[PeerResult]:
    return runner.train("uncompressed", **LOCAL)


@pytest.mark.parametrize("codec", ["fp16", "qsgd:4"])
def test_functions_with_a_codec_put_fewer_bytes_and_give_the_bits_of_the_peers_own(
    runner: Runner, codec: str
) -> None:
    name, changes = codec.replace(":", "-"), {"num_peers": 2, "rounds": 4, "function_compression": codec}
    plain, records = list[RoundRecord](), list[RoundRecord]()

    runner.train(f"{name}-plain", plain.append, num_peers=2, rounds=4)
    by_functions = runner.train(f"{name}-functions", records.append, **changes)
    by_peers = runner.train(f"{name}-peers", **changes, compute="local")

    weights = {result.weights.checksum for result in (*by_functions, *by_peers)}
    assert len(weights) == 1
    before, after = (sum(each.object_bytes["function_put"] for each in those) for those in (plain, records))
    assert before / after > {"fp16": 1.9, "qsgd:4": 7}[codec]


@pytest.mark.parametrize("codec", LEAST_RATIOS)
def test_run_with_a_codec_learns_and_has_the_same_weights_however_it_exchanges(
    runner: Runner, uncompressed: list[PeerResult], codec: str
) -> None:
    name = codec.replace(":", "-")
    records: list[RoundRecord] = []

    gathered = runner.train(f"{name}-all_gather", records.append, **LOCAL, compression=codec)
    scattered = runner.train(f"{name}-scatter_reduce", **LOCAL, compression=codec, exchange="scatter_reduce")
    in_function = runner.train(f"{name}-in_function", **TRAINING, compression=codec, exchange="in_function")

    weights = {result.weights.checksum for result in (*gathered, *scattered, *in_function)}
    assert len(weights) == 1
    assert weights != {uncompressed[0].weights.checksum}
    reached, expected = accuracy(gathered[0].test), accuracy(uncompressed[0].test)
    assert reached is not None and expected is not None
    assert reached > expected - 0.1
    summary = summarise(runs.load(runner.store, f"{name}-all_gather"), gathered[0], records, 640)
    assert summary.compression == codec
    assert LEAST_RATIOS[codec] < summary.compression_ratio < 1.1 * LEAST_RATIOS[codec] + 0.2
    assert summary.exchange_bytes == sum(record.exchange_bytes for record in records)
