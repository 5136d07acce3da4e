"""What the commands that train have in common; whatever imports torch is imported when it is needed."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from peer import messages
from peer.cli.connections import check_gateway, gateway_address
from peer.cli.progress import RunProgress
from peer.cli.report import pace, print_summary, shortest
from peer.config import GatewayAddress, Liveness, RunConfig, RunStart
from peer.errors import ConfigurationError, OutOfMemory, PeerlessError
from peer.files import make_folder, replace_file
from peer.local import boxes
from peer.sizes import mib
from peer.store import keys
from peer.store.s3 import Store, StoreAddress

if TYPE_CHECKING:
    from peer.records.rounds import RoundRecord
    from peer.records.summary import PeerResult
    from peer.session import Surroundings

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def surroundings(store: StoreAddress, config: RunConfig, options: dict[str, Any]) -> "Surroundings":
    """Return where a run's peers find things; the gateway answers, if the run needs it.

    Raises:
        ConfigurationError: functions are to be called, and there are none.
        FileNotWritten: --runs-dir cannot be made.
        FunctionError: the gateway is not there, refuses us or lacks the function.
    """
    if config.compute == "local" and options["invoke"] == "async":
        raise ConfigurationError("--invoke async needs functions, and --compute local has none")
    gateway = GatewayAddress("") if config.compute == "local" else gateway_address(options)
    if gateway.url:
        check_gateway(gateway)
    make_folder(options["runs_dir"])
    compute_with_one_thread()
    from peer.session import Surroundings

    return Surroundings(
        store=store,
        gateway=gateway,
        liveness=_liveness(options),
        outage_seconds=options["outage_patience"],
        directory=options["runs_dir"] / keys.checked(config.run, "run"),
        metrics_address="" if options["no_metrics"] else options["metrics_address"],
        is_hedging=not options["no_hedge"],
        invoke=options["invoke"],
        is_overlapping=not options["no_overlap"],
    )


def create(
    store: Store,
    config: RunConfig,
    epochs: float | None,
    data_dir: Path | None,
    surroundings: "Surroundings",
) -> RunConfig:
    """Return the frozen configuration of a new run, also in its folder; its dataset is stored if need be.

    Raises:
        PeerlessError: see `peer.runs.create`; no folder is left behind.
    """
    from peer import runs
    from peer.session import invoker_for, limits_for

    store_dataset(store, config.dataset, data_dir)
    config = _with_epochs(store, config, epochs)
    make_folder(surroundings.directory)
    try:
        invoker, limits = invoker_for(config, surroundings, store), limits_for(config, surroundings)
        config = runs.create(store, config, invoker, _say, limits)
    except PeerlessError:
        with contextlib.suppress(OSError):
            surroundings.directory.rmdir()  # of an earlier run of this name, and not empty
        raise
    replace_file(surroundings.directory / "config.json", messages.encode(config) + b"\n")
    return config


def resume(store: Store, run: str, options: dict[str, Any]) -> tuple[RunConfig, RunStart]:
    """Return what `peer.runs.resume` does, without waiting for torch if there is no such run."""
    _check_exists(store, run)
    compute_with_one_thread()
    from peer import runs

    return runs.resume(store, run, _liveness(options))


def join(store: Store, run: str, rank: int, options: dict[str, Any]) -> tuple[RunConfig, RunStart]:
    """Return a run's configuration and where it begins, once its peer 0 is there.

    Raises:
        ConfigurationError: the run has no such rank.
        PeerLost: peer 0 does not come.
    """
    compute_with_one_thread()
    from peer import runs

    existing = store.get_message_if_exists(keys.run_config(run), RunConfig)
    if existing is not None:
        _check_rank(existing, rank)
    click.echo(f"run {run}: waiting for peer 0, at most {options['join_patience']:.0f} s", err=True)
    config, start = runs.join(store, run, options["join_patience"])
    _check_rank(config, rank)
    return config, start


def train_here(
    store: Store,
    config: RunConfig,
    start: RunStart,
    surroundings: "Surroundings",
    as_json: bool,
    instance: str | None = None,
) -> None:
    """Train with all peers on this machine, each in a box of this instance type if there is one; finish.

    Raises:
        OutOfMemory: a peer needs more memory than the box has.
    """
    from peer.allocation import planning
    from peer.local.peers import train_locally

    samples = f"{config.num_peers} × {config.batches_per_round or 'all'} × {config.batch_size} samples"
    click.echo(
        f"run {config.run}: {config.num_peers} peers, {config.rounds} rounds of {samples}\n"
        f"files in {shortest(surroundings.directory)}/",
        err=True,
    )
    say_pace(config)
    with (
        planning.in_force(config, surroundings.gateway),
        RunProgress(config.rounds, start.resumed_round or 0) as progress,
        _boxed(instance, config.num_peers, surroundings.directory) as enter,
    ):
        results = train_locally(surroundings, config, start, progress.update, enter)
    finish(store, config, results[0], surroundings.directory, as_json, is_writer=True)


@contextlib.contextmanager
def _boxed(instance: str | None, num_peers: int, directory: Path) -> Iterator[Callable[[int], None]]:
    """Give the block what puts each peer into its box; the run's folder has what that is."""
    if instance is None:
        yield lambda _rank: None
        return
    peers = boxes.make(instance, num_peers)
    try:
        replace_file(directory / boxes.BOX_FILE, messages.encode(peers.box) + b"\n")
        if peers.box.note:
            _say(f"boxes of {instance}: {peers.box.note}")
        yield peers.enter
    except PeerlessError as error:
        if ranks := peers.out_of_memory():
            named = ", ".join(map(str, ranks))
            raise OutOfMemory(
                f"peer {named} needs more memory than the {mib(peers.box.memory_bytes)} of {instance}: take "
                "a larger --instance, or a smaller --batch-size or --micro-batch"
            ) from error
        raise
    finally:
        peers.remove()


def say_pace(config: RunConfig) -> None:
    """Say, as a run begins, that its peers may be apart, if they may."""
    if config.staleness:
        _say(f"peers {pace(config.staleness)}")


def run_one(
    surroundings: "Surroundings",
    config: RunConfig,
    start: RunStart,
    rank: int,
    on_record: "Callable[[RoundRecord], None]",
) -> "PeerResult":
    """Return the result of one peer, run in this process; its log is in the run's folder."""
    from peer.allocation import planning
    from peer.local.peers import log_to
    from peer.session import run_peer

    _check_rank(config, rank)
    log_to(surroundings.directory / f"peer-{rank}.log", rank)
    with planning.in_force(config, surroundings.gateway) if rank == 0 else contextlib.nullcontext():
        return run_peer(surroundings, config, start, rank, on_record)


def finish(
    store: Store, config: RunConfig, result: "PeerResult", directory: Path, as_json: bool, *, is_writer: bool
) -> None:
    """Leave the summary in the run's folder, and in the store if this is its writer, and print it."""
    from peer.learning.datasets import catalogue
    from peer.records import rounds, summary

    dataset = catalogue.find(store, config.dataset)
    records = [record for record in rounds.read(directory / "rounds.jsonl") if record.run == config.run]
    found = summary.summarise(config, result, records, dataset.splits["train"].num_samples)
    summary.write(directory / "summary.json", found)
    if is_writer:
        store.put_message(keys.run_summary(config.run), found)
    if as_json:
        click.echo(messages.encode(found))
    else:
        print_summary(found, directory)


def _check_exists(store: Store, run: str) -> None:
    if store.head(keys.run_config(run)) is None:
        raise ConfigurationError(f"there is no run {run!r}: `peerless runs list` shows those that are")


def _check_rank(config: RunConfig, rank: int) -> None:
    if rank >= config.num_peers:
        raise ConfigurationError(
            f"--rank is {rank}, but run {config.run} has {config.num_peers} peers: "
            f"0 to {config.num_peers - 1}"
        )


def store_dataset(store: Store, dataset: str, data_dir: Path | None) -> None:
    """Push a dataset that is not stored yet."""
    from peer.learning.datasets import catalogue

    known = catalogue.list_datasets(store)
    if not any(dataset in (manifest.id, manifest.name) for manifest in known):
        manifest = catalogue.push(
            store, dataset, data_dir=data_dir, on_message=lambda text: click.echo(text, err=True)
        )
        click.echo(f"dataset {manifest.id} stored", err=True)


def _with_epochs(store: Store, config: RunConfig, epochs: float | None) -> RunConfig:
    """Return the configuration with as many rounds as make this many epochs."""
    from peer.learning.datasets import catalogue

    if epochs is None:
        return config
    if not config.batches_per_round:
        return replace(config, rounds=math.ceil(epochs))
    num_samples = catalogue.find(store, config.dataset).splits["train"].num_samples
    global_batch = config.num_peers * config.batches_per_round * config.batch_size
    return replace(config, rounds=math.ceil(epochs * num_samples / global_batch))


def compute_with_one_thread() -> None:
    """Fix the number of threads before torch is imported: the same bits everywhere, and safe forks."""
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = "1"


def _liveness(options: dict[str, Any]) -> Liveness:
    return Liveness(options["heartbeat"], options["peer_patience"], options["join_patience"])


def _say(text: str) -> None:
    click.echo(text, err=True)
