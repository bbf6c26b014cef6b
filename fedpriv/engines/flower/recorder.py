"""What a curious server writes down: every model that it sends and every answer that it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from fedpriv.wire import Exchange, FrozenTensors, Knowledge, Transcript, Update
from fedpriv.wire.loaders import from_array_record
from fedpriv.wire.observation import LossFn
from fedpriv.wire.stream import TranscriptWriter
from fedpriv.wire.update import KINDS, Kind


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that a client did wrong, in one sentence.

    Parameters
    ----------
    round : int
        From 0.
    client : str
    reason : str
    """

    round: int
    client: str
    reason: str

    def __str__(self) -> str:
        return f"round {self.round}, client {self.client!r}: {self.reason}"


class Recorder:
    """Records rounds, with checks. Parameters as in `CuriousStrategy`."""

    def __init__(
        self,
        *,
        model: nn.Module | None,
        loss_fn: LossFn | None,
        knowledge: Knowledge | None,
        names: Mapping[int, str] | None,
        kind: Kind,
        path: str | Path | None,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
        if path is not None and (model is None or loss_fn is None):
            raise ValueError(
                "a transcript on disk names its model and loss, got a path without them; pass model=net, "
                "loss_fn=cross_entropy"
            )
        self.model, self.loss_fn, self.kind = model, loss_fn, kind
        self.knowledge = knowledge or Knowledge()
        self.path = None if path is None else Path(path)
        self.faults: list[Fault] = []
        self.exchanges: list[Exchange] = []
        self.count = 0
        self._writer: TranscriptWriter | None = None
        self._names = dict(names or {})
        self._round = 0
        self._asked: dict[int, FrozenTensors] = {}
        self._answered: set[int] = set()

    def name(self, node: int) -> str:
        """What the transcript calls a node."""
        return self._names.get(node, f"node-{node}")

    def start(self, number: int, sent: Mapping[int, Any]) -> None:
        """Open round `number` (from 0): the record of arrays that goes to each node."""
        self._round, self._asked, self._answered = number, {}, set()
        if self._writer is None and self.path is not None and not self.path.suffix:
            model, loss_fn = self._context()
            self._writer = TranscriptWriter(self.path, model=model, loss_fn=loss_fn, knowledge=self.knowledge)
        layout = None if self.model is None else self.model.state_dict()
        frozen: dict[int, FrozenTensors] = {}
        for node, record in sent.items():
            if id(record) not in frozen:  # one model for all is stored once
                tensors = from_array_record(record, layout, what=f"the model that was sent in round {number}")
                frozen[id(record)] = FrozenTensors(tensors)
            self._asked[node] = frozen[id(record)]

    def take(self, node: int, record: Any, num_samples: int | None) -> str | None:
        """Record the answer of `node`; the sentence of what is wrong with it, if anything."""
        if node in self._answered:
            return self.fault(node, "answered twice in one round; only its first answer counts")
        if node not in self._asked:
            return self.fault(node, "answered without being asked; its answer is ignored")
        self._answered.add(node)
        sent = self._asked[node]
        try:
            tensors = from_array_record(record, self._layout(sent), what="the answer")
            update = Update(
                kind=self.kind,
                tensors=tensors,
                sender=self.name(node),
                round=self._round,
                num_samples=num_samples,
            )
        except ValueError as error:
            return self.fault(node, str(error))
        self._keep(Exchange(sent=sent, update=update))
        return None

    def take_mean(self, nodes: Sequence[int], record: Any, num_samples: int | None) -> str | None:
        """Record the one answer that a secure aggregation gave for all `nodes`; as `take`."""
        sent = self._asked[nodes[0]]
        self._answered.update(nodes)
        try:
            tensors = from_array_record(record, self._layout(sent), what="the mean")
        except ValueError as error:
            self.faults.append(Fault(round=self._round, client="aggregator", reason=str(error)))
            return str(self.faults[-1])
        update = Update(
            kind=self.kind,
            tensors={n: t.to(sent[n].dtype) if n in sent else t for n, t in tensors.items()},
            sender="aggregator",
            contributors=tuple(self.name(node) for node in nodes),
            round=self._round,
            num_samples=num_samples,
        )
        self._keep(Exchange(sent=sent, update=update))
        return None

    def fault(self, node: int, reason: str) -> str:
        """Write down that `node` did something wrong, and return the sentence."""
        if node in self._asked:
            self._answered.add(node)
        self.faults.append(Fault(round=self._round, client=self.name(node), reason=reason))
        return str(self.faults[-1])

    def finish(self) -> list[str]:
        """Close the round: who never answered is a fault, and the transcript goes to disk as a whole."""
        silent = [node for node in self._asked if node not in self._answered]
        reasons = [self.fault(node, "did not answer; was it disconnected?") for node in silent]
        if self._writer is not None:
            self._writer.end_round()
        elif self.path is not None and self.exchanges:
            self.transcript().save(self.path)  # written beside and renamed: never half a file
        return reasons

    def learn(self, **settings: Any) -> None:
        """Take over public settings that the server sends along, where none were declared."""
        new = {name: value for name, value in settings.items() if getattr(self.knowledge, name) is None}
        self.knowledge = replace(self.knowledge, **new)

    def transcript(self) -> Transcript:
        """Everything recorded so far."""
        model, loss_fn = self._context()
        if self._writer is not None and self.path is not None:
            return Transcript.load(self.path, model=model, loss_fn=loss_fn)
        return Transcript(self.exchanges, model=model, loss_fn=loss_fn, knowledge=self.knowledge)

    def _keep(self, exchange: Exchange) -> None:
        """In memory, or on disk where a folder was named."""
        self.count += 1
        if self._writer is not None:
            self._writer.write(exchange)
        else:
            self.exchanges.append(exchange)

    def _context(self) -> tuple[nn.Module, LossFn]:
        if self.model is None or self.loss_fn is None:
            raise ValueError(
                "a transcript needs the architecture and the loss; pass them, as in "
                "CuriousStrategy(strategy, model=net, loss_fn=cross_entropy)"
            )
        return self.model, self.loss_fn

    def _layout(self, sent: FrozenTensors) -> dict[str, Any]:
        if self.kind == "parameters" or self.model is None:
            return dict(sent)
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}


class Recorded:
    """What a curious server shows of its `Recorder`."""

    recorder: Recorder

    @property
    def transcript(self) -> Transcript:
        """Everything recorded so far; needs `model` and `loss_fn`."""
        return self.recorder.transcript()

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """The same without a model: what was sent and what came back; empty where it is streamed to disk."""
        return tuple(self.recorder.exchanges)

    @property
    def faults(self) -> list[Fault]:
        """What clients did wrong, in order."""
        return self.recorder.faults
