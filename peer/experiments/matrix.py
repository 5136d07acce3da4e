"""An experiment's matrix: which runs it asks for, and in which order, read from YAML."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import yaml

from peer import messages
from peer.errors import ConfigurationError
from peer.experiments.records import DDP, SERVERLESS, VARIANTS, Axis

_PRESETS = "presets"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_NO_CASE: dict[str, Any] = {}

RUNNER_SETTINGS = ("allocator", "replicas")
"""Settings that are no options of `peerless train`: how memory is allocated where peers compute themselves
(`tuned`, as functions have it, or `default`), and how many replicas the function `gradient` has."""

ALLOCATORS = ("tuned", "default")

DDP_SETTINGS = frozenset(
    {
        "allocator",
        "batch-size",
        "batches-per-round",
        "dataset",
        "learning-rate",
        "model",
        "model-arguments",
        "momentum",
        "optimizer",
        "peers",
        "rounds",
        "seed",
        "weight-decay",
    }
)
"""What plain DistributedDataParallel can be asked; it does without everything else."""


class Matrix(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """What is asked.

    Attributes:
        name: of the experiment, and of its folder.
        question: one line for people.
        settings: options of `peerless train`, and `RUNNER_SETTINGS`, the same for all cells.
        axes: a grid: every value of each with every value of the others.
        cases: a list: each with every point of the grid, such as a model with the rate that suits it. A case
            that has an axis itself, a value or a list of them, takes its own instead of the grid's.
        variants: who computes; each cell is run by each, one after the other.
        per_variant: settings of one variant alone, such as the instance type of its peers.
        repeats: of every cell; the whole matrix once before any cell twice.
        seeds: of the first repeat, the second …; from the beginning again where they are fewer.
        warm_up: run each variant's first cell once before, which no figure is made of.
        warm_up_rounds: of each run, which are marked.
        timeout: seconds until a cell is ended.
        quick: what `--quick` puts in the place of the above; settings are merged.
    """

    name: str
    question: str = ""
    settings: dict[str, Any] = {}
    axes: dict[str, list[Axis]] = {}
    cases: list[dict[str, Any]] = []
    variants: tuple[str, ...] = (SERVERLESS,)
    per_variant: dict[str, dict[str, Any]] = {}
    repeats: int = 1
    seeds: list[int] = []
    warm_up: bool = False
    warm_up_rounds: int = 0
    timeout: float = 1800.0
    quick: dict[str, Any] = {}


@dataclass(frozen=True)
class Cell:
    """One run of a matrix; `settings` are all of it but the seed, `repeat` is 0 for a warm-up."""

    variant: str
    axes: dict[str, Axis]
    settings: dict[str, Any]
    repeat: int
    seed: int

    @property
    def config_hash(self) -> str:
        """Twelve digits that repeats have in common."""
        return _hash([self.variant, self.settings])

    @property
    def id(self) -> str:
        """Twelve digits that no other cell has, the same in every experiment."""
        return _hash([self.variant, self.settings, self.repeat, self.seed])

    def __str__(self) -> str:
        """Return variant and axes in one line."""
        axes = [f"{name}={value}" for name, value in self.axes.items()]
        return " ".join([self.variant, *axes, f"repeat {self.repeat}" if self.repeat else "warm-up"])


def presets() -> list[str]:
    """Return the names of the matrices that come with peerless."""
    folder = resources.files("peer.experiments") / _PRESETS
    return sorted(each.name.removesuffix(".yaml") for each in folder.iterdir() if each.name.endswith(".yaml"))


def load(where: str, *, is_quick: bool = False, overrides: Mapping[str, str] | None = None) -> Matrix:
    """Return the matrix of a file, or of a preset.

    Args:
        where: a path, or a preset's name.
        is_quick: take the smaller one, whose name ends in `-quick`.
        overrides: settings by name, in YAML; of an axis, or where there are commas, several values.

    Raises:
        ConfigurationError: there is no such file, or it is no matrix; names the key.
    """
    values = _values(where)
    matrix = _converted(values, where)
    if is_quick:
        quick = matrix.quick or {"repeats": 1, "warm-up": False}
        settings = {**matrix.settings, **quick.get("settings", {})}
        smaller = {**values, **quick, "settings": settings, "name": f"{matrix.name}-quick", "quick": {}}
        matrix = _converted(smaller, f"{where}, quick")
    for name, text in (overrides or {}).items():
        matrix = _overridden(matrix, name, text)
    _check(matrix, where)
    return matrix


def frozen(matrix: Matrix) -> bytes:
    """Return the YAML that `load` makes the same matrix of."""
    return yaml.safe_dump(msgspec.to_builtins(matrix), sort_keys=False, allow_unicode=True).encode()


def cells(matrix: Matrix) -> list[Cell]:
    """Return every run, in the order to take them.

    Repeats are outermost, and the variants of one point stand side by side, each time another first: what
    disturbs the machine for a while hits all of them alike.
    """
    found = list(_warm_ups(matrix)) + [
        _cell(matrix, variant, point, repeat)
        for repeat in range(1, matrix.repeats + 1)
        for number, point in enumerate(_points(matrix))
        for variant in _rotated(matrix.variants, number + repeat - 1)
    ]
    return list({cell.id: cell for cell in found}.values())


def unsuited(cell: Cell, matrix: Matrix) -> str:
    """Return why DDP cannot answer for this cell, empty if it can, or somebody else does."""
    varied = set(cell.axes) - DDP_SETTINGS
    if cell.variant != DDP or not varied:
        return ""
    return f"plain DDP has no {', '.join(sorted(varied))}"


def _points(matrix: Matrix) -> Iterator[tuple[dict[str, Axis], dict[str, Any]]]:
    """Yield what is varied and all settings, for each case and each point of the grid."""
    cases = matrix.cases or [_NO_CASE]
    for case in cases:
        grid = {name: _values_of(case.get(name, values)) for name, values in matrix.axes.items()}
        shown = {name: value for name, value in case.items() if not isinstance(value, dict | list)}
        for values in product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            yield {**shown, **point}, {**matrix.settings, **case, **point}


def _values_of(given: Axis | list[Axis]) -> list[Axis]:
    return given if isinstance(given, list) else [given]


def _warm_ups(matrix: Matrix) -> Iterator[Cell]:
    if matrix.warm_up:
        point = next(_points(matrix))
        yield from (_cell(matrix, variant, point, 0) for variant in matrix.variants)


def _cell(matrix: Matrix, variant: str, point: tuple[dict[str, Axis], dict[str, Any]], repeat: int) -> Cell:
    axes, settings = point
    seeds = matrix.seeds or list(range(max(1, matrix.repeats)))
    seed = seeds[(repeat - 1) % len(seeds)] if repeat else seeds[0]
    return Cell(variant, axes, {**settings, **matrix.per_variant.get(variant, {})}, repeat, seed)


def _rotated(variants: tuple[str, ...], by: int) -> tuple[str, ...]:
    start = by % len(variants)
    return variants[start:] + variants[:start]


def _values(where: str) -> dict[str, Any]:
    try:
        if where in presets():
            text = (resources.files("peer.experiments") / _PRESETS / f"{where}.yaml").read_text()
        else:
            text = Path(where).read_text()
        values = yaml.safe_load(text)
    except OSError as error:
        known = ", ".join(presets())
        raise ConfigurationError(
            f"matrix {where} cannot be read ({error.strerror}): give a YAML file, or one of {known}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"matrix {where} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"matrix {where} holds a {type(values).__name__}: write `key: value` lines")
    return values


def _converted(values: dict[str, Any], where: str) -> Matrix:
    try:
        return msgspec.convert(values, Matrix)
    except msgspec.ValidationError as error:
        known = ", ".join(Matrix.__struct_encode_fields__)
        raise ConfigurationError(f"matrix {where}: {error}; the keys are {known}") from error


def _overridden(matrix: Matrix, name: str, text: str) -> Matrix:
    values = [yaml.safe_load(part) for part in text.split(",")]
    cases = [{key: value for key, value in case.items() if key != name} for case in matrix.cases]
    distinct = [case for number, case in enumerate(cases) if case not in cases[:number]]
    settings = {key: value for key, value in matrix.settings.items() if key != name}
    axes = {key: value for key, value in matrix.axes.items() if key != name}
    if name == "variant":
        return msgspec.structs.replace(matrix, variants=tuple(str(value) for value in values))
    if name in matrix.axes or len(values) > 1:
        return msgspec.structs.replace(matrix, axes={**axes, name: values}, settings=settings, cases=distinct)
    return msgspec.structs.replace(matrix, settings={**settings, name: values[0]}, cases=distinct)


def _check(matrix: Matrix, where: str) -> None:
    """Return if the matrix makes sense as far as it can be told without its cells."""
    is_known = set(matrix.variants) | set(matrix.per_variant) <= set(VARIANTS)
    problems = {
        f"name {matrix.name!r} is no folder's name": not _NAME.fullmatch(matrix.name),
        f"variants are some of {', '.join(VARIANTS)}": not matrix.variants or not is_known,
        "an axis has no value": not all(matrix.axes.values()),
        "repeats have to be at least 1": matrix.repeats < 1,
        "warm-up-rounds have to be at least 0": matrix.warm_up_rounds < 0,
        "timeout has to be above 0": not matrix.timeout > 0,
    }
    for problem, is_so in problems.items():
        if is_so:
            raise ConfigurationError(f"matrix {where}: {problem}")


def _hash(values: Any) -> str:
    return hashlib.sha256(messages.encode(values)).hexdigest()[:12]
