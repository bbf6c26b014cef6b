"""Gaussian and Laplace noise: as good as any unbiased attack can be, and better with every repeated round.

Noise is the defense that holds, if it is large enough; this attack says how large. The first linear layer
gives a start, the matrix of rank one nearest to its noisy gradient (all rows, not one ratio); maximum
likelihood on the whole update follows. Under Gaussian noise its error is that of the Cramér-Rao bound
(`fedpriv.privacy.cramer_rao_bound`) as long as the noise is small. Rounds on the same data count together:
R of them shrink the error by sqrt(R).

M. Balunović, D. Dimitrov, R. Staab, M. Vechev, "Bayesian framework for gradient leakage", ICLR 2022,
https://arxiv.org/abs/2111.04706, derive that the best attack maximizes the likelihood of the defense times a
prior; here without a prior.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attacks.adaptive.directions import ranked_labels
from attacks.adaptive.evidence import beside
from attacks.adaptive.grade import assumptions
from attacks.adaptive.likelihood import Rounds, Weights, most_likely
from attacks.adaptive.rows import Fit, Rows, best_rank_one, fit_rows, rows_of_all
from attacks.adaptive.smooth import least_squares
from attacks.base import Attack, Claim, Observations
from attacks.exact.count import told_count
from attacks.labels import recover_targets
from attacks.rounding import per_gradient, stored_rounding
from fedpriv.wire import Observation
from fedpriv.wire.mechanisms import Clipped, Noised, PerSampleClipped

_REPEATS = 12
_SPREAD = 1.5
"""How far above its expectation the largest singular value of the noise may lie."""


@dataclass(frozen=True, kw_only=True)
class NoisyInversion(Attack):
    """Maximum likelihood for one sample under declared noise, over all rounds on the same data.

    Examples
    --------
    >>> import fedpriv
    >>> draw = torch.Generator().manual_seed(0)
    >>> model = fedpriv.models.mlp([8, 64, 3], generator=draw)
    >>> x, y, loss = torch.rand(1, 8, generator=draw), torch.tensor([1]), torch.nn.functional.cross_entropy
    >>> noise = fedpriv.defenses.GaussianNoise(clip_norm=1.0, noise_multiplier=1e-3)
    >>> run = fedpriv.FederatedTrainer(
    ...     model, loss, {"bob": (x, y)}, lr=0.1, schedule="fedsgd", defenses=[noise], generator=draw
    ... ).run(rounds=1)
    >>> found = NoisyInversion()(run.transcript.observations("bob"))
    >>> bool(torch.allclose(found.inputs.float(), x, atol=0.02)), found.targets
    (True, tensor([1]))
    """

    name: ClassVar[str] = "maximum likelihood under noise"
    citation: ClassVar[str] = "Balunović et al., Bayesian Framework for Gradient Leakage, ICLR 2022"

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`."""
        if not observations[0].knowledge.applied(Noised):
            return "no noise is declared: Knowledge.mechanisms holds no Noised"
        known = observations[0].knowledge
        if (more := beside(known, Clipped, PerSampleClipped, Noised)) is not None:
            return more
        if any(c.per_layer for c in known.applied(Clipped)):
            return "every layer was clipped on its own before the noise, and this attack knows joint clipping"
        if observations[0].update.is_aggregate:
            return f"the update mixes the data of {len(observations[0].update.contributors)} clients"
        told = told_count(observations)
        if told is not None and told > 1:
            return f"the update mixes {told} samples"
        try:
            rows = rows_of_all(observations)
        except ValueError as error:
            return str(error)
        values = torch.linalg.svdvals(rows.values)
        if len(values) > 1 and float(values[1]) > _SPREAD * _largest_of_noise(observations[0], rows):
            return "the noise does not explain a second singular value of the first layer: several samples"
        return None

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; all rounds are taken to be on the same sample."""
        del generator  # nothing is drawn
        rows = rows_of_all(observations)
        laplace = any(n.distribution == "laplace" for n in observations[0].knowledge.applied(Noised))
        std = observations[0].knowledge.noise_std
        fit = _least_absolute(rows, std) if laplace else best_rank_one(rows)
        start = fit.inputs.reshape(1, *rows.shape)
        ranked = ranked_labels(observations, start)
        targets = ranked[0] if ranked else recover_targets(observations[0], start)[0]
        notes = assumptions(len(observations))
        if targets is None:
            return Claim(inputs=start, notes=notes)
        point = least_squares(observations, fit.inputs, targets, rows.shape, deadline=deadline)
        if laplace:
            rounds = Rounds.of(observations, rows.shape)
            point = least_absolute(rounds, (point, fit.inputs), targets, std, deadline=deadline)
        return Claim(inputs=point.reshape(1, *rows.shape), targets=targets, notes=notes)


def _largest_of_noise(observation: Observation, rows: Rows) -> float:
    """About the largest singular value that rounding and noise have in a matrix of this shape."""
    noise = observation.knowledge.noise_std / per_gradient(observation)
    return stored_rounding(observation) + noise * sum(math.sqrt(size) for size in rows.values.shape)


def _absolute(std: float) -> Weights:
    """Weights with which least squares becomes the least sum of absolute errors (Schlossmacher 1973)."""
    scale = std / math.sqrt(2)

    def weights(predicted: Tensor, observed: Tensor) -> Tensor:
        return 1 / (predicted - observed).abs().clamp_min(0.05 * scale) * scale

    return weights


def least_absolute(
    rounds: Rounds, starts: Sequence[Tensor], targets: Tensor, std: float, *, deadline: float
) -> Tensor:
    """The inputs (d,) with the least sum of absolute errors that is found from `starts`, these included.

    Parameters
    ----------
    rounds : Rounds
    starts : sequence of Tensor of shape (d,)
    targets : Tensor
        Of the one sample.
    std : float
        Of the noise.
    deadline : float
        In terms of ``time.perf_counter()``.
    """
    weigh = _absolute(std or 1e-30)
    reached = [
        most_likely(rounds, start, targets, weigh, repeats=_REPEATS, deadline=deadline) for start in starts
    ]
    return min(
        (*starts, *reached), key=lambda x: float((rounds.sent(x, targets) - rounds.observed).norm(p=1))
    )


def _least_absolute(rows: Rows, std: float) -> Fit:
    """The rank-one fit with the least sum of absolute errors, from that of least squares."""
    fit, weigh = best_rank_one(rows), _absolute(std or 1e-30)
    for _ in range(_REPEATS):
        x = torch.cat([fit.inputs, torch.ones(1, dtype=torch.float64)])
        fit = fit_rows(rows, weigh(torch.outer(fit.deltas, x), rows.values))
    return fit
