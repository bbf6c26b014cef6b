"""A server that does its work and reads along: a strategy around any other strategy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from logging import WARNING
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore import log
from torch import nn

from fedpriv.engines.flower.arrays import only_record
from fedpriv.engines.flower.recorder import Recorded, Recorder
from fedpriv.wire import Knowledge
from fedpriv.wire.observation import LossFn
from fedpriv.wire.update import Kind

_RATES = ("lr", "learning-rate", "learning_rate")


class CuriousStrategy(Recorded, Strategy):
    """Wraps any Flower strategy and records what the server sees, as a fedpriv transcript.

    Parameters
    ----------
    strategy : flwr.serverapp.strategy.Strategy
        Does all the work; nothing that it gets or returns is changed, but for answers that no strategy could
        use: they become Flower's error messages, so that the round goes on without them.
    model : nn.Module, optional
        The architecture; needed for `transcript` and `path`.
    loss_fn : callable, optional
        ``loss_fn(outputs, targets)`` as the clients use it; needed for `transcript` and `path`.
    knowledge : Knowledge, optional
        What else the server knows. A learning rate in the config that it sends (``lr``) is added.
    names : mapping of int to str, optional
        Node id to the client's name in the transcript; by default ``node-`` and the id.
    kind : {"parameters", "gradient"}
        What the clients return.
    path : path, optional
        ``NAME.safetensors``: one file, rewritten after every round, always whole. A name without a suffix: a
        new folder into which the exchanges are streamed, so that memory stays flat. Either way a run that is
        killed leaves the transcript up to its last whole round.
    arrays_key : str, optional
        Which record of a message, if it holds several; by default the wrapped strategy's.

    Attributes
    ----------
    faults : list of Fault
        Clients that did not answer, answered twice, or answered with NaN, other shapes, or other parameters.

    Examples
    --------
    >>> from flwr.serverapp.strategy import FedAvg
    >>> CuriousStrategy(FedAvg())
    CuriousStrategy(FedAvg, 0 exchanges)
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        model: nn.Module | None = None,
        loss_fn: LossFn | None = None,
        knowledge: Knowledge | None = None,
        names: Mapping[int, str] | None = None,
        kind: Kind = "parameters",
        path: str | Path | None = None,
        arrays_key: str | None = None,
    ) -> None:
        if not isinstance(strategy, Strategy):
            raise ValueError(
                f"strategy must be one of flwr.serverapp.strategy, such as FedAvg(), got "
                f"{type(strategy).__module__}.{type(strategy).__name__}; for strategies of "
                "flwr.server.strategy use CuriousLegacyStrategy"
            )
        self.strategy = strategy
        self.arrays_key = arrays_key or getattr(strategy, "arrayrecord_key", None)
        self.recorder = Recorder(
            model=model, loss_fn=loss_fn, knowledge=knowledge, names=names, kind=kind, path=path
        )
        self._questions: dict[int, Message] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Write down what the wrapped strategy sends."""
        messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        self._questions = {m.metadata.dst_node_id: m for m in messages}
        rates = [config[key] for key in _RATES if isinstance(config.get(key), float)]
        if rates and float(str(rates[0])) > 0:
            self.recorder.learn(learning_rate=float(str(rates[0])))
        records = {
            node: only_record(m.content, self.arrays_key, "a message") for node, m in self._questions.items()
        }
        self.recorder.start(server_round - 1, records)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Write down every answer, then let the wrapped strategy work with those that can be used."""
        looked_at = [self._look(reply) for reply in replies]
        for reason in self.recorder.finish():
            log(WARNING, "%s", reason)
        return self.strategy.aggregate_train(server_round, [m for m in looked_at if m is not None])

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The wrapped strategy's."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The wrapped strategy's."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """The wrapped strategy's."""
        self.strategy.summary()

    def __getattr__(self, name: str) -> Any:
        """Other settings are those of the wrapped strategy."""
        if name.startswith("__") or name == "strategy":
            raise AttributeError(name)
        return getattr(self.strategy, name)

    def __repr__(self) -> str:
        return f"CuriousStrategy({type(self.strategy).__name__}, {self.recorder.count} exchanges)"

    def _look(self, reply: Message) -> Message | None:
        """The reply if it can be used; Flower's error message in its place; None if nobody asked for it."""
        node = reply.metadata.src_node_id
        if reply.has_error():
            self.recorder.fault(node, reply.error.reason or f"failed with code {reply.error.code}")
            return reply
        try:
            record = only_record(reply.content, self.arrays_key, "the answer")
        except ValueError as error:
            reason: str | None = self.recorder.fault(node, str(error))
        else:
            reason = self.recorder.take(node, record, self._num_samples(reply))
        if reason is None:
            return reply
        log(WARNING, "%s", reason)
        if node not in self._questions:
            return None
        return Message(Error(code=ErrorCode.UNKNOWN, reason=reason), reply_to=self._questions[node])

    def _num_samples(self, reply: Message) -> int | None:
        """The number of samples that the client tells as its weight, if it is one."""
        key = getattr(self.strategy, "weighted_by_key", "num-examples")
        for metrics in reply.content.metric_records.values():
            value = metrics.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
                return value
        return None
