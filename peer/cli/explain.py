"""`peerless explain`: what a run would choose here, and why."""

from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from peer.allocation.plans import TARGETS
from peer.cli.connections import gateway_address, gateway_options, open_store, store_options
from peer.cli.options import Command
from peer.cli.report import pace
from peer.cli.run_options import draft, run_options, take_run_options
from peer.compression.names import NONE
from peer.config import RunConfig
from peer.errors import ConfigurationError
from peer.sizes import mib

if TYPE_CHECKING:
    from peer.allocation.plans import Plan
    from peer.learning.datasets.manifest import DatasetManifest
    from peer.store.s3 import Store


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  peerless explain --model vgg11 --peers 8
  peerless explain --store http://minio.example:9000 --store-access-key …
""",
)
@run_options
@gateway_options
@store_options
@click.pass_context
def explain(context: click.Context, /, **options: Any) -> None:
    """Compare the exchange strategies for a run over this store, without running it, and its plans.

    The dataset has to be stored. Times are of one peer that waits for nobody. Plans need a
    profile, which a run with --optimize leaves.
    """
    config = draft("explain", take_run_options(context, options))
    store = open_store(options, is_written=True)
    from peer.compression.codecs import codec_named
    from peer.compression.interface import num_bytes
    from peer.exchange.choice import estimates, probe
    from peer.learning.datasets import catalogue
    from peer.learning.flat import Layout
    from peer.learning.gradients import indivisible_layer
    from peer.learning.models import build

    dataset = catalogue.find(store, config.dataset)
    model = build(config.model, dataset.num_classes)
    layout = Layout.of(model)
    gradient_bytes = 4 * layout.num_parameters
    sent_bytes = num_bytes(codec_named(config.compression), layout.num_parameters)
    link = probe(store, config.run)
    codec = "" if config.compression == NONE else f" ({sent_bytes / 1e6:.2f} MB by {config.compression})"
    size = f"{gradient_bytes / 1e6:.2f} MB{codec}"
    click.echo(f"gradient  {size} of {config.model.name}, {config.num_peers} peers")
    click.echo(f"store     {link}")
    click.echo(f"pace      {pace(config.staleness)}")
    if config.staleness:
        click.echo(_meetings(config))
    for estimate in estimates(gradient_bytes, config.num_peers, link, sent_bytes):
        if not config.staleness or estimate.strategy == "all_gather":
            click.echo(str(estimate))
    if config.compute == "functions":
        config = replace(config, dataset=dataset.id, indivisible_layer=indivisible_layer(model))
        _explain_plans(store, config, dataset, gradient_bytes, options)


def _explain_plans(
    store: "Store",
    config: RunConfig,
    dataset: "DatasetManifest",
    gradient_bytes: int,
    options: dict[str, Any],
) -> None:
    """Print what each target would choose, and the reasons of the one that is asked for."""
    from peer.allocation import planning
    from peer.learning.shards import plan_shards

    try:
        address = gateway_address(options)
    except ConfigurationError as error:
        click.echo(f"plans     {error}")
        return
    shards = plan_shards(dataset, config.num_peers, config.partition, config.seed)
    shape = planning.shape_of(config, dataset, shards, gradient_bytes)
    found = planning.compared(store, config, dataset, shape, address)
    if found is None:
        click.echo("plans     none yet: a run with --optimize measures what they are made from")
        return
    by, plan_for = found
    click.echo(f"plans     from what run {by} has measured")
    for target in TARGETS:
        click.echo(_row(plan_for(target)))
    for reason in plan_for(config.optimize).reasons if config.optimize else []:
        click.echo(f"  {reason}")


def _row(plan: "Plan") -> str:
    passes = f"passes of {plan.micro_batch}" if plan.micro_batch else "whole batches"
    limit = mib(plan.limit_bytes) if plan.limit_bytes else "no limit"
    replicas = "1 replica" if plan.replicas == 1 else f"{plan.replicas} replicas"
    return (
        f"{plan.target}: {plan.batches_per_invocation} an invocation, {replicas}, {passes}, {limit}: "
        f"{plan.round_seconds:.3g} s a round, {plan.gb_seconds:.3g} GB-s"
    )


def _meetings(config: RunConfig) -> str:
    """Return what peers that may be apart do with late gradients, and when they meet."""
    every = config.checkpoint_every
    meetings = f"every {every} rounds, before a checkpoint, and at the end" if every else "at the end"
    return (
        "          a gradient that is k rounds late counts 1/(1+k); weights become one "
        f"{meetings}\n          (docs/decisions/staleness.md)"
    )
