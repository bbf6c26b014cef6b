"""Deep leakage from gradients: search for inputs and soft labels at once.

L. Zhu, Z. Liu, S. Han, "Deep Leakage from Gradients", NeurIPS 2019, https://arxiv.org/abs/1906.08935,
algorithm 1: minimize ``|g(x, softmax(y)) - g*|^2`` by L-BFGS from Gaussian noise.

We depart from it in four points. Several starts run at once, and the worse half is dropped three times, by
the attacker's own residual. There is a line search. At the end soft labels that point to one class are
replaced by that class if the update is then explained better. Gauss-Newton with conjugate gradients brings
the batch to the precision of the numbers sent.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import Claim, Observations
from attacks.matching.compose import MatchingAttack, outputs_of, precise, refine, residual_of, takes_labels
from attacks.matching.gauss_newton import GaussNewton
from attacks.matching.objectives import SquaredError
from attacks.matching.optimizers import LBFGS
from attacks.matching.problem import Problem
from attacks.matching.search import Halving, Search, search
from attacks.matching.unknowns import Energy, Unknowns

GLANCE = GaussNewton(steps=8, most_inner=100)
EXPLAINED = 1e-8
"""Squared relative residual below which a class explains the update, and no soft label is tried."""


@dataclass(frozen=True, kw_only=True)
class DLG(MatchingAttack):
    """Inputs and targets by L-BFGS on the squared difference of gradients (Zhu et al. 2019).

    Parameters
    ----------
    starts : int, default 4
    steps : int, default 300
        Evaluations of each start; the paper's setting.
    scale : float, default 0.1
        Standard deviation of the starts; the paper draws them from N(0, 1).
    history : int, default 50
        Pairs that L-BFGS keeps.

    Examples
    --------
    >>> import fedpriv
    >>> from torch import nn
    >>> model = fedpriv.models.mlp([6, 12, 3], activation=nn.Sigmoid).double()
    >>> x, loss = torch.linspace(0, 1, 6, dtype=torch.float64)[None], nn.functional.cross_entropy
    >>> gradient = torch.autograd.grad(loss(model(x), torch.tensor([2])), model.parameters())
    >>> known = fedpriv.Knowledge(num_samples=1)
    >>> found = DLG()(fedpriv.Observation(model, gradient, loss, known))
    >>> bool(torch.allclose(found.inputs, x, atol=1e-6)), found.targets
    (True, tensor([2]))
    """

    starts: int = 4
    steps: int = 300
    scale: float = 0.1
    history: int = 50
    name: ClassVar[str] = "DLG"
    citation: ClassVar[str] = "Zhu, Liu and Han, Deep Leakage from Gradients, NeurIPS 2019"
    needs_labels: ClassVar[bool] = False

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; of several visits the last one is taken."""
        problem = Problem.of(observations[-1], dtype=precise(observations[-1]))
        unknowns = self._joint(problem)
        now = time.perf_counter()
        # Half of the time for the search leaves the other half for the last digits.
        found = self._search(problem, unknowns, generator, now + 0.5 * (deadline - now))
        inputs, targets = unknowns.split(found.point[None])
        if unknowns.to_targets is None:
            return self._soft(problem, unknowns, found.point, deadline)
        hard = Unknowns(
            num_samples=problem.num_samples, input_shape=problem.input_shape, targets=targets[0].argmax(1)
        )
        half = now + 0.75 * (deadline - now)
        # A wrong class shows at once: it explains less than the soft label did.
        point, value = refine(problem, hard, inputs.flatten(), deadline=half, gauss_newton=GLANCE)
        if value < found.value:
            point, value = refine(problem, hard, point, deadline=half)
        if value > found.value or value > EXPLAINED:
            soft = self._soft(problem, unknowns, found.point, deadline)
            if residual_of(problem, soft.inputs, soft.targets) < value:
                return soft
        return Claim(inputs=hard.split(point[None])[0][0], targets=hard.targets)

    @staticmethod
    def _soft(problem: Problem, unknowns: Unknowns, point: Tensor, deadline: float) -> Claim:
        inputs, targets = unknowns.split(refine(problem, unknowns, point, deadline=deadline)[0][None])
        return Claim(inputs=inputs[0], targets=targets[0])

    def _joint(self, problem: Problem) -> Unknowns:
        """Targets are free numbers like the outputs, behind a softmax where the loss takes class labels."""
        zeros = torch.zeros(problem.num_samples, *problem.input_shape, dtype=problem.dtype)
        return Unknowns(
            num_samples=problem.num_samples,
            input_shape=problem.input_shape,
            target_shape=tuple(outputs_of(problem, zeros.to(problem.device)).shape[1:]),
            to_targets=_softmax if takes_labels(problem) else None,
        )

    def _search(
        self,
        problem: Problem,
        unknowns: Unknowns,
        generator: torch.Generator,
        deadline: float,
        *,
        steps: int | None = None,
        resume: Search | None = None,
    ) -> Search:
        return search(
            Energy(problem=problem, unknowns=unknowns, objective=SquaredError()),
            unknowns.draw(self.starts, generator, scale=self.scale, like=problem.observed[0]),
            optimizer=LBFGS(history=self.history),
            rate=0.1,
            steps=steps or self.steps,
            resume=resume,
            halving=Halving(at=(0.1, 0.2, 0.4)),
            enough=1e-10,
            deadline=deadline,
            describe=self.name,
        )


def _softmax(free: Tensor) -> Tensor:
    return free.softmax(-1)
