"""Which models there are, and how one is made from its specification."""

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from peer.errors import ConfigurationError, FunctionRefused
from peer.learning import architectures
from peer.learning.seeds import derive_seed
from peer.messages import ModelSpec

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class ModelInput:
    """What a model is fed: float32 images of this shape; samples are repeated and resized to it."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class _BuiltIn:
    factory: Callable[..., nn.Module]
    channels: int
    input_size: int
    step: int
    options: Mapping[str, type[int] | type[float]]


_MODELS = {
    "cnn": _BuiltIn(architectures.Cnn, 1, 28, 4, {"channels": int}),
    "squeezenet1_1": _BuiltIn(architectures.SqueezeNet11, 3, 32, 1, {"dropout": float}),
    "mobilenet_v3_small": _BuiltIn(architectures.MobileNetV3Small, 3, 32, 1, {"dropout": float}),
    "vgg11": _BuiltIn(architectures.Vgg11, 3, 32, 1, {"dropout": float}),
    "resnet18": _BuiltIn(architectures.ResNet18, 3, 32, 1, {}),
}
_SMALLEST_INPUT = {"vgg11": 32, "squeezenet1_1": 17}
_LARGEST_INPUT = 1024

BUILT_IN_MODELS = tuple(_MODELS)


def check_allowed(spec: ModelSpec, allowed: Collection[str] | None) -> None:
    """Return if the model may be built here.

    Args:
        spec: the model asked for.
        allowed: names and `package.module:factory` strings, compared as they are; None allows every model.

    Raises:
        FunctionRefused: it is not among them; nothing was imported.
    """
    if allowed is not None and spec.name not in allowed:
        raise FunctionRefused(
            f"model {spec.name[:80]!r} is not allowed here: add it to the function's environment variable "
            f"peerless_models, which has {', '.join(sorted(allowed)) or 'nothing'}"
        )


def build(spec: ModelSpec, num_classes: int, allowed: Collection[str] | None = None) -> nn.Module:
    """Return a new model in training mode, with whatever weights its constructor gives it.

    Args:
        spec: a built-in name with its arguments (`input_size`; `channels` of the cnn; `dropout` where there
            is one), or `package.module:factory`, called with `num_classes` and the arguments. If that
            factory returns a module with an attribute `peerless_input = (channels, height, width)`, samples
            are made to fit it.
        num_classes: the number of logits.
        allowed: see `check_allowed`.

    Raises:
        FunctionRefused: the model is not allowed here; nothing was imported.
        ConfigurationError: no such model, or arguments that it does not take.
    """
    check_allowed(spec, allowed)
    if ":" in spec.name:
        return _build_own(spec, num_classes)
    model, arguments = _built_in(spec)
    input_size = _input_size(spec, model)
    if "channels" in model.options:
        return model.factory(num_classes, arguments.pop("channels", model.channels), input_size)
    return model.factory(num_classes, **arguments)


def input_of(spec: ModelSpec, model: nn.Module, shape: Shape) -> ModelInput:
    """Return what the model is fed from samples of `shape` (channels, height, width).

    Raises:
        ConfigurationError: the samples have neither the model's channels nor a single one that can be
            repeated.
    """
    if ":" in spec.name:
        wanted = ModelInput(*getattr(model, "peerless_input", shape))
    else:
        built_in, arguments = _built_in(spec)
        input_size = _input_size(spec, built_in)
        wanted = ModelInput(arguments.get("channels", built_in.channels), input_size, input_size)
    if shape[0] not in (1, wanted.channels):
        raise ConfigurationError(
            f"model {spec.name} takes {wanted.channels} channels, the samples have {shape[0]}: choose "
            f"another model{f', or its argument channels={shape[0]}' if spec.name == 'cnn' else ''}"
        )
    return wanted


def initialise(spec: ModelSpec, num_classes: int, seed: int, shape: Shape | None = None) -> nn.Module:
    """Return the model with the first weights of this seed; torch's own random state stays as it was.

    The weights are the same for the same torch version; a run has one peer initialise and publish them.

    Args:
        spec: the model.
        num_classes: the number of logits.
        seed: the run's seed.
        shape: of the samples; if given, the model is tried on two black images first.

    Raises:
        ConfigurationError: no such model, wrong arguments, or it does not turn such images into that many
            logits.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "initial weights"))
        model = build(spec, num_classes)
        if shape is not None:
            _try(spec, model, input_of(spec, model, shape), num_classes)
    return model


def _try(spec: ModelSpec, model: nn.Module, model_input: ModelInput, num_classes: int) -> None:
    images = torch.zeros(2, model_input.channels, model_input.height, model_input.width)
    was_training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(images)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"model {spec.name} does not take images of {tuple(images.shape[1:])}: {error}"
        ) from error
    finally:
        model.train(was_training)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ConfigurationError(
            f"model {spec.name} turns two images into {found}, not logits of (2, {num_classes})"
        )


def _built_in(spec: ModelSpec) -> tuple[_BuiltIn, dict[str, Any]]:
    model = _MODELS.get(spec.name)
    if model is None:
        raise ConfigurationError(
            f"unknown model {spec.name[:80]!r}: choose {', '.join(_MODELS)} or your package.module:factory"
        )
    arguments = {name: value for name, value in spec.arguments.items() if name != "input_size"}
    for name, value in arguments.items():
        kind = model.options.get(name)
        if kind is None:
            known = ", ".join(["input_size", *model.options])
            raise ConfigurationError(f"model {spec.name} has no argument {name[:80]!r}: it has {known}")
        if isinstance(value, bool) or not isinstance(value, (int, kind)):
            raise ConfigurationError(
                f"argument {name} of model {spec.name} is {value!r}, not {kind.__name__}"
            )
        if (kind is float and not 0 <= value < 1) or (kind is int and not 1 <= value <= 64):
            raise ConfigurationError(f"argument {name} of model {spec.name} is out of range: {value}")
    return model, arguments


def _input_size(spec: ModelSpec, model: _BuiltIn) -> int:
    size = spec.arguments.get("input_size", model.input_size)
    smallest = max(_SMALLEST_INPUT.get(spec.name, 1), model.step)
    if type(size) is not int or not smallest <= size <= _LARGEST_INPUT or size % model.step:
        raise ConfigurationError(
            f"input_size of model {spec.name} is {size!r}: take {smallest} to {_LARGEST_INPUT}"
            f"{f', a multiple of {model.step}' if model.step > 1 else ''}"
        )
    return size


def _build_own(spec: ModelSpec, num_classes: int) -> nn.Module:
    module_name, _, factory_name = spec.name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"model {spec.name!r} cannot be imported: {error}") from error
    arguments = {"num_classes": num_classes, **spec.arguments}
    try:
        inspect.signature(factory).bind(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"model {spec.name} does not take {arguments}: {error}") from error
    model = factory(**arguments)
    if not isinstance(model, nn.Module):
        raise ConfigurationError(f"model {spec.name} returned {type(model).__name__}, not a torch.nn.Module")
    return model.train()
