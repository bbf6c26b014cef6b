"""Watching a model at work: what its linear layers see and give, with outputs replaced at will."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.hooks import RemovableHandle

from attacks.replay import REPLAY_ERRORS, own_randomness
from fedpriv.wire import Observation

State = Mapping[str, Tensor]


class _Stop(Exception):
    """Raised inside a forward pass when everything of interest has been seen."""


@dataclass
class Trace:
    """One pass through a model.

    Parameters
    ----------
    inputs, outputs : dict of str to Tensor
        Of every linear layer, at its last call; in the order of the calls.
    calls : dict of str to int
    modules : list of (str, nn.Module)
        Names and modules without children, in the order in which they were called.
    result : object
        What the model returned; None if the pass was stopped.
    """

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    modules: list[tuple[str, nn.Module]] = field(default_factory=list)
    result: object = None


def trace(
    model: nn.Module,
    state: State,
    inputs: Tensor,
    *,
    replaced: Mapping[str, Tensor] | None = None,
    stop: str | None = None,
) -> Trace:
    """Pass `inputs` through the model and watch its linear layers.

    Parameters
    ----------
    model : nn.Module
    state : mapping of str to Tensor
        Parameters and buffers.
    inputs : Tensor
    replaced : mapping of str to Tensor, optional
        Outputs of linear layers that take the place of the true ones.
    stop : str, optional
        The linear layer at which to stop, after its input was seen.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> seen = trace(model, dict(model.state_dict()), torch.ones(1, 2), replaced={"0": -torch.ones(1, 3)})
    >>> seen.inputs["2"]
    tensor([[0., 0., 0.]])
    """
    seen = Trace()
    with _watching(model, seen, replaced or {}, stop), own_randomness():
        try:
            seen.result = functional_call(model, dict(state), (inputs,))
        except _Stop:
            seen.result = None
    return seen


@contextmanager
def _watching(
    model: nn.Module, seen: Trace, replaced: Mapping[str, Tensor], stop: str | None
) -> Iterator[None]:
    """Hooks on all modules without children, taken away again at the end."""
    handles: list[RemovableHandle] = []

    def watch(name: str, module: nn.Module) -> None:
        def before(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.modules.append((name, module))
            if isinstance(module, nn.Linear):
                seen.calls[name] = seen.calls.get(name, 0) + 1
                seen.inputs[name] = args[0]
                if name == stop:
                    raise _Stop

        def after(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if isinstance(module, nn.Linear):
                # Copies: what follows may work in place.
                output = replaced[name].clone() if name in replaced else output
                seen.outputs[name] = output.clone()
            return output

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))

    for name, module in model.named_modules():
        if next(module.children(), None) is None:
            watch(name, module)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def probe_for(observation: Observation, state: State, count: int) -> tuple[Tensor, Trace] | str:
    """A random batch that the model accepts, with its trace; or why there is none.

    Tried are numbers in the declared input shape (else as many as the first linear layer takes), then token
    ids.
    """
    layers = [m for m in observation.model.modules() if isinstance(m, nn.Linear)]
    if not layers:
        return "the model has no linear layer"
    shape = observation.knowledge.input_shape or (layers[0].in_features,)
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    tokens = 1 + torch.arange(count * math.prod(shape)).reshape(count, *shape) % 2
    why = ""
    for probe in (tokens, numbers) if _takes_tokens(observation.model) else (numbers,):
        seen = _attempt(observation.model, state, probe)
        if isinstance(seen, Trace):
            return probe, seen
        why = seen
    return f"the model does not accept inputs of shape {shape} ({why}); set Knowledge.input_shape"


def _takes_tokens(model: nn.Module) -> bool:
    return any(isinstance(m, nn.Embedding) for m in model.modules())


def _attempt(model: nn.Module, state: State, probe: Tensor) -> Trace | str:
    """The trace of `probe`, or the first line of the model's complaint."""
    try:
        with torch.no_grad():
            return trace(model, state, probe)
    except REPLAY_ERRORS as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
