"""The quick cells of every benchmark are measured again, and agree with the record that the pages quote."""

from __future__ import annotations

import pytest

from fedpriv.lab import study
from tests.measured.records import BENCHMARKS

QUICK = [
    (name, cell.key) for name, (module, _) in BENCHMARKS.items() for cell in module.cells() if cell.quick
]


@pytest.mark.parametrize(("name", "key"), QUICK, ids=[f"{name}: {key}" for name, key in QUICK])
def test_a_cell_agrees_with_its_record(name, key):
    module, results = BENCHMARKS[name]
    (cell,) = (cell for cell in module.cells() if cell.key == key)
    assert study.differences([cell], results, study.measure([cell])) == []


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_with_a_record_has_quick_cells(name):
    assert any(cell.quick for cell in BENCHMARKS[name][0].cells())
