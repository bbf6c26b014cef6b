"""Bring your own gradients: the command line, with a model by name."""

import json
import re
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
    said = cli("attack", "g.npz", *options, "--fail-on-leak", code=1, capsys=capsys)
    assert "3 samples (1 × 8 × 8 each)" in said
    assert "certified: 3 of 3 (given this model and loss, the replay matches" in said
    assert 'open it:   numpy.load("o/g-reconstruction.npz")["inputs"]' in said
    assert "sample 1:" not in said  # 64 numbers are no line to read


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
    assert "'5.bias' must sum to zero" in cli("attack", *options, code=2, capsys=capsys)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "--model MODULE:FACTORY and --loss NAME are needed"),
        (["--model", "{}:Net"], "--loss NAME are needed"),
        (["--model", "{}:Net", "--loss", "hinge"], "--loss must be one of"),
        (["--model", "{}", "--loss", "cross_entropy"], "must be MODULE:NAME"),
        (["--model", "{}.Net", "--loss", "cross_entropy"], "did you mean shop_of_a_test:Net?"),
        (["--model", "{}:Nett", "--loss", "cross_entropy"], "no 'Nett'; did you mean shop_of_a_test:Net?"),
        (["--model", "{}:Net", "--loss", "crossentropy"], "got 'crossentropy'; did you mean cross_entropy?"),
        (["--model", "{}:Nothing", "--loss", "cross_entropy"], "has no 'Nothing'"),
        (["--model", "no_such_module:Net", "--loss", "cross_entropy"], "cannot be imported"),
        (["--model", "{}:broken", "--loss", "cross_entropy"], "calling it raised OSError: no disk"),
        (["--model", "{}:number", "--loss", "cross_entropy"], "TypeError"),
        (["--model", "{}:Net", "--loss", "{}:number"], "must be callable"),
        (["--model", "{}:Net", "--loss", "cross_entropy", "--input-shape", "a"], "whole numbers such as"),
        (["--model", "{}:Net", "--loss", "cross_entropy", "--input-shape", "8x8"], "them by commas"),
        (["--model", "{}:Net", "--loss", "cross_entropy", "--input-shape", "0"], "whole numbers such as"),
        (
            ["--model", "{}:Net", "--loss", "cross_entropy", "--input-shape", "1,7,9"],
            "--input-shape 1,7,9 does not fit the model: its first layer, Linear '1', takes 64 features; "
            "leave it out, or give --input-shape 64",
        ),
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


def save_row(*, weights):
    """The gradient of one row of four numbers, with or without the weights at which it was computed."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3))
    step = gradient(model, (torch.tensor([[1.5, -2.0, 0.25, 3.0]]), torch.tensor([2])))
    np.savez("t.npz", **arrays(step), **(arrays(model.state_dict(), "before/") if weights else {}))


TABLE = """
from torch import nn

class Table(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3))
"""


@pytest.fixture
def row(shop, tmp_path):
    """The options for the model of a table."""
    (tmp_path / f"{shop}.py").write_text(SHOP + TABLE)
    return ["t.npz", "--model", f"{shop}:Table", "--out", "o", "--time-budget", 2]


def test_a_small_sample_is_printed(row, capsys):
    save_row(weights=True)
    said = cli("attack", *row, "--loss", "cross_entropy", capsys=capsys)
    assert "\nsample 1:  1.5, -2, 0.25, 3; target 2\n" in said


def test_the_wrong_weights_are_the_first_suspect(row, capsys):
    save_row(weights=False)
    torch.manual_seed(9)
    said = cli("attack", *row, "--loss", "cross_entropy", "--fail-on-leak", capsys=capsys)
    words = " ".join(said.split())
    assert said.startswith("1 candidate, not confirmed (4 each)")
    assert re.search(
        r"certified: 0 of 1: the replay is off by \d\.\d\d\. The commonest reason: .* as before/NAME", words
    )
    assert "other data would match" not in said
    assert "sample 1:" not in said
    with np.load("o/t-reconstruction.npz") as found:
        np.testing.assert_allclose(found["inputs"], [[1.5, -2.0, 0.25, 3.0]], atol=1e-4)


def changed(change):
    with np.load("t.npz") as saved:
        content = {name: change(name, saved[name]) for name in saved.files}
    np.savez("t.npz", **content)


def test_wrong_weights_in_the_file_are_suspected_among_others(row, capsys):
    save_row(weights=True)
    changed(lambda name, a: a[..., ::-1].copy() if name.startswith("before/") else a)
    said = cli("attack", *row, "--loss", "cross_entropy", "--num-samples", 1, capsys=capsys)
    words = " ".join(said.split())
    assert re.search(
        r"certified: 0 of 1: the replay is off by \d\.\d\d\. Are the saved weights, --loss,", words
    )


def test_a_certificate_without_a_matching_replay_does_not_speak_of_one(row, capsys):
    """Three times the gradient is that of the sample and of something else."""
    save_row(weights=True)
    changed(lambda name, a: a if name.startswith("before/") else 3 * a)
    said = cli("attack", *row, "--loss", "cross_entropy", capsys=capsys)
    assert "certified: 1 of 1 (given this model and loss, certified samples are in the data what" in said
    assert "sample 1:  1.5, -2, 0.25, 3; target 2" in said


def test_a_wrong_loss_is_certified_and_the_certificate_says_on_what_it_rests(row, capsys):
    save_row(weights=True)
    said = cli("attack", *row, "--loss", "squared_error", capsys=capsys)
    assert "certified: 1 of 1 (given this model and loss" in said
    assert "sample 1:  1.5, -2, 0.25, 3; target" in said


def test_refusals_speak_of_options(shop, capsys, tmp_path):
    (tmp_path / f"{shop}.py").write_text(CONVOLUTION)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 2)
    )
    np.savez("c.npz", **arrays(gradient(model, batch(2))))
    error = cli("attack", "c.npz", "--model", f"{shop}:Net", "--loss", "cross_entropy", code=2, capsys=capsys)
    assert "give --input-shape" in error
    assert "give --num-samples" in error
    assert "Knowledge" not in error
    assert len(error) < 600


CONVOLUTION = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
"""


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "g.npz is empty; was it cut off while it was saved?"),
        (b"id,age\n1,43\n", "g.npz is not a whole file of numpy.savez or safetensors; was it cut"),
    ],
)
def test_a_file_of_something_else_is_said_without_the_words_of_a_library(
    shop, capsys, tmp_path, content, sentence
):
    (tmp_path / "g.npz").write_bytes(content)
    options = ["--model", f"{shop}:Net", "--loss", "cross_entropy"]
    error = cli("attack", "g.npz", *options, code=2, capsys=capsys)
    assert sentence in error
    assert "deserializ" not in error
