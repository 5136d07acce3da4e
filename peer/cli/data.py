"""`peerless data`: datasets in the store."""

from pathlib import Path
from typing import Any

import click

from peer import messages
from peer.cli.connections import open_store, store_options
from peer.cli.progress import ByteProgress


@click.group()
def data() -> None:
    """Store, list and remove datasets."""


@data.command(epilog="Example: peerless data push cifar10 --data-dir ~/datasets")
@click.argument("name")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="PEERLESS_DATA_DIR",
    help="Folder with the dataset's own files (IDX, or the CIFAR-10 archive).",
)
@click.option(
    "--held-out",
    type=click.IntRange(min=0),
    default=5_000,
    show_default=True,
    help="Training samples kept for early stopping; at most a fifth of them.",
)
@store_options
def push(name: str, data_dir: Path | None, held_out: int, **options: Any) -> None:
    """Store a dataset: mnist, fashion-mnist, cifar10, synthetic, or any IDX folder.

    Pushing the same dataset again sends nothing.
    """
    from peer.learning.datasets import catalogue

    store = open_store(options)
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


@data.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
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


@data.command()
@click.argument("dataset")
@store_options
def show(dataset: str, **options: Any) -> None:
    """Print a dataset's manifest as JSON."""
    from peer.learning.datasets import catalogue

    click.echo(messages.encode(catalogue.find(open_store(options), dataset)))


@data.command()
@click.argument("dataset")
@store_options
def remove(dataset: str, **options: Any) -> None:
    """Remove a dataset. Runs that use it cannot be resumed any more."""
    from peer.learning.datasets import catalogue

    click.echo(f"removed {catalogue.remove(open_store(options), dataset).id}", err=True)
