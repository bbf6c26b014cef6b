"""Transcripts that grow on disk while the training runs, so that memory stays flat.

A folder: ``transcript.json`` describes the training; files of some megabytes hold the exchanges, each a
safetensors file with its description as JSON in the header, and in it one tensor for each name, the updates
of all exchanges stacked (thousands of small tensors are slow to write); ``index.jsonl`` gets a line when a
*round* is over. Whoever reads trusts the index alone: if the process is killed in the middle of a round,
everything up to the last whole round is there, and the rest is ignored. Nothing is ever unpickled.
"""

from fedpriv.wire.stream.reader import StreamedTranscript
from fedpriv.wire.stream.writer import TranscriptWriter

__all__ = ["StreamedTranscript", "TranscriptWriter"]
