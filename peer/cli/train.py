"""`peerless train`, `resume` and `peer`: running the peers of a run, here or on several machines."""

import math
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from peer import messages
from peer.cli.connections import gateway_address, gateway_options, open_store, store_options
from peer.cli.progress import RunProgress
from peer.cli.report import print_summary
from peer.cli.run_options import automatic_name, check_agrees, draft, run_options, take_run_options
from peer.config import GatewayAddress, Liveness, RunConfig, RunStart
from peer.errors import ConfigurationError
from peer.store import keys

if TYPE_CHECKING:
    from peer.session import Surroundings
    from peer.store.s3 import Store

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def _place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what says where a run's files go and how patient its peers are."""
    options = [
        click.option(
            "--runs-dir",
            type=click.Path(path_type=Path, file_okay=False),
            envvar="PEERLESS_RUNS_DIR",
            default=Path("runs"),
            show_default=True,
            help="Where the files of runs go, a folder each.",
        ),
        click.option(
            "--peer-patience",
            type=click.FloatRange(min=1),
            envvar="PEERLESS_PEER_PATIENCE",
            default=20.0,
            show_default=True,
            help="Seconds without a heartbeat after which a peer is lost.",
        ),
        click.option(
            "--join-patience",
            type=click.FloatRange(min=1),
            envvar="PEERLESS_JOIN_PATIENCE",
            default=300.0,
            show_default=True,
            help="Seconds to wait for peers that have not begun.",
        ),
        click.option(
            "--heartbeat",
            type=click.FloatRange(min=0.1),
            envvar="PEERLESS_HEARTBEAT",
            default=2.0,
            show_default=True,
            help="Seconds between a peer's heartbeats; the same for all peers.",
        ),
        click.option(
            "--outage-patience",
            type=click.FloatRange(min=1),
            envvar="PEERLESS_OUTAGE_PATIENCE",
            default=120.0,
            show_default=True,
            help="Seconds that a gateway or a store may be away.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON."),
    ]
    for option in reversed(options):
        command = option(command)
    return gateway_options(store_options(command))


@click.command(
    epilog="""\b
Examples:
  peerless train
  peerless train --peers 4 --model resnet18 --epochs 3 --batch-size 128
  peerless train --batches-per-round all --batch-size 512 --rounds 10   (the paper's setting)
  peerless train --compute local                                        (the paper's baseline)
"""
)
@click.option("--run", "name", envvar="PEERLESS_RUN", help="The run's name.  [default: from model and time]")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="PEERLESS_DATA_DIR",
    help="Folder with the dataset's own files, if it is not stored yet.",
)
@run_options
@_place_options
def train(name: str | None, data_dir: Path | None, as_json: bool, **options: Any) -> None:
    """Train with all peers on this machine, each its own process."""
    asked = take_run_options(options)
    config = draft(name or "unnamed", asked)
    config = config if name else replace(config, run=automatic_name(config, datetime.now()))
    _compute_with_one_thread()
    store = open_store(options)
    surroundings = _surroundings(store, config, options)
    _store_dataset(store, config.dataset, data_dir)
    config = _create(store, _with_epochs(store, config, asked["epochs"]), surroundings)
    _train_here(store, config, RunStart(), surroundings, as_json)


@click.command(epilog="Example: peerless resume mnist-cnn-20260101-120000")
@click.argument("run")
@_place_options
def resume(run: str, as_json: bool, **options: Any) -> None:
    """Go on with a run from its newest checkpoint, with all peers on this machine."""
    from peer.runs import resume as resume_run

    _compute_with_one_thread()
    store = open_store(options)
    config, start = resume_run(store, run)
    surroundings = _surroundings(store, config, options)
    click.echo(f"run {run}: going on from round {start.resumed_round}", err=True)
    _train_here(store, config, start, surroundings, as_json)


@click.command(
    epilog="""\b
Example, on two machines:
  peerless peer digits --rank 0 --peers 2 --rounds 200 --gateway … --store …
  peerless peer digits --rank 1 --gateway … --store …
"""
)
@click.argument("run")
@click.option(
    "--rank", type=click.IntRange(min=0), required=True, help="0 begins the run; the others join it."
)
@click.option("--resume", "is_resumed", is_flag=True, help="With --rank 0: go on from the newest checkpoint.")
@run_options
@_place_options
@click.pass_context
def peer(
    context: click.Context, /, run: str, rank: int, is_resumed: bool, as_json: bool, **options: Any
) -> None:
    """Be one peer of a run whose other peers are elsewhere."""
    from peer.local_peers import log_to
    from peer.runs import join
    from peer.runs import resume as resume_run
    from peer.session import run_peer

    asked = take_run_options(options)
    wanted = draft(run, asked)
    _compute_with_one_thread()
    store = open_store(options)
    if rank > 0:
        config, start = join(store, run, options["join_patience"])
        check_agrees(config, wanted, context)
    elif is_resumed:
        config, start = resume_run(store, run)
        check_agrees(config, wanted, context)
    else:
        _store_dataset(store, wanted.dataset, None)
        wanted = _with_epochs(store, wanted, asked["epochs"])
        config, start = _create(store, wanted, _surroundings(store, wanted, options)), RunStart()
    if rank >= config.num_peers:
        raise ConfigurationError(
            f"--rank is {rank}, but run {run} has {config.num_peers} peers: 0 to {config.num_peers - 1}"
        )
    surroundings = _surroundings(store, config, options)
    log_to(surroundings.directory / f"peer-{rank}.log", rank)
    with RunProgress(config.rounds, start.resumed_round or 0, peer=rank) as progress:
        result = run_peer(surroundings, config, start, rank, progress.update)
    _finish(store, config, result, surroundings.directory, as_json, is_writer=rank == 0)


def _train_here(
    store: "Store", config: RunConfig, start: RunStart, surroundings: "Surroundings", as_json: bool
) -> None:
    from peer.local_peers import train_locally

    click.echo(
        f"run {config.run}: {config.num_peers} peers, {config.rounds} rounds of {config.num_peers} × "
        f"{config.batches_per_round or 'all'} × {config.batch_size} samples, files in {surroundings.directory}/",
        err=True,
    )
    with RunProgress(config.rounds, start.resumed_round or 0) as progress:
        results = train_locally(surroundings, config, start, progress.update)
    _finish(store, config, results[0], surroundings.directory, as_json, is_writer=True)


def _finish(
    store: "Store", config: RunConfig, result: Any, directory: Path, as_json: bool, *, is_writer: bool
) -> None:
    """Leave the summary in the run's folder, and in the store if this is its writer, and print it."""
    from peer import rounds, summary
    from peer.learning.datasets import catalogue

    dataset = catalogue.find(store, config.dataset)
    records = [record for record in rounds.read(directory / "rounds.jsonl") if record.run == config.run]
    found = summary.summarise(config, result, records, dataset.splits["train"].num_samples)
    summary.write(directory / "summary.json", found)
    if is_writer:
        store.put_message(keys.run_summary(config.run), found)
    if as_json:
        click.echo(messages.encode(found))
        return
    print_summary(found, directory)
    click.echo(
        f"  next             peerless train --compute local   the same without functions: the same weights\n"
        f"                   peerless train --help            other models, datasets, optimizers\n"
        f"                   peerless runs show {config.run}"
    )


def _create(store: "Store", config: RunConfig, surroundings: "Surroundings") -> RunConfig:
    from peer.runs import create
    from peer.session import invoker_for

    config = create(store, config, invoker_for(config, surroundings, store))
    (surroundings.directory / "config.json").write_bytes(messages.encode(config) + b"\n")
    return config


def _store_dataset(store: "Store", dataset: str, data_dir: Path | None) -> None:
    """Push a dataset that is not stored yet; `find` says what is wrong with any other name."""
    from peer.learning.datasets import catalogue

    known = catalogue.list_datasets(store)
    if not any(dataset in (manifest.id, manifest.name) for manifest in known):
        click.echo(f"storing dataset {dataset}", err=True)
        catalogue.push(store, dataset, data_dir=data_dir)


def _with_epochs(store: "Store", config: RunConfig, epochs: float | None) -> RunConfig:
    """Return the configuration with as many rounds as make this many epochs."""
    from peer.learning.datasets import catalogue

    if epochs is None:
        return config
    if not config.batches_per_round:
        return replace(config, rounds=math.ceil(epochs))
    num_samples = catalogue.find(store, config.dataset).splits["train"].num_samples
    global_batch = config.num_peers * config.batches_per_round * config.batch_size
    return replace(config, rounds=math.ceil(epochs * num_samples / global_batch))


def _surroundings(store: "Store", config: RunConfig, options: dict[str, Any]) -> "Surroundings":
    from peer.session import Surroundings

    gateway = GatewayAddress("") if config.compute == "local" else gateway_address(options)
    directory = options["runs_dir"] / keys.checked(config.run, "run")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"--runs-dir {options['runs_dir']} is not usable: {error.strerror}"
        ) from error
    return Surroundings(
        store=store.address,
        gateway=gateway,
        liveness=Liveness(options["heartbeat"], options["peer_patience"], options["join_patience"]),
        outage_seconds=options["outage_patience"],
        directory=directory,
    )


def _compute_with_one_thread() -> None:
    """Fix the number of threads before torch is imported: the same bits everywhere, and forks that are safe."""
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = "1"
