"""Inverting gradients: directions instead of lengths, and smooth images.

J. Geiping, H. Bauermeister, H. Dröge, M. Moeller, "Inverting Gradients: How easy is it to break privacy in
federated learning?", NeurIPS 2020, https://arxiv.org/abs/2003.14053, equation 4: minimize
``1 - cos(g(x), g*) + alpha TV(x)`` by Adam on the signs of the slopes, step sizes falling by ten after 3/8,
5/8 and 7/8 of the iterations, the best of several restarts by the same loss.

We depart from it in three points. Restarts run together and the worse half is dropped three times. The step
size falls along a cosine. The paper takes labels as known; here they are read from the last layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from attacks.base import Claim, Observations
from attacks.matching.compose import MatchingAttack, known_labels
from attacks.matching.gram import GramProducts
from attacks.matching.objectives import Cosine
from attacks.matching.optimizers import signed_adam
from attacks.matching.priors import Box, TotalVariation
from attacks.matching.problem import Problem
from attacks.matching.schedules import CosineDecay, Schedule
from attacks.matching.search import Halving, search
from attacks.matching.unknowns import Energy, Unknowns


@dataclass(frozen=True, kw_only=True)
class InvertingGradients(MatchingAttack):
    """Cosine distance and total variation by signed Adam (Geiping et al. 2020).

    Parameters
    ----------
    starts : int, default 2
    steps : int, default 500
        The paper takes 4800 to 24000.
    rate : float, default 0.1
        Step size.
    smoothness : float, default 0.01
        Weight of the total variation.
    scale : float, default 1.0
        Standard deviation of the starts.
    schedule : Schedule, default CosineDecay()
        The paper's own is `attacks.matching.schedules.StepDecay`.
    box : Box, optional
        The range of valid inputs, if it is known.
    """

    starts: int = 2
    steps: int = 500
    rate: float = 0.1
    smoothness: float = 0.01
    scale: float = 1.0
    schedule: Schedule = field(default_factory=CosineDecay)
    box: Box | None = None
    name: ClassVar[str] = "inverting gradients"
    citation: ClassVar[str] = "Geiping et al., Inverting Gradients, NeurIPS 2020"

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; of several visits the last one is taken."""
        problem = Problem.of(observations[-1])
        labels, notes = known_labels(problem)
        unknowns = Unknowns(num_samples=problem.num_samples, input_shape=problem.input_shape, targets=labels)
        found = search(
            Energy(
                problem=problem,
                unknowns=unknowns,
                objective=Cosine(),
                priors=((self.smoothness, TotalVariation()),),
                gram=GramProducts.of(problem),
            ),
            unknowns.draw(self.starts, generator, scale=self.scale, like=problem.observed[0]),
            optimizer=signed_adam(),
            rate=self.rate,
            steps=self.steps,
            schedule=self.schedule,
            halving=Halving(),
            project=None if self.box is None else unknowns.inside(self.box),
            at_once=1,
            deadline=deadline,
            describe=self.name,
        )
        return Claim(inputs=unknowns.split(found.point[None])[0][0], targets=labels, notes=notes)
