"""Transcripts that grow on disk while the training runs, so that memory stays flat.

A folder: ``transcript.json`` describes the training; files of some megabytes hold the exchanges, each a
safetensors file with its description as JSON in the header, and in it one tensor for each name, the updates
of all exchanges stacked (thousands of small tensors are slow to write); ``index.jsonl`` gets a line when a
*round* is over. Whoever reads trusts the index alone: if the process is killed in the middle of a round,
everything up to the last whole round is there, and the rest is ignored. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from reprlib import repr as brief  # a hostile value can be long or deep
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from fedpriv.wire.knowledge import Knowledge
from fedpriv.wire.observation import LossFn
from fedpriv.wire.records import (
    FORMAT,
    PathLike,
    context_of,
    header_of,
    identity,
    in_order,
    messages_from,
    update_from_json,
    update_to_json,
)
from fedpriv.wire.tensors import FrozenTensors, Tensors
from fedpriv.wire.transcript import Exchange, Transcript

HEADER, INDEX = "transcript.json", "index.jsonl"
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
    >>> from fedpriv.wire import Update
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
        self._file = f"{self._written:08d}.safetensors"


@dataclass(frozen=True)
class _Part:
    file: str
    count: int


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
        header = _header(self._folder)
        self._files: list[_Part] = []
        senders: dict[str, None] = {}
        clients: dict[str, None] = {}
        for line in _whole_lines(self._folder):
            self._files += _parts(self._folder, line)
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

    def exchanges(self, part: _Part, sender: str | None) -> Iterator[Exchange]:
        """The exchanges in `part`, those of `sender` alone if one is named."""
        path = self._folder / part.file
        with _opened(path) as file:
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
            and _is_part_name(place[0])
            and type(place[1]) is int
            and place[1] >= 0
        ):
            raise ValueError(
                f"{self._folder}: an exchange must name the model that was sent, got {brief(place)}"
            )
        path = self._folder / place[0]
        with _opened(path) as file:
            return _row_of(file, path, "sent", place[1])

    def _frozen(self, place: Any) -> FrozenTensors:
        if self._last is None or self._last[0] != place:
            state = self.state(place)
            if self._model is not None:
                state = in_order(state, self._model)
            self._last = (place, FrozenTensors(state))
        return self._last[1]


def _rows(file: Any, path: Path, part: _Part) -> list[dict[str, Any]]:
    rows = _json((file.metadata() or {}).get("fedpriv", "null"), path)
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


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """``safe_open`` with our sentence for a file that is not whole."""
    try:
        file = safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error!s:.200}); was it cut off or changed?"
        ) from error
    with file:
        yield file


def _header(folder: Path) -> dict[str, Any]:
    path = folder / HEADER
    if not path.is_file():
        raise ValueError(f"expected a folder with a streamed transcript, but {folder} has no {HEADER}")
    header = _json(path.read_text(encoding="utf-8"), path)
    if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("content") != "stream":
        raise ValueError(
            f"{path} must describe a streamed transcript of format {FORMAT}, got {brief(header)}; write it "
            "with trainer.run(record=folder)"
        )
    return header


def _whole_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of the index that were written to their end; a cut last line is a round that was not over."""
    path = folder / INDEX
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as index:
        for text in index:
            if not text.endswith("\n"):
                return
            line = _json(text, path)
            lists = ("parts", "senders", "clients")
            if not isinstance(line, dict) or not all(isinstance(line.get(key), list) for key in lists):
                raise ValueError(f"a line of {path} must hold the lists {lists}, got {brief(line)}")
            yield line


def _parts(folder: Path, line: dict[str, Any]) -> list[_Part]:
    """The files of one round, with the sizes that they had when the round was over."""
    found = []
    for part in line["parts"]:
        if not (
            isinstance(part, list)
            and len(part) == 3
            and _is_part_name(part[0])
            and all(type(number) is int and number >= 1 for number in part[1:])
        ):
            raise ValueError(f"{folder / INDEX}: a part must be [file, bytes, exchanges], got {brief(part)}")
        path = folder / part[0]
        size = path.stat().st_size if path.is_file() else None
        if size != part[1]:
            raise ValueError(f"{path} must have {part[1]} bytes, got {size}; it was cut off or changed")
        found.append(_Part(part[0], part[2]))
    return found


def _is_part_name(name: Any) -> bool:
    """Whether it is a name that `TranscriptWriter` gives: nothing outside the folder can be named."""
    return isinstance(name, str) and name.endswith(".safetensors") and name[:-12].isdigit() and name.isascii()


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not whole JSON ({error!s:.200}); was it cut off or changed?") from error
