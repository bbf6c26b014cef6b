"""Whether a network can be cut into blocks at all, said before any arithmetic on the data."""

from __future__ import annotations

import torch
from torch import nn

from attacks.exact.layers.chain import called, layers_of
from attacks.exact.layers.maps import DROPOUTS, NORMS
from attacks.matching.blocks.block import shapes_of
from attacks.replay import observed_vector, parameter_name
from attacks.rounding import stored_rounding
from fedpriv.wire import Observation

_COARSE = 1e-4
Layers = list[tuple[str, nn.Module]]


def why_no_blocks(observation: Observation) -> str | None:
    """The reason why blockwise inversion does not apply, or None; cheapest questions first."""
    layers = layers_of(observation.model)
    reason = _why_no_order(layers) or _why_not_alone(layers) or _why_frozen(observation, layers)
    if reason is not None:
        return reason
    knowledge = observation.knowledge
    if knowledge.noise_std > 0:
        return (
            "the update carries noise, and a cut between blocks needs exact numbers; "
            "attacks.InvertingGradients searches without one"
        )
    kinds = {t.dtype for t in observation.update.tensors.values() if t.is_floating_point()}
    coarse = sorted(str(kind) for kind in kinds if torch.finfo(kind).eps > _COARSE)
    if coarse:
        return f"a cut between blocks needs exact numbers, and {coarse[0]} keeps three digits or fewer"
    try:
        shapes_of(observation)
        nothing = _is_zero(observation)
    except ValueError as refusal:
        return str(refusal)
    return "the update is zero up to rounding: nothing of the data crossed the wire" if nothing else None


def _is_zero(observation: Observation) -> bool:
    """Whether nothing came back; without a copy of a gradient, which can be large."""
    if observation.update.kind == "gradient":
        return not any(bool(tensor.any()) for tensor in observation.update.tensors.values())
    observation.gradient()  # says why there is none
    return float(observed_vector(observation).norm()) <= 4 * stored_rounding(observation)


def _why_no_order(layers: Layers) -> str | None:
    if not any(isinstance(part, nn.Conv2d) for _, module in layers for part in module.modules()):
        return "the model has no two-dimensional convolution, so there is no block of them to solve"
    for layer in layers:
        if any(isinstance(part, nn.Conv2d) for part in layer[1].modules() if part is not layer[1]):
            return (
                f"convolutions stand inside {called(*layer)}, and only nn.Sequential tells in which order "
                f"layers are applied, so no block can be cut out there"
            )
    return None


def _why_not_alone(layers: Layers) -> str | None:
    """Layers that draw random numbers, or tie the samples of a batch together."""
    for name, module in layers:
        for part in module.modules():
            if isinstance(part, DROPOUTS) and part.training and part.p > 0:
                return (
                    f"{called(name, part)} is active: it draws masks that the server does not know, so "
                    f"a block has no fixed output"
                )
            if isinstance(part, NORMS) and (part.training or part.running_mean is None):
                return (
                    f"{called(name, part)} is in training mode: its statistics tie the samples of the batch "
                    f"together, and blocks are solved with fixed ones"
                )
    return None


def _why_frozen(observation: Observation, layers: Layers) -> str | None:
    sent = observation.update.tensors
    keys = [parameter_name(n, "weight") for n, module in layers if isinstance(module, nn.Conv2d)]
    if any(key in sent for key in keys):
        return None
    return (
        f"every convolution is frozen (no gradient of {keys[0]!r} came back), so nothing tells what is below "
        f"them"
    )
