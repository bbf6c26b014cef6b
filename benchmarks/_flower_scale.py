"""Flower with many clients: seconds a visit with and without a curious strategy, and in ray's simulation."""

from __future__ import annotations

import importlib.util
import logging
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from torch import nn

CLIENTS, ROUNDS, TURNS = (2, 10, 50, 100), 2, 3


def rows(*, quick: bool) -> list[dict[str, Any]]:
    """One row for each number of clients; none where Flower is not installed.

    Every client sends the model back as it came, so that the time is that of messages and record alone.
    """
    if importlib.util.find_spec("flwr") is None:
        return []
    import fedpriv.engines.flower  # noqa: F401 (imports cost seconds, and are not measured)

    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        measured = [_in_process(clients) for clients in (CLIENTS[:2] if quick else CLIENTS)]
        if not quick and importlib.util.find_spec("ray") is not None:
            measured += [_simulated(clients) for clients in CLIENTS]
    finally:
        logger.setLevel(level)
    return measured


def model() -> nn.Module:
    """About 200,000 parameters."""
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))


def apps(path: Path | None) -> tuple[Any, Any]:
    """A server, curious if it gets a path, and clients that answer at once."""
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg

    from fedpriv.engines.flower import CuriousStrategy

    net, server, clients = model(), ServerApp(), ClientApp()
    plain = FedAvg(fraction_evaluate=0.0)
    strategy = plain if path is None else CuriousStrategy(plain, model=net, loss_fn=nn.MSELoss(), path=path)

    @clients.train()
    def train(message: Message, context: Any) -> Message:  # noqa: ARG001 (Flower's interface)
        content = {"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=message)

    @server.main()
    def main(grid: Any, context: Any) -> None:  # noqa: ARG001 (Flower's interface)
        strategy.start(grid, ArrayRecord(dict(net.state_dict())), num_rounds=ROUNDS)

    return server, clients


def _in_process(clients: int) -> dict[str, Any]:
    """CPU seconds, the fastest of some turns that alternate between plain and curious."""
    from fedpriv.engines.flower import run_in_process

    best = {"plain": float("inf"), "curious": float("inf")}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(TURNS):
            for name in best:
                path = Path(folder) / f"{turn}" if name == "curious" else None
                start = time.process_time()
                run_in_process(*apps(path), num_clients=clients)
                best[name] = min(best[name], time.process_time() - start)
    visits = clients * ROUNDS
    return {
        "grid": "in process",
        "clients": clients,
        "ms a visit": round(1000 * best["plain"] / visits, 2),
        "ms a visit, recorded to disk": round(1000 * best["curious"] / visits, 2),
        "peak MB": _peak(),
    }


def _simulated(clients: int) -> dict[str, Any]:
    """Wall seconds of a whole simulation, ray's start included, recorded to disk."""
    from fedpriv.engines.flower import simulate

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        simulate(*apps(Path(folder) / "run"), num_clients=clients)
        seconds = time.perf_counter() - start
    return {"grid": "ray", "clients": clients, "seconds in all": round(seconds, 1), "peak MB": _peak()}


def _peak() -> float:
    """Of this process since it started, torch and Flower included."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
