import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fedpriv.engines.flower import CuriousStrategy
from fedpriv.losses import squared_error

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    model = torch.nn.Linear(2, 1)
    path = str(context.run_config["transcript"])
    strategy = CuriousStrategy(FedAvg(fraction_evaluate=0.0), model=model, loss_fn=squared_error, path=path)
    arrays, config = ArrayRecord(model.state_dict()), ConfigRecord({"lr": 0.1})
    strategy.start(grid, arrays, num_rounds=1, train_config=config)
    print([str(fault) for fault in strategy.faults])
