"""Inverting gradients: directions instead of lengths, and smooth images.

J. Geiping, H. Bauermeister, H. Dröge, M. Moeller, "Inverting Gradients: How easy is it to break privacy in
federated learning?", NeurIPS 2020, https://arxiv.org/abs/2003.14053, equation 4: minimize
``1 - cos(g(x), g*) + alpha TV(x)`` by Adam on the signs of the slopes, step sizes falling by ten after 3/8,
5/8 and 7/8 of the iterations, the best of several restarts by the same loss.

We depart from it in four points. Restarts run together and the worse half is dropped three times. The step
size falls along a cosine. The paper takes labels as known; here they are read from the last layer. Where the
model begins with linear, ReLU, linear, the search is asked now and then whether its candidates already show
which neurons are active; then linear equations finish exactly (`attacks.matching.active_sets`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from attacks.base import Claim, Observations
from attacks.matching.active_sets import ActiveSets
from attacks.matching.compose import MatchingAttack, claim_at, inputs_alone
from attacks.matching.gram import GramProducts
from attacks.matching.objectives import Cosine
from attacks.matching.optimizers import signed_adam
from attacks.matching.priors import Box, TotalVariation
from attacks.matching.problem import Problem
from attacks.matching.schedules import CosineDecay, Schedule
from attacks.matching.search import Halving, Search, search
from attacks.matching.unknowns import Energy
from fedpriv.wire import Observation

_TRIES = 10


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
        The range of valid inputs, if it is known; that of ``Knowledge.input_values`` if those are declared.
    finish : bool, default True
        Try the exact finish every tenth of the steps, where the model has one.

    Examples
    --------
    >>> import fedpriv
    >>> draw = torch.Generator().manual_seed(0)
    >>> model = fedpriv.models.mlp([12, 64, 3], generator=draw)
    >>> x, y = torch.rand(2, 12, generator=draw), torch.tensor([0, 2])
    >>> loss = torch.nn.functional.cross_entropy
    >>> gradient = torch.autograd.grad(loss(model(x), y), model.parameters())
    >>> seen = fedpriv.Observation(model, gradient, loss, fedpriv.Knowledge(num_samples=2))
    >>> attack = InvertingGradients(box=Box(low=0.0, high=1.0), smoothness=0.0)
    >>> bool(torch.cdist(attack(seen).inputs.float(), x).amin(0).max() < 1e-3)
    True
    """

    starts: int = 2
    steps: int = 500
    rate: float = 0.1
    smoothness: float = 0.01
    scale: float = 1.0
    schedule: Schedule = field(default_factory=CosineDecay)
    box: Box | None = None
    finish: bool = True
    name: ClassVar[str] = "inverting gradients"
    citation: ClassVar[str] = "Geiping et al., Inverting Gradients, NeurIPS 2020"

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; of several visits the last one is taken."""
        seen = observations[-1]
        energy, notes = self._energy(seen)
        unknowns = energy.unknowns
        ending = ActiveSets.of(seen) if self.finish else None
        found: Search | None = None
        for pause in _pauses(self.steps, 1 if ending is None else _TRIES):
            found = self._search(energy, generator, deadline, pause, found)
            if ending is not None and time.perf_counter() < deadline:
                exact = ending.finish(unknowns.split(found.best_points)[0].flatten(0, 1))
                if exact is not None:
                    return exact
            if found.stopped in ("time", "interrupted"):
                break
        assert found is not None  # at least one pause, at the end
        return claim_at(unknowns, found.point, notes)

    def search(
        self,
        observation: Observation,
        *,
        generator: torch.Generator,
        deadline: float = float("inf"),
        pause: int | None = None,
        resume: Search | None = None,
    ) -> Search:
        """The search alone, without any finish, which can be stopped and continued.

        Parameters
        ----------
        observation : Observation
        generator : torch.Generator
            Draws the starts; not used if there is a `resume`.
        deadline : float
            In terms of ``time.perf_counter()``.
        pause : int, optional
            The step at which to stop.
        resume : Search, optional
            What an earlier call returned, by the same attack for the same observation.

        Returns
        -------
        Search
        """
        return self._search(self._energy(observation)[0], generator, deadline, pause, resume)

    def _energy(self, observation: Observation) -> tuple[Energy, tuple[str, ...]]:
        """What is minimized, and notes on the labels."""
        problem = Problem.of(observation)
        unknowns, notes = inputs_alone(problem)
        energy = Energy(
            problem=problem,
            unknowns=unknowns,
            objective=Cosine(),
            priors=((self.smoothness, TotalVariation()),),
            gram=GramProducts.of(problem),
        )
        return energy, notes

    def _search(
        self,
        energy: Energy,
        generator: torch.Generator,
        deadline: float,
        pause: int | None,
        resume: Search | None,
    ) -> Search:
        unknowns, like = energy.unknowns, energy.problem.observed[0]
        box = self.box or _declared(energy.problem.observation)
        points = like if resume else unknowns.draw(self.starts, generator, scale=self.scale, like=like)
        return search(
            energy,
            points,
            optimizer=signed_adam(),
            rate=self.rate,
            steps=self.steps,
            schedule=self.schedule,
            halving=Halving(),
            project=None if box is None else unknowns.inside(box),
            at_once=1,
            deadline=deadline,
            pause=pause,
            resume=resume,
            describe=self.name,
        )


def _declared(observation: Observation) -> Box | None:
    """The range of the values that inputs are known to take."""
    values = observation.knowledge.input_values
    return None if values is None else Box(low=min(values), high=max(values))


def _pauses(steps: int, tries: int) -> list[int]:
    """Steps after which the exact finish is tried, the last one at the end."""
    return sorted({-(-steps * part // tries) for part in range(1, tries + 1)})
