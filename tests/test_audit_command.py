"""``fedpriv audit``: a verdict, an exit code, and a sentence for every mistake."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import fedpriv
from fedpriv.cli import main
from fedpriv.cli.samples import load_samples
from fedpriv.cli.specification import named_defense
from fedpriv.defenses import Clip, Soteria
from tests.own_scenes import Bomb

SHOP = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        layers = nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10)
        super().__init__(nn.Flatten(), *layers)
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    (tmp_path / "audited_shop.py").write_text(SHOP)
    inputs, targets = fedpriv.data.digits()
    np.savez(tmp_path / "train.npz", x=inputs[:60].numpy(), y=targets[:60].numpy())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "audited_shop:Net"
    sys.modules.pop("audited_shop", None)


def cli(*arguments, code, capsys):
    quick = ["--trials", "1", "--rounds", "1", "--time-budget", "1", "--out", "o"]
    with pytest.raises(SystemExit) as ended:
        main(["audit", *map(str, arguments), *quick])
    captured = capsys.readouterr()
    assert ended.value.code == code, captured.err
    return captured.out if code < 2 else captured.err


def test_a_leak_is_exit_code_one_with_picture_and_json(shop, capsys, tmp_path):
    text = cli(shop, "--data", "train.npz", "--batch", "2", code=1, capsys=capsys)
    assert "2 of 2    120.0" in text
    assert "It leaks" in text
    assert (tmp_path / "o" / "audit.png").stat().st_size > 3000
    kept = json.loads((tmp_path / "o" / "audit.json").read_text(encoding="utf-8"))
    assert (kept["leaks"], kept["loss"], kept["trials"][0]["leaked"]) == (True, "cross_entropy", 2)


def test_through_enough_noise_nothing_comes_and_the_account_is_named(shop, capsys):
    noise = "GaussianNoise:clip_norm=1,noise_multiplier=2"
    text = cli(shop, "--data", "train.npz", "--batch", "1", "--defense", noise, code=0, capsys=capsys)
    assert "1 of 1    120.0" in text  # without it
    assert "0 of 1" in text
    epsilon = fedpriv.privacy.epsilon(noise_multiplier=2.0, delta=1e-5, rounds=1)
    assert f"ε = {epsilon:.3g} for a client in this round" in text


def test_json_is_one_object(shop, capsys):
    result = json.loads(cli(shop, "--data", "train.npz", "--batch", "1", "--json", code=1, capsys=capsys))
    assert result["leaks"] is True
    assert result["sample_shape"] == [1, 8, 8]


def test_real_targets_mean_squared_error(shop, capsys):
    inputs, _ = fedpriv.data.digits()
    np.savez("real.npz", inputs=inputs[:9].numpy(), targets=np.random.default_rng(0).normal(size=(9, 10)))
    result = json.loads(cli(shop, "--data", "real.npz", "--batch", "1", "--json", code=1, capsys=capsys))
    assert result["loss"] == "mse_loss"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "train.npz", "--defense", "Gaus"], "did you mean GaussianNoise?"),
        (["--data", "train.npz", "--defense", "TopK:kept=3"], "TopK takes error_feedback, kept_fraction"),
        (["--data", "train.npz", "--defense", "Clip:clip_norm=-1"], "--defense Clip:clip_norm=-1: "),
        (["--data", "train.npz", "--defense", "DPSGD"], "DPSGD needs denominator"),
        (
            ["--data", "train.npz", "--defense", "Averaging", "--people", "1"],
            "Averaging needs at least 2 clients",
        ),
        (["--data", "train.npz", "--batch", "61"], "need 61 samples, got 60"),
        (["--data", "train.npz", "--loss", "huber"], "--loss must be one of"),
        (["--data", "missing.npz"], "does not exist"),
        (["--data", "audited_shop.py"], "expected a file of numpy.savez or safetensors"),
    ],
)
def test_a_mistake_is_one_sentence(shop, arguments, sentence, capsys):
    text = cli(shop, *arguments, code=2, capsys=capsys)
    assert sentence in text
    assert "Traceback" not in text


def test_samples_from_both_formats_and_bytes_become_fractions(tmp_path):
    x, y = np.arange(24, dtype=np.uint8).reshape(2, 1, 3, 4), np.array([1, 0])
    np.savez_compressed(tmp_path / "a.npz", images=x, labels=y)
    save_file({"inputs": x, "targets": y}, tmp_path / "a.safetensors")
    for name in ("a.npz", "a.safetensors"):
        inputs, targets = load_samples(tmp_path / name)
        assert inputs.shape == (2, 1, 3, 4)
        assert float(inputs.max()) == pytest.approx(23 / 255)
        assert targets.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"a": [1.0], "b": [2.0]}, r"arrays called inputs and targets \(or x and y\), got \['a', 'b'\]"),
        ({"x": [[1.0]], "y": [1, 2]}, r"one target for each sample, got inputs \(1, 1\) and targets \(2,\)"),
        ({"x": [[float("nan")]], "y": [1]}, "finite numbers"),
        ({"x": np.array([Bomb()]), "y": [1]}, "nothing is unpickled"),
    ],
)
def test_rubbish_is_refused_with_a_sentence(arrays, sentence, tmp_path):
    np.savez(tmp_path / "a.npz", **{name: np.asarray(value) for name, value in arrays.items()})
    with pytest.raises(ValueError, match=sentence):
        load_samples(tmp_path / "a.npz")


def test_a_specification_makes_the_defense_that_it_names():
    assert repr(named_defense("Clip:clip_norm=2")) == repr(Clip(clip_norm=2))
    layer = named_defense("Soteria:layer=3,pruned_fraction=0.5")
    assert isinstance(layer, Soteria)
    assert (layer.layer, layer.pruned_fraction) == ("3", 0.5)


def test_the_page_says_what_is_printed(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs" / "audit.md").read_text(encoding="utf-8")
    shop, data = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    Path("shop.py").write_text(shop, encoding="utf-8")
    exec(compile(data, "audit.md", "exec"), {})
    command, promised = re.findall(r"```console\n\$ fedpriv audit (.*?)\n(.*?)```", page, flags=re.DOTALL)[0]
    with pytest.raises(SystemExit) as ended:
        main(["audit", *command.split()[:3]])  # without the defense: the table that the page shows
    assert ended.value.code == 1
    assert capsys.readouterr().out.startswith(promised)
    sys.modules.pop("shop", None)
