"""GradInversion: batch-norm statistics, and several seeds that agree on one picture.

H. Yin, A. Mallya, A. Vahdat, J. Alvarez, J. Kautz, P. Molchanov, "See through Gradients: Image Batch Recovery
via GradInversion", CVPR 2021, https://arxiv.org/abs/2104.07586, equations 1 to 11: minimize
``|g(x) - g*|^2 + a_tv TV + a_l2 |x|^2 + a_bn BN + a_group |x - mean over seeds|^2`` by Adam.

We depart from it in three points. Labels are counted with repeats, for the paper needs them all different.
The group's mean is taken pixel by pixel, without registration. Without batch norm the term is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.base import Claim, Observations
from attacks.matching.compose import MatchingAttack, claim_at, inputs_alone
from attacks.matching.objectives import SquaredError
from attacks.matching.optimizers import Adam
from attacks.matching.priors import BatchNormStatistics, GroupConsistency, Norm, Prior, TotalVariation
from attacks.matching.problem import Problem
from attacks.matching.schedules import CosineDecay, WarmUp
from attacks.matching.search import search
from attacks.matching.unknowns import Energy


@dataclass(frozen=True, kw_only=True)
class GradInversion(MatchingAttack):
    """Squared error, image priors, batch-norm statistics and group consistency by Adam (Yin et al. 2021).

    Parameters
    ----------
    starts : int, default 3
        Seeds that run together and are drawn towards their mean.
    steps : int, default 500
        The paper takes 20000.
    rate : float, default 0.1
    smoothness, norm, statistics, group : float
        Weights of the priors, beside a squared error relative to the observed gradient's squared length.
    """

    starts: int = 3
    steps: int = 500
    rate: float = 0.1
    smoothness: float = 1e-2
    norm: float = 1e-5
    statistics: float = 1e-2
    group: float = 1e-2
    name: ClassVar[str] = "GradInversion"
    citation: ClassVar[str] = "Yin et al., See through Gradients, CVPR 2021"

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; of several visits the last one is taken."""
        problem = Problem.of(observations[-1])
        unknowns, notes = inputs_alone(problem)
        found = search(
            Energy(
                problem=problem, unknowns=unknowns, objective=SquaredError(), priors=self._priors(problem)
            ),
            unknowns.draw(self.starts, generator, like=problem.observed[0]),
            optimizer=Adam(beta1=0.9, beta2=0.999),
            rate=self.rate,
            steps=self.steps,
            schedule=WarmUp(part=0.02, then=CosineDecay()),
            deadline=deadline,
            describe=self.name,
        )
        return claim_at(unknowns, found.point, notes)

    def _priors(self, problem: Problem) -> tuple[tuple[float, Prior], ...]:
        priors: list[tuple[float, Prior]] = [
            (self.smoothness, TotalVariation()),
            (self.norm, Norm()),
            (self.group, GroupConsistency()),
        ]
        remembered = BatchNormStatistics.of(problem)
        if remembered is not None:
            priors.append((self.statistics, remembered))
        return tuple(priors)
