"""The configuration file and the environment as sources of options; what is unknown there is an error."""

import difflib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from peer.cli.options import SectionedOption
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
    # Grafana's provisioning reads them, perhaps out of the same shell
    "PEERLESS_PROMETHEUS_URL",
    "PEERLESS_DASHBOARDS",
}
_CONFIG = "config"
_PREFIX = "PEERLESS_"


def config_option(command: Any) -> Any:
    """Add `--config FILE`: YAML with long options as keys, weaker than environment and command line."""
    return click.option(
        f"--{_CONFIG}",
        "-c",
        cls=SectionedOption,
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="PEERLESS_CONFIG",
        is_eager=True,
        expose_value=False,
        callback=_load,
        help="YAML file with options, such as `batch-size: 64`; one file may serve all commands.",
    )(command)


def check_environment(root: click.Command, environment: Mapping[str, str]) -> None:
    """Return if every `PEERLESS_*` variable is one that some command reads.

    Raises:
        ConfigurationError: names the first that is not.
    """
    known = _OTHER_VARIABLES | {str(option.envvar) for option in all_options(root) if option.envvar}
    for name in sorted(environment):
        if name.startswith(_PREFIX) and name not in known:
            raise ConfigurationError(
                f"nothing reads the environment variable {name}{_similar(name, known)}: unset it, or correct "
                "its name (`peerless train --help` lists options; --batch-size is PEERLESS_BATCH_SIZE)"
            )


def source_of(parameter: click.Parameter, context: click.Context) -> str:
    """Return which part of the user's input a parameter's value came from, as a message should name it."""
    source = context.get_parameter_source(parameter.name or "")
    if source is click.core.ParameterSource.ENVIRONMENT:
        return f" (from the environment variable {parameter.envvar})"
    if source is click.core.ParameterSource.DEFAULT_MAP:
        return " (from the --config file)"
    return ""


def all_options(command: click.Command) -> Iterator[click.Option]:
    """Yield every option of a command and of all commands below it."""
    yield from (parameter for parameter in command.params if isinstance(parameter, click.Option))
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            yield from all_options(subcommand)


def _load(context: click.Context, _option: click.Parameter, path: Path | None) -> None:
    """Make the file's values the defaults of the command; those of other commands are left to them."""
    if path is None:
        return
    here = {_long_name(option): option for option in all_options(context.command)}
    elsewhere = {_long_name(option) for option in all_options(context.find_root().command)}
    known = (here.keys() | elsewhere) - {_CONFIG, "help", "version"}
    defaults = {}
    for key, value in _read(path).items():
        name = str(key).replace("_", "-")
        if name not in known:
            raise ConfigurationError(
                f"--config {path} has {str(key)!r}, which is no option{_similar(name, known)}: "
                f"`{context.command_path} --help` lists them"
            )
        if name in here:
            defaults[here[name].name or name] = _as_on_the_command_line(path, name, value)
    context.default_map = defaults


def _read(path: Path) -> dict[Any, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"--config {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--config {path} is not YAML: {error}") from error
    if not isinstance(values, dict | None):
        raise ConfigurationError(
            f"--config {path} holds a {type(values).__name__}: write `option: value` lines"
        )
    return values or {}


def _as_on_the_command_line(path: Path, name: str, value: Any) -> Any:
    """Return a value that is parsed as if it had been typed, so that 16.5 is no batch size here either."""
    if isinstance(value, bool | dict):
        return value
    if isinstance(value, str | int | float):
        return str(value)
    found = "nothing" if value is None else f"a {type(value).__name__}"
    raise ConfigurationError(
        f"--config {path}: {name} is {found}: write one number or text, in quotes if need be"
    )


def _long_name(option: click.Option) -> str:
    return next(name.removeprefix("--") for name in option.opts if name.startswith("--"))


def _similar(name: str, known: Collection[str]) -> str:
    bare = {other.removeprefix(_PREFIX): other for other in known}
    found = difflib.get_close_matches(name.removeprefix(_PREFIX), bare, n=1, cutoff=0.7)
    return f" (did you mean {bare[found[0]]}?)" if found else ""
