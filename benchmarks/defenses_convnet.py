"""One strength of each defense against both opponents, on a network of convolutions.

The same protocol as `defenses`. No linear layer sees the image here, so that the attacks which read one
directly do not apply, and most of what comes back is found by a search.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from fedpriv.lab.matrix import CONVNET, Entry, Plan, Row, entries, plot_fronts, record, write_csv, write_json
from fedpriv.lab.study import Cell, Results

PLAN = Plan(seeds=(300, 301, 302), training_seeds=(300, 301, 302), seconds=600.0)
"""As in `defenses`: searches end with their own steps."""
QUICK = {f"ConvNet, {name}, leak" for name in ("no defense", "CENSOR", "median", "dropout 50%", "PRECODE")}
"""Cells that take a second, and are exact or refusals: the same everywhere."""


def one_strength() -> list[Entry]:
    """Of each defense the strength in the middle, of two the stronger one."""
    groups = [list(group) for _, group in groupby(entries(CONVNET), key=lambda entry: entry.defense)]
    return [group[len(group) // 2] for group in groups]


def cells() -> list[Cell]:
    """Two of each row."""
    return record.cells(CONVNET, one_strength(), PLAN, QUICK)


def rows(results: Results) -> list[Row]:
    """The rows of which both cells are there."""
    return record.rows(CONVNET, one_strength(), results)


def tables(results: Results) -> dict[str, str]:
    """All rows."""
    return {"rows": record.table(rows(results))}


def draw(result: dict[str, Any], out: Path) -> list[Path]:
    """A picture, and all rows as JSON and CSV, in the folder `out`."""
    measured = rows(result["cells"])
    name = "defenses_convnet"
    files = [write_json(measured, out / f"{name}.json"), write_csv(measured, out / f"{name}.csv")]
    if any(of.family != "contrast" for of in measured):
        files.append(plot_fronts(measured, out / f"{name}.png"))
    return files
