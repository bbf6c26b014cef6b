"""What an attack found, for a reader: how sure it is, the numbers if few, and how to open the file."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attacks import Reconstruction

FEW = 20
"""Numbers of a sample that is printed whole."""
SHOWN = 5
"""Samples that are printed."""
MATCHES = 1e-2
"""Residual from which on the replay does not match."""
WIDTH = 110


def report(rec: Reconstruction, notes: Sequence[str], arrays: str, *, doubt: str = "") -> str:
    """A few lines.

    Parameters
    ----------
    rec : Reconstruction
    notes : sequence of str
    arrays : str
        The ``.npz`` that holds it.
    doubt : str
        What to suspect if the replay is off.
    """
    shape = " × ".join(map(str, rec.inputs.shape[1:])) or "one number"
    what = "sample" if bool(rec.certified.any()) else "candidate"
    many = f"{rec.num_samples} {what}{'s' * (rec.num_samples != 1)}"
    sure = "" if bool(rec.certified.any()) else ", not confirmed"
    rows = [
        ("certified", _certified(rec, doubt)),
        ("residual", f"{rec.residual:.1e} (relative distance of the replayed update from the observed one)"),
        ("method", rec.method),
        ("paper", rec.citation),
        *(("note", note) for note in notes),
        *_values(rec),
        ("open it", f'numpy.load("{arrays}")["inputs"]'),
    ]
    return "\n".join(
        [f"{many}{sure} ({shape} each) in {rec.seconds:.2f} s", *(_row(name, text) for name, text in rows)]
    )


def _row(name: str, text: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=f"{name + ':':<11}",
        subsequent_indent=" " * 11,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _certified(rec: Reconstruction, doubt: str) -> str:
    """How many, and what that rests on, or why there are none."""
    certified = int(rec.certified.sum())
    count = f"{certified} of {rec.num_samples}"
    if certified == rec.num_samples and rec.residual <= MATCHES:
        return f"{count} (given this model and loss, the replay matches and no other data would match)"
    if certified:
        return f"{count} (given this model and loss, certified samples are in the data whatever else is)"
    if rec.residual <= MATCHES:
        return f"{count}: the replay matches, but other data may match as well"
    return f"{count}: the replay is off by {rec.residual:.2f}. {doubt}".rstrip()


def _values(rec: Reconstruction) -> list[tuple[str, str]]:
    """The certified samples in numbers, if each has few."""
    if rec.inputs[:1].numel() > FEW:
        return []
    certified = rec.certified.nonzero().reshape(-1).tolist()
    rows = []
    for k in certified[:SHOWN]:
        text = _numbers(rec.inputs[k].reshape(-1).tolist())
        if rec.targets is not None and rec.targets[k].numel() <= FEW:
            text += f"; target {_numbers(rec.targets[k].reshape(-1).tolist())}"
        rows.append((f"sample {k + 1}", text))
    left = len(certified) - SHOWN
    return [*rows, ("", f"and {left} more")] if left > 0 else rows


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
