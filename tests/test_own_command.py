"""Bring your own gradients: the command line, with a model by name."""

import json
import sys

import matplotlib.image
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

import attacks
from fedpriv import Observation
from fedpriv.cli import main
from tests.own_scenes import LR, Bomb, Net, after, arrays, batch, good, gradient, net, spoil

SHOP = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        layers = nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 5)
        super().__init__(nn.Flatten(), *layers)

def broken():
    raise OSError("no disk")

number = 3
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    (tmp_path / "shop_of_a_test.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "shop_of_a_test"
    sys.modules.pop("shop_of_a_test", None)


def cli(*arguments, code=0, capsys=None):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert ended.value.code == code, captured.err
    return captured.out if code < 2 else captured.err


def test_a_gradient_of_ones_own_becomes_pictures_json_and_an_exit_code(shop, capsys):
    model = net()
    np.savez("g.npz", **arrays(model.state_dict(), "before/"), **arrays(gradient(model)))
    options = ["--model", f"{shop}:Net", "--loss", "cross_entropy", "--input-shape", "1,8,8", "--out", "o"]
    result = json.loads(cli("attack", "g.npz", *options, "--json", capsys=capsys))
    assert all(result["certified"])
    found = torch.tensor(result["inputs"])
    inputs, labels = batch()
    nearest = torch.cdist(inputs.flatten(1), found.flatten(1).float()).min(1)
    assert float(nearest.values.max()) < 1e-3
    assert [result["targets"][k] for k in nearest.indices] == labels.tolist()
    assert [row["name"] for row in result["replay_check"]] == list(gradient(model))
    assert matplotlib.image.imread("o/g-reconstruction.png").shape[2] == 4
    assert "certified: 3" in cli("attack", "g.npz", *options, "--fail-on-leak", code=1, capsys=capsys)


def test_a_returned_model_of_ones_own_leaks_too(shop, capsys):
    model = net()
    save_file(dict(model.state_dict()), "before.safetensors")
    np.savez("after.npz", **arrays(after(model)))
    options = ["--model", f"{shop}:Net", "--loss", "cross_entropy", "--out", "o", "--json"]
    result = json.loads(
        cli("attack", "after.npz", "--before", "before.safetensors", "--lr", LR, *options, capsys=capsys)
    )
    found = torch.tensor(result["inputs"]).float()
    assert float(torch.cdist(batch()[0].flatten(1), found.flatten(1)).min(1).values.max()) < 1e-2
    sentence = cli("attack", "after.npz", "--before", "before.safetensors", *options, code=2, capsys=capsys)
    assert "--lr 0.1" in sentence


def test_the_wrong_weights_are_noticed_before_an_hour_is_lost(shop, capsys):
    other = spoil(gradient(net()), "5.bias", lambda t: t + 1)
    np.savez("g.npz", **arrays(other))
    options = ["g.npz", "--model", f"{shop}:Net", "--loss", "cross_entropy", "--out", "o"]
    assert "'5.bias' breaks 1 relation" in cli("attack", *options, code=2, capsys=capsys)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "--model MODULE:FACTORY and --loss NAME are needed"),
        (["--model", "{}:Net"], "--loss NAME are needed"),
        (["--model", "{}:Net", "--loss", "hinge"], "--loss must be one of"),
        (["--model", "{}", "--loss", "cross_entropy"], "must be MODULE:NAME"),
        (["--model", "{}:Nothing", "--loss", "cross_entropy"], "has no 'Nothing'"),
        (["--model", "no_such_module:Net", "--loss", "cross_entropy"], "cannot be imported"),
        (["--model", "{}:broken", "--loss", "cross_entropy"], "calling it raised OSError: no disk"),
        (["--model", "{}:number", "--loss", "cross_entropy"], "TypeError"),
        (["--model", "{}:Net", "--loss", "{}:number"], "must be callable"),
        (["--model", "{}:Net", "--loss", "cross_entropy", "--input-shape", "a"], "whole numbers such as"),
    ],
)
def test_bad_options_are_one_sentence(shop, capsys, options, sentence):
    np.savez("g.npz", **good())
    error = cli("attack", "g.npz", *[o.format(shop) for o in options], code=2, capsys=capsys)
    assert sentence in error
    assert error.count("\n") == 1


def test_pickles_are_not_even_opened(shop, capsys, tmp_path):
    torch.save({"weight": Bomb()}, tmp_path / "model.pt")
    sentence = cli(
        "attack", "model.pt", "--model", f"{shop}:Net", "--loss", "cross_entropy", code=2, capsys=capsys
    )
    assert "may hold a pickle" in sentence


def test_no_module_is_imported_unless_it_is_named(shop, capsys):
    np.savez("g.npz", **good())
    cli("attack", "g.npz", code=2, capsys=capsys)
    assert shop not in sys.modules


def test_the_answer_of_the_library_and_of_the_command_line_agree(shop, capsys):
    model = net()
    np.savez("g.npz", **arrays(model.state_dict(), "before/"), **arrays(gradient(model)))
    seen = Observation.from_npz("g.npz", model=Net(), loss_fn=cross_entropy)
    found = attacks.reconstruct(seen)
    options = ["--model", f"{shop}:Net", "--loss", "cross_entropy", "--out", "o", "--json"]
    result = json.loads(cli("attack", "g.npz", *options, capsys=capsys))
    assert torch.allclose(torch.tensor(result["inputs"]), found.inputs.to(torch.float32), atol=1e-6)
