"""What the observation itself says of the batch: the number of samples and the shape of an input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks.replay import REPLAY_ERRORS, input_layer, own_randomness, parameter_name, sent_state
from attacks.rounding import stored_rounding
from fedpriv.wire import Observation


def input_shape_of(observation: Observation) -> tuple[int, ...]:
    """The shape of one input: told, or the width of a linear layer that sees the raw input.

    Raises
    ------
    ValueError
        If neither is there.
    """
    shape = observation.knowledge.input_shape
    if shape is not None:
        return tuple(shape)
    found = input_layer(observation)
    if isinstance(found, str):
        raise ValueError(f"the shape of an input is unknown: {found}; set Knowledge.input_shape")
    return tuple(found[2])


def num_samples_of(observation: Observation) -> int:
    """How many samples are behind the update: told, or the rank of a linear layer's gradient.

    The gradient of a linear layer that is applied once to every sample is a sum of n products, so its rank
    is n, unless the layer is too narrow: then it only says "at least".

    Raises
    ------
    ValueError
        If it was not told and no layer is wide enough.
    """
    told = observation.knowledge.num_samples or observation.update.num_samples
    if told is not None:
        return told
    reason = "no linear layer is applied exactly once to every sample"
    for name, weight in linear_gradients(observation).items():
        rank, full = gradient_rank(observation, weight)
        if 0 < rank < full:
            return rank
        reason = f"the gradient of linear layer {name!r} has rank {rank}, as high as its width lets it be"
    raise ValueError(
        f"the number of samples is unknown, and {reason}, so it cannot be read off; set Knowledge.num_samples"
    )


def gradient_rank(observation: Observation, weight: Tensor) -> tuple[int, int]:
    """Numerical rank of a weight gradient, and the rank that would say no more than "at least".

    The rows of the last layer's gradient sum to zero under cross-entropy, hence the one that is taken off.
    """
    noise = observation.knowledge.noise_std * sum(weight.shape) ** 0.5
    values = torch.linalg.svdvals(weight.double())
    limit = max(1e-5 * float(values[0]), 4 * (stored_rounding(observation) + noise))
    return int((values > limit).sum()), min(weight.shape[0] - 1, weight.shape[1])


def linear_gradients(observation: Observation) -> dict[str, Tensor]:
    """Weight gradients of the linear layers that see one vector of every sample, last layer first."""
    try:
        gradient = observation.gradient()
        once = applied_once(observation, input_shape_of(observation))
    except REPLAY_ERRORS:
        return {}
    names = [n for n in once if parameter_name(n, "weight") in gradient]
    return {n: gradient[parameter_name(n, "weight")] for n in reversed(names)}


def applied_once(observation: Observation, shape: tuple[int, ...]) -> list[str]:
    """Linear layers that are called once with one row a sample, found with a random batch of three."""
    calls: dict[str, list[tuple[int, ...]]] = {}
    layers = {n: m for n, m in observation.model.named_modules() if isinstance(m, nn.Linear)}

    def watch(name: str):  # type: ignore[no-untyped-def]
        return lambda _, args: calls.setdefault(name, []).append(tuple(args[0].shape[:-1]))

    state = sent_state(observation)
    dtype = next((t.dtype for t in state.values() if t.is_floating_point()), torch.float32)
    probe = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    hooks = [layer.register_forward_pre_hook(watch(n)) for n, layer in layers.items()]
    try:
        with torch.no_grad(), own_randomness():
            functional_call(observation.model, state, (probe,))
    finally:
        for hook in hooks:
            hook.remove()
    return [n for n, seen in calls.items() if seen == [(3,)]]
