"""The Cramér-Rao bound without the Jacobian: for inputs and models of any size, with error bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fedpriv.defenses.randomness import given_or_fresh
from fedpriv.privacy.bounds import check_arguments
from fedpriv.privacy.replay import SentUpdate, sent_update
from fedpriv.wire import Observation

Product = Callable[[torch.Tensor], torch.Tensor]
_DELAY = 8  # steps of conjugate gradients that are watched for progress


@dataclass(frozen=True, kw_only=True)
class BoundEstimate:
    """A bound estimated with random probes.

    Parameters
    ----------
    value : float
        Least mean squared error per coordinate, averaged over the probes.
    standard_error : float
        Of `value`, from the spread of the probes; NaN for one probe.
    converged : bool
        Whether every probe was solved to the tolerance. If not, `value` is too *small* in expectation: the
        bound is still true, but weaker than it could be, and the exact one may be infinite.
    probes : int
        How many.
    iterations : int
        The most that one probe took.
    """

    value: float
    standard_error: float
    converged: bool
    probes: int
    iterations: int


def cramer_rao_estimate(
    observation: Observation | Sequence[Observation],
    inputs: torch.Tensor,
    targets: torch.Tensor,
    *,
    noise_std: float,
    clip_norm: float | None = None,
    probes: int = 8,
    max_iterations: int = 500,
    tolerance: float = 1e-3,
    generator: torch.Generator | None = None,
) -> BoundEstimate:
    """`cramer_rao_bound` for large inputs, where the Jacobian J does not fit into memory.

    The trace of the inverse is the mean of ``vᵀ(JᵀJ)⁻¹v`` over random signs v [1]_; each is solved by
    conjugate gradients, which need J and Jᵀ only as products (automatic differentiation). From a start at
    zero their values grow towards the true one, so stopping early gives a smaller, still valid bound.

    Parameters
    ----------
    observation, inputs, targets, noise_std, clip_norm
        As in `cramer_rao_bound`, with the same assumptions.
    probes : int, default 8
        Random sign vectors. The relative standard error falls like ``sqrt(2 / (probes * coordinates))`` where
        the diagonal is even.
    max_iterations : int, default 500
        Of conjugate gradients, for each probe. One costs as much as three gradients of the loss.
    tolerance : float, default 1e-3
        Stop when several steps together add less than this fraction.
    generator : torch.Generator, optional
        Source of the probes.

    Returns
    -------
    BoundEstimate

    Raises
    ------
    ValueError
        As `cramer_rao_bound`; also if a count or the tolerance is out of range.

    References
    ----------
    .. [1] M. F. Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian
       smoothing splines", Communications in Statistics 18, 1989

    Examples
    --------
    >>> model = torch.nn.Linear(3, 1, bias=False)
    >>> observation = Observation(model, [torch.zeros(1, 3)], lambda outputs, targets: outputs.sum())
    >>> estimate = cramer_rao_estimate(observation, torch.ones(1, 3), torch.tensor([0]), noise_std=0.1)
    >>> round(estimate.value, 6), estimate.converged
    (0.01, True)
    """
    _check_effort(probes, max_iterations, tolerance)
    fisher, size, unknowns, tall = _fisher(observation, inputs, targets, noise_std, clip_norm)
    if not tall:
        return BoundEstimate(
            value=math.inf, standard_error=0.0, converged=True, probes=0, iterations=0
        )  # fewer numbers than unknowns
    generator = given_or_fresh(generator)
    values, finished, most = [], True, 0
    for _ in range(probes):
        v = torch.zeros(unknowns, dtype=torch.float64)
        v[:size] = _signs(size, generator)
        value, iterations, done = _inverse_form(fisher, v.to(inputs.device), max_iterations, tolerance)
        values.append(value / size)
        finished, most = finished and done, max(most, iterations)
    spread = torch.tensor(values, dtype=torch.float64)
    return BoundEstimate(
        value=noise_std**2 * float(spread.mean()),
        standard_error=noise_std**2 * (float(spread.std()) / math.sqrt(probes) if probes > 1 else math.nan),
        converged=finished,
        probes=probes,
        iterations=most,
    )


def fisher_leakage_estimate(
    observation: Observation | Sequence[Observation],
    inputs: torch.Tensor,
    targets: torch.Tensor,
    *,
    noise_std: float,
    clip_norm: float | None = None,
    probes: int = 32,
    generator: torch.Generator | None = None,
) -> BoundEstimate:
    """The weaker bound ``coordinates / tr(I)`` that needs no inverse: one over the squared Fisher leakage.

    From [1]_. tr(I) is the mean of ``|J v|² / noise_std²`` over random signs v. Always finite, always below
    `cramer_rao_bound` (a mean of inverses is at least the inverse of the mean), far below it where some
    coordinates are much harder to see than others. Targets count as known.

    Parameters
    ----------
    observation, inputs, targets, noise_std, clip_norm
        As in `cramer_rao_bound`.
    probes : int, default 32
        Random sign vectors; each costs about two gradients.
    generator : torch.Generator, optional
        Source of the probes.

    References
    ----------
    .. [1] C. Guo, B. Karrer, K. Chaudhuri, L. van der Maaten, "Bounding training data reconstruction in
       private (deep) learning", ICML 2022, https://arxiv.org/abs/2201.12383
    """
    _check_effort(probes, 1, 0.5)
    fisher, size, unknowns, _ = _fisher(observation, inputs, targets, noise_std, clip_norm)
    generator = given_or_fresh(generator)
    values = []
    for _ in range(probes):
        v = torch.zeros(unknowns, dtype=torch.float64)
        v[:size] = _signs(size, generator)
        v = v.to(inputs.device)
        values.append(float(v @ fisher(v)) / size)
    traces = torch.tensor(values, dtype=torch.float64)
    mean = float(traces.mean())
    value = noise_std**2 / mean if mean > 0 else math.inf
    error = value * float(traces.std()) / mean / math.sqrt(probes) if probes > 1 and mean > 0 else math.nan
    return BoundEstimate(
        value=value,
        standard_error=error,
        converged=True,
        probes=probes,
        iterations=0,
    )


def _fisher(
    observation: Observation | Sequence[Observation],
    inputs: torch.Tensor,
    targets: torch.Tensor,
    noise_std: float,
    clip_norm: float | None,
) -> tuple[Product, int, int, bool]:
    """``v -> JᵀJ v`` for unit noise; coordinates of the inputs, of all unknowns; whether J is tall enough."""
    observations = [observation] if isinstance(observation, Observation) else list(observation)
    check_arguments(observations, inputs, targets, noise_std, clip_norm)
    known = None if targets.is_floating_point() else targets
    x = inputs.detach().double()
    y = targets.detach().double() if known is None else x.new_zeros(len(x), 0)
    size, unknowns = x.numel(), x.numel() + y.numel()
    products, rows = [], 0
    for visit in observations:
        update = sent_update(visit, len(inputs), clip_norm)

        def of_unknowns(z: torch.Tensor, update: SentUpdate = update) -> torch.Tensor:
            return update(z[:size].reshape(x.shape), z[size:].reshape(y.shape) if known is None else known)

        sent, pull_back = torch.func.vjp(of_unknowns, torch.cat([x.reshape(-1), y.reshape(-1)]))[:2]
        # u -> Jᵀu is linear, so its own transpose is v -> Jv, at any point.
        push_forward = torch.func.vjp(pull_back, torch.zeros_like(sent))[1]
        products.append((pull_back, push_forward))
        rows += sent.numel()

    def fisher(v: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(v)
        for pull, push in products:
            total = total + pull(push((v,))[0])[0].detach()
        return total

    return fisher, size, unknowns, rows >= unknowns


def _inverse_form(
    fisher: Product, v: torch.Tensor, max_iterations: int, tolerance: float
) -> tuple[float, int, bool]:
    """``vᵀ F⁻¹ v`` by conjugate gradients, from below: every step adds ``alpha |r|²``, which is positive.

    Stops when the last few steps together added less than `tolerance` of the value, an estimate of what is
    still missing (Strakoš and Tichý 2002), because the residual says little where F is badly conditioned.
    """
    residual, direction, value = v, v, 0.0
    added: list[float] = []
    squared = float(residual @ residual)
    for iteration in range(1, max_iterations + 1):
        image = fisher(direction)
        curvature = float(direction @ image)
        if not curvature > 0:  # a direction that the update does not see: the value is infinite
            return value, iteration, False
        step = squared / curvature
        added.append(step * squared)
        value += added[-1]
        residual = residual - step * image
        before, squared = squared, float(residual @ residual)
        if squared == 0 or (len(added) >= _DELAY and sum(added[-_DELAY:]) <= tolerance * value):
            return value, iteration, True
        direction = residual + squared / before * direction
    return value, max_iterations, False


def _signs(size: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 2, (size,), generator=generator, device=generator.device).cpu().double() * 2 - 1


def _check_effort(probes: int, max_iterations: int, tolerance: float) -> None:
    for name, count in (("probes", probes), ("max_iterations", max_iterations)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a whole number of 1 or more, got {count!r}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie between 0 and 1, got {tolerance!r}; 1e-3 is 0.1 %")
