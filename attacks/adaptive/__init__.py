"""Attacks that know the defense, one file a defense.

A defense is public (Kerckhoffs): `Knowledge.mechanisms` says what acted on an update, and only random draws
are secret. `for_mechanisms` chooses the attacks that make use of it.
"""

from __future__ import annotations

from attacks.adaptive.averaging import Collusion, Differencing, PassedOn, difference, passed_on, remainder
from attacks.adaptive.choose import for_mechanisms
from attacks.adaptive.clipping import ClippedInversion, unclipped
from attacks.adaptive.evidence import Partial, see_through
from attacks.adaptive.exclusion import LeaveOut
from attacks.adaptive.explain import comparable, explains, unexplained
from attacks.adaptive.mixtures import MixtureInversion, unmix
from attacks.adaptive.noise import NoisyInversion
from attacks.adaptive.noisy_search import NoisySearch
from attacks.adaptive.pruning import PrunedInversion
from attacks.adaptive.quantization import QuantizedInversion
from attacks.adaptive.signs import SignInversion

__all__ = [
    "ClippedInversion",
    "Collusion",
    "Differencing",
    "LeaveOut",
    "MixtureInversion",
    "NoisyInversion",
    "NoisySearch",
    "Partial",
    "PassedOn",
    "PrunedInversion",
    "QuantizedInversion",
    "SignInversion",
    "comparable",
    "difference",
    "explains",
    "for_mechanisms",
    "passed_on",
    "remainder",
    "see_through",
    "unclipped",
    "unexplained",
    "unmix",
]
