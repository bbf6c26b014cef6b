"""Writes exchanges to a folder, a part at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from fedpriv.wire.knowledge import Knowledge
from fedpriv.wire.observation import LossFn
from fedpriv.wire.records import PathLike, header_of, identity, update_to_json
from fedpriv.wire.stream.folder import HEADER, INDEX, part_name
from fedpriv.wire.tensors import Tensors
from fedpriv.wire.transcript import Exchange

PART_BYTES = 2**25
"""A part is written when its tensors have this size; at least one exchange goes into each."""
PART_EXCHANGES = 1000
"""And when it holds so many."""


class TranscriptWriter:
    """Writes exchanges to a new folder as they happen.

    Parameters
    ----------
    folder : path
        Created; must be empty if it exists.
    model, loss_fn, knowledge
        As for `Transcript`.
    part_bytes : int, optional
        About how much is held in memory before it is written; by default `PART_BYTES`.

    Raises
    ------
    ValueError
        If the folder holds something already.

    Examples
    --------
    >>> import tempfile
    >>> from fedpriv.wire import Transcript, Update
    >>> model = nn.Linear(1, 1)
    >>> update = Update(kind="parameters", tensors=model.state_dict(), sender="bob")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     writer = TranscriptWriter(folder, model=model, loss_fn=nn.functional.mse_loss)
    ...     writer.write(Exchange(sent=model.state_dict(), update=update))
    ...     writer.end_round()
    ...     Transcript.load(folder)
    Transcript(1 exchanges with bob)
    """

    def __init__(
        self,
        folder: PathLike,
        *,
        model: nn.Module,
        loss_fn: LossFn,
        knowledge: Knowledge | None = None,
        part_bytes: int | None = None,
    ) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise ValueError(
                f"a transcript is streamed to a new folder, but {folder} is not empty; name another"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        header = header_of("stream", model, loss_fn, knowledge or Knowledge())
        (self.folder / HEADER).write_text(json.dumps(header), encoding="utf-8")
        self._part_bytes = PART_BYTES if part_bytes is None else part_bytes
        self._written = 0  # files so far
        self._sent: tuple[object, list[Any]] | None = None  # the last model that was sent, and where it is
        self._layout: object = None  # of what is stacked in this part
        self._start_part()
        self._parts: list[list[Any]] = []
        self._senders: dict[str, None] = {}
        self._clients: dict[str, None] = {}

    def write(self, exchange: Exchange) -> None:
        """Add one exchange of the current round."""
        layout = _layout(exchange)
        if layout != self._layout:  # what is stacked has to be alike
            self._flush()
            self._layout = layout
        key = identity(exchange.sent)
        if self._sent is None or self._sent[0] is not key:
            self._sent = (key, [self._file, len(self._models)])
            self._models.append(exchange.sent)
            self._bytes += _nbytes(exchange.sent)
        row = {"sent": self._sent[1], "update": update_to_json(exchange.update)}
        if exchange.messages:
            row["messages"] = [len(message) for message in exchange.messages]
            self._messages.extend(exchange.messages)
        self._updates.append(exchange.update.tensors)
        self._bytes += _nbytes(exchange.update.tensors) + sum(row.get("messages", []))
        self._rows.append(row)
        self._senders[exchange.update.sender] = None
        self._clients.update(dict.fromkeys(exchange.update.contributors))
        if self._bytes >= self._part_bytes or len(self._rows) >= PART_EXCHANGES:
            self._flush()

    def end_round(self) -> None:
        """Make everything so far part of the transcript, also for a reader that comes after a crash."""
        self._flush()
        if not self._parts:
            return
        line = {"parts": self._parts, "senders": list(self._senders), "clients": list(self._clients)}
        with (self.folder / INDEX).open("a", encoding="utf-8") as index:
            index.write(json.dumps(line) + "\n")
        self._parts, self._senders, self._clients = [], {}, {}

    def _flush(self) -> None:
        if not self._rows:
            return
        tensors = {**_stacked("update", self._updates), **_stacked("sent", self._models)}
        if self._messages:
            tensors["messages"] = torch.frombuffer(bytearray(b"".join(self._messages)), dtype=torch.uint8)
        target = self.folder / self._file
        save_file(tensors, str(target), metadata={"fedpriv": json.dumps(self._rows)})
        self._parts.append([self._file, target.stat().st_size, len(self._rows)])
        self._written += 1
        self._start_part()

    def _start_part(self) -> None:
        self._updates: list[Tensors] = []
        self._models: list[Tensors] = []
        self._messages: list[bytes] = []
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._layout = None
        self._file = part_name(self._written)


def _layout(exchange: Exchange) -> object:
    """What two exchanges must have in common to be stacked."""
    both = (exchange.update.tensors, exchange.sent)
    return [[(name, t.shape, t.dtype) for name, t in tensors.items()] for tensors in both]


def _nbytes(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _stacked(group: str, alike: list[Tensors]) -> dict[str, torch.Tensor]:
    """One tensor for each name, the first axis counts the mappings."""
    if not alike:
        return {}
    return {f"{group}/{name}": torch.stack([tensors[name] for tensors in alike]) for name in alike[0]}
