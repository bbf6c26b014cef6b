"""What theory says about a choice, each number with the words that it needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedpriv import privacy
from fedpriv.lab.explore.federation import protections
from fedpriv.lab.explore.scene import Scene

DELTA = 1e-5
PRIOR = 0.1
"""Success of a guess without the update, for the bound on the success of any attack."""
MAX_ENTRIES = 4_000_000
"""Entries of the Jacobian up to which the Cramér-Rao bound is computed: a second or so."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One line: a name, a value as it is shown, and what it means.

    Parameters
    ----------
    name, shown, meaning : str
    value : float
        NaN where there is none.
    """

    name: str
    shown: str
    meaning: str
    value: float = math.nan


def epsilon(scene: Scene) -> Limit:
    """Epsilon with unit and adjacency in words; without noise, that there is none.

    Examples
    --------
    >>> from fedpriv.lab.explore import Choice, observe
    >>> epsilon(observe(Choice(batch_size=1))).shown
    'ε = ∞'
    """
    choice = scene.choice
    if not choice.noise_multiplier:
        return Limit(
            name="privacy spent",
            shown="ε = ∞",
            meaning="Without noise there is no differential privacy, whatever else is done.",
            value=math.inf,
        )
    guarantee = privacy.account(protections(choice), delta=DELTA, rounds=choice.visits)
    whose = "Bob" if choice.people == 1 else "each of them"
    trusted = (
        "Bob adds the noise himself and trusts nobody."
        if choice.people == 1
        else "They trust the aggregator to add the noise."
    )
    return Limit(
        name="privacy spent",
        shown=f"ε = {guarantee.epsilon:,.3g}" if guarantee.epsilon < 1000 else "ε > 1000",
        meaning=(
            f"At δ = {DELTA:g}, for {whose} as a whole client (not a single sample); neighbors: the client "
            f"takes part or its update is zero (add/remove); {_times(choice.visits)}. {trusted}"
        ),
        value=guarantee.epsilon,
    )


def success(scene: Scene) -> Limit:
    """The most often that any attack can be right about a client (reconstruction robustness)."""
    choice = scene.choice
    if not choice.noise_multiplier:
        return Limit(
            name="any attack's success",
            shown="up to 100 %",
            meaning="Without noise nothing limits an attack.",
            value=1.0,
        )
    bound = privacy.rero_bound(
        prior_success=PRIOR, noise_multiplier=choice.noise_multiplier, rounds=choice.visits
    )
    return Limit(
        name="any attack's success",
        shown=f"at most {bound:.1%}" if bound < 0.9995 else "over 99.9 %",
        meaning=(
            f"Whoever would guess a client's data right with probability {PRIOR:.0%} without the updates is "
            f"right at most that often with them, with any computer and any method."
        ),
        value=bound,
    )


def error(scene: Scene) -> Limit:
    """The least error of any unbiased attack (Cramér-Rao), where it can be computed here."""
    name = "any unbiased attack's error"
    reason = _why_not(scene)
    if reason:
        return Limit(name=name, shown="not computed", meaning=reason)
    try:
        bound = privacy.cramer_rao_bound(
            scene.observations, *scene.truth, noise_std=scene.noise_std, clip_norm=scene.choice.clip_norm
        )
    except ValueError as refusal:
        return Limit(name=name, shown="not computed", meaning=f"{refusal}.")
    shown = "cannot exist" if math.isinf(bound) else f"at least {math.sqrt(bound):.2g}"
    return Limit(
        name=name,
        shown=shown,
        meaning=(
            "Some coordinate cannot be estimated at all without a prior."
            if math.isinf(bound)
            else "Root mean square error of a coordinate (the data lie between 0 and 1), by Cramér-Rao. "
            "An attack that uses what such data look like is biased and may do better."
        ),
        value=math.sqrt(bound),
    )


def _why_not(scene: Scene) -> str:
    choice = scene.choice
    if not choice.noise_multiplier:
        return "Without noise the least error is zero, wherever the updates determine the data."
    if choice.people > 1:
        return "Computed for one client only: behind an average the number of unknowns grows with the people."
    if scene.truth[0].numel() * scene.numbers_sent > MAX_ENTRIES:
        return "Too many unknowns for this page; fedpriv.privacy.cramer_rao_estimate takes them."
    return ""


def _times(visits: int) -> str:
    return "one update" if visits == 1 else f"all {visits} updates together"
