"""How long the demos say that they take is what the record of ``fedpriv bench demos`` says."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpriv.cli import scripts
from fedpriv.lab import study

RECORD = study.read(Path(__file__).parents[1] / "docs" / "measured" / "demos.json")
START = 4.0
"""Seconds for the start of Python and the imports, which the record leaves out."""


def takes(name):
    number, unit = scripts.duration(scripts.find("demos")[name]).split()
    return int(number) * {"s": 1, "min": 60}[unit]


def test_the_record_has_every_demo():
    assert set(RECORD) | {"flower_leak"} == set(scripts.find("demos"))


@pytest.mark.parametrize("name", RECORD)
def test_a_demo_takes_about_as_long_as_it_says(name):
    measured = RECORD[name]["cpu_seconds"] + START
    assert measured / 2 < takes(name) < 2 * measured
