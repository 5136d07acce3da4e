"""The options that make a run's configuration, in one table: name, field of it, how it is read."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import click
import msgspec
from click.core import ParameterSource
from msgspec.structs import replace

from peer.allocation.plans import TARGETS
from peer.cli.options import Count, Declared, Number, declare, option
from peer.cli.values import (
    codec_name,
    count_or,
    dataset_name,
    size_or_none,
    stateless_codec_name,
    yaml_mapping,
)
from peer.compression.names import NONE
from peer.config import (
    ALL_BATCHES,
    AUTOMATIC_EXCHANGE,
    EXCHANGES,
    LARGEST_STALENESS,
    RunConfig,
    validate,
)

AUTOMATIC = 0
"""`batches_per_invocation` until the run is created, which measures a batch first."""

_LARGEST_SEED = (1 << 63) - 1
_LONGEST_INVOCATION_SECONDS = 86_400.0
_MOST_EPOCHS = 1e6
_STRENGTH = (
    ParameterSource.DEFAULT,
    ParameterSource.DEFAULT_MAP,
    ParameterSource.ENVIRONMENT,
    ParameterSource.COMMANDLINE,
)


@dataclass(frozen=True)
class _RunOption:
    """One option; `field` is the place in RunConfig where its value goes, empty if it needs the dataset."""

    name: str
    field: str
    settings: Mapping[str, Any]

    @property
    def key(self) -> str:
        return self.name.removeprefix("--").replace("-", "_")


def _of(section: str, name: str, field: str, help_text: str, **settings: Any) -> _RunOption:
    return _RunOption(name, field, {"section": section, "help": help_text, **settings})


_WHAT, _HOW_LONG, _BATCHES = "What is trained", "How long", "Batches"
_OPTIMIZER, _WHEN, _WHERE = "Optimizer", "Evaluation and checkpoints", "Where it is computed"

_OPTIONS = (
    _of(
        _WHAT,
        "--dataset",
        "dataset",
        "Name or id; stored first if it is known.",
        type=dataset_name,
        metavar="NAME",
        default="mnist",
    ),
    _of(_WHAT, "--partition", "partition", "iid, or dirichlet:ALPHA for skewed labels.", default="iid"),
    _of(_WHAT, "--model", "model.name", "Built-in name, or package.module:factory.", default="cnn"),
    _of(
        _WHAT,
        "--model-arguments",
        "model.arguments",
        "YAML mapping for the model, such as '{input_size: 64}'.",
        type=yaml_mapping,
        default="{}",
        metavar="YAML",
    ),
    _of(
        _WHAT,
        "--loss",
        "loss",
        "What is minimised.",
        type=click.Choice(["cross_entropy"]),
        default="cross_entropy",
    ),
    _of(_WHAT, "--peers", "num_peers", "Peers of the run.", type=Count(1), default=4),
    _of(
        _WHAT,
        "--seed",
        "seed",
        "Of weights, order and partition.",
        type=Count(0, _LARGEST_SEED),
        default=0,
    ),
    _of(_HOW_LONG, "--rounds", "rounds", "Rounds to train.", type=Count(1), default=120),
    _of(
        _HOW_LONG,
        "--epochs",
        "",
        "Instead of --rounds.",
        type=Number(0, _MOST_EPOCHS, min_open=True),
        default=None,
    ),
    _of(
        _HOW_LONG,
        "--early-stop",
        "early_stop.patience",
        "Evaluations without gain; 0: never.",
        type=Count(0),
        default=0,
    ),
    _of(
        _HOW_LONG,
        "--early-stop-min-delta",
        "early_stop.min_delta",
        "Fall of the held-out loss that is a gain.",
        type=Number(0),
        default=0.0,
    ),
    _of(_BATCHES, "--batch-size", "batch_size", "Samples of one gradient.", type=Count(1), default=64),
    _of(
        _BATCHES,
        "--batches-per-round",
        "batches_per_round",
        "Of each peer; `all` is one step an epoch (the paper).",
        type=count_or("all", ALL_BATCHES),
        default="2",
        metavar="N|all",
    ),
    _of(
        _BATCHES,
        "--batches-per-invocation",
        "batches_per_invocation",
        "Packing; it decides the order of sums, so bits.",
        type=count_or("auto", AUTOMATIC),
        default="auto",
        metavar="N|auto",
    ),
    _of(
        _BATCHES,
        "--micro-batch",
        "micro_batch",
        "Split batches to save memory; 0: whole batches.",
        type=Count(0),
        default=0,
    ),
    _of(
        _OPTIMIZER, "--optimizer", "optimizer.name", "", type=click.Choice(["adamw", "sgd"]), default="adamw"
    ),
    _of(
        _OPTIMIZER,
        "--learning-rate",
        "optimizer.learning_rate",
        "",
        type=Number(0, min_open=True),
        default=2e-3,
    ),
    _of(
        _OPTIMIZER,
        "--momentum",
        "optimizer.momentum",
        "Of sgd.",
        type=Number(0, 1, max_open=True),
        default=0.9,
    ),
    _of(
        _OPTIMIZER,
        "--local-steps",
        "local_steps",
        "Steps of an invocation, one a batch, between exchanges; 0: none.",
        type=Count(0),
        default=0,
    ),
    _of(
        _OPTIMIZER,
        "--outer-learning-rate",
        "outer.learning_rate",
        "Of what local steps came to; 1: their mean.",
        type=Number(0, min_open=True),
        default=1.0,
    ),
    _of(
        _OPTIMIZER,
        "--outer-momentum",
        "outer.momentum",
        "Nesterov's; DiLoCo takes 0.9, and a rate of 0.7.",
        type=Number(0, 1, max_open=True),
        default=0.0,
    ),
    _of(_OPTIMIZER, "--weight-decay", "optimizer.weight_decay", "", type=Number(0), default=0.0),
    _of(
        _OPTIMIZER,
        "--plateau",
        "plateau.patience",
        "Evaluations without gain until the rate falls; 0: never.",
        type=Count(0),
        default=0,
    ),
    _of(
        _OPTIMIZER,
        "--plateau-factor",
        "plateau.factor",
        "What the rate is multiplied by.",
        type=Number(0, 1, min_open=True),
        default=0.5,
    ),
    _of(
        _WHEN,
        "--evaluate-every",
        "evaluate_every",
        "Rounds between held-out evaluations; 0: never.",
        type=Count(0),
        default=20,
    ),
    _of(
        _WHEN,
        "--checkpoint-every",
        "checkpoint_every",
        "Rounds; 0: on a signal only.",
        type=Count(0),
        default=20,
    ),
    _of(
        _WHERE,
        "--compute",
        "compute",
        "local: each peer computes its own batches, the conventional P2P.",
        type=click.Choice(["functions", "local"]),
        default="functions",
    ),
    _of(
        _WHERE,
        "--exchange",
        "exchange",
        "How peers come to the mean; auto measures the store and says why (`peerless explain`).",
        type=click.Choice([AUTOMATIC_EXCHANGE, *EXCHANGES]),
        default=AUTOMATIC_EXCHANGE,
    ),
    _of(
        _WHERE,
        "--staleness",
        "staleness",
        "Rounds that peers may be apart; 0: in step, the same weights each time.",
        type=Count(0, LARGEST_STALENESS),
        default=0,
    ),
    _of(
        _WHERE,
        "--compression",
        "compression",
        "Of exchanged gradients: fp16, bf16, int8, qsgd:BITS, topk:RATIO, sparseloco (docs/compression.md).",
        type=codec_name,
        metavar="CODEC",
        default=NONE,
    ),
    _of(
        _WHERE,
        "--function-compression",
        "function_compression",
        "Of what functions compute: fp16, bf16, int8, qsgd:BITS.",
        type=stateless_codec_name,
        metavar="CODEC",
        default=NONE,
    ),
    _of(
        _WHERE,
        "--largest-memory",
        "largest_memory_bytes",
        "Raise the memory limit of a function that runs out up to this, as in 2Gi, before batches are split.",
        type=size_or_none,
        default="0",
        show_default="limits are held",
        metavar="SIZE",
    ),
    _of(
        _WHERE,
        "--optimize",
        "optimize",
        "Plan batches an invocation, micro-batch, replicas and limit for this (docs/planner.md).",
        type=click.Choice(["", *TARGETS]),
        default="",
        show_default="no plan",
        metavar="|".join(TARGETS),
    ),
    _of(
        _WHERE,
        "--most-replicas",
        "most_replicas",
        "Let the plan scale the gradient function, to at most so many.",
        type=Count(0),
        default=0,
        show_default="replicas are held",
    ),
    _of(
        _WHERE,
        "--no-adapt",
        "no_adapt",
        "End the run where a function runs out of memory.",
        is_flag=True,
        default=False,
    ),
    _of(
        _WHERE,
        "--invocation-timeout",
        "invocation_seconds",
        "Seconds; at most the function's exec_timeout.",
        type=Number(1, _LONGEST_INVOCATION_SECONDS),
        default=300.0,
    ),
    _of(
        _WHERE,
        "--keep-objects",
        "keep_objects",
        "Delete nothing that rounds leave in the store.",
        is_flag=True,
        default=False,
    ),
)


def run_options(command: Declared) -> Declared:
    """Add every option of a run."""
    return declare(command, *(option(each.name, **each.settings) for each in _OPTIONS))


def take_run_options(context: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Remove the options of a run from `options` and return them; `epochs` is None where `rounds` counts.

    Where nobody says how many batches a round has, local steps do: one invocation a peer.

    Raises:
        click.UsageError: rounds and epochs come from equally strong sources.
    """
    asked = {each.key: options.pop(each.key) for each in _OPTIONS}
    epochs, rounds = (_STRENGTH.index(_source(context, name)) for name in ("epochs", "rounds"))
    if epochs and epochs == rounds:
        raise click.UsageError("--epochs and --rounds both say how long to train: give one", context)
    if asked["local_steps"] and _source(context, "batches_per_round") is ParameterSource.DEFAULT:
        asked["batches_per_round"] = asked["local_steps"]
    return asked if epochs > rounds else asked | {"epochs": None}


def draft(run: str, asked: dict[str, Any]) -> RunConfig:
    """Return what the user asked for; `peer.runs.create` fills in what only the store knows.

    Raises:
        ConfigurationError: two options do not go together.
    """
    values: dict[str, Any] = {"run": run, "initial_weights": "", "initial_weights_bytes": 0}
    for each in _OPTIONS:
        if each.field:
            group, _, name = each.field.rpartition(".")
            place = values.setdefault(group, {}) if group else values
            place[name] = asked[each.key]
    config = msgspec.convert(values, RunConfig)
    validate(replace(config, batches_per_invocation=config.batches_per_invocation or config.local_steps or 1))
    return config


def automatic_name(config: RunConfig, now: datetime) -> str:
    """Return a name for a run that was given none."""
    model = re.sub(r"[^A-Za-z0-9._-]", "_", config.model.name.rpartition(":")[2])
    return f"{config.dataset[:20]}-{model[:20]}-{now:%Y%m%d-%H%M%S}"


def given(context: click.Context) -> Iterator[tuple[str, str]]:
    """Yield the name of each option that somebody gave a value, and its place in RunConfig."""
    for each in _OPTIONS:
        if each.field and _source(context, each.key) is not ParameterSource.DEFAULT:
            yield each.name, each.field


def _source(context: click.Context, name: str) -> ParameterSource:
    return context.get_parameter_source(name) or ParameterSource.DEFAULT
