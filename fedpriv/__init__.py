"""fedpriv: when the server gets Bob's gradient back, it can get Bob's data back.

Train federated models, look at exactly what crosses the wire, reconstruct the training data from that and
nothing else (package ``attacks``), and see which defenses stop it, by how much and at what cost.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedpriv import (
        data,
        defenses,
        engines,
        lab,
        losses,
        models,
        privacy,
        training,
        transformer,
        victims,
    )
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

# Everything is imported on first use: torch takes seconds, and `fedpriv exercise list` needs none of it.
_ROOMS = (
    "data",
    "defenses",
    "engines",
    "lab",
    "losses",
    "models",
    "pointers",
    "privacy",
    "training",
    "transformer",
    "victims",
    "wire",
)
_HOMES = {
    **dict.fromkeys(("PointerTensor", "TorchHook", "VirtualWorker"), "pointers"),
    **dict.fromkeys(
        ("ChosenModels", "FedAvg", "FedSGD", "FederatedTrainer", "Run", "Sequential", "train_centrally"),
        "training",
    ),
    **dict.fromkeys(("Exchange", "Knowledge", "Observation", "Transcript", "Update"), "wire"),
}


def __getattr__(name: str) -> Any:
    """Import a room, or what it offers here, when it is first used."""
    if name in _ROOMS:
        return importlib.import_module(f"fedpriv.{name}")
    if name in _HOMES:
        value = globals()[name] = getattr(importlib.import_module(f"fedpriv.{_HOMES[name]}"), name)
        return value
    raise AttributeError(f"module 'fedpriv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
