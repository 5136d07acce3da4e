"""`peerless up`, `down`, `status`, `doctor`: the platform on this machine."""

import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from peer import __version__, messages
from peer.cli.connections import (
    gateway_address,
    gateway_options,
    state_options,
    store_address,
    store_options,
)
from peer.cli.dashboard import DEFAULT_PORT, page
from peer.cli.options import Command, Count, option
from peer.errors import FileNotWritten, FunctionError, PeerlessError, PlatformError
from peer.gateway import Gateway
from peer.local import prometheus
from peer.local.companions import CompanionState, answers
from peer.local.gateway import RUNTIMES
from peer.local.platform import FUNCTIONS, Platform, PlatformOptions
from peer.local.processes import has_ended
from peer.store.s3 import Store

_LEAST_DISK_BYTES = 1 << 30
_PORTS = Count(1, 65535)
_MOST_REPLICAS = 100


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  peerless up
  peerless up --replicas 4 --store-server nanio
  peerless up --runtime docker --build-arg BASE=python:3.12-slim
  peerless up --prometheus
  peerless up --state-dir /data/peerless --gateway-port 8081 --store-port 9001
""",
)
@option(
    "-f",
    "--stack",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The functions to deploy.  [default: ./stack.yml, else that of the checkout]",
)
@option("--gateway-port", type=_PORTS, default=8080, help="Another is taken, and said, if it is in use.")
@option("--store-port", type=_PORTS, default=9000, help="Likewise.")
@option(
    "--store-server",
    type=click.Choice(["auto", "minio", "nanio"]),
    default="auto",
    help="auto: the one with data here, else MinIO if it is installed (scripts/install-minio.sh).",
)
@option(
    "--runtime",
    type=click.Choice(RUNTIMES),
    show_default="the one that runs, else process",
    help="Functions as processes, or in containers, whose images Docker builds.",
)
@option(
    "--build-arg",
    "build_args",
    multiple=True,
    metavar="NAME=VALUE",
    help="For the functions' Dockerfile, such as BASE=python:3.12-slim.",
)
@option(
    "--replicas",
    type=Count(0, _MOST_REPLICAS),
    default=0,
    show_default="one a core, at most 5",
    help="Replicas of the gradient function.",
)
@option("--dashboard", "is_shown", is_flag=True, help="Serve the live page (`peerless dashboard`), too.")
@option("--dashboard-port", type=_PORTS, default=DEFAULT_PORT, help="Another is taken, and said.")
@option("--prometheus", "is_scraped", is_flag=True, help="Start a Prometheus, too; it needs the live page.")
@option("--prometheus-port", type=_PORTS, default=prometheus.DEFAULT_PORT, help="Another is taken, and said.")
@state_options
def up(
    stack: Path | None,
    state_dir: Path,
    is_shown: bool,
    dashboard_port: int,
    is_scraped: bool,
    prometheus_port: int,
    **options: Any,
) -> None:
    """Start the store and the gateway, and deploy stack.yml. What runs already is kept."""
    if is_scraped:
        prometheus.check_prometheus()
    platform = Platform(state_dir)
    platform.up(PlatformOptions(state_dir, stack or default_stack(), **options), _say)
    if is_scraped:
        page_url = platform.accompany(page(state_dir, dashboard_port), _say)
        prometheus.run_prometheus(platform, page_url, prometheus_port, _say)
    elif is_shown:
        try:
            platform.accompany(page(state_dir, dashboard_port), _say)
        except PlatformError as error:
            _say(f"the live page is not there, everything else is: {error}")


@click.command(cls=Command, epilog="Example: peerless down")
@state_options
def down(state_dir: Path) -> None:
    """Stop what `peerless up` started. Data and deployments are kept."""
    Platform(state_dir).down(_say)


@click.command(cls=Command, epilog="Example: peerless status --json | jq .parts")
@option("--json", "as_json", is_flag=True, help="One JSON object.")
@state_options
def status(as_json: bool, state_dir: Path) -> None:
    """Show what runs. Exits with 50 if a part is down."""
    platform = Platform(state_dir)
    state = platform.state()
    found = {
        "store": "not started" if state.store is None else _liveness(has_ended(state.store.process)),
        "gateway": "not started" if state.gateway is None else _liveness(has_ended(state.gateway.process)),
    }
    is_whole = set(found.values()) == {"running"}
    # no run needs a companion, so that one has ended is shown and not an error
    found |= {name: _liveness(has_ended(part.process)) for name, part in state.companions.items()}
    functions: list[dict[str, Any]] = []
    address = platform.gateway_address()
    if found["gateway"] == "running" and address is not None:
        functions = Gateway(address).functions()
    if as_json:
        click.echo(messages.encode({"parts": found, "state": state, "functions": functions}))
    else:
        places = {
            "store": state.store and state.store.endpoint,
            "gateway": state.gateway and state.gateway.url,
            **{name: part.url for name, part in state.companions.items()},
        }
        for part, liveness in found.items():
            click.echo(f"{part:<10} {liveness:<12} {places[part] or ''}")
        for function in functions:
            replicas = f"{function.get('availableReplicas', 0)}/{function.get('replicas', 0)} replicas"
            count = int(function.get("invocationCount", 0))
            click.echo(f"{function['name']:<10} {replicas:<12} {count} invocations")
    if not is_whole:
        sys.exit(50)


@click.command(cls=Command, epilog="Example: peerless doctor --gateway http://10.0.0.5:8080")
@option("--json", "as_json", is_flag=True, help="One JSON object.")
@store_options
@gateway_options
def doctor(as_json: bool, **options: Any) -> None:
    """Check what a run needs; each finding says what to do. Exits with the first finding's code.

    A live page or a Prometheus that has ended is a note: no run needs it.
    """
    companions = _companions(options["state_dir"])
    checks: dict[str, Callable[[], str]] = {
        "python": lambda: f"{sys.version.split()[0]}, peerless {__version__}",
        "torch": _torch_version,
        "disk": lambda: _disk(options["state_dir"]),
        "store": lambda: _store(options),
        "gateway": lambda: _gateway(options),
        **{f"function {name}": lambda name=name: _function(options, name) for name in FUNCTIONS},  # type: ignore[misc]
        **companions,
    }
    exit_code = 0
    findings = {}
    for name, check in checks.items():
        try:
            findings[name] = {"ok": True, "text": check()}
        except PeerlessError as error:
            findings[name] = {"ok": False, "text": str(error)}
            exit_code = exit_code or (0 if name in companions else error.exit_code)
    if as_json:
        click.echo(msgspec.json.encode(findings))
    else:
        for name, finding in findings.items():
            mark = "ok" if finding["ok"] else "note" if name in companions else "FAIL"
            click.echo(f"{mark:<4}  {name:<18} {finding['text']}")
    sys.exit(exit_code)


def _say(text: str) -> None:
    click.echo(text, err=True)


def default_stack() -> Path:
    """Return the stack file of the working directory, else the checkout's."""
    here = Path("stack.yml")
    return here if here.is_file() else Path(__file__).resolve().parents[2] / "stack.yml"


def _liveness(is_over: bool) -> str:
    return "down" if is_over else "running"


def _torch_version() -> str:
    from importlib.metadata import version

    return f"{version('torch')}, {os.cpu_count()} cores"


def _disk(state_dir: Path) -> str:
    place = next(path for path in (state_dir, *state_dir.parents) if path.exists())
    free_bytes = shutil.disk_usage(place).free
    if free_bytes < _LEAST_DISK_BYTES:
        raise FileNotWritten(f"{free_bytes >> 20} MiB free at {place}: make room, or move --state-dir")
    return f"{free_bytes >> 30} GiB free at {place}"


def _store(options: dict[str, Any]) -> str:
    address = store_address(options)
    store = Store(address)
    store.check()
    return f"{address.endpoint}, clocks differ by {abs(store.clock_skew_seconds()):.0f} s"


def _gateway(options: dict[str, Any]) -> str:
    address = gateway_address(options)
    gateway = Gateway(address)
    gateway.check()
    gateway.functions()
    return f"{address.url}, user {address.user} is let in"


def _companions(state_dir: Path) -> dict[str, Callable[[], str]]:
    """Return a check of each program that was started beside the platform."""
    try:
        started = Platform(state_dir).state().companions
    except PeerlessError:  # the checks of store and gateway say what is wrong with the state
        return {}
    return {name: partial(_companion, name, part) for name, part in started.items()}


def _companion(name: str, part: CompanionState) -> str:
    if has_ended(part.process):
        raise PlatformError(f"{part.url} has ended: `peerless up --{name}` starts it where it was")
    if not answers(part.url):
        raise PlatformError(
            f"{part.url} does not answer: end process {part.process.pid}, then `peerless up --{name}` starts "
            "it anew"
        )
    return part.url


def _function(options: dict[str, Any], name: str) -> str:
    description = Gateway(gateway_address(options)).describe(name)
    available = int(description.get("availableReplicas", 0))
    if not available:
        raise FunctionError(f"function {name} has no replica that is ready: see `faas-cli describe {name}`")
    limits = description.get("limits") or {}
    return f"{available} replicas, memory limit {limits.get('memory', 'none')}"
