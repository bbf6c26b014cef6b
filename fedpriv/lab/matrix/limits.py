"""The limits that no attack passes, where theory has one for a row, with their assumptions in words."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedpriv.defenses.pipeline import AnyDefense
from fedpriv.lab.matrix.entries import Entry
from fedpriv.lab.matrix.scene import OTHERS, Scene
from fedpriv.lab.matrix.victims import Victim
from fedpriv.privacy import Unit, account, cramer_rao_bound, rero_bound, rero_bound_dp
from fedpriv.privacy.releases import Release, client_releases, sample_releases
from fedpriv.wire.mechanisms import Clipped, Noised, PerSampleClipped

DELTA = 1e-5
ASSUMPTIONS = {
    "cramer_rao_psnr": (
        "The attack is unbiased, knows the label, the number of images and the size of the noise, and has no "
        "prior: pixels between 0 and 1, or what digits look like, may carry a biased attack above it. The "
        "first round of the first seed. Laplace noise enters by its Fisher information, 1 / b², and its "
        "clipping is left out of account, which only raises the limit."
    ),
    "rero": (
        f"Any attack, with any prior and any computing time, that has to tell the image from {OTHERS} others "
        "that are as likely, and sees one round; for noise on the mean it knows all other clients' updates."
    ),
    "epsilon": (
        f"Add/remove adjacency, delta = {DELTA:g} (Laplace: 0, rounds added up). The unit is the client, for "
        "DP-SGD one image (which may be in the batch of every round). Central noise counts on an aggregator "
        "that is trusted. The learning rate was chosen on another seed and is not accounted for."
    ),
}
"""What each limit takes for granted, by the column of the table."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """None where theory promises nothing.

    Parameters
    ----------
    cramer_rao_psnr : float or None
        PSNR in dB that no unbiased attack exceeds in the mean of its squared error.
    rero : float or None
        Largest probability of telling the true image from nine others.
    epsilon_round, epsilon_training : float or None
        Of one round, and of all rounds of the training whose accuracy is shown.
    """

    cramer_rao_psnr: float | None = None
    rero: float | None = None
    epsilon_round: float | None = None
    epsilon_training: float | None = None


def limits(entry: Entry, victim: Victim, scene: Scene, *, rounds: int) -> Limits:
    """What holds for `entry` in this scene; nothing without accounted noise."""
    defenses = entry.recipe(victim, entry.batch)
    found = _release(defenses)
    if found is None:
        return Limits()
    release, unit = found
    prior = 1 / (1 + OTHERS)

    def spent(times: int) -> float:
        return account(defenses, delta=0.0 if release.pure else DELTA, unit=unit, rounds=times).epsilon

    return Limits(
        cramer_rao_psnr=None if entry.pooled else _unbiased(scene),
        rero=rero_bound_dp(prior_success=prior, epsilon=1 / release.noise_multiplier)
        if release.pure
        else rero_bound(prior_success=prior, noise_multiplier=release.noise_multiplier),
        epsilon_round=spent(1),
        epsilon_training=spent(rounds),
    )


def _release(defenses: Sequence[AnyDefense]) -> tuple[Release, Unit] | None:
    """The release that hides an image or, failing that, a client; None if no accounted noise hides either."""
    with contextlib.suppress(ValueError):
        return sample_releases(defenses)[0], Unit.SAMPLE
    with contextlib.suppress(ValueError):
        return client_releases(defenses)[0], Unit.CLIENT
    return None


def _unbiased(scene: Scene) -> float:
    """The Cramér-Rao bound as a PSNR for data between 0 and 1."""
    seen = scene.seen[0]
    laplace = any(n.distribution == "laplace" for n in seen.knowledge.applied(Noised))
    std = seen.knowledge.noise_std / (math.sqrt(2) if laplace else 1.0)
    clips = [m.clip_norm for m in seen.knowledge.mechanisms if isinstance(m, Clipped | PerSampleClipped)]
    # For one image clipping its gradient and clipping the update are the same. L1 bounds are left out.
    bound = cramer_rao_bound(
        seen, scene.images, scene.labels, noise_std=std, clip_norm=None if laplace else clips[0]
    )
    return -10 * math.log10(bound) if bound > 0 else math.inf
