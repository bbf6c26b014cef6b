"""Demos as notebooks: pictures appear below the cell, other files do not, and no exit ends the notebook."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from fedpriv.cli import output, run_script


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would show."""
    files = []
    display = ModuleType("IPython.display")
    display.Image = lambda filename: filename
    display.display = files.append
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    return files


def test_only_pictures_are_shown(shown, tmp_path):
    output.show_pictures([tmp_path / "a.png", str(tmp_path / "b.png"), tmp_path / "c.json", "d.csv"])
    assert shown == [str(tmp_path / "a.png"), str(tmp_path / "b.png")]


def test_a_demo_ignores_the_options_of_the_notebook_and_does_not_exit(shown, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher", "-f", "kernel.json"])
    monkeypatch.chdir(tmp_path)

    def main(out, *, seed):
        return {"seed": seed, "files": [out / "a.png", out / "b.csv"]}

    run_script(main, lambda result: f"seed {result['seed']}")
    assert shown == ["out/a.png"]
    assert "seed 0" in capsys.readouterr().out
