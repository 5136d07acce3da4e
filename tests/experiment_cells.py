"""An experiment's folder with made-up cells, whose durations are known exactly but for noise of a seed."""

import json
import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from peer import messages
from peer.experiments import records
from peer.experiments.records import (
    CONVENTIONAL,
    SERVERLESS,
    CellRecord,
    FunctionUse,
    Machine,
    Measure,
    PeerUse,
    RoundMeasure,
)
from peer.records.phases import PHASES

MACHINE = Machine("a processor", 2, 8.0, "an OS", "6.0", "3.11.0", {"torch": "2.13"})
SAMPLES = 6000
MIB = 1 << 20


def cell(
    variant: str,
    repeat: int = 1,
    noise: float = 0.02,
    slower: float = 1.0,
    seed: int = 0,
    **axes: Any,
) -> CellRecord:
    """Return a cell of one step an epoch, in which a sample takes a millisecond of a processor.

    Args:
        variant: of the cell.
        repeat: from 1.
        noise: part by which everything in it varies at random.
        slower: times as long as usual.
        seed: of the noise.
        axes: what is varied, with underscores; the rest is 2 peers, batch size 64, 2 replicas.
    """
    varied = {name.replace("_", "-"): value for name, value in axes.items()}
    settings = {"model": "cnn", "dataset": "mnist", "peers": 2, "batch-size": 64, **varied}
    if variant == SERVERLESS:
        settings = {"replicas": 2, **settings}
    randomness = random.Random(f"{variant} {repeat} {seed} {sorted(varied.items(), key=str)}")
    factor = slower * math.exp(randomness.gauss(0.0, noise))
    name = json.dumps([variant, settings, repeat], sort_keys=True)
    return CellRecord(
        id=f"{abs(hash_of(name)):012x}"[:12],
        experiment="made-up",
        variant=variant,
        axes=varied,
        settings=settings,
        repeat=repeat,
        seed=repeat,
        is_warm_up=repeat == 0,
        status="ok",
        error="",
        started=f"2026-01-01T00:00:{repeat:02d}+00:00",
        seconds=20.0,
        config_hash=f"{abs(hash_of(json.dumps([variant, settings], sort_keys=True))):012x}"[:12],
        versions={"torch": "2.13"},
        load_average=0.5,
        measured=measure(variant, settings, factor),
    )


def hash_of(text: str) -> int:
    """Return a number that is the same in every process, unlike `hash`."""
    return random.Random(text).getrandbits(48)


def measure(variant: str, settings: dict[str, Any], factor: float) -> Measure:
    """Return three rounds, the first of them a warm-up, each of an epoch."""
    peers, batch_size = settings["peers"], settings["batch-size"]
    batches = math.ceil(SAMPLES / peers / batch_size)
    batch_seconds = 0.001 * batch_size * factor
    inside = batch_seconds + (0.02 if variant == SERVERLESS else 0.0)
    compute = batches * batch_seconds
    if variant == SERVERLESS:
        # a replica that another peer waits for is never idle; one of a peer's own is during the call
        in_flight = max(1, settings["replicas"] // peers)
        turns = math.ceil(batches / in_flight)
        compute = turns * max(inside + 0.01, inside * peers * in_flight / settings["replicas"])
    phases = dict.fromkeys(PHASES, 0.0) | {
        "compute": compute,
        "average": 0.01,
        "exchange": 0.1,
        "update": 0.02,
    }
    seconds = sum(phases.values())
    rounds = [
        RoundMeasure(
            round=number,
            is_warm_up=number == 0,
            seconds=seconds,
            ended_seconds=seconds * (number + 1),
            phase_seconds=phases,
            slowest_seconds=phases,
            send_seconds=0.04,
            receive_seconds=0.06,
            function_seconds={
                "fetch": 0.015 * peers * batches,
                "compute": batch_seconds * peers * batches,
                "upload": 0.005 * peers * batches,
            },
            invocation_seconds={"gradient": [inside] * (peers * batches)},
            samples=SAMPLES,
            loss=1.0 / (number + 1),
            accuracy=0.5 + 0.1 * number,
            validation_accuracy=0.55 + 0.1 * number,
        )
        for number in range(3)
    ]
    computing = 3 * batch_seconds * peers * batches
    function = FunctionUse(
        invocations=3 * peers * batches,
        out_of_memory=0,
        cpu_seconds=computing,
        memory_limit_bytes=2048 * MIB,
        working_set_bytes=(100 + batch_size) * MIB,
        peak_rss_bytes=(300 + batch_size) * MIB,
    )
    by_functions = variant == SERVERLESS
    return Measure(
        train_seconds=3 * seconds,
        rounds=rounds,
        samples=3 * SAMPLES,
        epochs=3.0,
        weights_bytes=2 * MIB,
        functions={"gradient": function} if by_functions else {},
        peers=[
            PeerUse(rank, 0.5 if by_functions else 0.5 + computing / peers, 400 * MIB)
            for rank in range(peers)
        ],
        exchange_bytes=3 * peers * 2 * MIB,
        test_accuracy=0.75,
    )


def matrix(repeats: int = 3, **changes: Any) -> list[CellRecord]:
    """Return both variants at three batch sizes; changes are of `cell`."""
    return [
        cell(variant, repeat, batch_size=batch_size, **changes)
        for repeat in range(1, repeats + 1)
        for batch_size in (64, 128, 512)
        for variant in (SERVERLESS, CONVENTIONAL)
    ]


def failed(found: CellRecord, error: str) -> CellRecord:
    """Return the same cell, ended badly."""
    return replace(found, status="failed", error=error, measured=None)


def write(directory: Path, cells: Iterable[CellRecord]) -> Path:
    """Leave an experiment's folder with these cells, and return it."""
    directory.mkdir(parents=True)
    (directory / records.MATRIX).write_text("name: made-up\n")
    (directory / records.MACHINE).write_bytes(messages.encode(MACHINE))
    for each in cells:
        records.append(directory, each)
    return directory
