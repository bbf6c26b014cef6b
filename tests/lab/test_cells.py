"""Tables: encoding and back, the loaders, the measure of cells against brute force, the picture."""

from __future__ import annotations

import json
from itertools import permutations

import pytest
import torch

import fedpriv
from fedpriv import Knowledge
from fedpriv.data import tables
from fedpriv.lab.cells import guess_at_random, guess_typical, matching_cells, score_cells
from fedpriv.lab.plots.cells import plot_cells
from fedpriv.wire.table import Categorical, Continuous, TableSchema

SCHEMA = TableSchema(
    (
        Continuous(name="age", low=0, high=100, mean=40, std=20),
        Categorical(name="sex", values=("female", "male")),
        Categorical(name="party", values=("a", "b", "c")),
    )
)


def encoded(*rows):
    return SCHEMA.encode(rows)


def test_encoding_and_back():
    rows = [(40.0, "male", "c"), (70.0, "female", "a")]
    inputs = SCHEMA.encode(rows)
    assert inputs.tolist() == [[0, 0, 1, 0, 0, 1], [1.5, 1, 0, 1, 0, 0]]
    assert SCHEMA.decode(inputs) == rows
    assert (SCHEMA.width, SCHEMA.numbers) == (6, (0,))
    assert SCHEMA.groups == (slice(1, 3), slice(3, 6))


def test_nearest_is_valid_and_leaves_valid_rows_alone():
    soft = torch.tensor([[9.0, 0.3, 0.2, -1.0, 0.0, -0.5]])
    assert SCHEMA.nearest(soft).tolist() == [[3.0, 1, 0, 0, 1, 0]]
    valid = encoded((13.0, "male", "b"))
    assert torch.equal(SCHEMA.nearest(valid), valid)


@pytest.mark.parametrize(
    ("row", "message"),
    [((1.0, "male"), "expected 3 cells in row 0, got 2"), ((1.0, "x", "a"), "whose values are")],
)
def test_rows_that_do_not_fit(row, message):
    with pytest.raises(ValueError, match=message):
        SCHEMA.encode([row])


def test_columns_that_make_no_sense():
    with pytest.raises(ValueError, match="two different values"):
        Categorical(name="x", values=("a",))
    with pytest.raises(ValueError, match="low < high"):
        Continuous(name="x", low=1, high=1, mean=0, std=1)
    with pytest.raises(ValueError, match="same name"):
        TableSchema((SCHEMA.columns[0], SCHEMA.columns[0]))
    with pytest.raises(ValueError, match="non-empty"):
        TableSchema(())
    with pytest.raises(ValueError, match="6 numbers each"):
        SCHEMA.nearest(torch.zeros(2, 5))


def test_random_rows_are_valid_and_even():
    drawn = SCHEMA.draw(3000, torch.Generator().manual_seed(5))
    assert torch.equal(SCHEMA.nearest(drawn), drawn)
    shares = drawn[:, 1:].mean(0)
    expected = torch.tensor([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3], dtype=torch.float64)
    torch.testing.assert_close(shares, expected, atol=0.05, rtol=0)  # five standard errors


def test_a_declared_table_survives_json(tmp_path):
    known = Knowledge(num_samples=2, table=SCHEMA)
    assert Knowledge.from_json(json.loads(json.dumps(known.to_json()))) == known
    model = fedpriv.models.mlp([6, 3, 2])
    seen = fedpriv.Observation(model, list(model.parameters()), torch.nn.functional.cross_entropy, known)
    assert fedpriv.Observation.load(seen.save(tmp_path / "seen.safetensors")).knowledge == known


STRANGE: list[object] = [None, True, -1, 1e999, -(2**2000), "x", "", [], {}, [[]], {"a": 1}, ["b", "b"]]


def sentence_about(columns):
    try:
        TableSchema.from_json(columns)
    except ValueError as refusal:
        return str(refusal)
    return None


@pytest.mark.parametrize("value", STRANGE)
def test_a_table_from_a_stranger(value):
    """Any JSON value in any place gives a table or one sentence."""
    columns = SCHEMA.to_json()
    spoiled = [value, [value], *([*columns[:i], value, *columns[i + 1 :]] for i in range(3))]
    spoiled += [[{**columns[i], key: value}] for i in range(3) for key in (*columns[i], "more")]
    sentences = [said for said in map(sentence_about, spoiled) if said is not None]
    assert all(len(said) < 1000 for said in sentences)
    assert len(sentences) > len(spoiled) / 2


def test_a_long_table_is_quick():
    columns = [{"name": str(i), "values": ["a", "b"]} for i in range(20_000)]
    assert TableSchema.from_json(columns).width == 40_000
    with pytest.raises(ValueError, match="same name") as refusal:
        TableSchema.from_json([*columns, columns[0]])
    assert len(str(refusal.value)) < 1000


def test_a_table_that_does_not_fit_the_input_shape():
    assert Knowledge(table=SCHEMA, input_shape=(2, 3)).table == SCHEMA
    with pytest.raises(ValueError, match="6 numbers, but input_shape"):
        Knowledge(table=SCHEMA, input_shape=(5,))
    with pytest.raises(ValueError, match="must be a TableSchema"):
        Knowledge(table=[1, 2])


def test_passengers():
    table = tables.passengers()
    assert table.inputs.shape == (1043, table.schema.width)
    assert torch.equal(table.schema.nearest(table.inputs), table.inputs)
    cells = table.schema.decode(table.inputs)
    assert sum(row[1] == "female" for row in cells) == 386
    assert int(table.labels.sum()) == 425
    numbers = table.inputs[:, list(table.schema.numbers)].double()
    torch.testing.assert_close(numbers.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(numbers.std(0, unbiased=False), torch.ones(2, dtype=torch.float64))


def test_voters_or_how_to_get_them():
    try:
        table = tables.voters()
    except FileNotFoundError as missing:
        assert "pip install statsmodels" in str(missing)  # noqa: PT017 (either is right)
        return
    assert table.inputs.shape == (944, 39)
    assert int(table.labels.sum()) == 393


def test_a_missing_file_names_its_package(monkeypatch):
    monkeypatch.setattr(tables, "_TITANIC", "datasets/nowhere.gz")
    with pytest.raises(FileNotFoundError, match="pip install scikit-learn"):
        tables.passengers()


def test_pairing_is_the_best_of_all_orders():
    table = tables.passengers()
    truth, found = table.inputs[10:16], table.inputs[20:26]
    score = score_cells(found, truth, table.schema)
    best = max(
        float(matching_cells(found[list(o)], truth, table.schema).double().mean())
        for o in permutations(range(6))
    )
    assert score.accuracy == pytest.approx(best)
    paired = matching_cells(found[score.assignment], truth, table.schema)
    assert torch.equal(score.right, paired)


def test_the_tolerance_is_in_standard_deviations():
    truth = encoded((40.0, "male", "a"))
    near, far = encoded((46.3, "male", "a")), encoded((46.5, "male", "a"))  # 0.315 and 0.325
    assert score_cells(near, truth, SCHEMA).accuracy == 1.0
    assert score_cells(far, truth, SCHEMA).numbers == 0.0
    assert score_cells(far, truth, SCHEMA).categories == 1.0
    assert score_cells(far, truth, SCHEMA, tolerance=0.4).rows == 1.0


def test_missing_and_broken_rows_are_wrong():
    truth = encoded((40.0, "male", "a"), (10.0, "female", "b"))
    found = torch.cat([torch.full((1, 6), torch.nan), truth[1:]])
    score = score_cells(found, truth, SCHEMA)
    assert score.assignment.tolist() == [-1, 1]
    assert score.right.tolist() == [[False] * 3, [True] * 3]
    assert score_cells(found[:1], truth, SCHEMA).accuracy == 0.0
    with pytest.raises(ValueError, match="finite true rows"):
        score_cells(truth, found, SCHEMA)


def test_guesses():
    public = encoded((30.0, "male", "a"), (50.0, "male", "b"), (70.0, "female", "b"))
    assert SCHEMA.decode(guess_typical(public, 2, SCHEMA)) == [(pytest.approx(50), "male", "b")] * 2
    drawn = guess_at_random(public, 3000, SCHEMA, generator=torch.Generator().manual_seed(3))
    assert torch.equal(SCHEMA.nearest(drawn), drawn)
    torch.testing.assert_close(drawn.mean(0), public.mean(0), atol=0.05, rtol=0)  # five standard errors
    # Columns are independent: "female" met "a" nowhere.
    assert bool(((drawn[:, 1] == 1) & (drawn[:, 3] == 1)).any())


def test_the_picture(tmp_path):
    right = torch.tensor([[True, False, True]])
    path = plot_cells(
        ["age", "sex", "party"], [["40", "male", "a"]], right, {"guess": [0.5, 0.6]}, [1, 2],
        tmp_path / "a" / "cells.png", caption="one row", title="A table",
    )  # fmt: skip
    assert path.stat().st_size > 5_000
    with pytest.raises(ValueError, match="as many marks"):
        plot_cells(["age"], [["1", "2"]], right, {}, [1], tmp_path / "x.png", caption="", title="")
    with pytest.raises(ValueError, match="one share for each"):
        plot_cells(
            ["age", "sex", "party"], [["40", "male", "a"]], right, {"guess": [0.5]}, [1, 2],
            tmp_path / "x.png", caption="", title="",
        )  # fmt: skip
