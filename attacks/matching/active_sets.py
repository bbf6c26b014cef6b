"""The exact finish for networks that begin with two linear layers and ReLU between them.

A rough batch predicts which neurons each sample activates. These fixed, the sample is the solution of linear
equations (`attacks.exact.sparse.pairs.solve_active`): its activation lies in the row space of the second
layer's gradient, the sample itself in that of the first one's. A forward pass corrects the prediction. What
ends outside these spaces is refused, so nothing is taken on trust. Every sample is finished on its own, and
what one candidate does not give another one may.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.base import Claim, NotIdentifiable
from attacks.exact.consistency.polish import distinct
from attacks.exact.consistency.problem import Samples
from attacks.exact.consistency.scale import leaves_scale_open
from attacks.exact.consistency.spans import NOISE_UNITS
from attacks.exact.consistency.targets import with_targets
from attacks.exact.consistency.verify import misfit
from attacks.exact.sparse.attack import Pairs, claim_of, way_in
from attacks.exact.sparse.pairs import solve_active
from attacks.replay import REPLAY_ERRORS
from fedpriv.wire import Observation

_SAME = 1e-4  # relative distance at which two solutions are the same sample


@dataclass(eq=False, kw_only=True)
class ActiveSets:
    """The samples that candidates have led to so far; make it with `ActiveSets.of`.

    Parameters
    ----------
    observation : Observation
    way : Pairs
        Its first two linear layers.
    found : Samples
    """

    observation: Observation
    way: Pairs
    found: Samples = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is found yet."""
        self.found = Samples.none(self.way.evidence)

    @classmethod
    def of(cls, observation: Observation) -> ActiveSets | None:
        """For a model that begins with linear, ReLU, linear, and whose biases fix lengths; else None."""
        try:
            way = way_in(observation)
        except REPLAY_ERRORS:
            return None
        if not isinstance(way, Pairs):
            return None
        open_lengths = leaves_scale_open(way.evidence) and way.evidence.two.plane is None
        return None if open_lengths else cls(observation=observation, way=way)

    def finish(self, inputs: Tensor) -> Claim | None:
        """Learn from candidates (k, *input_shape); the claim, once as many samples as the rank are there."""
        evidence = self.way.evidence
        near = inputs.detach().flatten(1).to(evidence.one.rows) @ evidence.one.rows.T
        active = (near @ evidence.forward + evidence.layers.bias_1 > 0).unique(dim=0)
        self.found = Samples.join([self.found, self._new(solve_active(evidence, active))])
        if len(self.found) < evidence.two.rank:
            return None
        try:
            return claim_of(self.observation, self.way, self.found)
        except NotIdentifiable:
            return None

    def _new(self, points: Tensor) -> Samples:
        """Those points that agree with both layers and were not found before, with their targets."""
        evidence = self.way.evidence
        points = points[torch.isfinite(points).all(1)]
        points = points[misfit(evidence, points) < NOISE_UNITS]
        points = points[distinct(points, _SAME)]
        if len(self.found) and len(points):
            nearest = torch.cdist(points, self.found.coordinates).amin(1)
            points = points[nearest > _SAME * points.norm(dim=1)]
        return with_targets(evidence, points, misfit(evidence, points))
