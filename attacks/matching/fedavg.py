"""Inverting federated averaging: local epochs over mini-batches, replayed in an order that nobody told.

D. Dimitrov, M. Balunović, N. Konstantinov, M. Vechev, "Data Leakage in Federated Averaging", TMLR 2022,
https://arxiv.org/abs/2206.12395. The update is matched by a simulation of the whole local training. Each pass
over the data has images of its own, so that any order of the client is one of the candidates; what ties the
passes is a distance between *sets* of images (`attacks.matching.set_consistency`). At the end the images of
all passes are matched and averaged. Labels are counted from the last layer's bias before and after training.

The client's order: without labels it is no unknown at all, for an image may stand in any batch of its pass.
Only which labels were together in a batch has to be guessed. The paper puts them into batches at random. Here
each start has a guess of its own, after a trial the one with the least objective goes on, and where batches
have different sizes, so that the last bias weighs labels by them, unlikely guesses are not tried at all.

We depart from it in three points. The distance of the updates is one minus their cosine, and the optimizer
works on signs, as elsewhere in this package. Guesses are chosen and tried. Full-batch steps have no order, so
there all passes share their images and the attack is that of Geiping et al. 2020 on replayed training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from attacks.base import Claim, Observations
from attacks.label_evidence import head
from attacks.matching.check import why_not_linear, why_not_probed
from attacks.matching.compose import MatchingAttack, known_labels, residual_of, takes_labels
from attacks.matching.inverting_gradients import InvertingGradients
from attacks.matching.mini_batches import MiniBatches, likely_orders, why_no_local_training
from attacks.matching.objectives import Cosine
from attacks.matching.optimizers import signed_adam
from attacks.matching.priors import Box, Prior, TotalVariation
from attacks.matching.problem import Problem
from attacks.matching.schedules import Constant, CosineDecay, Schedule
from attacks.matching.search import Search, search
from attacks.matching.set_consistency import SetConsistency, match_and_average
from attacks.matching.unknowns import Energy, Unknowns
from fedpriv.wire import Knowledge, Observation

_PROBED = 2  # rows of a trial step; batch norm in training mode needs two


@dataclass(frozen=True, kw_only=True)
class FedAvgInversion(MatchingAttack):
    """Replay local epochs over mini-batches of unknown order (Dimitrov et al. 2022).

    Parameters
    ----------
    starts : int, default 2
        Random images, each with a guess of which labels were together in a batch.
    steps : int, default 300
        Iterations of the start that goes on; the paper takes 400 and more.
    trial : float, default 0.1
        Share of `steps` that each start is tried for, if there are several.
    rate : float, default 0.1
    smoothness : float, default 0.01
        Weight of the total variation.
    consistency : float, default 0.1
        Weight of the distance between the sets of images of two passes.
    own_images : bool, default True
        Whether every pass has images of its own, as in the paper; else all passes share them, and the guess
        of the client's order is taken for the truth.
    scale : float, default 1.0
        Standard deviation of the starts.
    schedule : Schedule, default CosineDecay()
    box : Box, optional
        The range of valid inputs, if it is known.

    Examples
    --------
    >>> import fedpriv
    >>> draw = torch.Generator().manual_seed(0)
    >>> model = fedpriv.models.mlp([6, 16, 3], activation=torch.nn.Tanh, generator=draw).double()
    >>> data = torch.rand(4, 6, generator=draw).double(), torch.tensor([2, 0, 1, 0])
    >>> trainer = fedpriv.FederatedTrainer(
    ...     model,
    ...     torch.nn.functional.cross_entropy,
    ...     {"bob": data},
    ...     lr=0.1,
    ...     local_steps=4,
    ...     batch_size=2,
    ...     schedule=fedpriv.FedAvg(),
    ...     weights="samples",
    ... )
    >>> found = FedAvgInversion(steps=20)(trainer.run(rounds=1).transcript.observations("bob"))
    >>> found.inputs.shape, sorted(found.targets.tolist())
    (torch.Size([4, 6]), [0, 0, 1, 2])
    """

    starts: int = 2
    steps: int = 300
    trial: float = 0.1
    rate: float = 0.1
    smoothness: float = 0.01
    consistency: float = 0.1
    own_images: bool = True
    scale: float = 1.0
    schedule: Schedule = field(default_factory=CosineDecay)
    box: Box | None = None
    name: ClassVar[str] = "FedAvg inversion"
    citation: ClassVar[str] = "Dimitrov et al., Data Leakage in Federated Averaging, TMLR 2022"

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("starts", "steps", "rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("smoothness", "consistency", "trial"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`; of several visits the last one is taken."""
        observation = observations[-1]
        reason = why_no_local_training(observation)
        if reason is not None:
            return reason
        # One step on a few rows has the same refusals and costs a fraction of the whole training.
        one_step = replace(observation.knowledge, local_steps=1, batch_size=None)
        try:
            problem = Problem.of(observation)
            few = replace(problem, num_samples=min(problem.num_samples, _PROBED))
            reason = why_not_linear(observation) or why_not_probed(
                replace(few, observation=_knowing(observation, one_step))
            )
            if reason is None and (not takes_labels(few) or head(observation).bias is None):
                known_labels(problem)
        except ValueError as refusal:
            return str(refusal)
        return reason

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; of several visits the last one is taken."""
        problem = Problem.of(observations[-1])
        size = problem.observation.knowledge.batch_size
        if size is None or size >= problem.num_samples:
            return self._on_whole_batches().run(
                (_knowing(problem.observation, replace(problem.observation.knowledge, batch_size=None)),),
                generator=generator,
                deadline=deadline,
            )
        labels, notes = known_labels(problem)
        orders = likely_orders(problem, labels, generator, count=self.starts)
        energies = [self.energy(problem, labels, order, generator) for order in orders]
        best = self._tried(energies, generator, deadline)
        found = self._search(best.energy, best.points, self.steps, self.schedule, deadline)
        left = self._left(best.energy, found.point)
        inputs = best.energy.unknowns.split(found.point[None])[0][0].unflatten(0, (-1, len(labels)))
        note = (
            f"the replay in the guessed order of batches leaves {left:.1e} of the update unexplained; "
            f"images of {len(inputs)} pass(es) were averaged"
        )
        return Claim(inputs=match_and_average(inputs, labels), targets=labels, notes=(*notes, note))

    def energy(self, problem: Problem, labels: Tensor, order: Tensor, generator: torch.Generator) -> Energy:
        """What is minimized, for one guess of the client's order.

        Parameters
        ----------
        problem : Problem
            Of returned parameters; its observation tells steps and batch size.
        labels : Tensor of shape (n,)
        order : int64 Tensor of shape (passes, n)
        generator : torch.Generator
            Draws the features of the set.

        Returns
        -------
        Energy
            Of points that hold n images for each pass, one pass after the other; n if they are shared.
        """
        n = problem.num_samples
        copies = len(order) if self.own_images else 1
        priors: list[tuple[float, Prior]] = [(self.smoothness, TotalVariation())]
        if copies > 1:
            shape, like = problem.input_shape, problem.observed[0]
            together = SetConsistency.draw(copies, shape, generator, like=like)
            priors.append((self.consistency, together))
        return Energy(
            problem=MiniBatches.guessed(problem, order, own_images=self.own_images),
            unknowns=Unknowns(
                num_samples=copies * n, input_shape=problem.input_shape, targets=labels.repeat(copies)
            ),
            objective=Cosine(),
            priors=tuple(priors),
        )

    def _tried(self, energies: list[Energy], generator: torch.Generator, deadline: float) -> _Start:
        """The start with the least objective after a trial."""
        like = energies[0].problem.observed[0]
        starts = [
            _Start(energy, energy.unknowns.draw(1, generator, scale=self.scale, like=like))
            for energy in energies
        ]
        if len(starts) == 1:
            return starts[0]
        count = max(1, round(self.trial * self.steps))
        tried = [self._search(s.energy, s.points, count, Constant(), deadline) for s in starts]
        index = min(range(len(tried)), key=lambda i: tried[i].value)
        return _Start(starts[index].energy, tried[index].best_points)

    def _search(
        self, energy: Energy, points: Tensor, steps: int, schedule: Schedule, deadline: float
    ) -> Search:
        return search(
            energy,
            points,
            optimizer=signed_adam(),
            rate=self.rate,
            steps=steps,
            schedule=schedule,
            project=None if self.box is None else energy.unknowns.inside(self.box),
            deadline=deadline,
            describe=self.name,
        )

    def _on_whole_batches(self) -> InvertingGradients:
        """Without mini-batches there is no order to guess, and plain replay is all that is left."""
        return InvertingGradients(
            starts=self.starts,
            steps=self.steps,
            rate=self.rate,
            smoothness=self.smoothness,
            scale=self.scale,
            schedule=self.schedule,
            box=self.box,
        )

    @staticmethod
    def _left(energy: Energy, point: Tensor) -> float:
        """Relative distance of the replayed update."""
        with torch.no_grad():
            inputs, targets = energy.unknowns.split(point[None])
            return math.sqrt(residual_of(energy.problem, inputs[0], targets[0]))


class _Start(NamedTuple):
    energy: Energy
    points: Tensor


def _knowing(observation: Observation, knowledge: Knowledge) -> Observation:
    """The same evidence with other knowledge."""
    return Observation(
        observation.model, observation.update, observation.loss_fn, knowledge, state=observation.state
    )
