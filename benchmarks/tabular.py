"""Rows of a table out of one gradient: cells right by TabLeak, by each of its parts left out, and by a guess.

Passengers of the Titanic and voters of the American election study (`pip install statsmodels`), networks
[columns, 100, 100, 2] with ReLU and fresh weights, batches of 8 to 64 rows, labels read from the gradient.
Shares are those of all cells, of categories, and of numbers. TabLeak is what its searches vote for, without
the exact finish, which has cells of its own; peeling is told neither the columns nor the number of rows.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import torch

import attacks
import fedpriv
from attacks.matching.pooling import align, pool
from fedpriv.cli import scripts
from fedpriv.data.tables import Table
from fedpriv.lab.cells import CellScore, guess_at_random, guess_typical, score_cells
from fedpriv.lab.study import Cell, Results

if TYPE_CHECKING:
    from benchmarks import labels
else:  # a folder of benchmarks is no package, and is called differently in a wheel
    labels = scripts.load(Path(__file__).parent / "labels.py")

BATCHES = {8: (400, 401, 402, 403), 16: (400, 401), 32: (400, 401, 402), 64: (400,)}
"""Seeds by the number of rows, chosen before looking."""
DRAWS = 10  # of the random guess
SEARCHES = 4  # without softmax: half as many as TabLeak's, for they take twice as long
SHORT = {"Titanic": "titanic", "election study": "election"}


def task(name: str, rows: int, seed: int) -> tuple[Table, torch.Tensor, torch.Tensor, fedpriv.Observation]:
    """The table, the rows and labels of a batch, and what the server sees of it."""
    table = labels.TABLES[name]()
    truth, seen = labels.observe(table, rows, "columns", seed)
    chosen = torch.randperm(len(table.inputs), generator=torch.Generator().manual_seed(seed))[:rows]
    return table, table.inputs[chosen], truth, seen


def shares(*scores: CellScore) -> list[float]:
    """Of all cells, of categories, of numbers: the mean over the scores."""
    return mean([[s.accuracy, s.categories, s.numbers] for s in scores])


def mean(listed: list[list[float]]) -> list[float]:
    """Place by place."""
    return [fmean(values) for values in zip(*listed, strict=True)]


def guesses(name: str, rows: int, seed: int) -> dict[str, Any]:
    """What somebody has right who knows how often every value occurs, and sees no gradient."""
    table, inputs, _, _ = task(name, rows, seed)
    generator = torch.Generator().manual_seed(seed)
    typical = guess_typical(table.inputs, rows, table.schema)
    drawn = [guess_at_random(table.inputs, rows, table.schema, generator=generator) for _ in range(DRAWS)]
    return {
        "typical_shares": shares(score_cells(typical, inputs, table.schema)),
        "drawn_shares": shares(*(score_cells(guess, inputs, table.schema) for guess in drawn)),
    }


def plain(name: str, rows: int, seed: int) -> dict[str, Any]:
    """*Inverting gradients* over raw coordinates, without its prior for images: some, and their vote."""
    table, inputs, _, seen = task(name, rows, seed)
    like = attacks.TabLeak()
    attack = attacks.InvertingGradients(
        starts=1, steps=like.steps, rate=like.rate, smoothness=0, finish=False
    )
    found = [attack(seen, generator=torch.Generator().manual_seed(k)) for k in range(SEARCHES)]
    best = min(found, key=lambda one: one.residual)
    classes = best.targets
    if classes is None:
        raise ValueError("expected an attack that reads labels, got none")
    members = align(torch.stack([one.inputs for one in found]), best.inputs, classes, table.schema)
    voted, _ = pool(members, table.schema)
    return {
        "one_shares": shares(*(score_cells(member, inputs, table.schema) for member in members)),
        "pooled_shares": shares(score_cells(voted, inputs, table.schema)),
    }


def tableak(name: str, rows: int, seed: int, *, told: bool = False) -> dict[str, Any]:
    """Each softened search, their vote, and how good its doubts are."""
    table, inputs, truth, seen = task(name, rows, seed)
    attack = attacks.TabLeak(labels=tuple(truth.tolist()) if told else None)
    found = attack.ensemble(seen, generator=torch.Generator().manual_seed(seed))
    voted = score_cells(found.inputs, inputs, table.schema)
    doubt = found.entropy[voted.assignment]
    kinds = (voted.categorical, ~voted.categorical)
    return {
        "one_shares": shares(*(score_cells(member, inputs, table.schema) for member in found.members)),
        "vote_shares": shares(voted),
        "row_share": voted.rows,
        "labels_right": bool(torch.equal(found.targets.sort().values, truth.sort().values)),
        "sure_shares": [quarter(voted.right[:, kind], doubt[:, kind]) for kind in kinds],
        "doubted_shares": [quarter(voted.right[:, kind], -doubt[:, kind]) for kind in kinds],
    }


def quarter(right: torch.Tensor, doubt: torch.Tensor) -> float:
    """The share of right cells in the quarter with the least doubt."""
    order = doubt.flatten().argsort(stable=True)
    return float(right.flatten()[order[: max(1, len(order) // 4)]].double().mean())


def peeling(name: str, rows: int, seed: int) -> dict[str, Any]:
    """The exact attack, told neither the columns nor the number of rows."""
    table, inputs, _, seen = task(name, rows, seed)
    untold = fedpriv.Observation(seen.model, seen.update, seen.loss_fn)
    try:
        found = attacks.ConsistencyPeeling()(untold)
    except attacks.NotIdentifiable:
        return {"shares": [0.0, 0.0, 0.0]}
    return {"shares": shares(score_cells(found.inputs, inputs, table.schema))}


def finish(name: str, rows: int, seed: int) -> dict[str, Any]:
    """The whole attack: whether its exact finish succeeded."""
    table, inputs, _, seen = task(name, rows, seed)
    found = attacks.TabLeak()(seen, generator=torch.Generator().manual_seed(seed))
    exact = bool(found.certified.all())
    return {"exact": exact, "shares": shares(score_cells(found.inputs, inputs, table.schema))}


METHODS = {"guesses": guesses, "plain": plain, "TabLeak": tableak, "peeling": peeling}


def cells() -> list[Cell]:
    """Every table, size, batch and method; then the exact finish, and labels told."""
    grid = [
        Cell(
            f"{name}, {rows} rows, seed {seed}, {method}",
            partial(run, name, rows, seed),
            quick=name == "Titanic" and (method == "guesses" or (rows == 8 and method == "peeling")),
        )
        for name in SHORT
        for rows, seeds in BATCHES.items()
        for seed in seeds
        for method, run in METHODS.items()
    ]
    whole = [
        Cell(f"{name}, 8 rows, seed {seed}, exact finish", partial(finish, name, 8, seed))
        for name in SHORT
        for seed in BATCHES[8]
    ]
    told = [
        Cell(f"Titanic, 64 rows, seed {seed}, labels told", partial(tableak, "Titanic", 64, seed, told=True))
        for seed in BATCHES[64]
    ]
    return [*grid, *whole, *told]


ROWS = {
    "guess: most frequent row": ("guesses", "typical_shares"),
    "guess: drawn from frequencies": ("guesses", "drawn_shares"),
    "plain search": ("plain", "one_shares"),
    f"no softmax: {SEARCHES} plain searches pooled": ("plain", "pooled_shares"),
    "no pooling: one softened search": ("TabLeak", "one_shares"),
    "**TabLeak**": ("TabLeak", "vote_shares"),
    "peeling, told nothing": ("peeling", "shares"),
}
"""Rows of the tables: the method, and the name of its value."""


def each(results: Results, name: str, rows: int, method: str, value: str) -> list[Any]:
    """One value of a method, batch by batch."""
    return [results[f"{name}, {rows} rows, seed {seed}, {method}"][value] for seed in BATCHES[rows]]


def percent(*shares: float) -> str:
    """Without decimals."""
    return " / ".join(f"{100 * share:.0f}" for share in shares)


def tables(results: Results) -> dict[str, str]:
    """Cells right, in percent of all cells / of categories / of numbers."""
    head = " | ".join(f"{rows} ({len(seeds)})" for rows, seeds in BATCHES.items())
    found = {}
    for name, short in SHORT.items():
        lines = [f"| rows (batches) | {head} |", "|---" * (len(BATCHES) + 1) + "|"]
        for row, where in ROWS.items():
            entries = [percent(*mean(each(results, name, rows, *where))) for rows in BATCHES]
            lines.append(f"| {row} | " + " | ".join(entries) + " |")
        found[short] = "\n".join(lines)
    return found


def doubts(results: Results, name: str) -> list[str]:
    """How good the doubts are at 32 rows, and where the labels were right."""
    sure, doubted = (
        mean(each(results, name, 32, "TabLeak", kind)) for kind in ("sure_shares", "doubted_shares")
    )
    rows = fmean(each(results, name, 32, "TabLeak", "row_share"))
    right = {n: sum(each(results, name, n, "TabLeak", "labels_right")) for n in BATCHES}
    found = ", ".join(f"{right[n]} of {len(seeds)} batches of {n}" for n, seeds in BATCHES.items())
    return [
        f"least doubt is right for {percent(sure[0])} % of the categories and {percent(sure[1])} % of the"
        f" numbers, the most doubted quarter for {percent(doubted[0])} % and {percent(doubted[1])} %;"
        f" {percent(rows)} % of the rows are right in every cell",
        f"Labels were right in {found}.",
    ]


def sentences(results: Results) -> dict[str, list[str]]:
    """Words of the pages that carry these numbers."""
    best, guess, plain = (
        {(name, n): mean(each(results, name, n, *ROWS[row]))[0] for name in SHORT for n in BATCHES}
        for row in ("**TabLeak**", "guess: drawn from frequencies", "plain search")
    )
    gain = [round(100 * (best[name, 32] - plain[name, 32])) for name in SHORT]
    above = [round(100 * (best[name, 64] - guess[name, 64])) for name in SHORT]
    finishes = [results[f"{name}, 8 rows, seed {s}, exact finish"] for name in SHORT for s in BATCHES[8]]
    exact = sum(one["exact"] for one in finishes)
    close = sum(one["shares"][1] == 1 and not one["exact"] for one in finishes)
    whole = [shares[1] == 1 for name in SHORT for shares in each(results, name, 32, "TabLeak", "vote_shares")]
    peeled = [s for name in SHORT for n in BATCHES for s in each(results, name, n, "peeling", "shares")]
    told = fmean(results[f"Titanic, 64 rows, seed {s}, labels told"]["vote_shares"][0] for s in BATCHES[64])
    seconds = median(s for name in SHORT for s in each(results, name, 32, "TabLeak", "cpu_seconds"))
    finished = f"it succeeded for {exact} of {len(finishes)} batches of 8 rows"
    found, guessed = (
        [f"{percent(share[name, 8], share[name, 32])} %" for name in SHORT] for share in (best, guess)
    )
    of_64 = percent(best["Titanic", 64])
    return {
        "README.md": [
            f"cells right at 8 / 32 rows: {found[0]} (Titanic), {found[1]} (election study);"
            f" a guess has {guessed[0]} and {guessed[1]}",
            f"64 rows of the Titanic: {of_64} %, the guess {percent(guess['Titanic', 64])} %",
        ],
        "docs/tabular.md": [
            *(words for name in SHORT for words in doubts(results, name)),
            f"about {seconds:.0f} s of one core at 32 rows",
            f"here it is {gain[0]} on the Titanic and {gain[1]} on the election study",
            f"at 64 rows the Titanic is {above[0]} points above the guess, the election study {above[1]}",
            f"{finished} ({close} of the others had all categories right, too)",
            f"of 32 rows all categories were right in {sum(whole)} of {len(whole)} batches",
            f"it refused {sum(not any(share) for share in peeled)} of the {len(peeled)} batches",
            f"the batch of 64 passengers goes from {of_64} % to {percent(told)} %",
        ],
        "docs/attacks/tableak.md": [
            f"{above[0]} points above the guess on the Titanic, and {above[1]} on the election study",
            finished,
        ],
    }
