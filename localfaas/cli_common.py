"""What every `localfaas` command has: a state directory, and errors of one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from localfaas.errors import ConfigurationError, LocalFaasError

_DEFAULT_STATE_DIR = Path(".localfaas")


def state_dir_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command with the option `--state-dir`."""
    return click.option(
        "--state-dir",
        type=click.Path(path_type=Path),
        default=_DEFAULT_STATE_DIR,
        show_default=True,
        envvar="LOCALFAAS_STATE_DIR",
        help="Where functions, images, logs and the password are kept.",
    )(command)


def parse_pairs(option: str, pairs: tuple[str, ...]) -> dict[str, str]:
    """Return what an option that may be given several times as NAME=VALUE says.

    Raises:
        ConfigurationError: one has no name, or no value.
    """
    if any("=" not in pair or pair.startswith("=") for pair in pairs):
        raise ConfigurationError(f"{option} is NAME=VALUE")
    return dict(pair.partition("=")[::2] for pair in pairs)


def run_command(work: Callable[[], None]) -> None:
    """Do a command's work; an error becomes one line on stderr and its exit code."""
    try:
        work()
    except LocalFaasError as error:
        click.echo(f"localfaas: {error}", err=True)
        raise SystemExit(error.exit_code) from error
    except OSError as error:
        click.echo(f"localfaas: {error.filename or 'the state directory'}: {error.strerror}", err=True)
        raise SystemExit(1) from error
