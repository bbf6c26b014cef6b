"""Real data that comes with the dependencies: no download, and nothing is loaded before it is asked for."""

from fedpriv.data.images import digits, faces, photographs

__all__ = ["digits", "faces", "photographs"]
