"""Consistency and peeling: exact recovery of whole batches from two consecutive linear layers."""

from attacks.exact.consistency.attack import ConsistencyPeeling
from attacks.exact.consistency.features import Features, features

__all__ = ["ConsistencyPeeling", "Features", "features"]
