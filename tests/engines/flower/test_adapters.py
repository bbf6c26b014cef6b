"""Records and tensors, the process-wide grid, missing parts, and SecAgg+ with its silent clipping."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Context, Error, Message, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import ServerApp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedpriv import Observation
from fedpriv.engines.flower import (
    CuriousLegacyStrategy,
    InProcessGrid,
    _require,
    from_record,
    run_in_process,
    simulate,
    to_record,
)
from fedpriv.engines.flower.grid import context_for
from fedpriv.losses import squared_error
from tests.engines.flower.scenes import LR, client_app, fedavg, model, server_app, trained

ROOT = Path(__file__).parents[3]
DTYPES = [torch.float16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool]


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)),
        max_size=4,
    )
)
def test_tensors_survive_a_record(layout):
    tensors = {name: torch.ones(shape).to(dtype) for name, (dtype, shape) in layout.items()}
    back = from_record(to_record(tensors))
    assert list(back) == list(tensors)
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_our_records_are_read_by_flower_and_flowers_by_us():
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(2.0)}
    for name, tensor in to_record(tensors).to_torch_state_dict().items():
        assert torch.equal(tensor, tensors[name])
    back = from_record(ArrayRecord(tensors))
    assert torch.equal(back["a"], tensors["a"])


def test_numbered_arrays_get_their_names_from_the_layout():
    net = nn.Linear(2, 1)
    record = ArrayRecord([p.detach().numpy() for p in net.parameters()])
    assert torch.equal(from_record(record, net.state_dict())["bias"], net.bias.detach())


def damaged(**change):
    array = Array(np.zeros(2, dtype=np.float32))
    fields = {"dtype": array.dtype, "shape": array.shape, "stype": array.stype, "data": array.data, **change}
    return ArrayRecord({"w": Array(**fields)})


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        (damaged(data=b"nothing"), "'w', must be an array as numpy.save writes it"),
        (damaged(stype="pickle"), "must hold NumPy arrays, got 'pickle'"),
        (damaged(data=Array(np.zeros(2)).data[:-1]), "it was cut or changed"),
        (ArrayRecord([np.array([np.nan, 1])]), "contains NaN"),
        (ArrayRecord([np.zeros(3)]), r"must have shape \(2,\), got \(3,\)"),
        (ArrayRecord([np.zeros(2), np.zeros(2)]), "are not in the model"),
    ],
)
def test_damaged_records_are_refused_with_the_name(record, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_record(record, {"w": torch.zeros(2)})


def test_numbers_that_numpy_lacks_are_named():
    with pytest.raises(ValueError, match="'w' cannot be sent by Flower: NumPy has no bfloat16"):
        to_record({"w": torch.zeros(2, dtype=torch.bfloat16)})


def test_two_messages_are_an_observation():
    net = model()
    sent = ArrayRecord(net.state_dict())
    reply = to_record(trained(sent, 1))
    from fedpriv import Knowledge

    known = Knowledge(learning_rate=LR)
    seen = Observation.from_flower(sent, reply, model=net, loss_fn=squared_error, knowledge=known)
    gradient = torch.autograd.grad(
        squared_error(net(torch.tensor([[0.5, 0.5]])), torch.tensor([[1.0]])), list(net.parameters())
    )
    assert torch.allclose(seen.gradient()["weight"], gradient[0], atol=1e-5)
    with pytest.raises(ValueError, match="'other' is not in the model"):
        Observation.from_flower(sent, to_record({"other": torch.ones(1)}), model=net, loss_fn=squared_error)


def test_the_grid_answers_for_nodes_that_do_not_exist_and_apps_that_raise():
    def broken(message, context):  # noqa: ARG001
        raise OSError("no disk")

    grid = InProcessGrid({2: (broken, context_for(2))})
    content = RecordDict({"arrays": to_record(model().state_dict())})
    answers = grid.send_and_receive([Message(content, dst_node_id=n, message_type="train") for n in (2, 9)])
    assert [a.error.reason for a in answers] == ["OSError: no disk", "there is no node 9"]
    assert [a.metadata.src_node_id for a in answers] == [2, 9]


def test_a_client_cannot_write_into_what_the_server_holds():
    def greedy(message, context):  # noqa: ARG001
        message.content.array_records["arrays"].clear()
        return Message(Error(0, "done"), reply_to=message)

    content = RecordDict({"arrays": to_record(model().state_dict())})
    grid = InProcessGrid({2: (greedy, context_for(2))})
    grid.send_and_receive([Message(content, dst_node_id=2, message_type="train")])
    assert len(content.array_records["arrays"]) == 2


@pytest.mark.parametrize("count", [0, -1, True, 2.0])
def test_a_run_needs_clients(count):
    for runner in (run_in_process, simulate):
        with pytest.raises(ValueError, match="num_clients must be a whole number"):
            runner(server_app(fedavg()), client_app(), num_clients=count)


@pytest.mark.parametrize(("version", "sentence"), [(None, "not installed"), ("1.22.0", "needs Flower 1.41")])
def test_a_missing_or_another_flower_is_one_sentence(monkeypatch, version, sentence):
    def find(name):
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", find)
    with pytest.raises(ImportError, match=rf"{sentence}.*pip install fedpriv\[flower\]"):
        _require.require_flower()


def test_without_ray_simulation_is_one_sentence(monkeypatch):
    def find(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", find)
    with pytest.raises(ImportError, match=r'pip install "flwr\[simulation\]"'):
        simulate(server_app(fedavg()), client_app(), num_clients=2)


def test_importing_fedpriv_imports_no_flower_and_importing_the_engine_switches_telemetry_off():
    code = (
        "import sys, os, fedpriv, fedpriv.engines; assert 'flwr' not in sys.modules;"
        "import fedpriv.engines.flower; from flwr.supercore import telemetry;"
        "print(telemetry.FLWR_TELEMETRY_ENABLED, os.environ['RAY_USAGE_STATS_ENABLED'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout == "0 0\n", done.stderr


# --- SecAgg+, which needs Flower's older interfaces

START = [np.zeros((1, 2), dtype=np.float32), np.array([7.5], dtype=np.float32)]


class Client(NumPyClient):
    """Adds 1 for the first client, 2 for the second, ... to everything."""

    def __init__(self, k):
        self.k = k

    def fit(self, parameters, config):  # noqa: ARG002
        return [p + self.k + 1 for p in parameters], 4, {}


def legacy_run(*mods, workflow=None):
    strategy = CuriousLegacyStrategy(
        FedAvg(fraction_evaluate=0.0, initial_parameters=ndarrays_to_parameters(START)),
        model=nn.Linear(2, 1),
        loss_fn=squared_error,
    )
    server = ServerApp()

    @server.main()
    def main(grid, context):
        legacy = LegacyContext(context, config=ServerConfig(num_rounds=1), strategy=strategy)
        DefaultWorkflow(fit_workflow=workflow)(grid, legacy)

    app = ClientApp(lambda context: Client(context.node_config["partition-id"]).to_client(), list(mods))
    run_in_process(server, app, num_clients=3)
    return strategy


def test_a_legacy_strategy_is_recorded_like_any_other():
    strategy = legacy_run()
    assert [u.num_samples for u in strategy.transcript.updates()] == [4, 4, 4]
    got = sorted(float(u.tensors["bias"]) for u in strategy.transcript.updates())
    assert got == [8.5, 9.5, 10.5]
    assert float(strategy.exchanges[0].sent["bias"]) == 7.5


def test_behind_secagg_the_server_sees_the_mean_and_values_above_its_range_are_clipped_silently():
    protocol = SecAggPlusWorkflow(num_shares=1.0, reconstruction_threshold=1.0, max_weight=4)
    strategy = legacy_run(secaggplus_mod, workflow=protocol)
    (update,) = strategy.transcript.updates()
    assert update.sender == "aggregator"
    assert len(update.contributors) == 3
    assert update.num_samples == 12
    assert torch.allclose(update.tensors["weight"], torch.full((1, 2), 2.0), atol=1e-5)
    assert float(update.tensors["bias"]) == pytest.approx(8.0, abs=1e-5)  # the true mean is 9.5
    assert strategy.faults == []


def test_context_for_a_client_is_what_flowers_simulation_gives():
    context = context_for(5, partition=1, of=3, run_config={"lr": 0.1})
    assert isinstance(context, Context)
    assert context.node_config == {"partition-id": 1, "num-partitions": 3}
    assert context.run_config["lr"] == 0.1
