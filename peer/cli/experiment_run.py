"""`peerless experiment run|list|show`: the cells of a matrix, run here one after the other."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import click
from click.core import ParameterSource

from peer import messages
from peer.cli.cells import plan
from peer.cli.connections import (
    check_gateway,
    gateway_address,
    gateway_options,
    store_address,
    store_options,
)
from peer.cli.options import Command, Number, option
from peer.cli.platform import default_stack
from peer.cli.report import shortest
from peer.config import GatewayAddress
from peer.errors import ConfigurationError, PeerlessError, StopRequested
from peer.experiments import matrix, records
from peer.experiments.matrix import Matrix
from peer.experiments.place import Place, given_place, own_platform
from peer.experiments.records import CellRecord
from peer.experiments.runner import Planned, Runner, due, seconds_left
from peer.local.platform import MOST_REPLICAS, PlatformOptions
from peer.local.signals import stop_raised

_PLATFORM = "platform"

_matrix = click.argument("where", metavar="MATRIX")
_quick = option("--quick", is_flag=True, help="The smaller matrix, in a folder of its own.")
_output = option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    default=Path("experiments"),
    help="Where experiments go, a folder each.",
)
_set = option(
    "--set",
    "overrides",
    multiple=True,
    metavar="NAME=VALUE[,VALUE…]",
    help="In the matrix' place, such as peers=2,4 or variant=serverless.",
)


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  peerless experiment run smoke
  peerless experiment run paper --quick
  peerless experiment run my.yaml --set batch-size=64,512 --set peers=4
  peerless experiment run peers --gateway http://10.0.0.5:8080 --store …
MATRIX is a YAML file or a preset (`peerless experiment list`). Without a gateway
and a store, a platform of the experiment's own is started, and ended. The same
command goes on where it was stopped or killed: what has ended is not run again.
""",
)
@_matrix
@_quick
@_set
@option("--again", "is_failed_again", is_flag=True, help="Run what failed or ran out of time again, too.")
@option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Folder with the dataset's own files, if it is not stored yet.",
)
@option(
    "--outage-patience",
    type=Number(1),
    default=120.0,
    help="Seconds with a gateway or a store that is away.",
)
@_output
@gateway_options
@store_options
@click.pass_context
def run(
    context: click.Context,
    /,
    where: str,
    quick: bool,
    overrides: Sequence[str],
    is_failed_again: bool,
    data_dir: Path | None,
    output: Path,
    **options: Any,
) -> None:
    """Run the cells of a matrix that have not been run; then print the experiment's folder."""
    asked = _asked(where, quick, overrides)
    planned = plan(asked)
    directory = output / asked.name
    with records.begun(directory, matrix.frozen(asked), records.this_machine()):
        done = records.read_cells(directory)
        left = due(planned, done, is_failed_again=is_failed_again)
        _say_before(asked, planned, left, directory)
        if left:
            has_functions = any(each.cell.variant == records.SERVERLESS for each in left)
            with _place(context, options, directory, has_functions) as (place, replicas):
                runner = Runner(asked, directory, place, replicas, data_dir, _say)
                _run(runner, left, done)
            shutil.rmtree(directory / _PLATFORM, ignore_errors=True)
        _conclude(asked, planned, records.read_cells(directory), directory)


@click.command("list", cls=Command, epilog="Example: peerless experiment list --json | jq .presets")
@_output
@option("--json", "as_json", is_flag=True, help="One JSON object.")
def list_(output: Path, as_json: bool) -> None:
    """List the presets, and the experiments that have begun here."""
    questions = {name: matrix.load(name).question for name in matrix.presets()}
    begun = {
        path.parent.name: _counts(records.read_cells(path.parent))
        for path in sorted(output.glob(f"*/{records.CELLS}"))
    }
    if as_json:
        click.echo(messages.encode({"presets": questions, "experiments": begun}))
        return
    for name, question in questions.items():
        click.echo(f"{name:<14} {question}")
    for name, counts in begun.items():
        click.echo(f"{shortest(output / name)}/  {_counted(counts)}")


@click.command(cls=Command, epilog="Example: peerless experiment show smoke --json | jq .cells")
@_matrix
@_quick
@_set
@_output
@option("--json", "as_json", is_flag=True, help="One JSON object.")
def show(where: str, quick: bool, overrides: Sequence[str], output: Path, as_json: bool) -> None:
    """Show the cells of a matrix, what became of each, and what cannot be run and why."""
    asked = _asked(where, quick, overrides)
    planned = plan(asked)
    done = {record.id: record for record in records.latest(records.read_cells(output / asked.name))}
    if as_json:
        cells = [
            {
                "id": each.cell.id,
                "cell": str(each.cell),
                "settings": each.cell.settings,
                "impossible": each.impossible,
                "record": done.get(each.cell.id),
            }
            for each in planned
        ]
        click.echo(messages.encode({"name": asked.name, "question": asked.question, "cells": cells}))
        return
    click.echo(f"{asked.name}: {asked.question}\n")
    for each in planned:
        record = done.get(each.cell.id)
        state = record.status if record else "skipped" if each.impossible else "to run"
        click.echo(f"{state:<9}  {each.cell}  {_result(record) or each.impossible}".rstrip())


def _asked(where: str, is_quick: bool, overrides: Sequence[str]) -> Matrix:
    pairs = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise ConfigurationError(f"--set is {text!r}: write NAME=VALUE, as in batch-size=64,128")
        pairs[name] = value
    return matrix.load(where, is_quick=is_quick, overrides=pairs)


@contextmanager
def _place(
    context: click.Context, options: dict[str, Any], directory: Path, has_functions: bool
) -> Iterator[tuple[Place, int | None]]:
    """Give the block a place, and how many replicas functions have there; None is for as many as there are.

    It is what the options name, else a platform of its own. Without functions, no gateway is asked for.
    """
    outage_seconds = options["outage_patience"]
    has_state_dir = context.get_parameter_source("state_dir") is not ParameterSource.DEFAULT
    if options["gateway"] or options["store_endpoint"] or has_state_dir:
        gateway = gateway_address(options) if has_functions else GatewayAddress("")
        if has_functions:
            check_gateway(gateway)
        store = store_address(options)
        with given_place(store, gateway, outage_seconds) as place:
            yield place, None
        return
    _say("a platform of the experiment's own is started")
    state_dir = (directory / _PLATFORM).resolve()
    replicas = min(os.cpu_count() or 1, MOST_REPLICAS)
    with own_platform(state_dir, PlatformOptions(state_dir, default_stack()), outage_seconds) as place:
        yield place, replicas


def _run(runner: Runner, left: Sequence[Planned], done: Sequence[CellRecord]) -> None:
    known, numbers = list(done), iter(range(1, len(left) + 1))

    def on_cell(record: CellRecord) -> None:
        known.append(record)
        number = next(numbers)
        rest = seconds_left(left[number:], known)
        click.echo(
            f"[{number:>{len(str(len(left)))}}/{len(left)}] {record.status:<9} {_cell(record)}  "
            f"{_result(record)}{_left(rest) if number < len(left) else ''}",
            err=True,
        )

    try:
        with stop_raised():
            runner.run(left, on_cell)
    except StopRequested as stop:
        text = f"{stop}; what has ended is kept, and the same command goes on"
        raise StopRequested(text, stop.signal_number) from stop


def _say_before(asked: Matrix, planned: list[Planned], left: list[Planned], directory: Path) -> None:
    _say(
        f"experiment {asked.name}: {len(planned)} cells, {len(planned) - len(left)} of them done; "
        f"results in {shortest(directory)}/"
    )
    reasons = {each.impossible for each in left if each.impossible}
    for reason in sorted(reasons):
        number = sum(each.impossible == reason for each in left)
        _say(f"{number} cannot be run and will be skipped: {reason}")


def _conclude(asked: Matrix, planned: Sequence[Planned], done: Sequence[CellRecord], directory: Path) -> None:
    """Say how the matrix stands.

    Raises:
        PeerlessError: some of its cells failed or ran out of time.
    """
    wanted = {each.cell.id for each in planned}
    counts = _counts([record for record in records.latest(done) if record.id in wanted])
    _say(f"experiment {asked.name}: {_counted(counts)}")
    click.echo(directory)
    if failed := counts.get("failed", 0) + counts.get("timed_out", 0):
        raise PeerlessError(
            f"{failed} of {len(planned)} cells did not end well: `peerless experiment show` says why, and "
            "`peerless experiment run … --again` runs them again"
        )


def _counts(done: Sequence[CellRecord]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for record in records.latest(done):
        counts[record.status] = counts.get(record.status, 0) + 1
    return counts


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in sorted(counts.items()))


def _cell(record: CellRecord) -> str:
    axes = [f"{name}={value}" for name, value in record.axes.items()]
    return " ".join([record.variant, *axes, f"repeat {record.repeat}" if record.repeat else "warm-up"])


def _result(record: CellRecord | None) -> str:
    """Return what a cell came to, in a few words."""
    if record is None:
        return ""
    if record.measured is None:
        return record.error
    measured = record.measured
    rounds = [each for each in measured.rounds if not each.is_warm_up] or measured.rounds
    gradient = fmean(each.phase_seconds["compute"] for each in rounds)
    whole = fmean(each.seconds for each in rounds)
    accuracy = "" if measured.test_accuracy is None else f", test accuracy {measured.test_accuracy:.1%}"
    return f"{record.seconds:.1f} s: a round {whole:.3f} s, gradient {gradient:.3f} s{accuracy}"


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"  (about {seconds / 60:.0f} min left)" if seconds >= 90 else f"  (about {seconds:.0f} s left)"


def _say(text: str) -> None:
    click.echo(text, err=True)
