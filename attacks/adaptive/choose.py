"""Which attack knows which defense."""

from __future__ import annotations

from collections.abc import Sequence

from attacks.adaptive.averaging import Differencing, PassedOn
from attacks.adaptive.clipping import ClippedInversion
from attacks.adaptive.exclusion import LeaveOut
from attacks.adaptive.mixtures import MixtureInversion
from attacks.adaptive.noise import NoisyInversion
from attacks.adaptive.noisy_search import NoisySearch
from attacks.adaptive.pruning import PrunedInversion
from attacks.adaptive.quantization import QuantizedInversion
from attacks.adaptive.signs import SignInversion
from attacks.base import Attack, as_evidence
from fedpriv.wire import Observation
from fedpriv.wire.mechanisms import (
    Aggregated,
    Clipped,
    Mechanism,
    Mixed,
    Noised,
    PerSampleClipped,
    Perturbed,
    Quantized,
    SignOnly,
    Sparsified,
)

TABLE: tuple[tuple[type[Mechanism], tuple[Attack, ...]], ...] = (
    (Aggregated, (Differencing(), PassedOn())),
    (Sparsified, (PrunedInversion(), LeaveOut())),
    (Perturbed, (LeaveOut(),)),
    (SignOnly, (SignInversion(),)),
    (Quantized, (QuantizedInversion(), NoisySearch())),
    (Noised, (NoisyInversion(), NoisySearch())),
    (Clipped, (ClippedInversion(),)),
    (PerSampleClipped, (ClippedInversion(),)),
    (Mixed, (MixtureInversion(),)),
)
"""Mechanism and the attacks that know it. `Orthogonalized` (CENSOR) has none: it holds."""


def for_mechanisms(observations: Observation | Sequence[Observation]) -> list[Attack]:
    """The adaptive attacks for the defenses that are declared in ``Knowledge.mechanisms``.

    Parameters
    ----------
    observations : Observation or sequence of Observation
        One sender's evidence.

    Returns
    -------
    list of Attack
        To be tried in this order; `Attack.why_not` says of each whether it applies. Empty without defenses.

    Examples
    --------
    >>> import torch, fedpriv
    >>> from fedpriv.wire.mechanisms import Clipped, Noised
    >>> known = fedpriv.Knowledge(mechanisms=(Clipped(clip_norm=1.0), Noised(std=0.1)))
    >>> update, loss = [torch.ones(1, 1), torch.ones(1)], torch.nn.functional.mse_loss
    >>> seen = Observation(torch.nn.Linear(1, 1), update, loss, known)
    >>> [type(attack).__name__ for attack in for_mechanisms(seen)]
    ['NoisyInversion', 'NoisySearch', 'ClippedInversion']
    """
    evidence = as_evidence(observations)
    found: list[Attack] = []
    for kind, attacks in TABLE:
        if any(o.knowledge.applied(kind) for o in evidence):
            found += [a for a in attacks if a not in found]
    return found
