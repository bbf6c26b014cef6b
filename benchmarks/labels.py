"""Labels of a batch of rows, counted from one gradient: in how many batches every count is right.

Passengers of the Titanic, voters of the American election study (which `pip install statsmodels` brings), and
fresh ReLU networks with two hidden layers of 100. The count follows from the bias of the last layer and the
model's mean prediction. That is taken on normal noise, or on valid rows if the server knows the columns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import attacks
import fedpriv
from fedpriv.data.tables import Table, passengers, voters
from fedpriv.lab.study import Cell, Results

TABLES: dict[str, Callable[[], Table]] = {"Titanic": passengers, "election study": voters}
SIZES = (32, 64)
SEEDS = range(400, 440)  # chosen before looking
HIDDEN = (100, 100)
WAYS = ("noise", "columns")


def observe(table: Table, rows: int, way: str, seed: int) -> tuple[torch.Tensor, fedpriv.Observation]:
    """The labels of a batch, and what the server sees of it."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(table.inputs), generator=generator)[:rows]
    inputs, labels = table.inputs[chosen], table.labels[chosen]
    model = fedpriv.models.mlp([table.schema.width, *HIDDEN, len(table.classes)], generator=generator)
    gradient = torch.autograd.grad(cross_entropy(model(inputs), labels), list(model.parameters()))
    known = fedpriv.Knowledge(num_samples=rows, table=table.schema if way == "columns" else None)
    return labels, fedpriv.Observation(model, gradient, cross_entropy, known)


def count_right(name: str, rows: int, way: str) -> dict[str, Any]:
    """In how many batches all counts are right."""
    table = TABLES[name]()
    right = 0
    for seed in SEEDS:
        labels, observation = observe(table, rows, way, seed)
        truth = torch.bincount(labels, minlength=len(table.classes))
        found = attacks.labels.geng(observation, rows).values
        right += bool(torch.equal(torch.bincount(found, minlength=len(table.classes)), truth))
    return {"right": right, "batches": len(SEEDS)}


def cells() -> list[Cell]:
    """Every table, size and way."""
    return [
        Cell(
            f"{name}, {rows} rows, {way}",
            partial(count_right, name, rows, way),
            quick=name == "Titanic",
            bands={"right": 2},  # a count that rounds either way may fall to the other side elsewhere
        )
        for name in TABLES
        for rows in SIZES
        for way in WAYS
    ]


def right(results: Results, rows: int, way: str) -> int:
    """In how many batches of both tables all counts are right."""
    return sum(int(results[f"{name}, {rows} rows, {way}"]["right"]) for name in TABLES)


def sentences(results: Results) -> dict[str, list[str]]:
    """Words of the pages that carry these numbers."""
    few, many = ({way: right(results, rows, way) for way in WAYS} for rows in SIZES)
    both = len(SEEDS) * len(TABLES)
    return {
        "README.md": [
            f"the counts of 32 rows in {few['noise']} of {both} batches"
            f" ({few['columns']} of {both} with declared columns)"
        ],
        "docs/tabular.md": [
            f"the count is right for 32 rows in {few['columns']} of {both} batches instead of {few['noise']}",
            f"for 64 rows in {many['columns']} instead of {many['noise']}",
        ],
    }
