"""What labels are read from: the last layer's gradient, and what the model predicts on average."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks.matching.unknown import input_shape_of
from attacks.replay import compared_names, observed_vector, own_randomness, parameter_name, sent_state
from fedpriv.wire import Observation

PROBES = 64
"""Random inputs on which the model's mean prediction is measured."""
PROBED_ROWS = 1024
"""The same where inputs are rows of a table: they are short, and their labels worth counting better."""


class Expected(NamedTuple):
    """Means over random inputs: the softmax of the outputs, and the sum of the last layer's inputs."""

    prediction: Tensor
    activation: float


@dataclass(frozen=True, eq=False)
class Head:
    """The last linear layer's gradient, averaged over local steps, in float64."""

    weight: Tensor | None
    bias: Tensor | None
    name: str

    @property
    def num_classes(self) -> int:
        """Outputs of the layer."""
        gradient = self.bias if self.weight is None else self.weight
        assert gradient is not None, "`head` refuses a frozen layer"
        return len(gradient)


def head(observation: Observation) -> Head:
    """The last linear layer, with what came back of it.

    Raises
    ------
    ValueError
        If there is no such layer, or it is frozen.
    """
    layers = [n for n, m in observation.model.named_modules() if isinstance(m, nn.Linear)]
    if not layers:
        raise ValueError("labels are read from a last linear layer, and the model has none")
    names = compared_names(observation)
    sizes = [observation.state[n].numel() for n in names]
    steps = 1 if observation.update.kind == "gradient" else observation.knowledge.local_steps
    parts = dict(zip(names, (observed_vector(observation) / steps).split(sizes), strict=True))
    weight, bias = (parts.get(parameter_name(layers[-1], kind)) for kind in ("weight", "bias"))
    if weight is None and bias is None:
        raise ValueError(f"labels are read from the last linear layer, but {layers[-1]!r} is frozen")
    if weight is not None:
        weight = weight.reshape(observation.state[parameter_name(layers[-1], "weight")].shape)
    return Head(weight, bias, layers[-1])


def mean_prediction(observation: Observation, *, as_remembered: bool = False) -> Expected:
    """What the model answers on average to random inputs.

    They are standard normal, or valid rows where the observation declares a table: a one-hot row is much
    shorter than a normal one, and a ReLU network's prediction depends on the length.
    """
    shape = input_shape_of(observation)
    generator = torch.Generator().manual_seed(0)
    state = sent_state(observation)
    like = next((t for t in state.values() if t.is_floating_point()), torch.zeros(1))
    table = observation.knowledge.table
    if table is None or table.width != math.prod(shape):
        inputs = torch.randn(PROBES, *shape, generator=generator, dtype=torch.float64).to(like)
    else:
        inputs = table.draw(PROBED_ROWS, generator).reshape(-1, *shape).to(like)
    normalizers, features = remembering(observation.model), list[Tensor]()
    if as_remembered and not normalizers:
        raise ValueError("no layer of the model remembers the statistics of its inputs")
    modules = dict(observation.model.named_modules())

    def remember(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        features.append(args[0])

    hooks = [modules[head(observation).name].register_forward_pre_hook(remember)]
    if as_remembered:
        memory = _from_memory(state, normalizers[-1], generator)
        hooks.append(modules[normalizers[-1]].register_forward_pre_hook(memory))
    try:
        with torch.no_grad(), own_randomness():
            outputs = functional_call(observation.model, state, (inputs,)).double()
    finally:
        for handle in hooks:
            handle.remove()
    if outputs.dim() != 2:
        raise ValueError(f"labels are counted for outputs of shape (n, classes), got {tuple(outputs.shape)}")
    activation = float(features[0].double().flatten(1).sum(1).mean())
    return Expected(outputs.softmax(1).mean(0), activation)


def _from_memory(
    state: dict[str, Tensor], name: str, generator: torch.Generator
) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor]]:
    mean, variance = state[f"{name}.running_mean"].clone(), state[f"{name}.running_var"].clone()

    def replaced(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        shape = (1, -1, *[1] * (args[0].dim() - 2))
        noise = torch.randn(args[0].shape, generator=generator, dtype=torch.float64).to(args[0])
        return (mean.reshape(shape) + variance.sqrt().reshape(shape) * noise,)

    return replaced


def remembering(model: nn.Module) -> list[str]:
    """Layers with running statistics, in the model's order."""
    return [n for n, m in model.named_modules() if isinstance(getattr(m, "running_var", None), Tensor)]
