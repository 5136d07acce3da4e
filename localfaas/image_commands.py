"""`localfaas image`: programs on this machine that functions run without a template."""

import json
import shlex
from pathlib import Path

import click

from localfaas.cli_common import parse_pairs, run_command, state_dir_option
from localfaas.config import StatePaths
from localfaas.errors import ConfigurationError
from localfaas.images import ImageEntry, canonical_image, list_images, remove_image, save_image
from localfaas.watchdog_options import MODES


def add_image(
    paths: StatePaths, image: str, directory: Path, command: str, environment: tuple[str, ...], mode: str
) -> ImageEntry:
    """Return the image map's new entry for a program, which is used where it is, not copied.

    Raises:
        ConfigurationError: the folder, the command or a variable is none.
    """
    if not directory.is_dir():
        raise ConfigurationError(f"{directory} is no folder; --directory is where the command runs")
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise ConfigurationError(f"--command {command!r} cannot be split into words: {error}") from error
    if not words:
        raise ConfigurationError(
            "--command is empty; say what a replica runs, such as './server --port 8082'"
        )
    variables = parse_pairs("--env", environment)
    paths.create()
    entry = ImageEntry(
        image=canonical_image(image),
        directory=str(directory.resolve()),
        command=words,
        environment={**variables, "mode": mode},
        preload=(),
    )
    save_image(paths.images, entry)
    return entry


@click.group()
def image() -> None:
    """Say what runs under an image's name, where no template was built."""


@image.command(
    "add",
    epilog="""\b
Examples:
  localfaas image add my/sum --command sha512sum
  localfaas image add my/server --directory ./server --mode http \\
      --env upstream_url=http://127.0.0.1:8082 --command './server --port 8082'
""",
)
@click.argument("name", metavar="IMAGE")
@click.option(
    "--directory", type=click.Path(path_type=Path), default=Path(), help="Where it runs; by default here."
)
@click.option("--command", required=True, help="What a replica runs; a deployment's fprocess goes before.")
@click.option("--env", "environment", multiple=True, metavar="NAME=VALUE", help="As ENV in a Dockerfile.")
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="classic",
    show_default=True,
    help="Of the watchdog; `http` for a server, with `upstream_url` or at descriptor 3.",
)
@state_dir_option
def add(
    name: str, directory: Path, command: str, environment: tuple[str, ...], mode: str, state_dir: Path
) -> None:
    """Make IMAGE the name of a program on this machine."""

    def work() -> None:
        entry = add_image(StatePaths(state_dir), name, directory, command, environment, mode)
        click.echo(f"{entry.image} runs {shlex.join(entry.command)!r} in {entry.directory}, mode {mode}")

    run_command(work)


@image.command(
    "list",
    epilog="""\b
Example:
  localfaas image list
""",
)
@click.option("--json", "is_json", is_flag=True, help="One array of objects.")
@state_dir_option
def list_(is_json: bool, state_dir: Path) -> None:
    """Show every image that a function may name."""

    def work() -> None:
        entries = list_images(StatePaths(state_dir).images)
        if is_json:
            fields = [
                {"image": each.image, "directory": each.directory, "command": list(each.command),
                 "environment": each.environment}
                for each in entries
            ]  # fmt: skip
            click.echo(json.dumps(fields, indent=2))
        else:
            for each in entries:
                click.echo(f"{each.image}\t{shlex.join(each.command)}\t{each.directory}")

    run_command(work)


@image.command(
    "remove",
    epilog="""\b
Example:
  localfaas image remove my/sum
""",
)
@click.argument("name", metavar="IMAGE")
@state_dir_option
def remove(name: str, state_dir: Path) -> None:
    """Forget an image; functions that run from it go on until they are restarted."""

    def work() -> None:
        if not remove_image(StatePaths(state_dir).images, name):
            raise ConfigurationError(f"image {name!r} is unknown; `localfaas image list` shows what there is")
        click.echo(f"{canonical_image(name)} removed")

    run_command(work)
