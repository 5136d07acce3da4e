"""`peerless dashboard` and `peerless top`: a run and its functions, live."""

import ipaddress
import sys
import time
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.live import Live

from peer import messages
from peer.cli.connections import gateway_address, gateway_options, store_address, store_options
from peer.cli.options import Command, Count, Declared, declare, option
from peer.cli.values import run_name
from peer.config import GatewayAddress
from peer.errors import ConfigurationError, PeerlessError
from peer.local.companions import Companion

if TYPE_CHECKING:
    from peer.dashboard.collector import Collector
    from peer.dashboard.sources import Places
    from peer.dashboard.state import State

DEFAULT_PORT = 8090

_FRAME_SECONDS = 1.0
_LOOPBACK = "127.0.0.1"


def _place_options(command: Declared) -> Declared:
    """Add what says where everything is."""
    return declare(
        command,
        gateway_options,
        store_options,
        option(
            "--runs-dir",
            type=click.Path(path_type=Path),
            metavar="DIR",
            default=Path("runs"),
            help="Where the files of runs are, a folder each.",
        ),
    )


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  peerless dashboard                       the newest run, and each that begins after it
  peerless dashboard digits --port 0 --open
  peerless dashboard --host 0.0.0.0        asks for the gateway's user and password
""",
)
@click.argument("run", type=run_name, required=False)
@option("--host", default=_LOOPBACK, metavar="ADDRESS", help="Where to listen.")
@option(
    "--port",
    type=Count(0, 65535),
    default=None,
    show_default=f"{DEFAULT_PORT}, or another if it is in use",
    help="0 takes any.",
)
@option("--open", "is_opened", is_flag=True, help="Show it in a browser.")
@_place_options
def dashboard(run: str | None, host: str, port: int | None, is_opened: bool, **options: Any) -> None:
    """Serve a read-only page with a run and its functions, live, until control-C."""
    from peer.dashboard.guard import Access
    from peer.dashboard.serving import listen, serve

    places = _places(run, options)
    access = Access()
    if not _is_loopback(host):
        gateway = _gateway_with_password(host, options)
        access = Access(gateway.user, gateway.password)
    listening = listen(host, DEFAULT_PORT if port is None else port, is_port_fixed=port is not None)

    def say() -> None:
        asks = f"  (user {access.user}, the gateway's password)" if access.password else ""
        click.echo(f"dashboard {listening.url}{asks}", err=True)
        if is_opened:
            with suppress(webbrowser.Error):
                webbrowser.open(listening.url)

    serve(listening, places, access, say)


def page(state_dir: Path, port: int) -> Companion:
    """Return the page of a platform, as a program beside it."""
    place = ["--host", _LOOPBACK, "--state-dir", str(state_dir.absolute())]
    command = [sys.executable, "-P", "-m", "peer", "dashboard", *place]
    return Companion("dashboard", port, lambda port: [*command, "--port", str(port)], "/healthz")


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  peerless top
  peerless top digits --once
  peerless top --json | jq .findings
""",
)
@click.argument("run", type=run_name, required=False)
@option("--once", "is_once", is_flag=True, help="Print one frame; so it is without a terminal.")
@option("--json", "as_json", is_flag=True, help="Print what /api/state answers, once.")
@_place_options
def top(run: str | None, is_once: bool, as_json: bool, **options: Any) -> None:
    """Show a run and its functions in the terminal, live, until control-C."""
    from peer.dashboard.collector import Collector
    from peer.dashboard.terminal import frame

    collector = Collector(_places(run, options))
    try:
        if as_json:
            click.echo(messages.encode(_read_twice(collector)))
        elif is_once or not sys.stdout.isatty():
            Console().print(frame(_read_twice(collector)))
        else:
            _show_frames(collector)
    finally:
        collector.stop()


def _read_twice(collector: "Collector") -> "State":
    """Return the second of two states, which has rates, too."""
    collector.read_once()
    time.sleep(_FRAME_SECONDS)
    return collector.read_once()


def _show_frames(collector: "Collector") -> None:
    """Show a frame a second until control-C, which is no error here."""
    from peer.dashboard.terminal import frame

    state = collector.read_once()
    collector.start()
    with suppress(KeyboardInterrupt), Live(frame(state), screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(_FRAME_SECONDS)
            collector.watch()
            live.update(frame(collector.compose()), refresh=True)


def _places(run: str | None, options: dict[str, Any]) -> "Places":
    """Return where everything is.

    Raises:
        ConfigurationError: there is no such run.
        StoreError: `run` is not on this machine, and the store cannot be asked for it.
    """
    from peer.dashboard.sources import Places
    from peer.store import keys
    from peer.store.s3 import Store

    runs_dir = options["runs_dir"].absolute()
    if run is not None and not (runs_dir / run / "config.json").is_file():
        store = Store(store_address(options))
        store.check()
        if store.head(keys.run_config(run)) is None:
            raise ConfigurationError(f"there is no run {run!r}: `peerless runs list` shows those that are")
    return Places(lambda: gateway_address(options), lambda: store_address(options), runs_dir, run)


def _gateway_with_password(host: str, options: dict[str, Any]) -> GatewayAddress:
    problem = f"--host {host} can be reached from elsewhere, so the page asks for the gateway's password"
    try:
        address = gateway_address(options)
    except PeerlessError as error:
        raise ConfigurationError(f"{problem}, which is not known: {error}") from error
    if not address.password:
        raise ConfigurationError(f"{problem}: give --gateway-password-file or PEERLESS_GATEWAY_PASSWORD")
    return address


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
