"""How many samples the visits of a linear regression hold: deduced, told, or assumed."""

from __future__ import annotations

from dataclasses import dataclass

from attacks.base import NotIdentifiable, Observations
from attacks.exact.moments import Span, Visits, find_span, solve_moments
from attacks.exact.visits import SquaredLoss, visits_of


@dataclass(frozen=True, kw_only=True)
class Count:
    """The number of samples, the corner of A that belongs to it, and how it is known.

    Parameters
    ----------
    num_samples : int
    corner : float
        Sum of the weights of all samples in the update.
    certain : bool
        Deduced or told; otherwise `num_samples` is the smallest number that explains the visits.
    reason : str
    """

    num_samples: int
    corner: float
    certain: bool
    reason: str


def told_count(observations: Observations) -> int | None:
    """The number of samples as declared or as sent by the protocol."""
    first = observations[0]
    return first.knowledge.num_samples or first.update.num_samples


def measure(observations: Observations, safety: float = 6.0) -> tuple[Visits, SquaredLoss, Span | None]:
    """The visits, their loss and their span, of which a told count gives the dimension under noise."""
    visits, loss = visits_of(observations)
    told = told_count(observations)
    noisy = observations[0].knowledge.noise_std > 0
    rank = min(told, *visits.theta.shape) if told is not None and noisy else None
    return visits, loss, find_span(visits, safety=safety, rank=rank)


def count_samples(observations: Observations, visits: Visits, span: Span, loss: SquaredLoss) -> Count:
    """The number of samples: the corner of A if the visits determine it, else what was told, else the rank.

    Under noise what was told comes first.

    Raises
    ------
    NotIdentifiable
        If no data set fits the visits.
    """
    knowledge, told, pooled = observations[0].knowledge, told_count(observations), 1 / loss.clients
    if knowledge.noise_std > 0 and told is not None:
        count = _assume(span, told, None if loss.is_mean else pooled, "noise")
    elif loss.is_mean:
        count = _assume(span, told, None, "a mean loss hides the count")
    elif loss.clients > 1 and knowledge.weighting == "samples":
        # Clients of unequal size weigh differently, and the corner is no longer a count.
        count = _assume(span, told, pooled, "the weights of the clients hide the count")
    else:
        count = _deduce(visits, span, pooled) or _assume(span, told, pooled, "too few visits to deduce it")
    if count.num_samples < span.rank:
        raise NotIdentifiable(
            f"{count.reason}, but the visits span {span.rank} dimensions, which takes {span.rank} samples: "
            f"the count is wrong, a defense changed the updates, or the data changed between the visits"
        )
    if count.num_samples > span.rank and not span.complete:
        raise NotIdentifiable(
            f"{len(observations)} visit(s) do not determine the moments of {count.num_samples} samples yet, "
            f"for each one showed a new dimension; {count.num_samples} visits with different models would"
        )
    return count


def _deduce(visits: Visits, span: Span, pooled: float) -> Count | None:
    free = solve_moments(visits, span)  # None as long as every row adds a dimension: too few equations
    if free is None or not 6 * free.corner_error < 0.3 * pooled:
        return None
    corner = free.second[0, 0] / pooled
    number = round(corner)
    if number < 1 or abs(corner - number) > max(0.02 * number, 6 * free.corner_error / pooled):
        raise NotIdentifiable(
            f"the visits do not fit one data set (they ask for {corner:.3f} samples): a defense changed the "
            f"updates, or the data changed between the visits"
        )
    reason = f"{number} sample{'s' * (number != 1)}, deduced from the visits"
    return Count(num_samples=number, corner=number * pooled, certain=True, reason=reason)


def _assume(span: Span, told: int | None, each: float | None, why: str) -> Count:
    """What was told, else the rank. Every sample weighs `each`, or, if that is None, all together 1."""
    number = told or span.rank
    reason = f"{number} samples, as declared" if told else f"{number} sample(s) assumed from the rank: {why}"
    return Count(
        num_samples=number,
        corner=1.0 if each is None else number * each,
        certain=told is not None,
        reason=reason,
    )
