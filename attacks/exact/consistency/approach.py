"""From an observation to the evidence of one pair of layers, or to the sentence that says why not."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.exact.consistency.blocks import Pair, find_pairs, layers_of
from attacks.exact.consistency.problem import Evidence, evidence_of, obstacle
from attacks.exact.consistency.scale import why_no_scale
from fedpriv.wire import Observation

Gradients = tuple[Tensor, Tensor | None, Tensor, Tensor | None]


def approach(observation: Observation, *, raw: bool, layer: str | None = None) -> tuple[Pair, Evidence] | str:
    """The first pair of layers whose gradients show the batch, or why there is none.

    Parameters
    ----------
    observation : Observation
    raw : bool
        Only a pair whose first layer sees the model's input.
    layer : str, optional
        Only the pair whose first layer has this name.

    Returns
    -------
    (Pair, Evidence) or str
    """
    if observation.knowledge.noise_std > 0:
        return (
            f"noise of standard deviation {observation.knowledge.noise_std:g} was added to the update, and "
            f"spans of exact samples no longer exist"
        )
    try:
        gradient = observation.gradient()
    except ValueError as error:
        return str(error)
    pairs = find_pairs(observation)
    if isinstance(pairs, str):
        return pairs
    wanted = [p for p in pairs if (p.raw or not raw) and layer in (None, p.first)]
    if not wanted:
        names = [p.first for p in pairs]
        if layer is not None:
            return f"no pair of consecutive linear layers starts at {layer!r}; those that do are {names}"
        return (
            f"no two consecutive linear layers stand at the model's input; those deeper in it, at {names}, "
            f"give features, not inputs: see attacks.exact.consistency.features"
        )
    reasons = []
    for pair in wanted:
        evidence = _evidence(observation, gradient, pair)
        reason = evidence if isinstance(evidence, str) else obstacle(evidence) or why_no_scale(evidence)
        if reason is None and not isinstance(evidence, str):
            return pair, evidence
        reasons.append(reason)
    return str(reasons[0])


def _evidence(observation: Observation, gradient: dict[str, Tensor], pair: Pair) -> Evidence | str:
    gradients = _gradients(gradient, pair)
    if isinstance(gradients, str):
        return gradients
    rounding = (
        _stored_rounding(observation, _name(pair.first, "weight")),
        _stored_rounding(observation, _name(pair.second, "weight")),
    )
    return evidence_of(layers_of(observation, pair), gradients, stored_rounding=rounding)


def _gradients(gradient: dict[str, Tensor], pair: Pair) -> Gradients | str:
    """Gradients of both layers, or why they are of no use."""
    for layer in (pair.first, pair.second):
        weight = gradient.get(_name(layer, "weight"))
        if weight is None:
            return f"the linear layer {layer!r} is frozen: no gradient of its weight came back"
        if not bool(weight.any()):
            return f"the gradient of the linear layer {layer!r} is zero: all neurons around it are dead"
    return (
        gradient[_name(pair.first, "weight")],
        gradient.get(_name(pair.first, "bias")),
        gradient[_name(pair.second, "weight")],
        gradient.get(_name(pair.second, "bias")),
    )


def _name(layer: str, kind: str) -> str:
    return f"{layer}.{kind}" if layer else kind


def _stored_rounding(observation: Observation, name: str) -> float:
    """Norm of the rounding in a gradient that is a difference of stored parameters; else 0 (it is small)."""
    if observation.update.kind == "gradient":
        return 0.0
    stored = observation.update.tensors[name]
    rate = observation.knowledge.learning_rate or 1.0
    return float(torch.finfo(stored.dtype).eps * stored.double().norm() / rate)
