"""The server's side, as in Flower's quickstart but for the two lines that are marked."""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fedpriv.engines.flower import CuriousStrategy  # line 1
from leak_app.task import Net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run federated averaging."""
    num_rounds = context.run_config["num-server-rounds"]
    lr = context.run_config["lr"]
    path = context.run_config["transcript"]
    global_model = Net()
    arrays = ArrayRecord(global_model.state_dict())
    strategy = FedAvg(fraction_train=context.run_config["fraction-train"])
    # line 2:
    strategy = CuriousStrategy(strategy, model=global_model, loss_fn=torch.nn.CrossEntropyLoss(), path=path)
    strategy.start(
        grid=grid,
        initial_arrays=arrays,
        train_config=ConfigRecord({"lr": lr}),
        num_rounds=num_rounds,
    )
