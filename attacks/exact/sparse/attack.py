"""Batches through the sparsity of ReLU: what a sample does not activate gives it away.

A backward signal in front of a ReLU is zero for every neuron that the sample leaves inactive, about half of
them, and all backward signals lie in the column space of the weight gradient (Dimitrov, Baader, Müller,
Vechev, "SPEAR: Exact Gradient Inversion of Batches in Federated Learning", NeurIPS 2024, arXiv 2403.03945). A
sparse vector in a known space is a sample. We depart from the paper in how it is looked for. SPEAR draws sets
of rows at random, and needs exponentially many. We descend by reweighted least squares from many starts, with
signs as a guide: where a second linear layer shows the batch, by the activations, which are sparse in the row
space of its gradient and never negative; else by the backward signals, whose signs are those of their class.

Against consistency and peeling: ReLU only, smaller batches; but one linear layer is enough, and no bias
gradient is needed, nor any bias.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.base import Attack, Claim, NotIdentifiable, Observations
from attacks.exact.consistency.answers import answers
from attacks.exact.consistency.approach import approach
from attacks.exact.consistency.problem import Evidence, Samples
from attacks.exact.consistency.refine import refine, remainder
from attacks.exact.consistency.scale import why_no_scale
from attacks.exact.sparse.columns import find_columns_of
from attacks.exact.sparse.layer import SingleLayer, single_layer, unusable
from attacks.exact.sparse.pairs import find_pairs_of
from attacks.replay import input_layer
from fedpriv.wire import Observation

_EXACT = 1e-9  # a remainder above this shows rounding that `refine` can remove
_FOR_ONE = 2.0  # seconds to look for a single sample


@dataclass(frozen=True)
class Pairs:
    """Two linear layers with ReLU between them."""

    evidence: Evidence
    input_shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SparseBatchInversion(Attack):
    """Recover a whole batch, of unknown size, from the gradient of a first linear layer that ReLU follows.

    The gradient of a second linear layer is used where it shows the batch too: the search is then stronger,
    and samples come one by one. Without a bias gradient and without a bias in the layer, the length of a
    sample is read off its class, so the loss must be one of classes.

    Parameters
    ----------
    tol : float, default 1e-2
        In the search an entry counts as zero below this share of the largest one. What is found is then
        checked against the rounding of the gradient itself.

    Examples
    --------
    >>> import fedpriv
    >>> draw = torch.Generator().manual_seed(0)
    >>> model = fedpriv.models.mlp([12, 48, 3], activation=torch.nn.ReLU, generator=draw).double()
    >>> x, y = torch.randn(4, 12, generator=draw).double(), torch.tensor([2, 0, 1, 0])
    >>> loss = torch.nn.functional.cross_entropy
    >>> gradient = torch.autograd.grad(loss(model(x), y), model.parameters())
    >>> known = fedpriv.Knowledge(input_shape=(12,))
    >>> found = SparseBatchInversion(tol=1e-2)(fedpriv.Observation(model, gradient, loss, known))
    >>> bool(torch.cdist(found.inputs, x).amin(0).max() < 1e-9), sorted(found.targets.tolist())
    (True, [0, 0, 1, 2])
    """

    tol: float = 1e-2
    name: ClassVar[str] = "sparse batch inversion"
    citation: ClassVar[str] = (
        "Dimitrov et al., SPEAR: Exact Gradient Inversion of Batches in Federated Learning, NeurIPS 2024; "
        "searched by reweighted least squares with known signs"
    )

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 < self.tol < 1:
            raise ValueError(f"tol is a share of the largest entry, between 0 and 1; got {self.tol}")

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`; one visit that can be solved is enough."""
        ways = [way_in(observation) for observation in observations]
        return None if any(not isinstance(way, str) for way in ways) else str(ways[0])

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; of several visits the first that can be solved is taken."""
        for observation in observations:
            way = way_in(observation)
            if not isinstance(way, str):
                break
        else:
            raise NotIdentifiable(str(way))
        if way.evidence.two.rank == 1:  # found at once or, with wrong weights, never
            deadline = min(deadline, time.perf_counter() + _FOR_ONE)
        if isinstance(way, Pairs):
            found = find_pairs_of(way.evidence, tol=self.tol, generator=generator, deadline=deadline)
        else:
            found = find_columns_of(way, tol=self.tol, generator=generator, deadline=deadline)
        return claim_of(observation, way, found)


def way_in(observation: Observation) -> Pairs | SingleLayer | str:
    """Two layers where both show the batch, else the first one, else the reason why neither does."""
    reason = unusable(observation)
    if reason is not None:
        return reason
    first = input_layer(observation)
    if isinstance(first, str):  # quickly said, before larger models are searched for pairs of layers
        return first
    both = approach(observation, raw=True)
    if not isinstance(both, str):
        pair, evidence = both
        if _is_relu(evidence) and why_no_scale(evidence) is None:
            return Pairs(evidence, pair.input_shape)
    return single_layer(observation)


def _is_relu(evidence: Evidence) -> bool:
    generator = torch.Generator().manual_seed(0)
    z = 4 * torch.randn(4, len(evidence.layers.bias_1), generator=generator, dtype=torch.float64)
    with torch.no_grad():
        return torch.equal(evidence.layers.act(z), z.relu())


def claim_of(observation: Observation, way: Pairs | SingleLayer, found: Samples) -> Claim:
    """What was found in the caller's terms, or a refusal.

    Parameters
    ----------
    observation : Observation
    way : Pairs or SingleLayer
    found : Samples
    """
    evidence, rank = way.evidence, way.evidence.two.rank
    if not len(found):
        raise NotIdentifiable(
            f"the {rank} samples were not found in the time given: too many for the number of neurons, or "
            f"something changed the update"
        )
    if len(found) == rank and evidence.paired:
        left = remainder(evidence, found)
        found = refine(evidence, found, left)[0] if left > _EXACT else found
    update = observation.update
    told = update.num_samples or observation.knowledge.num_samples
    answer = answers(evidence, found, told=told, one_client=not update.is_aggregate)
    partial = () if len(found) == rank else (f"{len(found)} of {rank} different samples were found",)
    inputs = (found.coordinates @ evidence.one.rows)[answer.rows]
    return Claim(
        inputs=inputs.reshape(-1, *way.input_shape),
        targets=answer.targets,
        notes=(*partial, *answer.notes),
        assumed=answer.assumed,
    )
