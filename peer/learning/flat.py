"""A model's parameters and buffers as flat vectors, in one order that all peers and functions share."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from peer.errors import ConfigurationError


@dataclass(frozen=True)
class FlatState:
    """Everything that a model learns or counts.

    Attributes:
        parameters: float32 of shape (P,), the order of `named_parameters()`.
        buffers: float32 of shape (B,), such as BatchNorm's running means; may be empty.
        counters: int64 of shape (C,), such as `num_batches_tracked`; may be empty.
    """

    parameters: Tensor
    buffers: Tensor
    counters: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a weights object, by name and in order."""
        return {"parameters": self.parameters, "buffers": self.buffers, "counters": self.counters}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "FlatState":
        """Return the state that `tensors()` described, sharing its memory.

        Raises:
            ConfigurationError: names or dtypes are not those of a weights object.
        """
        expected = {"parameters": torch.float32, "buffers": torch.float32, "counters": torch.int64}
        found = {name: tensor.dtype for name, tensor in tensors.items()}
        if found != expected or any(tensor.dim() != 1 for tensor in tensors.values()):
            raise ConfigurationError(f"not a weights object: it has {found}, expected flat {expected}")
        return cls(**tensors)


@dataclass(frozen=True)
class Slot:
    """Where one named tensor lies in a flat vector: elements [start, stop), of this shape and dtype."""

    name: str
    shape: torch.Size
    start: int
    stop: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Layout:
    """Where each of a model's tensors lies. Equal models have equal layouts; memory formats do not matter."""

    parameters: tuple[Slot, ...]
    buffers: tuple[Slot, ...]
    counters: tuple[Slot, ...]

    @classmethod
    def of(cls, model: nn.Module) -> "Layout":
        """Return the layout of this model.

        Raises:
            ConfigurationError: a parameter is frozen or not float32, or a buffer is a float other than
                float32.
        """
        for name, parameter in model.named_parameters():
            if parameter.dtype != torch.float32:
                raise ConfigurationError(
                    f"parameter {name} is {parameter.dtype}: peerless trains float32 models"
                )
            if not parameter.requires_grad:
                raise ConfigurationError(
                    f"parameter {name} does not require a gradient: make it a buffer or let it be trained"
                )
        floats, integers = [], []
        for name, buffer in model.named_buffers():
            if buffer.dtype == torch.float32:
                floats.append((name, buffer))
            elif buffer.dtype.is_floating_point or buffer.dtype.is_complex:
                raise ConfigurationError(f"buffer {name} is {buffer.dtype}: use float32 or an integer type")
            else:
                integers.append((name, buffer))
        return cls(_slots(model.named_parameters()), _slots(floats), _slots(integers))

    @property
    def num_parameters(self) -> int:
        """The length of the parameter vector."""
        return self.parameters[-1].stop if self.parameters else 0

    @property
    def num_buffers(self) -> int:
        """The length of the float buffer vector."""
        return self.buffers[-1].stop if self.buffers else 0

    @property
    def num_counters(self) -> int:
        """The length of the integer buffer vector."""
        return self.counters[-1].stop if self.counters else 0

    def flatten(self, model: nn.Module) -> FlatState:
        """Return a copy of the model's state."""
        parameters = torch.empty(self.num_parameters)
        tensors = dict(model.named_parameters())
        with torch.no_grad():
            for slot in self.parameters:
                parameters[slot.start : slot.stop].view(slot.shape).copy_(tensors[slot.name])
        return FlatState(parameters, *self.flatten_buffers(model))

    def flatten_buffers(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Return a copy of the model's float and integer buffers."""
        tensors = dict(model.named_buffers())
        flats = []
        for slots, length, dtype in (
            (self.buffers, self.num_buffers, torch.float32),
            (self.counters, self.num_counters, torch.int64),
        ):
            flat = torch.empty(length, dtype=dtype)
            for slot in slots:
                flat[slot.start : slot.stop].view(slot.shape).copy_(tensors[slot.name])
            flats.append(flat)
        return flats[0], flats[1]

    def load(self, model: nn.Module, state: FlatState) -> None:
        """Copy `state` into the model, whose gradients and memory formats stay as they are.

        Raises:
            ConfigurationError: the state has other lengths than the layout; the model is unchanged.
        """
        self.check(state)
        tensors = dict(model.named_parameters())
        with torch.no_grad():
            for slot in self.parameters:
                tensors[slot.name].copy_(state.parameters[slot.start : slot.stop].view(slot.shape))
        self.load_buffers(model, state)

    def load_buffers(self, model: nn.Module, state: FlatState) -> None:
        """Copy only the buffers of `state` into the model."""
        tensors = dict(model.named_buffers())
        with torch.no_grad():
            for slots, flat in ((self.buffers, state.buffers), (self.counters, state.counters)):
                for slot in slots:
                    tensors[slot.name].copy_(flat[slot.start : slot.stop].view(slot.shape))

    def check(self, state: FlatState) -> None:
        """Return if the state's lengths are the layout's.

        Raises:
            ConfigurationError: they are not; the message has both.
        """
        found = {name: tensor.numel() for name, tensor in state.tensors().items()}
        expected = {
            "parameters": self.num_parameters,
            "buffers": self.num_buffers,
            "counters": self.num_counters,
        }
        if found != expected:
            raise ConfigurationError(f"weights are of another model: they have {found}, it has {expected}")

    def bind_gradient(self, model: nn.Module) -> Tensor:
        """Return a float32 vector of shape (P,), zero, into which autograd now adds the model's gradients.

        Each parameter's `grad` is a view of it, so that gradients exist once; a `channels_last` parameter has
        such a view, as autograd wants it. A parameter that takes no part in the loss stays zero.
        """
        flat = torch.zeros(self.num_parameters)
        tensors = dict(model.named_parameters())
        for slot in self.parameters:
            parameter = tensors[slot.name]
            if parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
                parameter.grad = flat.as_strided(slot.shape, parameter.stride(), slot.start)
            else:
                parameter.grad = flat[slot.start : slot.stop].view(slot.shape)
        return flat

    def release_gradient(self, model: nn.Module, flat: Tensor) -> None:
        """Leave the gradients in `flat`, from `bind_gradient`, in this layout's order; the model has none."""
        tensors = dict(model.named_parameters())
        for slot in self.parameters:
            gradient = tensors[slot.name].grad
            tensors[slot.name].grad = None
            if gradient is not None and not gradient.is_contiguous():
                flat[slot.start : slot.stop].view(slot.shape).copy_(gradient.clone())

    def to_state_dict(self, state: FlatState) -> dict[str, Tensor]:
        """Return the state under the model's own names, as views: what `nn.Module.load_state_dict` takes."""
        self.check(state)
        return {
            slot.name: flat[slot.start : slot.stop].view(slot.shape).to(slot.dtype)
            for slots, flat in (
                (self.parameters, state.parameters),
                (self.buffers, state.buffers),
                (self.counters, state.counters),
            )
            for slot in slots
        }


def _slots(tensors: Iterable[tuple[str, Tensor]]) -> tuple[Slot, ...]:
    slots = []
    position = 0
    for name, tensor in tensors:
        stop = position + math.prod(tensor.shape)
        slots.append(Slot(name, tensor.shape, position, stop, tensor.dtype))
        position = stop
    return tuple(slots)
