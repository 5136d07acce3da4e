"""The options that make a run's configuration, in one table: option, where it goes, how it is read."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import click
import msgspec
import yaml

from peer.cli.settings import config_option
from peer.config import ALL_BATCHES, EarlyStopSpec, PlateauSpec, RunConfig
from peer.errors import ConfigurationDiffers, ConfigurationError
from peer.messages import ModelSpec, OptimizerSpec


class _CountOr(click.ParamType[int]):
    """A positive number, or one word that stands for 0."""

    def __init__(self, word: str) -> None:
        self.name = f"number|{word}"
        self._word = word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == self._word or value == 0:
            return 0
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is neither a number above 0 nor {self._word!r}", param, ctx)
        return int(value)


_OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--peers", {"type": click.IntRange(min=1), "default": 4, "help": "Peers of the run."}),
    (
        "--dataset",
        {"default": "mnist", "help": "Name or id of a stored dataset; pushed first if it is known."},
    ),
    ("--partition", {"default": "iid", "help": "iid, or dirichlet:ALPHA for skewed labels."}),
    ("--model", {"default": "cnn", "help": "Built-in name, or package.module:factory."}),
    (
        "--model-arguments",
        {"default": "{}", "help": "YAML mapping for the model, such as '{input_size: 64}'."},
    ),
    ("--loss", {"default": "cross_entropy"}),
    ("--rounds", {"type": click.IntRange(min=1), "default": 120, "help": "Rounds to train."}),
    (
        "--epochs",
        {"type": click.FloatRange(min=0, min_open=True), "default": None, "help": "Instead of --rounds."},
    ),
    ("--batch-size", {"type": click.IntRange(min=1), "default": 64, "help": "Samples of one gradient."}),
    (
        "--batches-per-round",
        {
            "type": _CountOr("all"),
            "default": 2,
            "help": "Of each peer; `all` is one step an epoch (the paper).",
        },
    ),
    (
        "--batches-per-invocation",
        {
            "type": _CountOr("auto"),
            "default": "auto",
            "help": "Packing; it decides the order of sums, so bits.",
        },
    ),
    ("--micro-batch", {"type": click.IntRange(min=0), "default": 0, "help": "Split batches to save memory."}),
    ("--optimizer", {"type": click.Choice(["adamw", "sgd"]), "default": "adamw"}),
    ("--learning-rate", {"type": click.FloatRange(min=0, min_open=True), "default": 2e-3}),
    ("--momentum", {"type": click.FloatRange(0, 1, max_open=True), "default": 0.9, "help": "Of sgd."}),
    ("--weight-decay", {"type": click.FloatRange(min=0), "default": 0.0}),
    (
        "--plateau",
        {"type": click.IntRange(min=0), "default": 0, "help": "Evaluations until the rate falls; 0: never."},
    ),
    ("--plateau-factor", {"type": click.FloatRange(0, 1, min_open=True), "default": 0.5}),
    (
        "--early-stop",
        {"type": click.IntRange(min=0), "default": 0, "help": "Evaluations without gain; 0: never."},
    ),
    ("--early-stop-min-delta", {"type": click.FloatRange(min=0), "default": 0.0}),
    ("--evaluate-every", {"type": click.IntRange(min=0), "default": 20, "help": "Rounds; 0 is never."}),
    (
        "--checkpoint-every",
        {"type": click.IntRange(min=0), "default": 20, "help": "Rounds; 0 is on a signal only."},
    ),
    (
        "--compute",
        {
            "type": click.Choice(["functions", "local"]),
            "default": "functions",
            "help": "local: each peer computes its own batches, the conventional P2P.",
        },
    ),
    ("--exchange", {"type": click.Choice(["all_gather"]), "default": "all_gather"}),
    ("--seed", {"type": click.IntRange(min=0), "default": 0}),
    (
        "--invocation-timeout",
        {
            "type": click.FloatRange(min=1),
            "default": 300.0,
            "help": "Seconds; at most the function's exec_timeout.",
        },
    ),
    (
        "--keep-objects",
        {"is_flag": True, "default": False, "help": "Delete nothing that rounds leave behind."},
    ),
)

_FIELDS = {
    "peers": "num_peers",
    "rounds": "rounds",
    "partition": "partition",
    "model": "model.name",
    "model_arguments": "model.arguments",
    "loss": "loss",
    "batch_size": "batch_size",
    "batches_per_round": "batches_per_round",
    "batches_per_invocation": "batches_per_invocation",
    "micro_batch": "micro_batch",
    "optimizer": "optimizer.name",
    "learning_rate": "optimizer.learning_rate",
    "momentum": "optimizer.momentum",
    "weight_decay": "optimizer.weight_decay",
    "plateau": "plateau.patience",
    "plateau_factor": "plateau.factor",
    "early_stop": "early_stop.patience",
    "early_stop_min_delta": "early_stop.min_delta",
    "evaluate_every": "evaluate_every",
    "checkpoint_every": "checkpoint_every",
    "compute": "compute",
    "exchange": "exchange",
    "seed": "seed",
    "invocation_timeout": "invocation_seconds",
    "keep_objects": "keep_objects",
}


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add every option of a run, each with its `PEERLESS_*` variable, and `--config`."""
    for name, settings in reversed(_OPTIONS):
        variable = "PEERLESS_" + name.removeprefix("--").replace("-", "_").upper()
        settings = {
            "envvar": variable,
            "show_default": settings.get("default") not in (None, False),
            **settings,
        }
        command = click.option(name, **settings)(command)
    wrapped: Callable[..., Any] = config_option(command)
    return wrapped


def take_run_options(options: dict[str, Any]) -> dict[str, Any]:
    """Remove the options of a run from `options` and return them."""
    names = [name.removeprefix("--").replace("-", "_") for name, _ in _OPTIONS]
    return {name: options.pop(name) for name in names}


def draft(run: str, options: dict[str, Any]) -> RunConfig:
    """Return what the user asked for; `peer.runs.create` fills in what only the store knows."""
    return RunConfig(
        run=run,
        dataset=options["dataset"],
        num_peers=options["peers"],
        rounds=options["rounds"],
        batch_size=options["batch_size"],
        batches_per_round=ALL_BATCHES if options["batches_per_round"] == 0 else options["batches_per_round"],
        batches_per_invocation=options["batches_per_invocation"],
        initial_weights="",
        initial_weights_bytes=0,
        model=ModelSpec(options["model"], _arguments(options["model_arguments"])),
        partition=options["partition"],
        loss=options["loss"],
        seed=options["seed"],
        micro_batch=options["micro_batch"],
        optimizer=OptimizerSpec(
            name=options["optimizer"],
            learning_rate=options["learning_rate"],
            momentum=options["momentum"],
            weight_decay=options["weight_decay"],
        ),
        plateau=PlateauSpec(options["plateau"], options["plateau_factor"]),
        early_stop=EarlyStopSpec(options["early_stop"], options["early_stop_min_delta"]),
        evaluate_every=options["evaluate_every"],
        checkpoint_every=options["checkpoint_every"],
        compute=options["compute"],
        exchange=options["exchange"],
        invocation_seconds=options["invocation_timeout"],
        keep_objects=options["keep_objects"],
    )


def automatic_name(config: RunConfig, now: datetime) -> str:
    """Return a name for a run that was given none."""
    model = config.model.name.rpartition(":")[2]
    return f"{config.dataset[:20]}-{model[:20]}-{now:%Y%m%d-%H%M%S}"


def check_agrees(config: RunConfig, asked: RunConfig, context: click.Context) -> None:
    """Return if what was explicitly asked of a peer that joins is what the run has.

    Raises:
        ConfigurationDiffers: names every option that differs, with both values.
    """
    from click.core import ParameterSource

    differing = []
    for option, field in _FIELDS.items():
        if context.get_parameter_source(option) is ParameterSource.DEFAULT:
            continue
        here, run = _at(asked, field), _at(config, field)
        if here != run:
            differing.append(f"--{option.replace('_', '-')} is {here} here and {run} in the run")
    if differing:
        raise ConfigurationDiffers(
            f"run {config.run}: {'; '.join(differing)}. Leave the options out to take the run's."
        )


def _at(config: RunConfig, field: str) -> Any:
    value: Any = config
    for name in field.split("."):
        value = getattr(value, name)
    return msgspec.to_builtins(value)


def _arguments(text: Any) -> dict[str, Any]:
    arguments = yaml.safe_load(text) if isinstance(text, str) else text
    if not isinstance(arguments, dict):
        raise ConfigurationError(
            f"--model-arguments is {text!r}: write a mapping, such as '{{input_size: 64}}'"
        )
    return arguments
