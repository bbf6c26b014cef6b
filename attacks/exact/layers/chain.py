"""A sequential model as a chain of segments: linear maps one after another, then one activation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attacks.base import NotIdentifiable
from attacks.exact.layers.activations import Activation
from attacks.exact.layers.maps import LinearMap, linear_map, why_not_linear
from fedpriv.wire import Observation

_MAX_POOLINGS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """Linear maps between two activations.

    Parameters
    ----------
    maps : tuple of LinearMap
        In the order in which data pass them; at least one.
    activation : Activation or None
        What follows; None for the last segment, whose output goes into the loss.
    """

    maps: tuple[LinearMap, ...]
    activation: Activation | None

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Shape of one sample before it."""
        return self.maps[0].in_shape

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of one sample behind its last map, before the activation."""
        return self.maps[-1].out_shape

    @property
    def name(self) -> str:
        """Its first layer with a weight, else its first map, for messages."""
        return str(next((m for m in self.maps if m.has_weight), self.maps[0]))

    def apply(self, x: Tensor) -> Tensor:
        """All maps without their offsets."""
        for part in self.maps:
            x = part.apply(x)
        return x

    @property
    def offset(self) -> Tensor:
        """What it returns for zero; shape (1, *out_shape)."""
        value = torch.zeros(1, *self.in_shape, dtype=torch.float64)
        for part in self.maps:
            value = part.apply(value) + part.offset
        return value

    def transpose(self, signal: Tensor) -> Tensor:
        """Carry a backward signal from behind its last map to before its first."""
        for part in reversed(self.maps):
            signal = part.transpose(signal)
        return signal


def chain_of(observation: Observation) -> tuple[Segment, ...]:
    """Split the observed model into segments; what follows its last linear layer belongs to the loss.

    Raises
    ------
    NotIdentifiable
        If the model is no ``nn.Sequential`` of supported layers; the message names the first other one.
    """
    modules = layers_of(observation.model)
    last = max((i for i, (_, m) in enumerate(modules) if isinstance(m, nn.Linear)), default=-1)
    if last < 0:
        raise NotIdentifiable(
            "the model has no linear layer at its end, and the backward signal is read there"
        )
    for name, module in modules[last + 1 :]:
        if any(True for _ in module.parameters()):
            raise NotIdentifiable(
                f"the model ends with {called(name, module)}, and the backward signal is read from a linear "
                f"layer"
            )
    shape = observation.knowledge.input_shape
    if shape is None:
        first = modules[0][1]
        if not isinstance(first, nn.Linear):
            raise NotIdentifiable(
                f"the shape of one input does not follow from {called(*modules[0])}; "
                f"set Knowledge.input_shape"
            )
        shape = (first.in_features,)
    return tuple(_segments(observation, modules[: last + 1], tuple(shape)))


def layers_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers of nested ``nn.Sequential`` with their names, in order; any other module is one layer."""
    return list(_flatten("", model))


def _flatten(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if type(module).forward is nn.Sequential.forward:
        for name, child in module.named_children():
            yield from _flatten(f"{prefix}{name}.", child)
    else:
        yield prefix.removesuffix("."), module


def _segments(
    observation: Observation, modules: list[tuple[str, nn.Module]], shape: tuple[int, ...]
) -> Iterator[Segment]:
    """Group the layers; every shape is found by sending zeros through."""
    maps: list[LinearMap] = []
    for name, module in modules:
        state = layer_state(observation, name)
        why = why_not_linear(module)
        if why is None:
            try:
                maps.append(linear_map(name, module, state, shape))
            except (RuntimeError, ValueError) as error:
                raise NotIdentifiable(
                    f"{called(name, module)} does not take values of shape {shape} "
                    f"({str(error).splitlines()[0]}); set Knowledge.input_shape"
                ) from error
            shape = maps[-1].out_shape
            continue
        activation = Activation(name, module, state)
        if isinstance(module, _MAX_POOLINGS):
            why = "keeps one value of each window, and neither the others nor its place can be computed back"
        elif why == "is not linear":
            why = activation.why_not()
        if why is not None:
            raise NotIdentifiable(f"layer by layer cannot pass {called(name, module)}, which {why}")
        maps = maps or [linear_map("", nn.Identity(), {}, shape)]
        yield Segment(maps=tuple(maps), activation=activation)
        maps = []
    yield Segment(maps=tuple(maps), activation=None)


def layer_state(observation: Observation, name: str) -> dict[str, Tensor]:
    """Parameters and buffers of one layer as sent, float64."""
    prefix = f"{name}." if name else ""
    return {
        n.removeprefix(prefix): t.double() if t.is_floating_point() else t
        for n, t in observation.state.items()
        if n.startswith(prefix)
    }


def called(name: str, module: nn.Module) -> str:
    """A layer's kind and name, for messages."""
    return f"{type(module).__name__} {name!r}" if name else type(module).__name__
