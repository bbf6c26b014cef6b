"""`FlowerEngine`: fedpriv's trainer over Flower's messages, apps and mods, in one process."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.app import Context as FlowerContext
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from flwr.common.constant import ErrorCode

from fedpriv.engines.base import Engine, Fault, Reply, Request, Visit
from fedpriv.engines.flower.arrays import from_record, to_record
from fedpriv.engines.flower.grid import SERVER, InProcessGrid, context_for
from fedpriv.engines.text import settings_of

if TYPE_CHECKING:
    from fedpriv.training.owners import Owners


class FlowerEngine(Engine):
    """Every request is a Flower message, every owner a ClientApp; the server reads the answers' records.

    Parameters
    ----------
    mods : sequence of Mod
        Flower's own mods around every owner's app, for example ``LocalDpMod(...)``.

    Notes
    -----
    One process: workflow and format of a Flower run, not its isolation. For real processes see `Loopback`.

    Examples
    --------
    >>> FlowerEngine()
    FlowerEngine()
    """

    name: ClassVar[str] = "flower"

    def __init__(self, *, mods: Sequence[Mod] = ()) -> None:
        self.mods = tuple(mods)
        self._contexts: dict[str, FlowerContext] = {}

    def ask(self, requests: Sequence[Request], owners: Owners) -> Iterator[Visit | Fault]:
        """Send each request through the grid and read what comes back."""
        for request in requests:
            aside: dict[str, Visit] = {}
            errors: list[ValueError] = []
            app = _app(owners, self.mods, aside, errors)
            node = SERVER + 1 + list(owners.clients).index(request.client)
            context = self._contexts.setdefault(request.client, context_for(node, partition=node - 2))
            grid = InProcessGrid({node: (app, context)})
            message = Message(content=_content(request), dst_node_id=node, message_type="train")
            (answer,) = grid.send_and_receive([message])
            if answer.has_error():
                reason = errors[0] if errors else None
                yield Fault(
                    client=request.client,
                    reason=str(reason or answer.error.reason),
                    round=request.round,
                    error=reason,
                )
                continue
            seen = aside[request.client]
            yield Visit(reply=_reply(answer), loss=seen.loss, reports=seen.reports)

    def close(self) -> None:
        """Forget what the clients' mods kept."""
        self._contexts.clear()


def _app(owners: Owners, mods: Sequence[Mod], aside: dict[str, Visit], errors: list[ValueError]) -> ClientApp:
    """An owner's side. Loss and reports go aside, for the classroom; only the message is sent."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message: Message, context: FlowerContext) -> Message:  # noqa: ARG001 (Flower's interface)
        try:
            visit = owners.answer(_request(message))
        except ValueError as error:
            errors.append(error)
            return Message(
                Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=str(error)), reply_to=message
            )
        aside[visit.reply.client] = visit
        told = {} if visit.reply.num_samples is None else {"num-examples": visit.reply.num_samples}
        answer = ConfigRecord({"request": visit.reply.request, "client": visit.reply.client, **told})
        content = RecordDict({"arrays": to_record(visit.reply.tensors), "answer": answer})
        return Message(content, reply_to=message)

    return app


def _content(request: Request) -> RecordDict:
    config = ConfigRecord({"request": json.dumps(settings_of(request))})
    return RecordDict({"arrays": to_record(request.state), "config": config})


def _request(message: Message) -> Request:
    settings = json.loads(str(message.content.config_records["config"]["request"]))
    record = message.content.array_records["arrays"]
    return Request(state=from_record(record, what="the model in a request"), **settings)


def _reply(answer: Message) -> Reply:
    """What the server reads off the wire; `fedpriv.training.replies` checks it against the request."""
    settings = answer.content.config_records["answer"]
    told = settings.get("num-examples")
    return Reply(
        request=str(settings["request"]),
        client=str(settings["client"]),
        tensors=from_record(answer.content.array_records["arrays"], what="the answer"),
        num_samples=told if isinstance(told, int) else None,
    )
