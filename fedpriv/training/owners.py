"""The owners' side: what a client checks, computes, defends and hands out when a request reaches it.

Every engine brings requests here (or runs this in another process): the answer does not depend on the way
that the request took.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from fedpriv.defenses import Context, Pipeline, Report
from fedpriv.defenses.base import Memory
from fedpriv.defenses.pipeline import apply_all
from fedpriv.defenses.places import fetch, hand_over, release_jointly
from fedpriv.defenses.randomness import given_or_fresh
from fedpriv.engines.base import OPERATIONS, Reply, Request, Visit
from fedpriv.training.clients import Client
from fedpriv.training.local import Answer, LocalTraining
from fedpriv.training.settings import check_count, check_rate
from fedpriv.wire import Tensors
from fedpriv.wire.tensors import check_same_layout
from fedpriv.wire.update import Kind

_NOTHING_ELSE = "nothing but an allowed operation on the agreed model is computed here"


@dataclass(frozen=True, kw_only=True)
class Owners:
    """All data owners of a federation that live in this process.

    Parameters
    ----------
    clients : mapping of str to Client
        Who owns what.
    training : LocalTraining
        The program that they agreed to: model, loss, and defenses inside the steps. A request may set its
        ``lr``, ``local_steps`` and ``batch_size``, nothing else.
    pipeline : Pipeline
        Their defenses.
    generator : torch.Generator or None
        Randomness of batches and defenses; the server never sees it. By default fresh entropy.
    memory : dict
        What the defenses keep from round to round; they write into it.
    allowed : tuple of str
        The allow-list: which of `fedpriv.engines.OPERATIONS` the owners answer at all.

    Raises
    ------
    ValueError
        If the allow-list names an operation that does not exist.
    """

    clients: Mapping[str, Client]
    training: LocalTraining
    pipeline: Pipeline = field(default_factory=Pipeline)
    generator: torch.Generator | None = None
    memory: Memory = field(default_factory=dict, repr=False)
    allowed: tuple[str, ...] = tuple(OPERATIONS)

    def __post_init__(self) -> None:
        """Check the allow-list and fix the randomness."""
        check_allowed(self.allowed)
        object.__setattr__(self, "generator", given_or_fresh(self.generator))

    def answer(self, request: Request) -> Visit:
        """What ``request.client`` sends back, after its own defenses.

        Raises
        ------
        ValueError
            If the client refuses (an operation that is not allowed, another model, bad settings), or cannot
            compute it (the training diverges, the data do not fit the model).
        """
        client = self.check(request)
        work = self._work(client, request)
        if self.pipeline.on_client:
            vector, reports = self._defended(client, request, work.tensors)
            tensors = from_vector(fetch(vector), request.state, request.kind)
        else:
            tensors, reports = fetch(work.tensors), ()
        return Visit(reply=self._reply(request, tensors), loss=work.loss, reports=(*work.reports, *reports))

    def contribution(self, request: Request) -> tuple[dict[str, torch.Tensor], Visit]:
        """What ``request.client`` hands to an aggregator: its defended vector, where its data are.

        The visit beside it carries loss and reports; its reply is empty, for the server gets none.
        """
        client = self.check(request)
        work = self._work(client, request)
        vector, reports = self._defended(client, request, work.tensors)
        return vector, Visit(
            reply=self._reply(request, {}), loss=work.loss, reports=(*work.reports, *reports)
        )

    def release(self, request: Request, tensors: Tensors) -> Visit:
        """The client's defenses for an answer that was computed elsewhere, for example by a job of its own.

        Raises
        ------
        ValueError
            If a defense acts inside the training, where nothing that is finished can be defended any more.
        """
        client = self.check(request)
        inside = [*self.pipeline.on_data, *([self.pipeline.on_step] if self.pipeline.on_step else [])]
        if inside:
            raise ValueError(
                f"a computation that is finished can be defended only as a whole, got the defenses {inside}, "
                "which act inside the training; use defenses on the update such as GaussianNoise"
            )
        if not self.pipeline.on_client:
            return Visit(reply=self._reply(request, tensors))
        vector, reports = self._defended(client, request, tensors)
        return Visit(
            reply=self._reply(request, from_vector(vector, request.state, request.kind)), reports=reports
        )

    def check(self, request: Request) -> Client:
        """The client that is asked; a ``ValueError`` says why it refuses."""
        client = self.clients.get(request.client)
        if client is None:
            raise ValueError(
                f"the request must be for one of {list(self.clients)!s:.200}, got {request.client!r}"
            )
        check_request(request, self.training, self.allowed)
        return client

    def _work(self, client: Client, request: Request) -> Answer:
        """What the client computed, before any defense of the update."""
        context = Context(round=request.round, client=client.name, generator=self.generator)
        training = replace(self.training, **request.parameters)  # type: ignore[arg-type]
        return training.answer(request.kind, request.state, client, context)

    def _defended(
        self, client: Client, request: Request, tensors: Tensors
    ) -> tuple[dict[str, torch.Tensor], tuple[Report, ...]]:
        """The client's answer as a vector, after its own defenses, which act where the answer is."""
        context = Context(
            round=request.round,
            client=client.name,
            generator=self.generator,
            memory=self.memory.setdefault("on_client", {}),
        )
        here = {name: hand_over(request.state[name], client.worker) for name in tensors}
        reports: list[Report] = []

        def defend(vector: Tensors) -> dict[str, torch.Tensor]:
            defended, made = apply_all(self.pipeline.on_client, vector, context)
            reports.extend(made)
            return defended

        vector = to_vector(tensors, here, request.kind)
        if client.worker is None:
            vector = defend(vector)
        elif self.pipeline.on_client:
            vector = release_jointly(vector, client.worker, defend, reason=str(self.pipeline.on_client))
        return vector, tuple(reports)  # without a defense still at the worker, as private as the data

    def _reply(self, request: Request, tensors: Tensors) -> Reply:
        told = self.clients[request.client].num_samples if request.tell_samples else None
        return Reply(request=request.id, client=request.client, tensors=tensors, num_samples=told)


def check_allowed(allowed: tuple[str, ...]) -> None:
    """Raise a ``ValueError`` unless every name of an allow-list is an operation."""
    if not allowed or not set(OPERATIONS).issuperset(allowed):
        raise ValueError(
            f"an allow-list must name some of the operations {list(OPERATIONS)}, got {list(allowed)!r}; no "
            "others exist"
        )


def check_request(request: Request, training: LocalTraining, allowed: tuple[str, ...]) -> None:
    """An owner's look at a request before anything is computed; a ``ValueError`` says what it refuses."""
    if request.operation not in allowed:
        raise ValueError(
            f"{request.client!r} refuses the operation {request.operation!r}: it is not on the allow-list "
            f"{list(allowed)}; {_NOTHING_ELSE}"
        )
    check_same_layout(
        training.model.state_dict(),
        request.state,
        what="the model in a request",
        remedy=f"the server sent another model than agreed: {_NOTHING_ELSE}",
    )
    settings = {"lr", "local_steps", "batch_size"}
    surplus = sorted(set(request.parameters) - settings)
    if surplus:
        raise ValueError(f"a request may set {sorted(settings)}, got {surplus} as well; {_NOTHING_ELSE}")
    for name, value in request.parameters.items():
        if name == "lr":
            check_rate(value)
        elif not (name == "batch_size" and value is None):
            check_count(name, value)


def to_vector(tensors: Tensors, sent: Tensors, kind: Kind) -> dict[str, torch.Tensor]:
    """The answer as defenses see it: a gradient as it is, parameters and buffers as after - before.

    Batch-norm statistics leak data as gradients do, so they are part of the vector. Whole-number buffers
    (batch counters) cannot be clipped or noised: where a defense acts they stay at the client.
    """
    if kind == "gradient":
        return dict(tensors)
    return {name: after - sent[name] for name, after in tensors.items() if after.is_floating_point()}


def from_vector(vector: Tensors, sent: Tensors, kind: Kind) -> dict[str, torch.Tensor]:
    """The inverse of `to_vector`: what goes on the wire."""
    if kind == "gradient":
        return dict(vector)
    return {name: sent[name] + difference for name, difference in vector.items()}
