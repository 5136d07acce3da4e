"""How the values of options are read, where click's own types do not do."""

import json
from collections.abc import Callable
from typing import Any

import click
import yaml

from peer.compression.names import CodecName, parse, parse_stateless
from peer.errors import ConfigurationError, InvalidName
from peer.local import boxes
from peer.sizes import parse_size
from peer.store import keys


def run_name(value: str) -> str:
    """Return a name that a run may have; to be used as the `type` of an option or argument."""
    return _name(value, "run")


def dataset_name(value: str) -> str:
    """Return a name or id that a dataset may have; as `run_name`."""
    return _name(value, "dataset")


def _name(value: str, what: str) -> str:
    try:
        keys.checked(value, what)
    except InvalidName as error:
        raise click.BadParameter(str(error)) from error
    if not value[0].isalnum():
        raise click.BadParameter(f"{what} {value!r} begins with {value[0]!r}: take a letter or a digit")
    return value


def count_or(word: str, number: int) -> Callable[[Any], int]:
    """Return what reads a whole number above 0, or a word that stands for `number`."""

    def convert(value: Any) -> int:
        text = str(value)
        if text == word:
            return number
        if not text.isascii() or not text.isdecimal() or int(text) < 1:
            raise click.BadParameter(f"{text!r} is neither a whole number above 0 nor {word!r}")
        return int(text)

    return convert


def size_or_none(value: Any) -> int:
    """Return the bytes of an amount of memory such as 2Gi; 0 is none."""
    text = str(value)
    try:
        return 0 if text == "0" else parse_size(text)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from error


def instance_type(value: Any) -> str:
    """Return the name of an instance type that `peer.local.boxes` knows."""
    try:
        boxes.check_instance_type(str(value))
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from error
    return str(value)


def codec_name(value: Any) -> str:
    """Return the canonical name of a codec."""
    return _codec(value, parse)


def stateless_codec_name(value: Any) -> str:
    """Return the canonical name of a codec that functions may use."""
    return _codec(value, parse_stateless)


def _codec(value: Any, read: Callable[[str], CodecName]) -> str:
    try:
        return str(read(str(value)))
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from error


def yaml_mapping(value: Any) -> dict[str, Any]:
    """Return a mapping from names to what JSON can hold, from YAML; to be used as the `type` of an option."""
    try:
        mapping = yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError as error:
        raise click.BadParameter(f"{value!r} is not YAML: {error}") from error
    if not isinstance(mapping, dict) or not all(isinstance(name, str) for name in mapping):
        raise click.BadParameter(
            f"{value!r} is no mapping from names to values: write it as '{{input_size: 64}}'"
        )
    try:
        json.dumps(mapping, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise click.BadParameter(f"{value!r} holds what JSON cannot: {error}") from error
    return mapping
