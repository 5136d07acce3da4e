"""`peerless runs`: runs in the store."""

from typing import Any

import click

from peer import messages
from peer.cli.connections import open_store, store_options
from peer.cli.options import Command, option
from peer.cli.report import describe_run, print_summary
from peer.cli.values import run_name
from peer.store import keys


@click.group()
def runs() -> None:
    """List, show and remove runs."""


@runs.command("list", cls=Command, epilog="Example: peerless runs list --json | jq -r .config.run")
@option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@store_options
def list_(as_json: bool, **options: Any) -> None:
    """List the runs in the store."""
    from peer.runs import list_runs

    for listing in list_runs(open_store(options)):
        if as_json:
            click.echo(messages.encode(listing))
        else:
            click.echo(describe_run(listing))


@runs.command(cls=Command, epilog="Example: peerless runs show digits --json | jq .test_accuracy")
@click.argument("run", type=run_name)
@option("--json", "as_json", is_flag=True, help="The summary, or the configuration of an unfinished run.")
@store_options
def show(run: str, as_json: bool, **options: Any) -> None:
    """Show a run's summary, or how far it has come."""
    from peer.records.summary import Summary
    from peer.runs import list_runs, load

    store = open_store(options)
    config = load(store, run)
    summary = store.get_message_if_exists(keys.run_summary(run), Summary)
    if as_json:
        click.echo(messages.encode(summary or config))
    elif summary is not None:
        print_summary(summary)
    else:
        (listing,) = (listing for listing in list_runs(store) if listing.config.run == run)
        click.echo(describe_run(listing))
        click.echo(f"not finished: `peerless resume {run}` goes on from its newest checkpoint", err=True)


@runs.command(cls=Command, epilog="Example: peerless runs remove digits")
@click.argument("run", type=run_name)
@store_options
def remove(run: str, **options: Any) -> None:
    """Remove a run with its weights and checkpoints."""
    from peer.runs import remove as remove_run

    click.echo(f"removed {remove_run(open_store(options), run)} objects of {run}", err=True)


@runs.command(cls=Command, epilog="Example: peerless runs gc digits")
@click.argument("run", type=run_name)
@store_options
def gc(run: str, **options: Any) -> None:
    """Remove what a crash left of a run that is not running: its rounds, but no checkpoint or result."""
    from peer.runs import collect_garbage

    click.echo(f"removed {collect_garbage(open_store(options), run)} objects of {run}", err=True)
