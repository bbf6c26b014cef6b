"""The same for strategies of Flower's older interface, `flwr.server.strategy`, which SecAgg+ still needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord
from flwr.common import EvaluateIns, EvaluateRes, FitIns, FitRes, Parameters, Scalar, parameters_to_ndarrays
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import Strategy
from torch import nn

from fedpriv.engines.flower.recorder import Recorded, Recorder
from fedpriv.wire import Knowledge
from fedpriv.wire.observation import LossFn
from fedpriv.wire.update import Kind

Failures = list[tuple[ClientProxy, FitRes] | BaseException]


class CuriousLegacyStrategy(Recorded, Strategy):
    """Wraps a strategy of `flwr.server.strategy`; parameters and attributes are those of `CuriousStrategy`.

    Behind `SecAggPlusWorkflow` a strategy gets the mean alone, once for every client: such a round is
    recorded as one update of ``"aggregator"``. Faulty answers are noted, and left out of the record and of
    the aggregation.
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
    ) -> None:
        if not isinstance(strategy, Strategy):
            raise ValueError(
                f"strategy must be one of flwr.server.strategy, got {type(strategy).__module__}."
                f"{type(strategy).__name__}; for strategies of flwr.serverapp.strategy use CuriousStrategy"
            )
        self.strategy = strategy
        self.recorder = Recorder(
            model=model, loss_fn=loss_fn, knowledge=knowledge, names=names, kind=kind, path=path
        )

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters | None:
        """The wrapped strategy's."""
        return self.strategy.initialize_parameters(client_manager)

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Write down what the wrapped strategy sends."""
        chosen = self.strategy.configure_fit(server_round, parameters, client_manager)
        records: dict[int, ArrayRecord] = {}
        for _, instructions in chosen:
            if id(instructions.parameters) not in records:
                records[id(instructions.parameters)] = _record(instructions.parameters)
        self.recorder.start(server_round - 1, {p.node_id: records[id(i.parameters)] for p, i in chosen})
        return chosen

    def aggregate_fit(
        self, server_round: int, results: list[tuple[ClientProxy, FitRes]], failures: Failures
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """Write down every answer, then let the wrapped strategy work with those that can be used."""
        pooled = len(results) > 1 and len({id(answer.parameters) for _, answer in results}) == 1
        if pooled:
            nodes = [proxy.node_id for proxy, _ in results]
            told = sum(answer.num_examples for _, answer in results)  # SecAgg+ does not hide the numbers
            mean = _record(results[0][1].parameters)
            reason = self.recorder.take_mean(nodes, mean, told if told >= 1 else None)
            usable = [] if reason else results
        else:
            usable = [(proxy, answer) for proxy, answer in results if self._take(proxy, answer) is None]
        for failure in failures:
            if not isinstance(failure, BaseException):
                self.recorder.fault(failure[0].node_id, failure[1].status.message or "failed")
        self.recorder.finish()
        return self.strategy.aggregate_fit(server_round, usable, failures)

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """The wrapped strategy's."""
        return self.strategy.configure_evaluate(server_round, parameters, client_manager)

    def aggregate_evaluate(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, EvaluateRes]],
        failures: list[tuple[ClientProxy, EvaluateRes] | BaseException],
    ) -> tuple[float | None, dict[str, Scalar]]:
        """The wrapped strategy's."""
        return self.strategy.aggregate_evaluate(server_round, results, failures)

    def evaluate(self, server_round: int, parameters: Parameters) -> tuple[float, dict[str, Scalar]] | None:
        """The wrapped strategy's."""
        return self.strategy.evaluate(server_round, parameters)

    def __getattr__(self, name: str) -> Any:
        """Other settings are those of the wrapped strategy."""
        if name.startswith("__") or name == "strategy":
            raise AttributeError(name)
        return getattr(self.strategy, name)

    def __repr__(self) -> str:
        return f"CuriousLegacyStrategy({type(self.strategy).__name__}, {self.recorder.count} exchanges)"

    def _take(self, proxy: ClientProxy, answer: FitRes) -> str | None:
        told = answer.num_examples if answer.num_examples >= 1 else None
        return self.recorder.take(proxy.node_id, _record(answer.parameters), told)


def _record(parameters: Parameters) -> ArrayRecord:
    """Flower's older parameters are a list of arrays without names."""
    return ArrayRecord(parameters_to_ndarrays(parameters))
