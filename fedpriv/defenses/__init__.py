"""What a client or an aggregator does to an update before the server sees it; one mechanism a file."""

from fedpriv.defenses.averaging import Averaging
from fedpriv.defenses.base import Aggregator, Context, Defense, Report
from fedpriv.defenses.clip import Clip
from fedpriv.defenses.gaussian_noise import GaussianNoise
from fedpriv.defenses.pipeline import Pipeline
from fedpriv.defenses.secret_sharing import SecretSharing

__all__ = [
    "Aggregator",
    "Averaging",
    "Clip",
    "Context",
    "Defense",
    "GaussianNoise",
    "Pipeline",
    "Report",
    "SecretSharing",
]
