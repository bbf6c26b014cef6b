"""Servers that choose what they send. The attack afterwards is the same; only its conditioning changes."""

from attacks.malicious.chosen_models import chosen_models

__all__ = ["chosen_models"]
