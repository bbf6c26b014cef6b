"""The wire: what crosses between a client and the server, and nothing else.

Everything an attack may look at is defined here. The classes are frozen and hold private copies of the
tensors, so neither side can change the evidence afterwards.
"""

from fedpriv.wire.knowledge import Knowledge
from fedpriv.wire.observation import Observation
from fedpriv.wire.tensors import FrozenTensors, Tensors
from fedpriv.wire.transcript import Exchange, Transcript
from fedpriv.wire.update import Update

__all__ = ["Exchange", "FrozenTensors", "Knowledge", "Observation", "Tensors", "Transcript", "Update"]
