"""How far down a network is exact: the deepest cut that labels, heads, chains and patches give."""

from __future__ import annotations

import copy
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from attacks.base import NotIdentifiable
from attacks.exact.consistency import features
from attacks.exact.layers.backwards import go_back
from attacks.exact.layers.chain import chain_of, layer_state, layers_of
from attacks.exact.layers.maps import why_not_linear
from attacks.exact.layers.peeling import peel_patches
from attacks.exact.layers.pooled import pooled_convolution
from attacks.labels import recover_targets
from attacks.matching.blocks.block import Cut, cut_at, run, shapes_of
from attacks.matching.blocks.linear_head import head_features
from attacks.replay import REPLAY_ERRORS, own_randomness, parameter_name, sent_state
from fedpriv.wire import Knowledge, Observation

_KEEPS_SIGNS = (
    nn.Flatten,
    nn.Identity,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)


def deepest_cut(
    observation: Observation, *, generator: torch.Generator, time_budget: float
) -> tuple[Cut | None, tuple[str, ...]]:
    """The exact values nearest to the input that closed-form methods give.

    Tried in this order: patch peeling and layer by layer (one sample), consistency of two linear layers
    (batches), the last linear layer and the loss.

    Returns
    -------
    cut : Cut or None
    notes : tuple of str
        What each method said.
    """
    deadline = time.perf_counter() + time_budget
    ways: tuple[Callable[[], Cut], ...] = (
        lambda: _peeled(observation),
        lambda: _chained(observation),
        lambda: _consistent(observation, generator, time_budget),
        lambda: _head(observation, generator, deadline),
    )
    told = observation.knowledge.num_samples or observation.update.num_samples
    notes: list[str] = []
    for way in ways:
        try:
            cut = way()
        except REPLAY_ERRORS as reason:
            notes.append(str(reason))
            continue
        if told is not None and told != len(cut.values):
            notes.append(f"{len(cut.values)} different samples were found, and {told} were told")
            continue
        if not _passes_relu(observation, cut) or not _explains(observation, cut):
            notes.append("the samples found do not give the gradient of the layers that they pass")
            continue
        return _lowered(observation, cut), tuple(notes)
    return None, tuple(notes)


def _passes_relu(observation: Observation, cut: Cut) -> bool:
    """Values behind a ReLU, and behind pooling after it, are never negative; those of a mixture can be."""
    layers = layers_of(observation.model)
    limit = 1e-3 * float(cut.values.abs().max())
    for _, module in reversed(layers[: cut.depth]):
        if isinstance(module, nn.ReLU):
            return float(cut.values.min()) >= -limit
        if not isinstance(module, _KEEPS_SIGNS):
            break
    return True


def _explains(observation: Observation, cut: Cut) -> bool:
    """Whether the layers above the cut would have sent what they did: nothing was assumed in vain."""
    layers = tuple(layers_of(observation.model))[cut.depth :]
    above = tuple(parameter_name(name, "") for name, _ in layers)
    gradient = {n: g.double() for n, g in observation.gradient().items() if n.startswith(above)}
    if not gradient:
        return False
    state = sent_state(observation, torch.float64)
    parameters = [state[n].requires_grad_() for n in gradient]
    with torch.enable_grad(), own_randomness():
        loss = observation.loss_fn(run(layers, state, cut.values), cut.targets)
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    left = sum(float((f - g).square().sum()) for f, g in zip(found, gradient.values(), strict=True))
    epsilon = max(torch.finfo(t.dtype).eps for t in observation.update.tensors.values())
    whole = sum(float(g.square().sum()) for g in gradient.values())
    return bool(math.sqrt(left) <= float(epsilon) ** 0.4 * math.sqrt(whole))


def _peeled(observation: Observation) -> Cut:
    depth, _ = pooled_convolution(observation)
    found = peel_patches(observation)
    if bool(found.unseen.any()):
        raise NotIdentifiable("patch peeling leaves places that no patch reads")
    return _with_targets(observation, depth, found.features)


def _chained(observation: Observation) -> Cut:
    """Layer by layer through the longest end of the model that is a chain."""
    shapes, layers = shapes_of(observation), layers_of(observation.model)
    for depth in range(len(layers)):
        tail = tail_of(observation, depth, shapes[depth])
        try:
            chain_of(tail)
        except ValueError:
            continue
        track = go_back(tail)
        if track.inputs is not None:
            return _with_targets(observation, depth, track.inputs)
        for index in range(depth, len(layers)):
            key = f"input of {type(layers[index][1]).__name__} {str(index - depth)!r}"
            if key in track.determined:
                while index > depth and why_not_linear(layers[index - 1][1]) is None:
                    index -= 1
                values = track.determined[key]
                return _with_targets(observation, index, values.reshape(1, *shapes[index]))
        raise NotIdentifiable(str(track.lost))
    raise NotIdentifiable("no end of the model is a chain of layers")


def _consistent(observation: Observation, generator: torch.Generator, time_budget: float) -> Cut:
    found = features(observation, generator=generator, time_budget=time_budget)
    if not found.complete or found.labels is None or bool((found.labels < 0).any()):
        raise NotIdentifiable(f"consistency found {len(found)} samples at {found.layer!r}, and not all")
    if found.weights is not None and float(found.weights.max() / found.weights.min()) > 1.5:
        raise NotIdentifiable("consistency found samples that occur several times")
    return cut_at(observation, _index(observation, found.layer), found.values, found.labels)


def _head(observation: Observation, generator: torch.Generator, deadline: float) -> Cut:
    found = head_features(observation, generator=generator, deadline=deadline)
    return cut_at(observation, _index(observation, found.layer), found.values, found.labels)


def _index(observation: Observation, layer: str) -> int:
    names = [name for name, _ in layers_of(observation.model)]
    if layer not in names:
        raise NotIdentifiable(f"layer {layer!r} stands inside a module whose order of layers is not known")
    return names.index(layer)


def _with_targets(observation: Observation, depth: int, values: Tensor) -> Cut:
    targets, notes = recover_targets(tail_of(observation, depth, tuple(values.shape[1:])), values)
    if targets is None:
        raise NotIdentifiable("; ".join(notes))
    return cut_at(observation, depth, values, targets)


def tail_of(observation: Observation, depth: int, shape: tuple[int, ...]) -> Observation:
    """The observation of the layers from `depth` on, whose input has `shape`; layers are numbered from 0."""
    layers = layers_of(observation.model)[depth:]
    copies = [(str(i), copy.deepcopy(module).double()) for i, (_, module) in enumerate(layers)]
    model = nn.Sequential(OrderedDict(copies))
    gradient, state = observation.gradient(), {}
    renamed = {}
    for number, (name, _) in enumerate(layers):
        prefix = f"{name}." if name else ""
        state.update({f"{number}.{n}": t for n, t in layer_state(observation, name).items()})
        renamed.update(
            {f"{number}.{n.removeprefix(prefix)}": g for n, g in gradient.items() if n.startswith(prefix)}
        )
    knowledge: Knowledge = replace(observation.knowledge, input_shape=shape, input_values=None)
    return Observation(model, renamed, observation.loss_fn, knowledge, state=state)


def _lowered(observation: Observation, cut: Cut) -> Cut:
    """The same values before modules that only reshape, so that a map is a map again."""
    shapes, layers = shapes_of(observation), layers_of(observation.model)
    depth = cut.depth
    while depth > 0 and isinstance(layers[depth - 1][1], (nn.Flatten, nn.Identity, nn.Unflatten)):
        depth -= 1
    count = len(cut.values)
    return replace(
        cut,
        depth=depth,
        values=cut.values.reshape(count, *shapes[depth]),
        signals=cut.signals.reshape(count, *shapes[depth]),
    )
