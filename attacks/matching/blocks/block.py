"""The part of a network below a layer whose input is known: a problem of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks.base import NotIdentifiable
from attacks.exact.layers.chain import called, layers_of
from attacks.matching.blocks.softened import Sharpness, softened
from attacks.replay import REPLAY_ERRORS, State, own_randomness, sent_state
from fedpriv.wire import Observation


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """What is known exactly between two layers.

    Parameters
    ----------
    depth : int
        The number of layers below.
    values : Tensor of shape (n, *shape)
        What passes there, float64.
    signals : Tensor of shape (n, *shape)
        The gradient of the loss of the batch by it.
    targets : Tensor of shape (n,) or (n, ...)
        Whose they are.
    """

    depth: int
    values: Tensor
    signals: Tensor
    targets: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """The layers below a cut, as a function of the input, with the gradients that came back for them.

    Parameters
    ----------
    layers : tuple of (str, nn.Module)
        ReLU and max pooling in them follow `sharpness`.
    sharpness : Sharpness
    state : dict of str to Tensor
        Parameters and buffers, by their names in the model.
    observed : dict of str to Tensor
        Gradients, by the same names.
    cut : Cut
        At their end.
    input_shape : tuple of int
    """

    layers: tuple[tuple[str, nn.Module], ...]
    sharpness: Sharpness
    state: State
    observed: Mapping[str, Tensor]
    cut: Cut
    input_shape: tuple[int, ...]

    def to(self, dtype: torch.dtype) -> Block:
        """The same numbers in another precision."""

        def cast(t: Tensor) -> Tensor:
            return t.to(dtype) if t.is_floating_point() else t

        cut = replace(self.cut, values=cast(self.cut.values), signals=cast(self.cut.signals))
        return replace(
            self,
            state={n: cast(t) for n, t in self.state.items()},
            observed={n: cast(t) for n, t in self.observed.items()},
            cut=cut,
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of all numbers in it."""
        return self.cut.values.dtype

    def forward(self, x: Tensor, layers: int | None = None) -> Tensor:
        """The output of the first `layers` layers (all if not given)."""
        return run(self.layers[:layers], self.state, x)

    def gradients(self, x: Tensor, taps: Sequence[int] = ()) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """What the block would have sent for the input `x` (n, *input_shape); differentiable.

        Returns
        -------
        values : Tensor of shape (n, *shape)
            Its output.
        gradients : list of Tensor
            Under the known signals, in the order of `observed`.
        tapped : list of Tensor
            What passes before the layers of the given numbers.
        """
        parameters = {n: self.state[n].detach().requires_grad_() for n in self.observed}
        state, begin = {**self.state, **parameters}, 0
        tapped: list[Tensor] = []
        with torch.enable_grad():
            values = x
            for end in (*taps, len(self.layers)):
                values = run(self.layers[begin:end], state, values)
                tapped, begin = [*tapped, values], end
            found = torch.autograd.grad(
                (values * self.cut.signals).sum(),
                list(parameters.values()),
                create_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        return values, list(found), tapped[:-1]


def run(layers: tuple[tuple[str, nn.Module], ...], state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Send `x` through `layers` with the parameters and buffers of `state`."""
    for name, module in layers:
        prefix = f"{name}." if name else ""
        own = {n: state[f"{prefix}{n}"] for n in _names_of(module)}
        x = functional_call(module, own, (x,))
    return x


def _names_of(module: nn.Module) -> list[str]:
    return [n for n, _ in (*module.named_parameters(), *module.named_buffers())]


def block_below(observation: Observation, cut: Cut) -> Block:
    """The block below `cut`, in float64; every layer of the model counts, activations too."""
    model, sharpness = softened(observation.model)
    layers = tuple(layers_of(model))[: cut.depth]
    state = sent_state(observation, torch.float64)
    inside = tuple(f"{name}." if name else "" for name, _ in layers)
    gradient = {n: g.double() for n, g in observation.gradient().items() if n.startswith(inside)}
    shape = observation.knowledge.input_shape
    if shape is None:
        raise NotIdentifiable("the shape of one input is not known; set Knowledge.input_shape")
    return Block(
        layers=layers,
        sharpness=sharpness,
        state=state,
        observed=gradient,
        cut=cut,
        input_shape=tuple(shape),
    )


def cut_at(observation: Observation, depth: int, values: Tensor, targets: Tensor) -> Cut:
    """The cut where `values` pass, with the signals that follow from them through the layers above."""
    layers = tuple(layers_of(observation.model))[depth:]
    state = sent_state(observation, torch.float64)
    with torch.enable_grad(), own_randomness():
        point = values.double().detach().requires_grad_()
        loss = observation.loss_fn(run(layers, state, point), targets)
        (signals,) = torch.autograd.grad(loss, point)
    return Cut(depth=depth, values=point.detach(), signals=signals, targets=targets)


def shapes_of(observation: Observation, num_samples: int = 1) -> list[tuple[int, ...]]:
    """The shape of one sample before each layer of the model and behind the last, found with zeros.

    Raises
    ------
    NotIdentifiable
        If the model does not take inputs of the told shape.
    """
    shape = observation.knowledge.input_shape
    if shape is None:
        raise NotIdentifiable("the shape of one input is not known; set Knowledge.input_shape")
    state = _borrowed_state(observation)
    x = torch.zeros(num_samples, *shape, dtype=next((t.dtype for t in state.values()), torch.float32))
    shapes = [tuple(x.shape[1:])]
    with torch.no_grad(), own_randomness():
        for layer in layers_of(observation.model):
            try:
                x = run((layer,), state, x)
            except REPLAY_ERRORS as error:
                raise NotIdentifiable(
                    f"{called(*layer)} does not take values of shape {shapes[-1]}; set Knowledge.input_shape"
                ) from error
            shapes.append(tuple(x.shape[1:]))
    return shapes


def _borrowed_state(observation: Observation) -> State:
    """Parameters as they were sent, without a copy (a layer may write into its buffers, but not in them)."""
    model, sent = observation.model, observation.state
    half = {t.dtype for t in sent.values()} & {torch.float16, torch.bfloat16}

    def usable(t: Tensor) -> Tensor:
        return t.float() if half and t.is_floating_point() else t

    state = {n: usable(sent[n]) for n, _ in model.named_parameters() if n in sent}
    return {**state, **{n: usable(sent[n]).clone() for n, _ in model.named_buffers() if n in sent}}
