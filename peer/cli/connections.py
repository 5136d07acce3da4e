"""Which gateway and which store: options, `PEERLESS_*`, the configuration file, else what `peerless up` started."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from peer.config import GatewayAddress
from peer.errors import ConfigurationError
from peer.platform import Platform
from peer.store.s3 import Store, StoreAddress

Command = TypeVar("Command", bound=Callable[..., Any])


def default_state_dir() -> Path:
    """Return where `peerless up` keeps its state: `$XDG_STATE_HOME/peerless`, else `~/.local/state/peerless`."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "peerless"


def state_dir_option(command: Command) -> Command:
    """Add `--state-dir`."""
    return click.option(
        "--state-dir",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="PEERLESS_STATE_DIR",
        default=default_state_dir,
        help="Where `peerless up` keeps its state.  [default: ~/.local/state/peerless]",
    )(command)


def store_options(command: Command) -> Command:
    """Add the options that name a store."""
    options = [
        click.option(
            "--store", "store_endpoint", envvar="PEERLESS_STORE", help="S3 endpoint, http://host:port."
        ),
        click.option("--store-access-key", envvar="PEERLESS_STORE_ACCESS_KEY", help="Its access key."),
        click.option(
            "--store-secret-key-file",
            type=click.Path(path_type=Path, dir_okay=False),
            envvar="PEERLESS_STORE_SECRET_KEY_FILE",
            help="File with its secret key, or set PEERLESS_STORE_SECRET_KEY.",
        ),
        click.option(
            "--store-for-functions",
            envvar="PEERLESS_STORE_FOR_FUNCTIONS",
            help="The same store as functions reach it, if that is another address.",
        ),
        click.option("--bucket", envvar="PEERLESS_BUCKET", default="peerless", show_default=True),
        click.option("--region", envvar="PEERLESS_REGION", default="us-east-1", show_default=True),
    ]
    for option in reversed(options):
        command = option(command)
    return state_dir_option(command)


def gateway_options(command: Command) -> Command:
    """Add the options that name a gateway."""
    options = [
        click.option("--gateway", envvar="PEERLESS_GATEWAY", help="OpenFaaS gateway, http://host:port."),
        click.option("--gateway-user", envvar="PEERLESS_GATEWAY_USER", default="admin", show_default=True),
        click.option(
            "--gateway-password-file",
            type=click.Path(path_type=Path, dir_okay=False),
            envvar="PEERLESS_GATEWAY_PASSWORD_FILE",
            help="File with its password, or set PEERLESS_GATEWAY_PASSWORD.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def store_address(options: dict[str, Any]) -> StoreAddress:
    """Return the store that the options name, else the one that `peerless up` started.

    Raises:
        ConfigurationError: neither is there, or a key is missing; the message says what to give.
    """
    endpoint = options["store_endpoint"]
    if endpoint is None:
        started = Platform(options["state_dir"]).store_address()
        if started is None:
            raise ConfigurationError(
                "no store: start one with `peerless up`, or give --store with --store-access-key and "
                "--store-secret-key-file"
            )
        return started
    secret = _secret(options["store_secret_key_file"], "PEERLESS_STORE_SECRET_KEY", "--store-secret-key-file")
    if not options["store_access_key"] or not secret:
        raise ConfigurationError(
            f"the store {endpoint} needs --store-access-key and --store-secret-key-file "
            "(or PEERLESS_STORE_ACCESS_KEY and PEERLESS_STORE_SECRET_KEY)"
        )
    return StoreAddress(
        endpoint=endpoint.rstrip("/"),
        access_key=options["store_access_key"],
        secret_key=secret,
        bucket=options["bucket"],
        region=options["region"],
        function_endpoint=options["store_for_functions"],
    )


def open_store(options: dict[str, Any]) -> Store:
    """Return a store that answers, accepts the credentials and has its bucket.

    Raises:
        ConfigurationError: as `store_address`.
        StoreUnreachable, StoreDenied, ClockSkewed: see `Store.check`.
    """
    store = Store(store_address(options))
    store.check()
    store.ensure_bucket()
    return store


def gateway_address(options: dict[str, Any]) -> GatewayAddress:
    """Return the gateway that the options name, else the one that `peerless up` started.

    Raises:
        ConfigurationError: neither is there.
    """
    url = options["gateway"]
    if url is None:
        started = Platform(options["state_dir"]).gateway_address()
        if started is None:
            raise ConfigurationError("no gateway: start one with `peerless up`, or give --gateway")
        return started
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"--gateway is {url!r}: write http://host:port")
    password = _secret(
        options["gateway_password_file"], "PEERLESS_GATEWAY_PASSWORD", "--gateway-password-file"
    )
    return GatewayAddress(url.rstrip("/"), options["gateway_user"], password)


def _secret(path: Path | None, variable: str, option: str) -> str:
    if path is None:
        return os.environ.get(variable, "")
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigurationError(f"{option} {path} cannot be read: {error.strerror}") from error
