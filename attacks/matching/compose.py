"""What the papers' attacks share: the checks before, known labels, the last digits, and the claim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import functional_call

from attacks.base import Attack, Claim, Observations
from attacks.exact.consistency.backward import takes_classes
from attacks.labels import label_counts
from attacks.matching.check import why_no_match
from attacks.matching.gauss_newton import GaussNewton
from attacks.matching.preconditioner import Preconditioner
from attacks.matching.problem import SMALL_MODEL, Problem
from attacks.matching.unknowns import Unknowns
from attacks.replay import compared_names, own_randomness
from fedpriv.wire import Observation


@dataclass(frozen=True, kw_only=True)
class MatchingAttack(Attack):
    """Base class of the attacks that match gradients: applicability and the parts that papers share."""

    needs_labels: ClassVar[bool] = True
    searches: ClassVar[bool] = True

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`; of several visits the last one is taken."""
        observation = observations[-1]
        reason = why_no_match(observation)
        if reason is None and self.needs_labels:
            try:
                known_labels(Problem.of(observation))
            except ValueError as refusal:
                return str(refusal)
        return reason


def precise(observation: Observation) -> torch.dtype:
    """float64 for small models, where it costs little and line searches live on it."""
    size = sum(observation.update.tensors[n].numel() for n in compared_names(observation))
    return torch.float64 if size <= SMALL_MODEL else torch.float32


def takes_labels(problem: Problem) -> bool:
    """Whether the loss takes one class label a sample."""
    inputs = torch.zeros(problem.num_samples, *problem.input_shape, dtype=problem.dtype).to(problem.device)
    outputs = outputs_of(problem, inputs)
    return outputs.dim() == 2 and takes_classes(problem.observation.loss_fn, outputs.shape[1])


def outputs_of(problem: Problem, inputs: Tensor) -> Tensor:
    """What the model as it was sent answers to `inputs` (n, *input_shape)."""
    with torch.no_grad(), own_randomness():
        state = {n: t.detach().clone() for n, t in problem.state.items()}
        outputs: Tensor = functional_call(problem.observation.model, state, (inputs,))
    return outputs


def known_labels(problem: Problem) -> tuple[Tensor, tuple[str, ...]]:
    """Class labels read from the last layer before any search, with a note where they are uncertain.

    Raises
    ------
    ValueError
        If the loss takes no class labels, or the last layer does not show them.
    """
    if not takes_labels(problem):
        raise ValueError(
            "the loss takes no class labels, so targets cannot be read from the last layer; use "
            "attacks.DLG, which searches for targets as well"
        )
    found = label_counts(problem.observation, problem.num_samples)
    doubtful = int((found.confidence < 0.5).sum())
    note = f"{doubtful} of {len(found.values)} labels are uncertain: {found.source}"
    return found.values.to(problem.device), (note,) if doubtful else ()


def inputs_alone(problem: Problem) -> tuple[Unknowns, tuple[str, ...]]:
    """The unknowns once `known_labels` has read the targets, with its notes; raises as it does."""
    labels, notes = known_labels(problem)
    unknowns = Unknowns(num_samples=problem.num_samples, input_shape=problem.input_shape, targets=labels)
    return unknowns, notes


def claim_at(unknowns: Unknowns, point: Tensor, notes: tuple[str, ...]) -> Claim:
    """The claim that one point (N,) makes, for a search for inputs alone."""
    return Claim(inputs=unknowns.split(point[None])[0][0], targets=unknowns.targets, notes=notes)


def refine(
    problem: Problem,
    unknowns: Unknowns,
    point: Tensor,
    *,
    deadline: float,
    gauss_newton: GaussNewton | None = None,
) -> tuple[Tensor, float]:
    """Gauss-Newton on the raw difference of the gradients, down to the rounding of the update.

    Returns
    -------
    point : Tensor of shape (N,)
    value : float
        Squared difference relative to the squared length of the observed gradient.
    """

    def residual(vector: Tensor) -> Tensor:
        inputs, targets = unknowns.split(vector[None])
        return difference(problem, inputs[0], targets[0])

    # The client's own arithmetic leaves about this much.
    epsilon = max(torch.finfo(problem.observation.update.tensors[n].dtype).eps for n in problem.names)
    result = (gauss_newton or GaussNewton())(
        residual,
        point,
        enough=16 * epsilon**2,
        deadline=deadline,
        precondition=Preconditioner(problem=problem, unknowns=unknowns),
    )
    return result.point, result.value


def difference(problem: Problem, inputs: Tensor, targets: Tensor) -> Tensor:
    """Replayed minus observed gradient as one vector, relative to the observed one's length."""
    found = problem.gradients(inputs, targets)
    parts = [(g - o).reshape(-1) for g, o in zip(found, problem.observed, strict=True)]
    return torch.cat(parts) / problem.norm


def residual_of(problem: Problem, inputs: Tensor, targets: Tensor | None) -> float:
    """Squared length of `difference`."""
    if targets is None:
        return float("inf")
    return float(difference(problem, inputs.detach(), targets.detach()).detach().square().sum())
