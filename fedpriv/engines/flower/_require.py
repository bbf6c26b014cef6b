"""Flower is an optional part: say which install brings it, and which version fits."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import warnings

TESTED = "1.41"
"""The series that fedpriv is written for: `InProcessGrid` sets values that Flower keeps to itself."""
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""What switches off telemetry, the look for newer versions, and ray's usage statistics."""
_INSTALL = "pip install fedpriv[flower]"


def require_flower() -> None:
    """Raise an ``ImportError`` of one sentence unless the tested series of Flower is installed.

    Also switches telemetry off, unless the environment says something else: Flower reads it when imported.
    """
    try:
        version = importlib.metadata.version("flwr")
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(
            f"fedpriv.engines.flower needs Flower, which is not installed: {_INSTALL}"
        ) from None
    if version.split(".")[:2] != TESTED.split("."):
        raise ImportError(
            f"fedpriv.engines.flower needs Flower {TESTED}, but flwr {version} is installed: {_INSTALL} "
            "brings the version that fits"
        )
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower's own, about what it is built on
        for module in ("flwr.clientapp", "flwr.serverapp.strategy", "flwr.server.workflow"):
            importlib.import_module(module)


def require_ray() -> None:
    """Raise an ``ImportError`` of one sentence unless ray, Flower's simulation backend, is installed."""
    try:
        importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(
            'simulation needs ray, which is not installed: pip install "flwr[simulation]"; without it use '
            "run_in_process"
        ) from None
