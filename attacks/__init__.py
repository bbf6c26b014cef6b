"""Attacks: what the server can compute from what it saw, and from nothing else.

This package imports the wire format of `fedpriv` and never its workers, clients, data or lab; a test reads
the imports and proves it.
"""

from __future__ import annotations

from attacks import adaptive, labels, malicious
from attacks.base import Attack, Claim, NotIdentifiable, Reconstruction
from attacks.exact.consistency import ConsistencyPeeling, Features, features
from attacks.exact.dager import TokenSpanInversion
from attacks.exact.first_layer import FirstLayerInversion
from attacks.exact.layers import LayerByLayerInversion
from attacks.exact.local_steps import LocalStepsInversion
from attacks.exact.regression import MomentInversion
from attacks.exact.sparse import SparseBatchInversion
from attacks.front import reconstruct
from attacks.identify import Applicability, Identifiability, identifiability
from attacks.matching.blocks import BlockwiseInversion
from attacks.matching.dlg import DLG
from attacks.matching.fedavg import FedAvgInversion
from attacks.matching.gradinversion import GradInversion
from attacks.matching.idlg import IDLG
from attacks.matching.inverting_gradients import InvertingGradients
from attacks.matching.tableak import TabLeak
from attacks.matching.tag import TagInversion

__all__ = [
    "DLG",
    "IDLG",
    "Applicability",
    "Attack",
    "BlockwiseInversion",
    "Claim",
    "ConsistencyPeeling",
    "Features",
    "FedAvgInversion",
    "FirstLayerInversion",
    "GradInversion",
    "Identifiability",
    "InvertingGradients",
    "LayerByLayerInversion",
    "LocalStepsInversion",
    "MomentInversion",
    "NotIdentifiable",
    "Reconstruction",
    "SparseBatchInversion",
    "TabLeak",
    "TagInversion",
    "TokenSpanInversion",
    "adaptive",
    "features",
    "identifiability",
    "labels",
    "malicious",
    "reconstruct",
]
