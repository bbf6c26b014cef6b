"""The tutorial 'Part 2: Intro to Federated Learning', cell by cell, and its plain torch twin."""
# mypy: disable-error-code="attr-defined, operator, union-attr, arg-type, call-overload, var-annotated"
# (the hook adds methods to torch while the tests run)

import gc

import pytest
import torch

CELLS = [
    """
import torch
from torch import nn
from torch import optim
""",
    """
# A Toy Dataset
data = torch.tensor([[0,0],[0,1],[1,0],[1,1.]], requires_grad=True)
target = torch.tensor([[0],[0],[1],[1.]], requires_grad=True)

# A Toy Model
model = nn.Linear(2,1)

def train():
    # Training Logic
    opt = optim.SGD(params=model.parameters(),lr=0.1)
    for iter in range(20):

        # 1) erase previous gradients (if they exist)
        opt.zero_grad()

        # 2) make a prediction
        pred = model(data)

        # 3) calculate how much we missed
        loss = ((pred - target)**2).sum()

        # 4) figure out which weights caused us to miss
        loss.backward()

        # 5) change those weights
        opt.step()

        # 6) print our progress
        print(loss.data)
""",
    "train()",
    """
import fedpriv.pointers as sy
hook = sy.TorchHook(torch)
""",
    """
# create a couple workers
bob = sy.VirtualWorker(hook, id="bob")
alice = sy.VirtualWorker(hook, id="alice")
""",
    """
# A Toy Dataset
data = torch.tensor([[0,0],[0,1],[1,0],[1,1.]], requires_grad=True)
target = torch.tensor([[0],[0],[1],[1.]], requires_grad=True)

# get pointers to training data on each worker by
# sending some training data to bob and alice
data_bob = data[0:2]
target_bob = target[0:2]

data_alice = data[2:]
target_alice = target[2:]

# Iniitalize A Toy Model
torch.manual_seed(3)
model = nn.Linear(2,1)

data_bob = data_bob.send(bob)
data_alice = data_alice.send(alice)
target_bob = target_bob.send(bob)
target_alice = target_alice.send(alice)

# organize pointers into a list
datasets = [(data_bob,target_bob),(data_alice,target_alice)]

opt = optim.SGD(params=model.parameters(),lr=0.1)
""",
    """
def train():
    # Training Logic
    opt = optim.SGD(params=model.parameters(),lr=0.1)
    for iter in range(10):

        # NEW) iterate through each worker's dataset
        for data,target in datasets:

            # NEW) send model to correct worker
            model.send(data.location)

            # 1) erase previous gradients (if they exist)
            opt.zero_grad()

            # 2) make a prediction
            pred = model(data)

            # 3) calculate how much we missed
            loss = ((pred - target)**2).sum()

            # 4) figure out which weights caused us to miss
            loss.backward()

            # 5) change those weights
            opt.step()

            # NEW) get model (with gradients)
            model.get()

            # 6) print our progress
            print(loss.get()) # NEW) slight edit... need to call .get() on loss\\
""",
    "train()",
]
ADAM_CELL = """
from fedpriv.federated.floptimizer import Optims
torch.manual_seed(3)
model = nn.Linear(2,1)
workers = ['bob', 'alice']
optims = Optims(workers, optim=optim.Adam(params=model.parameters(),lr=0.1))

def train():
    for iter in range(10):
        for data,target in datasets:
            model.send(data.location)
            opt = optims.get_optim(data.location.id)
            opt.zero_grad()
            pred = model(data)
            loss = ((pred - target)**2).sum()
            loss.backward()
            opt.step()
            model.get()
            print(loss.get())
train()
"""


def _run(cells, prints, names=None):
    names = names if names is not None else {}
    names["print"] = prints.append
    for cell in cells:
        exec(compile(cell.replace("\\\n", "\n"), "<cell>", "exec"), names)
    return names


def _plain(make_optimizer, per_worker=False):
    torch.manual_seed(3)
    model = torch.nn.Linear(2, 1)
    data = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1.0]])
    target = torch.tensor([[0], [0], [1], [1.0]])
    optimizers = [make_optimizer(model)] * 2
    if per_worker:
        optimizers = [make_optimizer(model), make_optimizer(model)]
    losses = []
    for _ in range(10):
        for part, opt in zip((slice(0, 2), slice(2, 4)), optimizers, strict=True):
            opt.zero_grad()
            loss = ((model(data[part]) - target[part]) ** 2).sum()
            loss.backward()
            opt.step()
            losses.append(loss.detach())
    return losses


@pytest.fixture(autouse=True)
def clean():
    yield
    gc.collect()
    assert not hasattr(torch.Tensor, "send")


def test_tutorial_prints_the_losses_of_plain_torch():
    prints = []
    names = _run(CELLS, prints)
    expected = _plain(lambda model: torch.optim.SGD(model.parameters(), lr=0.1))
    assert len(prints) == 20 + 20
    assert all(type(item) is torch.Tensor for item in prints)
    assert torch.equal(torch.stack(prints[20:]), torch.stack(expected))
    assert type(names["model"].weight) is torch.nn.Parameter
    names["hook"].unhook()


def test_cells_may_run_again_in_the_same_notebook():
    first, second = [], []
    names = _run(CELLS, first)
    names = _run(CELLS[3:], second, names)
    _run(CELLS[3:4], [], names)
    assert torch.equal(torch.stack(first[20:]), torch.stack(second))
    names["hook"].unhook()


def test_one_optimizer_per_worker_as_in_the_tutorial():
    prints = []
    names = _run([*CELLS[:2], *CELLS[3:6], ADAM_CELL], prints)
    expected = _plain(lambda model: torch.optim.Adam(model.parameters(), lr=0.1), per_worker=True)
    assert torch.equal(torch.stack(prints), torch.stack(expected))
    names["hook"].unhook()
