"""All of a Flower run in one process: no network, no ray, no waiting. For classrooms and tests.

The server's side and the clients' side are separated by copies of messages alone, so this shows *what* is
sent, not how it is protected on the way: whoever runs the process can see everything.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from logging import DEBUG

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import log
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

SERVER = 1
RUN = 1
Answer = Callable[[Message, Context], Message | None]
"""A ClientApp, or any function in its place; None stands for a client that does not answer."""


class InProcessGrid(Grid):
    """Hands each message to the client's app and returns its answer.

    Parameters
    ----------
    clients : mapping of int to (callable, Context)
        Node id to the app that answers there and the context that it keeps from message to message.

    Notes
    -----
    An app that raises answers with Flower's error message, as in a deployment. Flower's messages ask a value
    that Flower keeps to itself who and where they are (`TaskIdentity`); it is set here for each side in turn.
    """

    def __init__(self, clients: Mapping[int, tuple[Answer, Context]]) -> None:
        self.clients = dict(clients)
        self._numbers = count(1)
        self._waiting: dict[str, Message | None] = {}
        self._be(SERVER)

    def _be(self, node: int) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = node, RUN, node

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002 (Flower's interface)
    ) -> list[Message]:
        """The answers, in the order of the messages; nobody is waited for."""
        return self.pull_messages(self.push_messages(messages))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hand every message to its client now, and keep the answers."""
        identifiers = []
        for message in messages:
            identifier = str(next(self._numbers))
            # Flower itself does this when a message is stored; the answer then names the question.
            message.metadata.__dict__["_message_id"] = identifier
            self._waiting[identifier] = self._answer(message)
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The answers to these messages, as far as there are any."""
        answers = [self._waiting.pop(identifier, None) for identifier in message_ids]
        return [answer for answer in answers if answer is not None]

    def get_node_ids(self) -> list[int]:
        """Everybody takes part from the start."""
        return list(self.clients)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Flower's deprecated way to write a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def set_run(self, run: Run) -> None:
        """Nothing to set: there is one run."""

    @property
    def run(self) -> Run:
        """The one run."""
        return Run.create_empty(RUN)

    def _answer(self, message: Message) -> Message | None:
        node = message.metadata.dst_node_id
        if node not in self.clients:
            return Message(Error(ErrorCode.UNKNOWN, f"there is no node {node}"), reply_to=message)
        app, context = self.clients[node]
        received = copy.deepcopy(message)  # a client must not write into what the server holds
        self._be(node)
        try:
            answer = app(received, context)
        except Exception as error:  # whatever a client's own code raises
            log(DEBUG, "node %s raised", node, exc_info=True)
            reason = f"{type(error).__name__}: {error}"
            answer = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=received)
        finally:
            self._be(SERVER)
        return copy.deepcopy(answer)


def context_for(
    node: int,
    *,
    partition: int | None = None,
    of: int = 1,
    run_config: Mapping[str, bool | float | int | str] | None = None,
) -> Context:
    """A context as Flower's simulation gives it: ``partition-id`` and ``num-partitions`` for a client."""
    given: UserConfig = {"partition-id": partition or 0, "num-partitions": of}
    config: UserConfig = {} if partition is None else given
    return Context(
        run_id=RUN,
        node_id=node,
        node_config=config,
        state=RecordDict(),
        run_config=dict(run_config or {}),
        series_id=RUN,
    )


def run_in_process(
    server_app: ServerApp,
    client_app: Answer | ClientApp,
    *,
    num_clients: int = 2,
    run_config: Mapping[str, bool | float | int | str] | None = None,
) -> Context:
    """Run a ServerApp and a ClientApp, as they are, in this process.

    Parameters
    ----------
    server_app : flwr.serverapp.ServerApp
    client_app : flwr.clientapp.ClientApp
        The same app for every client; it finds its number in ``context.node_config["partition-id"]``.
    num_clients : int, default 2
    run_config : mapping, optional
        What ``context.run_config`` holds on both sides: the values of ``[tool.flwr.app.config]``.

    Returns
    -------
    flwr.app.Context
        The server's, with whatever the ServerApp left in its state.

    Raises
    ------
    ValueError
        If there is no client.
    """
    if isinstance(num_clients, bool) or not isinstance(num_clients, int) or num_clients < 1:
        raise ValueError(f"num_clients must be a whole number of 1 or more, got {num_clients!r}")
    nodes = range(SERVER + 1, SERVER + 1 + num_clients)
    clients = {
        node: (client_app, context_for(node, partition=k, of=num_clients, run_config=run_config))
        for k, node in enumerate(nodes)
    }
    grid, context = InProcessGrid(clients), context_for(SERVER, run_config=run_config)
    server_app(grid, context)
    return context
