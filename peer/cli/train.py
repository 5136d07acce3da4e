"""`peerless train`, `resume` and `peer`: running the peers of a run, here or on several machines."""

from datetime import datetime
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from peer.cli import running
from peer.cli.connections import gateway_options, open_store, store_options
from peer.cli.joining import check_agrees
from peer.cli.options import Command, Count, Declared, Number, declare, option
from peer.cli.progress import RunProgress
from peer.cli.run_options import automatic_name, draft, run_options, take_run_options
from peer.cli.values import instance_type, run_name
from peer.config import RunStart
from peer.files import make_folder

_PATIENCE = "Patience, in seconds"
_DATA_DIR = option(
    "--data-dir",
    section="What is trained",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Folder with the dataset's own files, if it is not stored yet.",
)


def _place_options(command: Declared) -> Declared:
    """Add what says where a run's files go and how patient its peers are."""
    return declare(
        command,
        option(
            "--peer-patience",
            section=_PATIENCE,
            type=Number(1),
            default=20.0,
            help="Without a heartbeat, until a peer is lost.",
        ),
        option(
            "--join-patience",
            section=_PATIENCE,
            type=Number(1),
            default=300.0,
            help="For peers that have not begun.",
        ),
        option(
            "--heartbeat",
            section=_PATIENCE,
            type=Number(0.1),
            default=2.0,
            help="Between heartbeats; the same for all peers.",
        ),
        option(
            "--outage-patience",
            section=_PATIENCE,
            type=Number(1),
            default=120.0,
            help="With a gateway or a store that is away.",
        ),
        option(
            "--no-hedge",
            section=_PATIENCE,
            is_flag=True,
            help="No second attempt of an invocation that takes much longer than the others.",
        ),
        option(
            "--no-overlap",
            is_flag=True,
            help="Fetch each gradient before the next invocation begins, and nothing for the next round, to "
            "measure what overlap gains.",
        ),
        option(
            "--invoke",
            type=click.Choice(["sync", "async"]),
            default="sync",
            help="async: through the gateway's queue, for functions longer than any timeout on the way.",
        ),
        gateway_options,
        store_options,
        option(
            "--runs-dir",
            type=click.Path(path_type=Path),
            metavar="DIR",
            default=Path("runs"),
            help="Where the files of runs go, a folder each.",
        ),
        option(
            "--metrics-address",
            metavar="ADDRESS",
            default="127.0.0.1",
            help="Where each peer serves its metrics to Prometheus, at a port of the system's choice.",
        ),
        option("--no-metrics", is_flag=True, help="Serve none."),
        option("--json", "as_json", is_flag=True, help="Print the summary as JSON."),
    )


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  peerless train
  peerless train --model resnet18 --dataset cifar10 --epochs 3 --batch-size 128
  peerless train --batches-per-round all --batch-size 512 --rounds 10   the paper's setting
  peerless train --compute local                                        the paper's baseline
  peerless train --config experiment.yml --seed 7                       seed overrides the file's
Exit codes: `peerless --help`.
""",
)
@option(
    "--run",
    "name",
    section="What is trained",
    type=run_name,
    metavar="NAME",
    help="The run's name.  [default: from dataset, model and time]",
)
@_DATA_DIR
@run_options
@option(
    "--instance",
    section="Where it is computed",
    type=instance_type,
    metavar="TYPE",
    help="Keep each peer to the CPUs and memory of an EC2 instance type, such as t2.medium.",
)
@_place_options
@click.pass_context
def train(
    context: click.Context,
    /,
    name: str | None,
    data_dir: Path | None,
    instance: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train with all peers on this machine, each its own process.

    SIGINT (control-C) asks for a checkpoint after this round, from which `peerless resume` goes on.
    """
    asked = take_run_options(context, options)
    config = draft(name or "unnamed", asked)
    config = config if name else replace(config, run=run_name(automatic_name(config, datetime.now())))
    store = open_store(options, is_written=True)
    surroundings = running.surroundings(store.address, config, options)
    config = running.create(store, config, asked["epochs"], data_dir, surroundings)
    running.train_here(store, config, RunStart(), surroundings, as_json, instance)


@click.command(cls=Command, epilog="Example: peerless resume mnist-cnn-20260101-120000")
@click.argument("run", type=run_name)
@_place_options
def resume(run: str, as_json: bool, **options: Any) -> None:
    """Go on with a run from its newest checkpoint, with all peers on this machine."""
    store = open_store(options, is_written=True)
    config, start = running.resume(store, run, options)
    surroundings = running.surroundings(store.address, config, options)
    make_folder(surroundings.directory)
    click.echo(f"run {run}: going on from round {start.resumed_round}", err=True)
    running.train_here(store, config, start, surroundings, as_json)


@click.command(
    cls=Command,
    epilog="""\b
Example, on two machines:
  peerless peer digits --rank 0 --peers 2 --rounds 200 --gateway … --store …
  peerless peer digits --rank 1 --gateway … --store …
""",
)
@click.argument("run", type=run_name)
@option("--rank", type=Count(0), required=True, help="0 begins the run; the others join it.")
@option(
    "--resume",
    "is_resumed",
    is_flag=True,
    help="Rank 0 goes on from the newest checkpoint; the others follow it.",
)
@_DATA_DIR
@run_options
@_place_options
@click.pass_context
def peer(
    context: click.Context,
    /,
    run: str,
    rank: int,
    is_resumed: bool,
    data_dir: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Be one peer of a run whose other peers are elsewhere."""
    asked = take_run_options(context, options)
    wanted = draft(run, asked)
    store = open_store(options, is_written=True)
    if rank == 0 and not is_resumed:
        surroundings = running.surroundings(store.address, wanted, options)
        config = running.create(store, wanted, asked["epochs"], data_dir, surroundings)
        start = RunStart()
    else:
        if rank:
            config, start = running.join(store, run, rank, options)
        else:
            config, start = running.resume(store, run, options)
        check_agrees(config, wanted, context)
        surroundings = running.surroundings(store.address, config, options)
        make_folder(surroundings.directory)
    running.say_pace(config)
    with RunProgress(config.rounds, start.resumed_round or 0, peer=rank) as progress:
        result = running.run_one(surroundings, config, start, rank, progress.update)
    running.finish(store, config, result, surroundings.directory, as_json, is_writer=rank == 0)
