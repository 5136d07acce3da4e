"""The `localfaas` command."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from localfaas import __version__
from localfaas.build import build_function
from localfaas.cli_common import parse_pairs, run_command, state_dir_option
from localfaas.config import Enforcement, GatewayConfig, PullPolicy, RuntimeName, StatePaths
from localfaas.deploy import GatewayClient, deploy_stack
from localfaas.errors import ConfigurationError
from localfaas.image_commands import image
from localfaas.stack import load_stack

_PATH = click.Path(path_type=Path)
_STACK_FILES = (Path("stack.yaml"), Path("stack.yml"))


def _default_stack() -> Path:
    """Return the stack file of this folder that faas-cli takes, too."""
    return next((path for path in _STACK_FILES if path.exists()), _STACK_FILES[-1])


def _stack_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option(
        "--filter", "pattern", default="*", help="Only functions whose name matches, as in 'grad*'."
    )(command)
    return click.option(
        "-f",
        "--yaml",
        "path",
        type=_PATH,
        default=_default_stack,
        show_default="stack.yaml, else stack.yml",
        help="The stack file.",
    )(command)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  localfaas build
  localfaas serve &
  localfaas deploy --wait 60
""",
)
@click.version_option(__version__)
def cli() -> None:
    """Run OpenFaaS functions on this machine, as processes or as containers."""


@cli.command(
    epilog="""\b
Examples:
  localfaas serve --port 8080 --state-dir .localfaas
  faas-cli login --password-stdin < .localfaas/basic-auth-password
"""
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes any.")
@click.option("--port-fallback", is_flag=True, help="Take another port if this one is in use.")
@state_dir_option
@click.option(
    "--runtime",
    type=click.Choice(get_args(RuntimeName)),
    default="process",
    show_default=True,
    help="Replicas as processes, or as containers of this machine's Docker daemon.",
)
@click.option(
    "--pull-policy",
    type=click.Choice(get_args(PullPolicy)),
    default="missing",
    show_default=True,
    help="When the Docker runtime pulls an image.",
)
@click.option(
    "--memory-enforcement",
    type=click.Choice(get_args(Enforcement)),
    default="auto",
    show_default=True,
    help="What holds memory limits of processes: control groups, or RLIMIT_DATA and a watchdog.",
)
@click.option(
    "--max-waiting", type=click.IntRange(0), default=1_000, show_default=True, help="Longest queue."
)
@click.option(
    "--max-async-waiting",
    type=click.IntRange(0),
    default=10_000,
    show_default=True,
    help="Longest queue of asynchronous calls.",
)
@click.option(
    "--max-async-body-bytes",
    type=click.IntRange(0),
    default=4 << 20,
    show_default=True,
    help="Longest body of an asynchronous call.",
)
@click.option("--grace-seconds", type=click.FloatRange(0), default=10.0, show_default=True)
@click.option("--default-timeout-seconds", type=click.FloatRange(0), default=60.0, show_default=True)
@click.option(
    "--client-patience-seconds",
    type=click.FloatRange(1),
    default=30.0,
    show_default=True,
    help="How long a client may keep the gateway waiting for its request, or leave its reply.",
)
@click.option(
    "--behind-gateway",
    is_flag=True,
    help="Be the provider of an OpenFaaS gateway, which has this address as functions_provider_url.",
)
@click.option("--verbose", is_flag=True, help="Log more.")
def serve(verbose: bool, port_fallback: bool, behind_gateway: bool, **options: Any) -> None:
    """Serve the OpenFaaS API until SIGTERM."""
    # Here, since the other commands start several times as fast without a server and its event loop.
    from localfaas.server import serve as serve_gateway

    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # What strangers send is no concern of the operator's; they are answered.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    config = GatewayConfig(is_port_fallback=port_fallback, is_behind_gateway=behind_gateway, **options)
    run_command(lambda: serve_gateway(config))


@cli.command(
    epilog="""\b
Examples:
  localfaas build -f stack.yml --filter 'gradient*'
  localfaas build --runtime docker --build-arg BASE=python:3.12-slim
"""
)
@_stack_options
@click.option(
    "--runtime",
    type=click.Choice(get_args(RuntimeName)),
    default="process",
    show_default=True,
    help="Folders that processes run from, or images of this machine's Docker daemon.",
)
@click.option(
    "--build-arg", "build_args", multiple=True, metavar="NAME=VALUE", help="For the Dockerfiles of images."
)
@state_dir_option
def build(
    path: Path, pattern: str, runtime: RuntimeName, build_args: tuple[str, ...], state_dir: Path
) -> None:
    """Build a stack's functions, as `faas-cli build` builds their images."""

    def work() -> None:
        paths = StatePaths(state_dir)
        paths.create()
        arguments = parse_pairs("--build-arg", build_args)
        if arguments and runtime != "docker":
            raise ConfigurationError("--build-arg is for images; add --runtime docker")
        stack = load_stack(path).filtered(pattern)
        for function in stack.functions.values():
            if function.is_build_skipped:
                click.echo(f"{function.name} is skipped")
            elif runtime == "docker":
                # Here, since it takes a third of a second that the other runtime has no use for.
                from localfaas.runtimes.docker import build_image

                build_image(stack, function, paths, arguments, lambda line: click.echo(line, err=True))
                click.echo(f"{function.name} built as image {function.image}")
            else:
                entry = build_function(stack, function, paths)
                click.echo(f"{function.name} built as {entry.image} in {entry.directory}")

    run_command(work)


@cli.command(
    epilog="""\b
Example:
  localfaas deploy -f stack.yml --gateway http://127.0.0.1:8080 --wait 60
"""
)
@_stack_options
@click.option("--gateway", "url", help="The gateway's address; by default the stack file's.")
@click.option("--password-file", type=_PATH, help="By default the state directory's.")
@click.option(
    "--wait", "wait_seconds", type=click.FloatRange(0), default=0.0, help="Seconds to wait for replicas."
)
@state_dir_option
def deploy(
    path: Path,
    pattern: str,
    url: str | None,
    password_file: Path | None,
    wait_seconds: float,
    state_dir: Path,
) -> None:
    """Deploy a stack's functions, as `faas-cli deploy` does."""

    def work() -> None:
        stack = load_stack(path).filtered(pattern)
        client = GatewayClient(url or stack.gateway, password_file or StatePaths(state_dir).password)
        deploy_stack(stack, client, wait_seconds)
        for name, function in stack.functions.items():
            path_name = f"{name}.{function.namespace}" if function.namespace else name
            click.echo(f"{name} deployed at {(url or stack.gateway).rstrip('/')}/function/{path_name}")

    run_command(work)


cli.add_command(image)


def main() -> None:
    """Run the command line; exit 2 for what the user can mend, 1 for the rest."""
    cli()
