"""The matrix as cells that are measured one by one and kept, and the table that pages show of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Any

from fedpriv.lab.matrix.entries import Entry
from fedpriv.lab.matrix.limits import Limits
from fedpriv.lab.matrix.measure import Leak, Leaked, Learned, Plan, Row, leak, learn, row
from fedpriv.lab.matrix.tables import flat, leaked_of, learned_of
from fedpriv.lab.matrix.victims import Victim
from fedpriv.lab.study import Cell, Results

Part = Callable[[Entry, Victim, Plan], Learned | Leaked]
PARTS: dict[str, Part] = {"leak": leak, "accuracy": learn}
"""What is measured of a row, by the word at the end of the cell's name."""


def cells(victim: Victim, chosen: Iterable[Entry], plan: Plan, quick: Collection[str] = ()) -> list[Cell]:
    """Two cells a row; `quick` has the names of those that tests measure again.

    Examples
    --------
    >>> from fedpriv.lab.matrix import MLP, NONE
    >>> [cell.key for cell in cells(MLP, [NONE], Plan(seeds=(0,), training_seeds=(0,)))]
    ['MLP, no defense, leak', 'MLP, no defense, accuracy']
    """
    return [
        Cell(name, partial(_values, measured, victim, entry, plan), quick=name in quick)
        for entry in chosen
        for part, measured in PARTS.items()
        for name in (_key(victim, entry, part),)
    ]


def rows(victim: Victim, chosen: Iterable[Entry], results: Results) -> list[Row]:
    """The rows of which both cells are there."""
    found = []
    for entry in chosen:
        parts = {part: results.get(_key(victim, entry, part)) for part in PARTS}
        if parts["leak"] and parts["accuracy"]:
            found.append(row(entry, victim, learned_of(parts["accuracy"]), leaked_of(parts["leak"])))
    return found


def table(measured: Sequence[Row]) -> str:
    """Rows in Markdown, as docs/defenses_measured.md explains them."""
    head = (
        "| defense | accuracy | kB | ignorant, dB | informed, dB | informed attack | told apart | limit |\n"
        "|---|---|---|---|---|---|---|---|\n"
    )
    return head + "\n".join(map(_line, measured))


def spent(of: Limits) -> str:
    """Epsilon of the whole training with two digits.

    Examples
    --------
    >>> spent(Limits(epsilon_training=3.3123)), spent(Limits(epsilon_training=3312.0))
    ('3.3', '3 300')
    """
    two = f"{of.epsilon_training:.2g}"
    return two if float(two) < 100 else f"{float(two):,.0f}".replace(",", " ")


def _key(victim: Victim, entry: Entry, part: str) -> str:
    return f"{victim.name}, {entry.name}, {part}"


def _values(part: Part, victim: Victim, entry: Entry, plan: Plan) -> dict[str, Any]:
    return flat(part(entry, victim, plan))


def _line(of: Row) -> str:
    accuracy = _spread(*(f"{a:.0%}" for a in (of.accuracy, of.accuracy_low, of.accuracy_high)))
    informed = "–" if of.adaptive.refused == 1 else of.adaptive.attack
    shown = [of.name, accuracy, f"{float(f'{of.bytes_per_round / 1000:.3g}'):g}", _decibels(of.plain)]
    shown += [_decibels(of.adaptive), informed, f"{of.adaptive.identified:.0%}", _limits(of.limits)]
    if of.does_nothing and of.defense != "no defense":
        shown[-1] = "does nothing: what is sent is the plain update"
    return f"| {' | '.join(shown)} |"


def _spread(middle: str, low: str, high: str) -> str:
    return middle if low == high else f"{middle} ({low}–{high})"


def _decibels(of: Leak) -> str:
    if of.refused == 1:
        return "refuses"
    return _spread(*(f"{value:.0f}" for value in (of.psnr, of.psnr_low, of.psnr_high)))


def _limits(of: Limits) -> str:
    shown = []
    if of.cramer_rao_psnr is not None:
        shown.append(f"{of.cramer_rao_psnr:.0f} dB unbiased".replace("-", "−"))
    if of.rero is not None and of.rero < 0.995:
        shown.append(f"told apart ≤ {of.rero:.0%}")
    if of.epsilon_training is not None:
        shown.append(f"ε {spent(of)}")
    return ", ".join(shown)
