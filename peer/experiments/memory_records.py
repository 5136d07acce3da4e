"""What the memory experiment writes down: a line a measurement, with all that one has to know to read it."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from peer import messages
from peer.errors import ConfigurationError
from peer.experiments.search import Bounds
from peer.files import append_line
from peer.messages import Message, ModelSpec

Outcome = Literal["ok", "retried", "out_of_memory", "failed"]
"""How the invocations at one limit ended: all at once; one only after it had run out of memory; one not at
all, for lack of memory; one not at all, for another reason. Only `ok` counts as a limit that works."""


@dataclass(frozen=True)
class MemoryQuestion:
    """What is asked: the need of each batch size of a model on a dataset.

    Attributes:
        model: what the function computes gradients of.
        dataset: name or id of a stored one.
        batch_sizes: in the order to measure them.
        bounds: where the need is looked for, and how well it is to be known.
        invocations: at each limit, one after the other.
        seed: of weights and order.
        invocation_seconds: how long one may take.
        step_seconds: how long a limit stands at least, so that whoever reads the gateway's metrics now and
            then sees it.
    """

    model: ModelSpec
    dataset: str
    batch_sizes: tuple[int, ...]
    bounds: Bounds
    invocations: int
    seed: int
    invocation_seconds: float
    step_seconds: float


class Settings(Message, frozen=True):
    """What two measurements must have in common to be compared."""

    function: str
    image: str
    orchestration: str
    memory: str
    model: ModelSpec
    dataset: str
    seed: int
    invocations: int
    versions: dict[str, str]

    @property
    def hash(self) -> str:
        """Twelve digits that differ between settings that differ."""
        return hashlib.sha256(messages.encode(self)).hexdigest()[:12]


class Measurement(Message, frozen=True):
    """Invocations of one batch size at one memory limit.

    Bytes are of one replica; None where the gateway does not tell. `seconds` is from the request to the
    checked result, for each invocation that gave one, `compute_seconds` the part in which the function
    computed. `pressure` is the share of the time in which something waited for memory (PSI `some`), where
    `pressure_source` is `psi`.
    """

    settings: Settings
    settings_hash: str
    host: dict[str, Any]
    load_average: float
    time: float
    batch_size: int
    limit_bytes: int
    outcome: Outcome
    reason: str
    seconds: list[float]
    compute_seconds: list[float]
    cold_starts: int
    retries: dict[str, int]
    working_set_bytes: int | None
    working_set_source: str
    peak_bytes: int | None
    oom_kills: int | None
    reclaims: int | None
    major_faults: int | None
    pressure: float | None
    pressure_source: str

    @property
    def does_work(self) -> bool:
        """Whether every invocation went through at once."""
        return self.outcome == "ok"


class ResultFile:
    """`results.jsonl` of one experiment: read to go on after a kill, and appended to.

    Args:
        path: need not exist; its folder does.
        settings: of the measurements to come.

    Raises:
        ConfigurationError: it holds measurements under other settings.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self.measurements = read_measurements(path) if path.exists() else []
        others = [found.settings for found in self.measurements if found.settings != settings]
        if others:
            raise ConfigurationError(
                f"{path} was measured under other settings ({_differences(others[0], settings)}): "
                "name another folder with --output, or remove it"
            )
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            append_line(path, b"")  # ends the line that a kill tore

    def add(self, measurement: Measurement) -> None:
        """Append a line.

        Raises:
            FileNotWritten: the disk is full, or we may not.
        """
        append_line(self._path, messages.encode(measurement))
        self.measurements.append(measurement)

    def of(self, batch_size: int) -> list[Measurement]:
        """Return the measurements of one batch size."""
        return [found for found in self.measurements if found.batch_size == batch_size]


def read_measurements(path: Path) -> list[Measurement]:
    """Return the measurements of a file; a line that a kill or a full disk tore is left out.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    found: list[Measurement] = []
    for line in lines:
        with suppress(msgspec.DecodeError):
            found.append(messages.decode(line, Measurement))
    return found


def outcomes(measurements: Sequence[Measurement]) -> dict[int, bool]:
    """Return whether each limit works, by bytes; of a limit measured twice, the later."""
    return {found.limit_bytes: found.does_work for found in measurements}


def _differences(before: Settings, now: Settings) -> str:
    names = [name for name in Settings.__struct_fields__ if getattr(before, name) != getattr(now, name)]
    return "; ".join(
        f"{name} was {_short(getattr(before, name))}, is {_short(getattr(now, name))}" for name in names
    )


def _short(value: Any) -> str:
    return value if isinstance(value, str) else messages.encode(value).decode()
