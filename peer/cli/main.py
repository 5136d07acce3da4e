"""The command group, and the one place where errors become one line and an exit code."""

import logging
import os
import sys

import click

from peer import __version__
from peer.cli.dashboard import dashboard, top
from peer.cli.data import data
from peer.cli.experiment import experiment
from peer.cli.explain import explain
from peer.cli.options import option
from peer.cli.platform import doctor, down, status, up
from peer.cli.runs import runs
from peer.cli.settings import check_environment, source_of
from peer.cli.train import peer, resume, train
from peer.errors import PeerlessError

_EPILOG = """\b
Begin with:
  peerless up                       start the platform on this machine
  peerless data push mnist          store a dataset
  peerless train --peers 4          train
  peerless down                     stop the platform

\b
Every option can be set in the environment (--batch-size is PEERLESS_BATCH_SIZE)
and in a YAML file (--config). The command line wins, then the environment.

\b
Exit codes (README.md has them one by one):
  0        done                       30       dataset unknown, missing or damaged
  1        an error of peerless       40-44    peers: rank taken, peer lost, not alike
  2, 3     wrong option; full disk    45, 46   nothing to resume; loss not finite
  10-16    store                      50       the platform is down or does not start
  20-27    gateway or function        130, 143 stopped by SIGINT or SIGTERM
"""


@click.group(
    epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="peerless")
@option("-v", "--verbose", is_flag=True, help="Say more on stderr.")
def cli(verbose: bool) -> None:
    """Train PyTorch models peer to peer, with the gradients computed by OpenFaaS functions."""
    check_environment(cli, os.environ)
    handler = logging.StreamHandler()
    if not verbose:
        # each attempt that is repeated; if none succeeds, the error says as much in one line
        handler.addFilter(lambda record: record.name != "peer.invocations.fanout")
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        handlers=[handler],
    )


for command in (
    up,
    down,
    status,
    doctor,
    data,
    train,
    explain,
    peer,
    resume,
    runs,
    experiment,
    dashboard,
    top,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        status_code = cli.main(prog_name="peerless", standalone_mode=False)
    except PeerlessError as error:
        _exit(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _exit(_usage(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _exit("interrupted", 130)
    except BrokenPipeError:
        # the reader of our output has gone, as `head` does; not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        logging.getLogger(__name__).info("this is the traceback to report", exc_info=True)
        _exit(f"{_unexpected(error)} (`peerless --verbose …` shows where)", 1)
    sys.exit(status_code if isinstance(status_code, int) else 0)


def _exit(text: str, exit_code: int) -> None:
    click.echo(f"peerless: {' '.join(text.split())}", err=True)
    sys.exit(exit_code)


def _usage(error: click.ClickException) -> str:
    text = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    if context is None:
        return text
    if isinstance(error, click.BadParameter) and error.param is not None:
        text += source_of(error.param, context)
    return f"{text}; see `{context.command_path} --help`"


def _unexpected(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    return f"an error that nobody expected, please report it: {error!r}"
