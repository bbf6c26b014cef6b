"""Real data that comes with the dependencies: no download, and nothing is loaded before it is asked for."""

from fedpriv.data.images import digits, faces, photographs
from fedpriv.data.text import Tokenizer, sentences

__all__ = ["Tokenizer", "digits", "faces", "photographs", "sentences"]
