"""Training: central, and federated with a record of all that crosses the wire."""

from fedpriv.training.central import CentralRun, train_centrally
from fedpriv.training.schedules import ChosenModels, FedAvg, FedSGD, Schedule, Sequential
from fedpriv.training.state import RoundResult, Run, ServerState
from fedpriv.training.trainer import FederatedTrainer

__all__ = [
    "CentralRun",
    "ChosenModels",
    "FedAvg",
    "FedSGD",
    "FederatedTrainer",
    "RoundResult",
    "Run",
    "Schedule",
    "Sequential",
    "ServerState",
    "train_centrally",
]
