"""What theory promises: limits that no attack passes, each with its assumptions."""

from fedpriv.privacy.bounds import cramer_rao_bound

__all__ = ["cramer_rao_bound"]
