"""All that crossed the wire in one training run, in order."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from fedpriv.wire.knowledge import Knowledge
from fedpriv.wire.observation import LossFn, Observation
from fedpriv.wire.tensors import FrozenTensors, Tensors
from fedpriv.wire.update import Update

if TYPE_CHECKING:
    from os import PathLike


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One visit: the model that went out and the update that came back for it.

    Parameters
    ----------
    sent : mapping of str to Tensor
        Parameters and buffers that the server sent.
    update : Update
        What it got back, from one client or from an aggregator.
    messages : tuple of bytes
        What else the server saw on the way to `update`: the messages of a secure aggregation, as they were
        on the wire. `fedpriv.defenses.secure_aggregation.ServerView` reads them.
    """

    sent: Tensors
    update: Update
    messages: tuple[bytes, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        """Freeze what was sent."""
        if not all(isinstance(message, bytes) for message in self.messages):
            raise ValueError("the messages of an exchange must be bytes, got something else")
        object.__setattr__(self, "sent", FrozenTensors(self.sent, what="the model that was sent"))
        object.__setattr__(self, "messages", tuple(self.messages))


class Transcript:
    """What the server saw, in order: it is all that an attack may use. Frozen.

    Parameters
    ----------
    exchanges : iterable of Exchange
        Every visit.
    model : nn.Module
        The architecture (its current values do not matter); copied.
    loss_fn : callable
        The loss that every client minimized.
    knowledge : Knowledge, optional
        The public settings of the training.

    Examples
    --------
    >>> import torch
    >>> model = nn.Linear(1, 1)
    >>> step = {name: tensor - 1 for name, tensor in model.state_dict().items()}
    >>> update = Update(kind="parameters", tensors=step, sender="bob")
    >>> visits = [Exchange(sent=model.state_dict(), update=update)]
    >>> transcript = Transcript(visits, model=model, loss_fn=nn.functional.mse_loss)
    >>> transcript.clients, len(transcript.updates(client="bob"))
    (('bob',), 1)
    """

    __slots__ = ("_exchanges", "_parts")

    def __init__(
        self,
        exchanges: Iterable[Exchange],
        *,
        model: nn.Module,
        loss_fn: LossFn,
        knowledge: Knowledge | None = None,
    ) -> None:
        self._exchanges = tuple(exchanges)
        if not all(isinstance(exchange, Exchange) for exchange in self._exchanges):
            raise ValueError("a transcript is made of Exchange(sent=..., update=...), got something else")
        self._parts = (copy.deepcopy(model), loss_fn, knowledge or Knowledge())

    @property
    def model(self) -> nn.Module:
        """The architecture that was trained."""
        return self._parts[0]

    @property
    def loss_fn(self) -> LossFn:
        """The loss that every client minimized."""
        return self._parts[1]

    @property
    def knowledge(self) -> Knowledge:
        """The public settings of the training."""
        return self._parts[2]

    @property
    def senders(self) -> tuple[str, ...]:
        """Everyone who handed an update to the server, in order of appearance."""
        return tuple(dict.fromkeys(exchange.update.sender for exchange in self))

    @property
    def clients(self) -> tuple[str, ...]:
        """Everyone whose data influenced an update, in order of appearance."""
        return tuple(dict.fromkeys(name for exchange in self for name in exchange.update.contributors))

    def updates(self, client: str | None = None) -> list[Update]:
        """What the server received from `client` alone (or from everyone), in order.

        A client whose updates were averaged by an aggregator before they reached the server gives an empty
        list: nothing of it alone crossed the wire. The pooled updates are those of ``"aggregator"``.

        Raises
        ------
        ValueError
            If nobody of that name took part.
        """
        return [exchange.update for exchange in self._visits(client)]

    def observations(self, client: str | None = None) -> list[Observation]:
        """The same visits, each with the model that it answers: what an attack is given."""
        model, loss_fn, knowledge = self._parts
        return [Observation(model, e.update, loss_fn, knowledge, state=e.sent) for e in self._visits(client)]

    def _visits(self, client: str | None) -> list[Exchange]:
        if client is not None and client not in self.senders and client not in self.clients:
            known = list(dict.fromkeys((*self.senders, *self.clients)))
            raise ValueError(f"client must be one of {known}, got {client!r}")
        return list(self._matching(client))

    def _matching(self, sender: str | None) -> Iterator[Exchange]:
        """The exchanges with updates that `sender` handed over (or all of them), in order."""
        return (e for e in self if sender is None or e.update.sender == sender)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write to one safetensors file, described by JSON in its header; see `fedpriv.wire.storage`."""
        from fedpriv.wire.storage import save_transcript

        return save_transcript(self, path)

    @classmethod
    def load(
        cls, path: str | PathLike[str], *, model: nn.Module | None = None, loss_fn: LossFn | None = None
    ) -> Transcript:
        """Read what `save` wrote; `model` and `loss_fn` are needed where the file cannot name them.

        A folder that a run streamed to (``record=folder``) gives a transcript that stays on disk.
        """
        from fedpriv.wire.storage import load_transcript
        from fedpriv.wire.stream import StreamedTranscript

        if Path(path).is_dir():
            return StreamedTranscript(path, model=model, loss_fn=loss_fn)
        return load_transcript(path, model=model, loss_fn=loss_fn)

    def __len__(self) -> int:
        return len(self._exchanges)

    def __iter__(self) -> Iterator[Exchange]:
        return iter(self._exchanges)

    def __repr__(self) -> str:
        return f"Transcript({len(self)} exchanges with {', '.join(self.senders) or 'nobody'})"
