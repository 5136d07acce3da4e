"""`peerless data`: datasets in the store."""

from pathlib import Path
from typing import Any

import click

from peer import messages
from peer.cli.connections import open_store, store_options
from peer.cli.options import Command, Count, option
from peer.cli.progress import ByteProgress
from peer.cli.values import dataset_name


@click.group()
def data() -> None:
    """Store, list and remove datasets."""


@data.command(
    cls=Command,
    epilog="""\b
Examples:
  peerless data push mnist
  peerless data push cifar10 --data-dir ~/datasets
  peerless data push synthetic-10000-1x28x28
""",
)
@click.argument("name", type=dataset_name)
@option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Folder with the dataset's own files (IDX, or the CIFAR-10 archive).",
)
@option(
    "--held-out",
    type=Count(0),
    default=5_000,
    help="Training samples kept for early stopping; at most a fifth of them.",
)
@store_options
def push(name: str, data_dir: Path | None, held_out: int, **options: Any) -> None:
    """Store a dataset: mnist, fashion-mnist, cifar10, synthetic, or any IDX folder.

    Pushing the same dataset again sends nothing.
    """
    from peer.learning.datasets import catalogue

    store = open_store(options, is_written=True)
    with ByteProgress(f"push {name}") as progress:
        manifest = catalogue.push(
            store,
            name,
            data_dir=data_dir,
            held_out=held_out,
            on_progress=progress.update,
            on_message=lambda text: click.echo(text, err=True),
        )
    click.echo(manifest.id)


@data.command("list", cls=Command, epilog="Example: peerless data list --json | jq -r .id")
@option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@store_options
def list_(as_json: bool, **options: Any) -> None:
    """List the stored datasets."""
    from peer.learning.datasets import catalogue

    for manifest in catalogue.list_datasets(open_store(options)):
        if as_json:
            click.echo(messages.encode(manifest))
            continue
        samples = ", ".join(f"{split.num_samples:,} {name}" for name, split in manifest.splits.items())
        shape = "×".join(map(str, manifest.shape))
        click.echo(f"{manifest.id:<32} {shape:<10} {samples}, {manifest.num_bytes / 1e6:.0f} MB")


@data.command(cls=Command, epilog="Example: peerless data show mnist | jq .splits.train.num_samples")
@click.argument("dataset", type=dataset_name)
@store_options
def show(dataset: str, **options: Any) -> None:
    """Print a dataset's manifest as JSON."""
    from peer.learning.datasets import catalogue

    click.echo(messages.encode(catalogue.find(open_store(options), dataset)))


@data.command(cls=Command, epilog="Example: peerless data remove mnist-29250932f1be")
@click.argument("dataset", type=dataset_name)
@store_options
def remove(dataset: str, **options: Any) -> None:
    """Remove a dataset. Runs that use it cannot be resumed any more."""
    from peer.learning.datasets import catalogue

    click.echo(f"removed {catalogue.remove(open_store(options), dataset).id}", err=True)
