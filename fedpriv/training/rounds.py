"""One round from the server's side: whom it asks, what crosses the wire, what it keeps in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from fedpriv.defenses import Aggregator, Context, Report
from fedpriv.defenses.pipeline import apply_all
from fedpriv.defenses.secure_aggregation import SecureAggregation
from fedpriv.engines.base import OPERATIONS, Engine, Fault, Request, Visit
from fedpriv.training.clients import WEIGHTINGS, Client
from fedpriv.training.local import LocalTraining
from fedpriv.training.owners import Owners, from_vector
from fedpriv.training.replies import answers
from fedpriv.training.state import RoundResult, ServerState, as_sent
from fedpriv.wire import Exchange, FrozenTensors, Tensors, Update
from fedpriv.wire.update import Kind

AGGREGATOR = "aggregator"
_OPERATION = {kind: operation for operation, kind in OPERATIONS.items()}


@dataclass(kw_only=True)
class Log:
    """What happened in a round; with ``record=False`` only losses and faults, so that memory stays flat.

    `sink` takes every exchange as soon as it is over; by default they are kept here.
    """

    record: bool
    sink: Callable[[Exchange], None] | None = None
    exchanges: list[Exchange] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def add(self, visit: Visit) -> None:
        """Note what the owner's side tells those who play both sides."""
        self.losses.append(visit.loss)
        self.keep(visit.reports)

    def keep(self, reports: Sequence[Report]) -> None:
        """Note what defenses did."""
        if self.record and self.sink is None:
            self.reports.extend(reports)

    def exchange(self, sent: FrozenTensors, update: Update, messages: tuple[bytes, ...] = ()) -> None:
        """Note what crossed the wire."""
        if not self.record:
            return
        over = Exchange(sent=sent, update=update, messages=messages)
        (self.exchanges.append if self.sink is None else self.sink)(over)

    def result(self) -> RoundResult:
        """The log, frozen."""
        return RoundResult(
            exchanges=tuple(self.exchanges),
            losses=tuple(self.losses),
            reports=tuple(self.reports),
            faults=tuple(self.faults),
        )


class WeightedMean:
    """A running weighted sum in float64, so that no client's tensors are kept."""

    def __init__(self) -> None:
        self.total = 0.0
        self._sum: dict[str, torch.Tensor] = {}
        self._dtypes: dict[str, torch.dtype] = {}

    def add(self, tensors: Tensors, weight: float) -> None:
        """Add ``weight * tensors``."""
        self.total += weight
        for name, tensor in tensors.items():
            term = weight * tensor.double()
            self._sum[name] = self._sum[name] + term if name in self._sum else term
            self._dtypes[name] = tensor.dtype

    def value(self, *, of_total: bool = False) -> dict[str, torch.Tensor]:
        """The sum (over the sum of the weights) in the tensors' dtypes; batch counters are rounded."""
        scale = 1 / self.total if of_total and self._sum else 1.0
        return {
            name: (sum_ * scale if self._dtypes[name].is_floating_point else (sum_ * scale).round()).to(
                self._dtypes[name]
            )
            for name, sum_ in self._sum.items()
        }


@dataclass(frozen=True, kw_only=True)
class Round:
    """The tools of one round, which a schedule puts in order.

    Parameters
    ----------
    number : int
        From 0.
    engine : Engine
        What brings requests to clients.
    owners : Owners
        The clients' side, as far as it lives in this process: what each runs, and its defenses.
    weighting : str
        A key of `WEIGHTINGS`.
    generator : torch.Generator
        All randomness of the round.
    log : Log
        Where exchanges, losses, reports and faults go.
    min_answers : int or None
        How many clients must answer properly; None stops at the first fault.
    """

    number: int
    engine: Engine
    owners: Owners
    weighting: str
    generator: torch.Generator
    log: Log
    min_answers: int | None = None

    @property
    def training(self) -> LocalTraining:
        """What each client runs."""
        return self.owners.training

    def pack(self, state: ServerState) -> FrozenTensors:
        """What the server puts on the wire; pack once and every client's record shares the same copy."""
        return as_sent(self.training.model, state)

    def ask(self, client: Client, sent: FrozenTensors, kind: Kind) -> dict[str, torch.Tensor]:
        """Send the model to `client`, record what comes back, and return it; nothing if it is left out."""
        found = list(self._exchanges([client], sent, kind, tell_samples=False))
        return dict(found[0].tensors) if found else {}

    def ask_for_mean(
        self, clients: Sequence[Client], sent: FrozenTensors, kind: Kind
    ) -> dict[str, torch.Tensor]:
        """Send the model to everyone and return sum_k weight_k * answer_k, through the aggregator if any.

        The weights of those who answered are divided by their sum if somebody was left out.
        """
        weights = WEIGHTINGS[self.weighting](clients)
        if self.owners.pipeline.aggregator is not None:
            return self._aggregated(self.owners.pipeline.aggregator, clients, weights, sent, kind)
        mean, count = WeightedMean(), 0
        for update in self._exchanges(clients, sent, kind, tell_samples=self.weighting == "samples"):
            mean.add(update.tensors, weights[update.sender])
            count += 1
        return mean.value(of_total=count < len(clients))

    def demand_answers(self) -> None:
        """Raise a ``ValueError`` if too few clients have answered properly in this round."""
        got = len(self.log.losses)
        if self.min_answers is not None and got < self.min_answers:
            reasons = "; ".join(f"{fault.client!r} {fault.reason}" for fault in self.log.faults)
            raise ValueError(
                f"round {self.number}: at least {self.min_answers} clients must answer properly, got {got}; "
                f"{reasons:.500}"
            )

    def _exchanges(
        self, clients: Sequence[Client], sent: FrozenTensors, kind: Kind, *, tell_samples: bool
    ) -> Iterator[Update]:
        """Ask `clients`, record what comes back, and yield it."""
        requests = [self._request(client, sent, kind, tell_samples=tell_samples) for client in clients]
        for item in answers(self.engine, requests, self.owners, self.training.model):
            if isinstance(item, Fault):
                self._note(item)
                continue
            update, visit = item
            self.log.add(visit)
            self.log.exchange(sent, update)
            yield update

    def _aggregated(
        self,
        aggregator: Aggregator,
        clients: Sequence[Client],
        weights: dict[str, float],
        sent: FrozenTensors,
        kind: Kind,
    ) -> dict[str, torch.Tensor]:
        """The mean from an aggregator; no single client's update reaches the server or the record."""
        vectors = {}
        for client in clients:
            try:
                request = self._request(client, sent, kind)
                vectors[client.name], visit = self.owners.contribution(request)
                self.log.add(visit)
            except ValueError as error:  # noqa: PERF203 (one client must not stop the others)
                self._note(Fault(client=client.name, reason=str(error), round=self.number, error=error))
        self.demand_answers()
        if len(vectors) < len(clients):
            total = sum(weights[name] for name in vectors)
            weights = {name: weights[name] / total for name in vectors}
        context = Context(
            round=self.number,
            client=AGGREGATOR,
            contributors=tuple(weights),
            largest_weight=max(weights.values()),
            generator=self.generator,
            memory=self.owners.memory.setdefault("on_aggregate", {}),
        )
        if isinstance(aggregator, SecureAggregation):  # it may lose clients on the way
            outcome = aggregator.aggregate(vectors, weights, context)
            mean, report, messages = outcome.mean, outcome.report, outcome.messages
            context = replace(
                context, contributors=outcome.contributors, largest_weight=outcome.largest_weight
            )
        else:
            (mean, report), messages = aggregator.combine(vectors, weights, context), ()
        mean, reports = apply_all(self.owners.pipeline.on_aggregate, mean, context)
        self.log.keep([report, *reports])
        update = Update(
            kind=kind,
            tensors=from_vector(mean, sent, kind),
            sender=AGGREGATOR,
            contributors=context.contributors,
            round=self.number,
            num_samples=sum(c.num_samples for c in clients if c.name in context.contributors)
            if self.weighting == "samples"
            else None,
        )
        self.log.exchange(sent, update, messages)
        return dict(update.tensors)

    def _request(
        self, client: Client, sent: FrozenTensors, kind: Kind, *, tell_samples: bool = False
    ) -> Request:
        return Request(
            id=f"{self.number}/{client.name}",
            client=client.name,
            operation=_OPERATION[kind],
            state=sent,
            round=self.number,
            parameters={
                "lr": self.training.lr,
                "local_steps": self.training.local_steps,
                "batch_size": self.training.batch_size,
            },
            tell_samples=tell_samples,
        )

    def _note(self, fault: Fault) -> None:
        """Stop with a sentence, or note the fault and go on, as `min_answers` says."""
        if self.min_answers is None:
            raise ValueError(f"round {self.number}, client {fault.client!r}: {fault.reason}") from fault.error
        self.log.faults.append(fault)
