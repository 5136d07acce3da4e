"""`peerless explain`: what a run would choose here, and why."""

from typing import Any

import click

from peer.cli.connections import open_store, store_options
from peer.cli.options import Command
from peer.cli.run_options import draft, run_options, take_run_options
from peer.compression.names import NONE


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  peerless explain --model vgg11 --peers 8
  peerless explain --store http://minio.example:9000 --store-access-key …
""",
)
@run_options
@store_options
@click.pass_context
def explain(context: click.Context, /, **options: Any) -> None:
    """Compare the exchange strategies for a run over this store, without running it.

    The dataset has to be stored. Times are of one peer that waits for nobody.
    """
    config = draft("explain", take_run_options(context, options))
    store = open_store(options, is_written=True)
    from peer.compression.codecs import codec_named
    from peer.compression.interface import num_bytes
    from peer.exchange.choice import estimates, probe
    from peer.learning.datasets import catalogue
    from peer.learning.flat import Layout
    from peer.learning.models import build

    dataset = catalogue.find(store, config.dataset)
    layout = Layout.of(build(config.model, dataset.num_classes))
    gradient_bytes = 4 * layout.num_parameters
    sent_bytes = num_bytes(codec_named(config.compression), layout.num_parameters)
    link = probe(store, config.run)
    codec = "" if config.compression == NONE else f" ({sent_bytes / 1e6:.2f} MB by {config.compression})"
    size = f"{gradient_bytes / 1e6:.2f} MB{codec}"
    click.echo(f"gradient  {size} of {config.model.name}, {config.num_peers} peers")
    click.echo(f"store     {link}")
    for estimate in estimates(gradient_bytes, config.num_peers, link, sent_bytes):
        click.echo(str(estimate))
