"""Smoothed gradient matching of a whole network: what is left where nothing inside it is exact."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.base import Claim, NotIdentifiable
from attacks.labels import idlg
from attacks.matching.blocks.block import shapes_of
from attacks.matching.blocks.smooth import search_smoothed
from attacks.matching.blocks.softened import softened
from attacks.matching.objectives import Cosine
from attacks.matching.priors import TotalVariation
from attacks.matching.problem import Problem
from attacks.matching.unknowns import Energy, Unknowns
from attacks.replay import REPLAY_ERRORS
from fedpriv.wire import Observation


def match_whole(
    observation: Observation,
    *,
    variation: float,
    steps: int,
    rate: float,
    sharpen: tuple[float, float],
    generator: torch.Generator,
    deadline: float,
) -> Claim:
    """Cosine distance and total variation on the softened model; soft labels are sought if none is read off.

    Raises
    ------
    NotIdentifiable
        If the number of samples is not known.
    """
    model, sharpness = softened(observation.model)
    soft = Observation(
        model, observation.update, observation.loss_fn, observation.knowledge, state=observation.state
    )
    try:
        problem = Problem.of(soft)
    except ValueError as refusal:
        raise NotIdentifiable(str(refusal)) from refusal
    targets = _label(observation) if problem.num_samples == 1 else None
    unknowns = Unknowns(
        num_samples=problem.num_samples,
        input_shape=problem.input_shape,
        targets=targets,
        target_shape=shapes_of(observation)[-1] if targets is None else (),
        to_targets=lambda free: free.softmax(-1),
    )
    energy = Energy(
        problem=problem, unknowns=unknowns, objective=Cosine(), priors=((variation, TotalVariation()),)
    )
    found = search_smoothed(
        energy,
        sharpness,
        unknowns.draw(1, generator, scale=1e-2, like=problem.observed[0]),
        steps=steps,
        rate=rate,
        sharpen=sharpen,
        deadline=deadline,
        describe="whole network",
    )
    inputs, sought = unknowns.split(found.point[None])
    return Claim(inputs=inputs[0].double(), targets=sought[0] if targets is None else targets)


def _label(observation: Observation) -> Tensor | None:
    try:
        return idlg(observation)
    except REPLAY_ERRORS:
        return None
