"""A transcript on disk, read one exchange at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, chain
from pathlib import Path
from reprlib import repr as brief  # a hostile value can be long or deep
from typing import Any

import torch
from torch import nn

from fedpriv.wire.knowledge import Knowledge
from fedpriv.wire.observation import LossFn
from fedpriv.wire.records import PathLike, context_of, in_order, messages_from, update_from_json
from fedpriv.wire.stream.folder import (
    Part,
    is_part_name,
    opened,
    parse,
    parts_of,
    read_header,
    whole_lines,
)
from fedpriv.wire.tensors import FrozenTensors
from fedpriv.wire.transcript import Exchange, Transcript


class StreamedTranscript(Transcript):
    """A transcript that stays on disk; every exchange is read when it is needed.

    Iterating holds one exchange at a time. ``updates(client)`` and ``observations(client)`` give lists, so
    name a client where the whole does not fit into memory.
    """

    __slots__ = ("_clients", "_files", "_folder", "_senders")

    def __init__(
        self, folder: PathLike, *, model: nn.Module | None = None, loss_fn: LossFn | None = None
    ) -> None:
        self._folder = Path(folder)
        header = read_header(self._folder)
        self._files: list[Part] = []
        senders: dict[str, None] = {}
        clients: dict[str, None] = {}
        for line in whole_lines(self._folder):
            self._files += parts_of(self._folder, line)
            senders.update(dict.fromkeys(line["senders"]))
            clients.update(dict.fromkeys(line["clients"]))
        if not self._files:
            raise ValueError(f"{folder} holds no whole round; the training ended before its first was over")
        self._senders, self._clients = tuple(senders), tuple(clients)
        state = _Reader(self._folder, None).state([self._files[0].file, 0])
        model, loss_fn = context_of(folder, header, state, model, loss_fn)
        super().__init__(
            (), model=model, loss_fn=loss_fn, knowledge=Knowledge.from_json(header.get("knowledge", {}))
        )

    @property
    def senders(self) -> tuple[str, ...]:
        """Everyone who handed an update to the server, in order of appearance."""
        return self._senders

    @property
    def clients(self) -> tuple[str, ...]:
        """Everyone whose data influenced an update, in order of appearance."""
        return self._clients

    def _matching(self, sender: str | None) -> Iterator[Exchange]:
        reader = _Reader(self._folder, self.model)
        return chain.from_iterable(reader.exchanges(part, sender) for part in self._files)

    def __len__(self) -> int:
        return sum(part.count for part in self._files)

    def __iter__(self) -> Iterator[Exchange]:
        return self._matching(None)


class _Reader:
    """Reads parts; keeps the last model that was sent, which most neighbors share."""

    def __init__(self, folder: Path, model: nn.Module | None) -> None:
        self._folder, self._model = folder, model
        self._last: tuple[list[Any], FrozenTensors] | None = None

    def exchanges(self, part: Part, sender: str | None) -> Iterator[Exchange]:
        """The exchanges in `part`, those of `sender` alone if one is named."""
        path = self._folder / part.file
        with opened(path) as file:
            rows = _rows(file, path, part)
            starts = [0, *accumulate(map(_message_bytes, rows))]
            for index, row in enumerate(rows):
                update = row.get("update")
                if sender is not None and not (isinstance(update, dict) and update.get("sender") == sender):
                    continue
                yield Exchange(
                    sent=self._frozen(row.get("sent")),
                    update=update_from_json(update, _row_of(file, path, "update", index)),
                    messages=_messages(file, row.get("messages", []), starts[index], starts[index + 1]),
                )

    def state(self, place: Any) -> dict[str, torch.Tensor]:
        """The model that was sent, as stored at ``[file, number]``."""
        if not (
            isinstance(place, list)
            and len(place) == 2
            and is_part_name(place[0])
            and type(place[1]) is int
            and place[1] >= 0
        ):
            raise ValueError(
                f"{self._folder}: an exchange must name the model that was sent, got {brief(place)}"
            )
        path = self._folder / place[0]
        with opened(path) as file:
            return _row_of(file, path, "sent", place[1])

    def _frozen(self, place: Any) -> FrozenTensors:
        if self._last is None or self._last[0] != place:
            state = self.state(place)
            if self._model is not None:
                state = in_order(state, self._model)
            self._last = (place, FrozenTensors(state))
        return self._last[1]


def _rows(file: Any, path: Path, part: Part) -> list[dict[str, Any]]:
    rows = parse((file.metadata() or {}).get("fedpriv", "null"), path)
    if not (isinstance(rows, list) and len(rows) == part.count and all(isinstance(r, dict) for r in rows)):
        raise ValueError(f"{path} must describe {part.count} exchanges, got {brief(rows)}; it was changed")
    return rows


def _row_of(file: Any, path: Path, group: str, index: int) -> dict[str, torch.Tensor]:
    """Row `index` of every tensor under ``group/``."""
    found = {}
    for key in file.keys():  # noqa: SIM118 (not a mapping)
        if not key.startswith(f"{group}/"):
            continue
        stack = file.get_slice(key)
        shape = stack.get_shape()
        if not shape or index >= shape[0]:
            raise ValueError(f"{path} must hold {key!r} for number {index}, got {shape}; it was changed")
        found[key[len(group) + 1 :]] = stack[index : index + 1][0]
    if not found:
        raise ValueError(f"{path} holds no tensors of {group!r}; it was changed")
    return found


def _message_bytes(row: dict[str, Any]) -> int:
    lengths = row.get("messages", [])
    whole = isinstance(lengths, list) and all(type(length) is int and length >= 1 for length in lengths)
    if not whole:
        raise ValueError(f"the lengths of an exchange's messages must be whole numbers, got {brief(lengths)}")
    return sum(lengths)


def _messages(file: Any, lengths: list[int], start: int, stop: int) -> tuple[bytes, ...]:
    if not lengths:
        return ()
    stored = file.get_slice("messages")[start:stop] if "messages" in file.keys() else None  # noqa: SIM118
    return messages_from(lengths, {} if stored is None else {"bytes": stored})
