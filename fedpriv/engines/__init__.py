"""Engines: how a request reaches a data owner, and how the answer comes back.

`LocalEngine` calls the owners in this process and is the default of `FederatedTrainer`. The others go
through real systems that are imported when they are used: ``fedpriv.engines.syft`` (``pip install
fedpriv[syft]``) and ``fedpriv.engines.flower`` (``pip install fedpriv[flower]``).
"""

from fedpriv.engines.base import OPERATIONS, Engine, Fault, Reply, Request, Visit
from fedpriv.engines.local import LocalEngine

__all__ = ["OPERATIONS", "Engine", "Fault", "LocalEngine", "Reply", "Request", "Visit"]
