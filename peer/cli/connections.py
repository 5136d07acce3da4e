"""Which gateway and which store: what the options name, else what `peerless up` started."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from peer.cli.options import declare, option
from peer.cli.settings import config_option
from peer.config import GatewayAddress
from peer.errors import ConfigurationError
from peer.gateway import Gateway
from peer.local.platform import FUNCTIONS, Platform
from peer.store.s3 import Store, StoreAddress

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, dir_okay=False)
_STORE = "Store"
_GATEWAY = "Gateway"


def default_state_dir() -> Path:
    """Return where `peerless up` keeps its state, of the XDG base directories: ~/.local/state/peerless."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "peerless"


def state_options(command: Command) -> Command:
    """Add `--state-dir` and `--config`."""
    state_dir = option(
        "--state-dir",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        default=default_state_dir,
        show_default="~/.local/state/peerless",
        help="Where `peerless up` keeps its state.",
    )
    return declare(command, state_dir, config_option)


def store_options(command: Command) -> Command:
    """Add the options that name a store."""
    return declare(
        command,
        option("--store", "store_endpoint", section=_STORE, metavar="URL", help="S3, http://host:port."),
        option("--store-access-key", section=_STORE, metavar="KEY", help="Its access key."),
        option(
            "--store-secret-key-file",
            section=_STORE,
            type=_FILE,
            metavar="FILE",
            help="File with its secret key, or set PEERLESS_STORE_SECRET_KEY.",
        ),
        option(
            "--store-for-functions",
            section=_STORE,
            metavar="URL",
            help="The same store as functions reach it, if that is another address.",
        ),
        option("--bucket", section=_STORE, type=_bucket, metavar="NAME", default="peerless"),
        option("--region", section=_STORE, metavar="NAME", default="us-east-1"),
        state_options,
    )


def gateway_options(command: Command) -> Command:
    """Add the options that name a gateway."""
    return declare(
        command,
        option("--gateway", section=_GATEWAY, metavar="URL", help="OpenFaaS, http://host:port."),
        option("--gateway-user", section=_GATEWAY, metavar="NAME", default="admin"),
        option(
            "--gateway-password-file",
            section=_GATEWAY,
            type=_FILE,
            metavar="FILE",
            help="File with its password, or set PEERLESS_GATEWAY_PASSWORD.",
        ),
    )


def store_address(options: dict[str, Any]) -> StoreAddress:
    """Return the store that the options name, else the one that `peerless up` started.

    Raises:
        ConfigurationError: neither is there, or a key is missing; the message says what to give.
    """
    endpoint = options["store_endpoint"]
    if endpoint is None:
        _needs("--store", options, "store_access_key", "store_secret_key_file")
        started = Platform(options["state_dir"]).store_address()
        if started is None:
            raise ConfigurationError(
                "no store: start one with `peerless up`, or give --store with --store-access-key and "
                "--store-secret-key-file"
            )
        return replace(
            started,
            bucket=options["bucket"],
            region=options["region"],
            function_endpoint=options["store_for_functions"],
        )
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


def open_store(options: dict[str, Any], *, is_written: bool = False) -> Store:
    """Return a store that answers, accepts the credentials and has its bucket.

    Raises:
        ConfigurationError: as `store_address`.
        StoreUnreachable, StoreDenied, ClockSkewed: see `Store.check`.
        StoreFull: `is_written`, and the store of this machine has no room.
    """
    store = Store(store_address(options))
    store.check()
    if is_written and options["store_endpoint"] is None:
        Platform(options["state_dir"]).check_room()
    store.ensure_bucket()
    return store


def gateway_address(options: dict[str, Any]) -> GatewayAddress:
    """Return the gateway that the options name, else the one that `peerless up` started.

    Raises:
        ConfigurationError: neither is there.
    """
    url = options["gateway"]
    if url is None:
        _needs("--gateway", options, "gateway_password_file")
        started = Platform(options["state_dir"]).gateway_address()
        if started is None:
            raise ConfigurationError("no gateway: start one with `peerless up`, or give --gateway")
        return started
    if not _is_server(url):
        raise ConfigurationError(f"--gateway is {url!r}: write http://host:port")
    password = _secret(
        options["gateway_password_file"], "PEERLESS_GATEWAY_PASSWORD", "--gateway-password-file"
    )
    return GatewayAddress(url.rstrip("/"), options["gateway_user"], password)


def check_gateway(address: GatewayAddress) -> None:
    """Return if the gateway answers, and with a password if it lets us in and has the functions.

    Raises:
        GatewayUnreachable, GatewayDenied, FunctionMissing: the message says what to do.
    """
    gateway = Gateway(address)
    gateway.check()
    if address.password:
        for function in FUNCTIONS:
            gateway.describe(function)


def _bucket(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", name):
        raise click.BadParameter(f"{name!r} is no bucket: take 3 to 63 of a-z, 0-9, dots and dashes")
    return name


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _needs(missing: str, options: dict[str, Any], *given: str) -> None:
    """Refuse options that would be ignored, because the one that they belong to is not there."""
    for name in given:
        if options[name] is not None:
            raise ConfigurationError(f"--{name.replace('_', '-')} is given without {missing}: give both")


def _secret(path: Path | None, variable: str, name: str) -> str:
    if path is None:
        return os.environ.get(variable, "")
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(f"{name} {path} cannot be read: {reason}") from error
