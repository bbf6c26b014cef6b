"""Replay: what the client would have sent, had these been its samples.

Every check of this package rests on it. An update is compared as a vector: the gradient, or the difference
between the parameters that were sent and those that came back, divided by the learning rate, which for
one step is the gradient again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedpriv.wire import Observation
from fedpriv.wire.observation import LossFn

State = dict[str, Tensor]
REPLAY_ERRORS = (ValueError, RuntimeError, TypeError, AttributeError, LookupError, NotImplementedError)
"""What a model or a loss raises for data of the wrong shape or kind."""


@contextmanager
def own_randomness() -> Iterator[None]:
    """Seed dropout and the like inside, and leave PyTorch's global generator as it was."""
    state = torch.random.get_rng_state()
    try:
        torch.default_generator.manual_seed(0)
        yield
    finally:
        torch.random.set_rng_state(state)


def sent_state(observation: Observation, dtype: torch.dtype | None = None) -> State:
    """Fresh copies of what was sent, ready for ``functional_call``: a tied parameter under one name only.

    Fresh, because autograd marks them and batch norm writes into them, and the evidence must stay as it is.
    """
    model = observation.model
    once = [n for n, _ in (*model.named_parameters(), *model.named_buffers()) if n in observation.state]
    sent = {n: observation.state[n] for n in once}
    return {n: t.to(dtype if t.is_floating_point() else None, copy=True) for n, t in sent.items()}


def parameter_name(layer: str, kind: str) -> str:
    """The name of a layer's ``"weight"`` or ``"bias"``; a model that is one layer itself has no prefix."""
    return f"{layer}.{kind}" if layer else kind


def compared_names(observation: Observation) -> list[str]:
    """The trainable parameters that the update covers, in the model's order."""
    parameters = dict(observation.model.named_parameters())
    return [n for n in parameters if n in observation.update.tensors and parameters[n].requires_grad] or [
        n for n in parameters if n in observation.update.tensors
    ]


def observed_vector(observation: Observation, dtype: torch.dtype = torch.float64) -> Tensor:
    """The update as one vector in `dtype`; see the module's first lines."""
    tensors = observation.update.tensors
    names = compared_names(observation)
    if observation.update.kind == "gradient":
        return torch.cat([tensors[n].to(dtype).reshape(-1) for n in names])
    rate = observation.knowledge.learning_rate or 1.0
    return torch.cat(
        [((observation.state[n].to(dtype) - tensors[n].to(dtype)) / rate).reshape(-1) for n in names]
    )


def replay(
    observation: Observation, inputs: Tensor, targets: Tensor | None, dtype: torch.dtype = torch.float64
) -> Tensor:
    """The vector of `observed_vector`, had the client owned `inputs` and `targets`. Differentiable in both.

    Raises
    ------
    ValueError
        If the local training cannot be replayed: mini-batches in an unknown order, or no learning rate.
    """
    return replay_all((observation,), inputs, targets, dtype)[0]


def replay_all(
    observations: Sequence[Observation],
    inputs: Tensor,
    targets: Tensor | None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """`replay` for several visits of one client: shape (visits, numbers in an update)."""
    first = observations[0]
    _check_replayable(first, len(inputs))
    names = compared_names(first)
    if inputs.is_floating_point():  # token ids stay whole numbers
        inputs = inputs.to(dtype)
    if targets is not None and targets.is_floating_point():
        targets = targets.to(dtype)
    differentiable = inputs.requires_grad or (targets is not None and targets.requires_grad)
    factor = None
    vectors = []
    for observation in observations:
        state = sent_state(observation, dtype)
        if factor is None:
            factor = pooling_factor(observation, inputs, targets, state)
        vector = _local_training(observation, state, names, inputs, targets, differentiable)
        vectors.append(factor * vector)
    return torch.stack(vectors)


def _check_replayable(observation: Observation, num_samples: int) -> None:
    knowledge = observation.knowledge
    if knowledge.batch_size is not None and knowledge.batch_size < num_samples:
        raise ValueError("the client drew mini-batches in an order that the server does not know")
    if observation.update.kind == "parameters" and knowledge.learning_rate is None:
        raise ValueError("returned parameters can be replayed only with the learning rate")


def _local_training(
    observation: Observation,
    state: State,
    names: list[str],
    inputs: Tensor,
    targets: Tensor | None,
    differentiable: bool,
) -> Tensor:
    """The gradient, or the sum of the gradients of all local steps."""
    one_step = observation.update.kind == "gradient"
    rate = observation.knowledge.learning_rate or 1.0
    total: Tensor | None = None
    for _ in range(1 if one_step else observation.knowledge.local_steps):
        leaves = {
            n: state[n] if state[n].requires_grad else state[n].detach().requires_grad_() for n in names
        }
        outputs = functional_call(observation.model, {**state, **leaves}, (inputs,))
        loss = observation.loss_fn(outputs, targets)  # type: ignore[arg-type]
        gradient = torch.autograd.grad(
            loss,
            list(leaves.values()),
            create_graph=differentiable,
            allow_unused=True,
            materialize_grads=True,
        )
        step = torch.cat([g.reshape(-1) for g in gradient])
        total = step if total is None else total + step
        moved = {n: leaves[n] - rate * g for n, g in zip(names, gradient, strict=True)}
        state = {**state, **(moved if differentiable else {n: t.detach() for n, t in moved.items()})}
    assert total is not None  # local_steps is at least 1
    return total


def pooling_factor(observation: Observation, inputs: Tensor, targets: Tensor | None, state: State) -> float:
    """Weight of one sample's gradient in an averaged update.

    With a mean loss a pooled mean over clients of equal size is again a mean loss: 1. With a summed loss the
    mean over C clients divides by C.
    """
    clients = len(observation.update.contributors)
    if clients == 1 or targets is None:
        return 1.0
    with torch.no_grad():
        outputs = functional_call(
            observation.model, {n: t.detach() for n, t in state.items()}, (inputs.detach(),)
        )
    return 1.0 / clients if sums_over_samples(observation.loss_fn, outputs, targets.detach()) else 1.0


def sums_over_samples(loss_fn: LossFn, outputs: Tensor, targets: Tensor) -> bool:
    """Whether the loss of a batch taken twice is twice the loss (a sum) rather than the same (a mean)."""
    once = float(loss_fn(outputs, targets))
    twice = float(loss_fn(torch.cat([outputs, outputs]), torch.cat([targets, targets])))
    return abs(twice - 2 * once) < abs(twice - once)


def input_layer(observation: Observation) -> tuple[str, nn.Linear, tuple[int, ...]] | str:
    """The linear layer that sees the raw input, found by watching a random probe pass through the model.

    Returns
    -------
    (name, layer, input_shape) or str
        The reason why there is none.
    """
    model, knowledge = observation.model, observation.knowledge
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if not layers:
        return "the model has no linear layer"
    shape = knowledge.input_shape or (next(iter(layers.values())).in_features,)
    state = sent_state(observation)
    first = _first_parametrized(model)
    probe = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    probe = probe.to(next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32))
    try:
        seen = _seen_by(layers, model, state, probe)
    except REPLAY_ERRORS as error:
        return (
            f"the model (its first layer: {first}) does not accept inputs of shape {shape} "
            f"({_first_line(error)}); set Knowledge.input_shape"
        )
    flat = probe.reshape(2, -1)
    for name, value in seen.items():
        if value.shape == flat.shape and torch.equal(value, flat):
            return name, layers[name], tuple(shape)
    return f"no linear layer sees the raw input (the model's first layer is {first})"


def _seen_by(layers: dict[str, nn.Linear], model: nn.Module, state: State, probe: Tensor) -> State:
    """What each of `layers` gets to see when `probe` passes through the model."""
    seen: State = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def remember(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen.setdefault(name, args[0].detach())

        return remember

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad(), own_randomness():
            functional_call(model, state, (probe,))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _first_parametrized(model: nn.Module) -> str:
    """Kind and name of the first layer that has parameters of its own, for messages."""
    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            return f"{type(module).__name__} {name!r}" if name else type(module).__name__
    return "without parameters"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
