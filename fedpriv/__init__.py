"""fedpriv: when the server gets Bob's gradient back, it can get Bob's data back.

Train federated models, look at exactly what crosses the wire, reconstruct the training data from that and
nothing else (package ``attacks``), and see which defenses stop it, by how much and at what cost.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fedpriv import defenses, engines, losses, models, privacy, training
from fedpriv.pointers import PointerTensor, TorchHook, VirtualWorker
from fedpriv.training import (
    ChosenModels,
    FedAvg,
    FederatedTrainer,
    FedSGD,
    Run,
    Sequential,
    train_centrally,
)
from fedpriv.wire import Exchange, Knowledge, Observation, Transcript, Update

if TYPE_CHECKING:
    from fedpriv import data, lab, transformer, victims

__version__ = "0.1.0"
__all__ = [
    "ChosenModels",
    "Exchange",
    "FedAvg",
    "FedSGD",
    "FederatedTrainer",
    "Knowledge",
    "Observation",
    "PointerTensor",
    "Run",
    "Sequential",
    "TorchHook",
    "Transcript",
    "Update",
    "VirtualWorker",
    "data",
    "defenses",
    "engines",
    "lab",
    "losses",
    "models",
    "privacy",
    "train_centrally",
    "training",
    "transformer",
    "victims",
]

# Rooms that need scikit-learn, scikit-image or SciPy, and those that only demos need, are imported on first
# use: `import fedpriv` stays fast.
_LAZY = ("data", "lab", "transformer", "victims")


def __getattr__(name: str) -> Any:
    """Import the heavy rooms when they are first used."""
    if name in _LAZY:
        return importlib.import_module(f"fedpriv.{name}")
    raise AttributeError(f"module 'fedpriv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
