"""What an experiment leaves: a folder with its matrix, the machine's facts, and a line a finished cell.

    <experiments-dir>/<name>/matrix.yaml     what was asked last
                             machine.json    `Machine`: what it was measured on
                             cells.jsonl     `CellRecord`, a line an attempt that ended, never rewritten
                             runs/<run>/     the run's own files: rounds.jsonl, summary.json, logs

A line is written at once, and only whole lines are read, so that a kill loses at most the cell that ran.
"""

import fcntl
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from peer import messages
from peer.errors import ConfigurationError
from peer.experiments.host import host_facts
from peer.files import append_line, make_folder, replace_file, writing
from peer.local.boxes import Box
from peer.messages import Message

MATRIX, MACHINE, CELLS, RUNS, LOCK = "matrix.yaml", "machine.json", "cells.jsonl", "runs", "lock"

SERVERLESS, CONVENTIONAL, DDP = "serverless", "conventional", "ddp"
VARIANTS = (SERVERLESS, CONVENTIONAL, DDP)
"""Gradients by functions; by each peer itself, its batches in turn; by PyTorch's DistributedDataParallel."""

Status = Literal["ok", "failed", "timed_out", "skipped"]
"""How an attempt ended. `skipped`: it was known before that this cell cannot run; `error` says why."""

Axis = str | int | float | bool | None


class Record(Message, frozen=True, forbid_unknown_fields=False):
    """A JSON object in an experiment's folder, which outlives the version that wrote it."""


class Machine(Record, frozen=True):
    """What was measured on. `memory_gb` is all of it, in GiB; `cores` are those that could be used."""

    cpu: str
    cores: int
    memory_gb: float
    os: str
    kernel: str
    python: str
    versions: dict[str, str]


class FunctionUse(Record, frozen=True):
    """One function in one cell: sums over its invocations, and the largest figures of a replica.

    0 stands for what the kernel does not tell. `memory_limit_bytes` is that of the fullest replica.
    """

    invocations: int
    out_of_memory: int
    cpu_seconds: float
    memory_limit_bytes: int
    working_set_bytes: int
    peak_rss_bytes: int


class PeerUse(Record, frozen=True):
    """One peer's process over the whole run, the round loop alone: what it computes itself is in it."""

    peer: int
    cpu_seconds: float
    peak_rss_bytes: int


class RoundMeasure(Record, frozen=True):
    """One round; with one step an epoch it is an epoch. Seconds are wall time.

    `seconds` is from the round's begin to its end, and `ended_seconds` from the first round's begin to this
    one's end: means over the peers. So are `phase_seconds` (`peer.records.phases.PHASES`: `compute` is the
    gradient computation as a peer waits for it, `wait` what it waits for others); `slowest_seconds` has
    each phase of the peer that took longest. `send_seconds` and `receive_seconds` add up to the phase
    `exchange`: until a peer's gradient was stored, and from then on, in which it got and folded the
    others'. `function_seconds` sums the phases inside the functions. `invocation_seconds` has, by function,
    the time inside it of each invocation, of all peers: what a platform would bill; where peers compute
    themselves, what each of these took them. Loss and accuracy are over all peers' samples at the weights
    that the round began with. `phase_cpu_seconds` is a peer's CPU by phase (a mean), and `phase_peak_bytes`
    the largest resident set of any peer in it; a phase in which the kernel does not tell has none.
    """

    round: int
    is_warm_up: bool
    seconds: float
    ended_seconds: float
    phase_seconds: dict[str, float]
    slowest_seconds: dict[str, float]
    send_seconds: float
    receive_seconds: float
    function_seconds: dict[str, float]
    invocation_seconds: dict[str, list[float]]
    samples: int
    loss: float | None = None
    accuracy: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    phase_cpu_seconds: dict[str, float] = {}
    phase_peak_bytes: dict[str, int] = {}


class Measure(Record, frozen=True):
    """What a run came to. Seconds are means over the peers; counts and bytes are sums over peers and rounds.

    `train_seconds` is from the first round's begin to the last weights; `weights_bytes` is the size of the
    model's weights as they are stored, uncompressed. Of the variant `ddp`, which has
    neither functions nor store, what it has not is empty or 0; its `exchange_bytes` are those of the
    gradients that each process hands to the all-reduce, and its phase `exchange` is the last backward of a
    round, into which DDP weaves the all-reduce.
    """

    train_seconds: float
    rounds: list[RoundMeasure]
    samples: int
    epochs: float
    weights_bytes: int
    cold_starts: int = 0
    functions: dict[str, FunctionUse] = {}
    peers: list[PeerUse] = []
    retries: dict[str, int] = {}
    object_bytes: dict[str, int] = {}
    exchange_bytes: int = 0
    compression_ratio: float = 1.0
    test_accuracy: float | None = None
    test_loss: float | None = None
    weights_sha256: str = ""


class CellRecord(Record, frozen=True):
    """One attempt of one cell, once it has ended.

    `id` is of settings, variant and repeat, the same in every experiment; of two lines with one id the later
    counts (`latest`). `config_hash` leaves repeat and seed out: repeats of a cell have the same. `axes` are
    the values that this matrix varies, `settings` all options of the run. `repeat` counts from 1; 0 is a
    warm-up, which no figure is made of. `seconds` is of the whole command, imports and all. `run` is
    the name of its folder.
    """

    id: str
    experiment: str
    variant: str
    axes: dict[str, Axis]
    settings: dict[str, Any]
    repeat: int
    seed: int
    is_warm_up: bool
    status: Status
    error: str
    started: str
    seconds: float
    config_hash: str
    versions: dict[str, str]
    load_average: float
    run: str = ""
    box: Box | None = None
    measured: Measure | None = None


def this_machine() -> Machine:
    """Return the facts about the machine that this process runs on."""
    facts = host_facts()
    try:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        system = platform.system()
    return msgspec.convert({**facts, "os": system}, Machine)


@contextmanager
def begun(directory: Path, matrix: bytes, machine: Machine) -> Iterator[None]:
    """Give the block the folder of an experiment that begins or goes on; nobody else runs it meanwhile.

    Args:
        directory: made if need be.
        matrix: takes the place of the one that is there: what is asked may change, what was measured stays.
        machine: which this is.

    Raises:
        ConfigurationError: somebody runs it already, or it was begun on a machine of another kind.
        FileNotWritten: there is no room.
    """
    make_folder(directory / RUNS)
    with writing(directory / LOCK):
        lock = (directory / LOCK).open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(f"another command runs the experiment in {directory}") from error
        _check_machine(directory, machine)
        replace_file(directory / MATRIX, matrix)
        replace_file(directory / MACHINE, messages.encode(machine) + b"\n")
        cells = directory / CELLS
        if cells.exists() and cells.stat().st_size and not cells.read_bytes().endswith(b"\n"):
            append_line(cells, b"")  # ends the line that a kill tore
        yield


def _check_machine(directory: Path, machine: Machine) -> None:
    if not (directory / MACHINE).exists():
        return
    before = read_machine(directory)
    differing = [name for name in ("cpu", "cores") if getattr(before, name) != getattr(machine, name)]
    if differing and read_cells(directory):
        told = "; ".join(
            f"{name} was {getattr(before, name)}, is {getattr(machine, name)}" for name in differing
        )
        raise ConfigurationError(
            f"{directory} was measured on another machine ({told}): name another folder with --output"
        )


def append(directory: Path, cell: CellRecord) -> None:
    """Add the line of a cell that has ended, and return once it is on the disk.

    Raises:
        FileNotWritten: there is no room; the lines before are whole.
    """
    path = directory / CELLS
    append_line(path, messages.encode(cell))
    with writing(path), path.open("rb") as file:
        os.fsync(file.fileno())


def read_cells(directory: Path) -> list[CellRecord]:
    """Return every attempt, in the order in which they ended; a line that a kill tore is left out.

    Raises:
        ConfigurationError: the file cannot be read, or a whole line of it is something else.
    """
    path = directory / CELLS
    if not path.exists():
        return []
    cells = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            cells.append(messages.decode(line, CellRecord))
        except msgspec.ValidationError as error:
            text = f"{path}, line {number}, is no cell of an experiment: {error}"
            raise ConfigurationError(text) from error
        except msgspec.DecodeError:
            continue
    return cells


def read_machine(directory: Path) -> Machine:
    """Return the machine that the experiment began on.

    Raises:
        ConfigurationError: there is none, or something else.
    """
    path = directory / MACHINE
    try:
        return messages.decode(path.read_bytes(), Machine)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path} is damaged: {error}") from error


def latest(cells: Iterable[CellRecord]) -> list[CellRecord]:
    """Return the last attempt of each cell, in the order of their first attempts."""
    return list({cell.id: cell for cell in cells}.values())


def _lines(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
