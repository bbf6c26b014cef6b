"""Top-k and random pruning: one image out of a tenth of the gradient, or a hundredth.

Top-k as a defense: L. Zhu, Z. Liu, S. Han, "Deep Leakage from Gradients", NeurIPS 2019, section 5; random
masks: J. Konečný et al., 2016. The zeros show the mask and what arrives is exact. The first linear layer has
m copies of every pixel, ``delta_i x_j``, one in each row, and a mask would have to take all of them. So the
rank-one matrix ``delta (x, 1)`` is completed from the entries that arrived (`attacks.adaptive.rows`). Pixels
that no row shows follow from the other layers (`attacks.adaptive.complete`).

Several rounds on the same sample are solved together. With error feedback only the first one is used, because
later ones carry what earlier ones left out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.adaptive.complete import complete
from attacks.adaptive.evidence import beside, see_through, usable
from attacks.adaptive.rows import Fit, fit_rows, rows_of_all
from attacks.base import Attack, Claim, Observations
from attacks.exact.count import told_count
from attacks.labels import recover_targets
from attacks.replay import observed_vector, own_randomness, replay
from fedpriv.wire import Observation
from fedpriv.wire.mechanisms import Sparsified

EXACT = 1e-5
"""Relative residual on the surviving numbers below which the coordinates that were solved for count."""
_LENGTHS = tuple(
    sign * 10 ** (exponent / 8)
    for size in range(17)
    for exponent in sorted({size, -size})
    for sign in (1.0, -1.0)
)
"""Root mean squares of a sample from 0.01 to 100 with both signs, those near one first: time may end."""


@dataclass(frozen=True, kw_only=True)
class PrunedInversion(Attack):
    """One sample from the entries of the first linear layer that survived pruning.

    Parameters
    ----------
    tolerance : float, default 1e-3
        Relative misfit of the surviving entries above which they mix several samples.

    Examples
    --------
    >>> import fedpriv
    >>> draw = torch.Generator().manual_seed(0)
    >>> model = fedpriv.models.mlp([8, 32, 3], generator=draw)
    >>> x, y, loss = torch.rand(1, 8, generator=draw), torch.tensor([1]), torch.nn.functional.cross_entropy
    >>> prune = fedpriv.defenses.TopK(kept_fraction=0.2)
    >>> run = fedpriv.FederatedTrainer(
    ...     model, loss, {"bob": (x, y)}, lr=0.1, schedule="fedsgd", defenses=[prune]
    ... ).run(rounds=1)
    >>> found = PrunedInversion()(run.transcript.observations("bob"))
    >>> bool(torch.allclose(found.inputs.float(), x, atol=1e-3)), found.targets
    (True, tensor([1]))
    """

    tolerance: float = 1e-3
    name: ClassVar[str] = "inversion of a pruned first layer"
    citation: ClassVar[str] = "fedpriv's own: completion of the rank-one first layer from what survived"

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`."""
        if not observations[0].knowledge.applied(Sparsified):
            return "no pruning is declared: Knowledge.mechanisms holds no Sparsified"
        if (more := beside(observations[0].knowledge, Sparsified)) is not None:
            return more
        told = told_count(observations)
        if told is not None and told > 1:
            return f"the update mixes {told} samples"
        if observations[0].update.is_aggregate:
            return f"the update mixes the data of {len(observations[0].update.contributors)} clients"
        try:
            rows = rows_of_all(usable(observations))
        except ValueError as error:
            return str(error)
        if not bool((rows.values * rows.mask).any()):
            return "nothing of the first layer arrived: the update is zero up to rounding there"
        if fit_rows(rows).misfit > self.tolerance:
            return "what arrived of the first layer is no matrix of rank one: it mixes several samples"
        return None

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`: the first layer gives most coordinates, the other layers the rest."""
        del generator  # nothing is random
        rows = rows_of_all(usable(observations))
        fit = fit_rows(rows)
        seen = see_through(usable(observations))
        inputs = fit.inputs.reshape(1, *rows.shape)
        notes: tuple[str, ...] = ()
        if not bool((rows.values[:, -1] * rows.mask[:, -1]).any()):
            inputs, notes = _with_length(seen[0], fit, rows.shape, deadline)
        found = complete(seen, inputs, fit.known, deadline=deadline)
        missing = int((~fit.known).sum())
        solved = found.residual <= EXACT
        if missing:
            how = "follow from the other layers" if solved else "left too little trace and are a guess"
            notes += (f"{missing} of {len(fit.known)} coordinates {how}",)
        numbers = sum(len(observed_vector(o)) for o in seen)
        grade = f"on the {numbers} numbers that arrived the residual is {found.residual:.1e}"
        assumed = None if solved or not missing else f"{missing} coordinates are not determined"
        return Claim(inputs=found.inputs, targets=found.targets, notes=(*notes, grade), assumed=assumed)


def _with_length(
    seen: Observation, fit: Fit, shape: tuple[int, ...], deadline: float
) -> tuple[Tensor, tuple[str, ...]]:
    """The sample at the length with which the other layers agree best: no bias of the first layer arrived."""
    direction = fit.inputs / fit.inputs.norm() * len(fit.inputs) ** 0.5
    observed = observed_vector(seen)

    def distance(length: float, targets: Tensor | None = None) -> float:
        inputs = (length * direction).reshape(1, *shape)
        if targets is None:
            targets, _ = recover_targets(seen, inputs)
        with own_randomness():
            return float((replay(seen, inputs, targets) - observed).norm())

    tried: dict[float, float] = {}
    for length in _LENGTHS:
        tried[length] = distance(length)
        if time.perf_counter() > deadline:
            break
    best = min(tried, key=lambda length: tried[length])
    targets, _ = recover_targets(seen, (best * direction).reshape(1, *shape))
    low, high = best / 1.4, best * 1.4
    for _ in range(30):  # golden section
        if time.perf_counter() > deadline:
            note = (
                "no bias of the first layer arrived, and time ended before the length of the sample was found"
            )
            return (best * direction).reshape(1, *shape), (note,)
        left, right = high - 0.618 * (high - low), low + 0.618 * (high - low)
        low, high = (low, right) if distance(left, targets) < distance(right, targets) else (left, high)
    note = "no bias of the first layer arrived: the length of the sample follows from the other layers"
    return ((low + high) / 2 * direction).reshape(1, *shape), (note,)
