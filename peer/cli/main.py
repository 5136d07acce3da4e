"""The command group, and the one place where errors become exit codes."""

import logging
import os
import sys

import click

from peer import __version__
from peer.cli.data import data
from peer.cli.platform import doctor, down, status, up
from peer.cli.runs import runs
from peer.cli.settings import check_environment
from peer.cli.train import peer, resume, train
from peer.errors import PeerlessError

_EPILOG = """\b
Begin with:
  peerless up                       start the platform on this machine
  peerless data push mnist          store a dataset
  peerless train --peers 4          train
  peerless down                     stop the platform

Exit codes: README.md, section "Exit codes".
"""


@click.group(
    epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="peerless")
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
def cli(verbose: bool) -> None:
    """Train PyTorch models peer to peer, with the gradients computed by OpenFaaS functions."""
    check_environment(cli, os.environ)
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


for command in (up, down, status, doctor, data, train, peer, resume, runs):
    cli.add_command(command)


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        status_code = cli.main(standalone_mode=False)
    except PeerlessError as error:
        click.echo(f"peerless: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("peerless: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # the reader of our output has gone, as `head` does; not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(status_code if isinstance(status_code, int) else 0)
