"""Attacks: what the server can compute from what it saw, and from nothing else.

This package imports the wire format of `fedpriv` and never its workers, clients, data or lab; a test reads
the imports and proves it.
"""

from __future__ import annotations

from attacks import labels, malicious
from attacks.base import Attack, Claim, NotIdentifiable, Reconstruction
from attacks.exact.first_layer import FirstLayerInversion
from attacks.exact.regression import MomentInversion
from attacks.front import reconstruct
from attacks.identify import Applicability, Identifiability, identifiability

__all__ = [
    "Applicability",
    "Attack",
    "Claim",
    "FirstLayerInversion",
    "Identifiability",
    "MomentInversion",
    "NotIdentifiable",
    "Reconstruction",
    "identifiability",
    "labels",
    "malicious",
    "reconstruct",
]
