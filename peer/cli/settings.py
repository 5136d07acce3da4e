"""The configuration file and the environment as sources of options; what is unknown there is an error."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from peer.errors import ConfigurationError

_OTHER_VARIABLES = {
    "PEERLESS_STORE_SECRET_KEY",
    "PEERLESS_GATEWAY_PASSWORD",
    "PEERLESS_MINIO",
    "PEERLESS_MODELS",
    "PEERLESS_STORE_ORIGINS",
    "PEERLESS_IMAGE_PREFIX",
    "PEERLESS_IMAGE_TAG",
    "PEERLESS_REQUIRE_ALL",
}


def config_option(command: Any) -> Any:
    """Add `--config FILE`: YAML with the command's long options as keys, weaker than environment and command line."""
    return click.option(
        "--config",
        "-c",
        type=click.Path(path_type=Path, dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_load,
        help="YAML file with options of this command, such as `batch-size: 64`.",
    )(command)


def check_environment(root: click.Group, environment: Mapping[str, str]) -> None:
    """Return if every `PEERLESS_*` variable is one that some command reads.

    Raises:
        ConfigurationError: names the first that is not.
    """
    known = _OTHER_VARIABLES | {str(option.envvar) for option in _options(root) if option.envvar}
    for name in sorted(environment):
        if name.startswith("PEERLESS_") and name not in known:
            raise ConfigurationError(
                f"the environment has {name}, which nothing reads: known are {_listed(known)}"
            )


def _load(context: click.Context, _option: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"--config {path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--config {path} is not YAML: {' '.join(str(error).split())}") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"--config {path} holds a {type(values).__name__}: write `option: value` lines"
        )
    by_name = {
        option.removeprefix("--"): parameter.name
        for parameter in context.command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
        if option.startswith("--")
    }
    defaults = {}
    for key, value in values.items():
        name = by_name.get(str(key).replace("_", "-"))
        if name is None:
            raise ConfigurationError(
                f"--config {path} has {key!r}, which `{context.info_name}` does not know: known are {_listed(by_name)}"
            )
        defaults[name] = value
    context.default_map = defaults


def _options(command: click.Command) -> Iterator[click.Option]:
    yield from (parameter for parameter in command.params if isinstance(parameter, click.Option))
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            yield from _options(subcommand)


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))
