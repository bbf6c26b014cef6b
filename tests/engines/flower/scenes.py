"""A tiny federation in Flower's own words: linear regression, answers that can be spoiled on purpose."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn

from fedpriv.engines.flower import run_in_process, to_record
from fedpriv.losses import squared_error

LR = 0.1


def model():
    torch.manual_seed(0)
    return nn.Linear(2, 1)


def sample(k):
    return torch.tensor([[0.25 * (k + 1), 0.5]]), torch.tensor([[float(k)]])


def trained(arrays, k):
    """One step of client `k`'s gradient descent, with no code of fedpriv in it."""
    net = nn.Linear(2, 1)
    net.load_state_dict(arrays.to_torch_state_dict())
    squared_error(net(sample(k)[0]), sample(k)[1]).backward()
    return {name: (p - LR * p.grad).detach() for name, p in net.named_parameters()}


def honest(k, number, tensors):  # noqa: ARG001
    return tensors


def client_app(*mods, spoil=honest):
    """Clients that train; ``spoil(partition, round from 1, tensors)`` is what is sent instead."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        k, number = int(context.node_config["partition-id"]), message.content["config"]["server-round"]
        tensors = spoil(k, number, trained(message.content["arrays"], k))
        content = RecordDict({"arrays": to_record(tensors), "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    return app


def server_app(strategy, rounds=1, initial=None):
    app = ServerApp()

    @app.main()
    def main(grid, context):  # noqa: ARG001
        arrays = ArrayRecord((initial or model()).state_dict())
        app.result = strategy.start(
            grid=grid, initial_arrays=arrays, train_config=ConfigRecord({"lr": LR}), num_rounds=rounds
        )

    return app


def run(strategy, clients, *, rounds=1, num_clients=2):
    """Run the apps in this process; the final arrays."""
    app = server_app(strategy, rounds)
    run_in_process(app, clients, num_clients=num_clients)
    return app.result.arrays


def fedavg(**settings):
    return FedAvg(fraction_evaluate=0.0, **settings)
