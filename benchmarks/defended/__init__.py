"""The defended clients and the two attackers of ``fedpriv bench broken_defenses``."""

# Relative imports in this folder: it has one name in a checkout and another one in an installed package.
from . import measure, rows, scenes

__all__ = ["measure", "rows", "scenes"]
