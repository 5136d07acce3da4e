"""Whether what a peer was asked for is what the run that it joins has."""

from typing import Any

import click
import msgspec

from peer.cli.run_options import AUTOMATIC, given
from peer.config import AUTOMATIC_EXCHANGE, RunConfig
from peer.errors import ConfigurationDiffers


def check_agrees(config: RunConfig, asked: RunConfig, context: click.Context) -> None:
    """Return if what was explicitly asked of a peer that joins is what the run has.

    Raises:
        ConfigurationDiffers: names every option that differs, with both values.
    """
    differing = []
    for name, field in given(context):
        here, run = _at(asked, field), _at(config, field)
        is_name_of_id = field == "dataset" and str(run).rpartition("-")[0] == here
        is_left_open = field == "batches_per_invocation" and here == AUTOMATIC
        is_left_open |= here == AUTOMATIC_EXCHANGE
        is_left_open |= field == "micro_batch" and here in _before_adaptation(config)
        if here != run and not is_name_of_id and not is_left_open:
            differing.append(f"{name} is {here} here and {run} in the run")
    if differing:
        raise ConfigurationDiffers(
            f"run {config.run}: {'; '.join(differing)}. Leave the options out to take the run's."
        )


def _before_adaptation(config: RunConfig) -> set[int]:
    """Return what the micro-batch of a run may have been asked to be, before the run was adapted."""
    before = {each.before for each in config.adaptations if each.what == "micro_batch"}
    return {0, *before} if before else before


def _at(config: RunConfig, field: str) -> Any:
    value: Any = config
    for name in field.split("."):
        value = getattr(value, name)
    return msgspec.to_builtins(value)
