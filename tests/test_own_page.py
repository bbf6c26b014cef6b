"""The page about the user's own gradients: its example runs, and prints what the page shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fedpriv.cli import main

PAGE = (Path(__file__).parents[1] / "docs" / "own_gradients.md").read_text(encoding="utf-8")
MODEL, SAVING = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
CONFIRMED, DOUBTED = re.findall(r"```console\n\$ fedpriv (.*?)\n(.*?)```", PAGE, flags=re.DOTALL)


def masked(text):
    """Times and residuals differ between machines."""
    return re.sub(r"in \d+\.\d\d s|\d\.\de-\d\d|off by \d\.\d\d", "#", text)


@pytest.fixture
def printed(tmp_path, monkeypatch, capsys):
    """What a command prints in a folder with the model and the gradient of the page."""
    (tmp_path / "shop.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sys.modules.pop("shop", None)
    exec(compile(SAVING, "own_gradients.md", "exec"), {})

    def call(command):
        with pytest.raises(SystemExit) as ended:
            main(command.split())
        assert not ended.value.code
        return masked(capsys.readouterr().out)

    yield call
    sys.modules.pop("shop", None)


def test_the_customer_of_the_page_comes_back(printed):
    command, shown = CONFIRMED
    assert printed(command).partition("\n\n")[0] == masked(shown).strip()


def test_without_the_weights_she_is_a_candidate_that_nothing_confirms(printed):
    with np.load("gradient.npz") as arrays:
        gradient = {name: arrays[name] for name in arrays.files if not name.startswith("before/")}
    np.savez("gradient.npz", **gradient)
    torch.manual_seed(1)  # the weights of another Net()
    command, shown = DOUBTED
    assert printed(f"{command} --time-budget 2").startswith(masked(shown).strip())
    with np.load("out/gradient-reconstruction.npz") as arrays:
        assert np.allclose(arrays["inputs"], [[43.0, 2.0, 61.5, 1.0, 0.0]], atol=1e-3)
        assert not arrays["certified"].any()


def test_the_console_lines_are_commands_that_exist(capsys):
    with pytest.raises(SystemExit):
        main(["attack", "--help"])
    known = capsys.readouterr().out
    for option in set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)):
        assert option in known, option
