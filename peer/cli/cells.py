"""An experiment's cells as `peerless train` reads them: what is no option, what does not go together."""

import difflib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import click

from peer.cli.run_options import draft, take_run_options
from peer.cli.train import train
from peer.config import RunConfig
from peer.errors import ConfigurationError
from peer.experiments.matrix import ALLOCATORS, RUNNER_SETTINGS, Cell, Matrix, cells, unsuited
from peer.experiments.process import option_arguments
from peer.experiments.records import CONVENTIONAL, DDP, SERVERLESS
from peer.experiments.runner import Planned

_DECIDED_ELSEWHERE = {
    "compute": "the variant decides it",
    "seed": "write `seeds`",
    "run": "the experiment names its runs",
    "runs-dir": "runs are in the experiment's folder",
    "data-dir": "give it to `peerless experiment run`",
    "json": "the experiment reads it",
    "config": "write its values as settings",
    "epochs": "write `rounds`",
}
_PLACE_SECTIONS = ("Gateway", "Store")
_PREFIX = "PEERLESS_"


def plan(matrix: Matrix) -> list[Planned]:
    """Return every cell of a matrix, with what `peerless train` makes of it.

    Raises:
        ConfigurationError: a setting is none, or its value cannot be one; no cell can be run.
    """
    known = _settings()
    planned = [_planned(cell, matrix, known) for cell in cells(matrix)]
    if all(each.impossible for each in planned):
        raise ConfigurationError(f"no cell of {matrix.name} can be run: {planned[0].impossible}")
    return planned


def _planned(cell: Cell, matrix: Matrix, known: set[str]) -> Planned:
    for name in cell.settings:
        if name in _DECIDED_ELSEWHERE:
            raise ConfigurationError(
                f"matrix {matrix.name} has the setting {name}: {_DECIDED_ELSEWHERE[name]}"
            )
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f" (did you mean {close[0]}?)" if close else ""
            text = f"matrix {matrix.name} has the setting {name!r}, no option of `peerless train`{meant}"
            raise ConfigurationError(text)
    _check_runner_settings(cell, matrix)
    compute = "local" if cell.variant == CONVENTIONAL else "functions"
    arguments = [*option_arguments(cell.settings), "--compute", compute, "--seed", str(cell.seed)]
    reason = unsuited(cell, matrix)
    try:
        return Planned(cell, None if reason else _config(arguments), reason)
    except click.UsageError as error:
        raise ConfigurationError(f"matrix {matrix.name}, {cell}: {error.format_message()}") from error
    except ConfigurationError as error:
        return Planned(cell, None, str(error))


def _config(arguments: list[str]) -> RunConfig:
    with _without_variables():
        context = train.make_context("train", arguments)
    return draft("unnamed", take_run_options(context, dict(context.params)))


def _check_runner_settings(cell: Cell, matrix: Matrix) -> None:
    allocator, replicas = (cell.settings.get(name) for name in RUNNER_SETTINGS)
    if allocator not in (None, *ALLOCATORS):
        raise ConfigurationError(
            f"matrix {matrix.name}: allocator is {allocator!r}, not one of {', '.join(ALLOCATORS)}"
        )
    if replicas is not None and (type(replicas) is not int or replicas < 1):
        raise ConfigurationError(
            f"matrix {matrix.name}: replicas is {replicas!r}, not a whole number above 0"
        )
    if "allocator" in cell.axes and cell.variant == SERVERLESS:
        raise ConfigurationError(
            f"matrix {matrix.name} varies allocator, which functions have from stack.yml: "
            f"take the variants {CONVENTIONAL} and {DDP}"
        )


def _settings() -> set[str]:
    """Return the names of the options that a matrix may set."""
    options = [each for each in train.params if isinstance(each, click.Option)]
    names = {
        option.opts[0].removeprefix("--")
        for option in options
        if getattr(option, "section", "") not in _PLACE_SECTIONS
    }
    return (names | set(RUNNER_SETTINGS)) - set(_DECIDED_ELSEWHERE) - {"state-dir", "help"}


@contextmanager
def _without_variables() -> Iterator[None]:
    """Have no `PEERLESS_` variable say anything about a cell, as none does when it is run."""
    taken = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(_PREFIX)}
    try:
        yield
    finally:
        os.environ.update(taken)
