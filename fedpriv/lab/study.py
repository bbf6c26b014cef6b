"""Measurements that are kept: what a page says was measured, and what CI measures again.

A benchmark is a list of cells. Each is one measurement with a name, small enough to repeat on its own, and
gives a few named values. What came out is recorded in a JSON file after every cell, so an interrupted run
goes on where it stopped; the pages print tables made from that file; and tests measure the quick cells again
and ask whether they agree with the record, within a band for each kind of value.
"""

from __future__ import annotations

import fnmatch
import json
import math
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fedpriv.progress import progress

Values = Mapping[str, Any]
"""What a cell measured, by name: numbers, words, yes or no, None, or lists of them."""
Results = Mapping[str, Values]
"""What was measured, by the key of the cell."""

CAP = 100.0
"""Decibels from which on a picture counts as exact, wherever rounding stops the number."""
SLOWEST = 10.0
"""By what factor seconds may differ on another machine, above half a second."""


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes
    ----------
    key : str
        Its name, such as ``"two layers, 16 samples, seed 3"``.
    run : callable
        Takes nothing and returns the values by name. It draws all randomness from seeds of its own. CPU
        seconds are added as ``cpu_seconds`` unless it returns them itself.
    quick : bool
        Whether ``fedpriv bench --quick`` and the tests measure it again. A few seconds at most.
    bands : mapping of str to float
        Absolute tolerances by name of the value, where those of `agree` do not fit.
    """

    key: str
    run: Callable[[], Values]
    quick: bool = False
    bands: Mapping[str, float] = field(default_factory=dict)


def agree(name: str, recorded: Any, again: Any, tolerance: float | None = None) -> bool:
    """Whether a value that was measured again agrees with the record.

    Words, yes or no and None must be equal. Seconds (names that end in ``seconds``) may differ by a factor of
    ten, where they are above half a second. Decibels (names that contain ``psnr``) may differ by 3, and are
    equal above 100. Shares (names that contain ``share``) may differ by 0.1, all other numbers by a tenth.

    Examples
    --------
    >>> agree("psnr", 120.0, 104.2), agree("psnr", 25.0, 29.0), agree("psnr", 25.0, 29.0, tolerance=5.0)
    (True, False, True)
    >>> agree("cpu_seconds", 0.1, 0.4), agree("cpu_seconds", 1.0, 11.0), agree("labels", [8, 8], [8, 7])
    (True, False, False)
    """
    if isinstance(recorded, Sequence) and not isinstance(recorded, str):
        same_length = isinstance(again, Sequence) and len(recorded) == len(again)
        return same_length and all(agree(name, r, a, tolerance) for r, a in zip(recorded, again, strict=True))
    if not _is_number(recorded) or not _is_number(again):
        return bool(recorded == again)
    if tolerance is not None:
        return bool(abs(recorded - again) <= tolerance)
    if name.endswith("seconds"):
        low, high = sorted(max(value, 0.5) for value in (recorded, again))
        return bool(high <= SLOWEST * low)
    if "psnr" in name:
        return bool(abs(recorded - again) <= 3.0 or min(recorded, again) >= CAP)
    if "share" in name:
        return bool(abs(recorded - again) <= 0.1)
    return math.isclose(recorded, again, rel_tol=0.1, abs_tol=1e-9)


def differences(cells: Iterable[Cell], recorded: Results, again: Results) -> list[str]:
    """Say in one sentence each which of the `cells` do not agree with the record."""
    found = []
    for cell in cells:
        then, now = recorded.get(cell.key), again[cell.key]
        if then is None:
            found.append(f"{cell.key}: not in the record")
            continue
        for name in then.keys() | now.keys():
            if name not in then or name not in now:
                found.append(
                    f"{cell.key}: {name} is only in the {'record' if name in then else 'new values'}"
                )
            elif not agree(name, then[name], now[name], cell.bands.get(name)):
                found.append(f"{cell.key}: {name} was {then[name]}, now {now[name]}")
    return sorted(found)


def machine() -> str:
    """Say on what this is measured."""
    return f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"


def read(file: Path) -> dict[str, Values]:
    """Return what a record holds, by the key of the cell.

    Raises
    ------
    ValueError
        If `file` is no record.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        cells: dict[str, Values] = record["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"expected a record that `fedpriv bench --record` wrote, got {file}") from error
    return cells


def write(file: Path, cells: Iterable[Cell], results: Results) -> None:
    """Write the `results` of `cells`, in their order; never a half-written file."""
    known = [cell.key for cell in cells if cell.key in results]
    record = {"machine": machine(), "cells": {key: results[key] for key in known}}
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".draft")
    draft.write_text(
        json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    draft.replace(file)


def measure(
    cells: Sequence[Cell],
    file: Path | None = None,
    *,
    quick: bool = False,
    only: str = "*",
    again: bool = False,
) -> dict[str, Values]:
    """Measure cells on one thread and return their values, those of the record included.

    Parameters
    ----------
    cells : sequence of Cell
    file : Path, optional
        The record. What is in it is not measured again, and every new cell is written into it at once.
    quick : bool
        Only the quick cells.
    only : str
        Only cells whose key matches this pattern of a shell.
    again : bool
        Measure also what the record already has.

    Examples
    --------
    >>> cells = [Cell("one", lambda: {"psnr": 120.0, "cpu_seconds": 0.1})]
    >>> measure(cells)
    {'one': {'psnr': 120.0, 'cpu_seconds': 0.1}}
    """
    keys = [cell.key for cell in cells]
    if len(set(keys)) < len(keys):
        raise ValueError(
            f"expected cells with different keys, got {sorted({k for k in keys if keys.count(k) > 1})}"
        )
    results = read(file) if file is not None and file.exists() else {}
    chosen = [cell for cell in cells if fnmatch.fnmatchcase(cell.key, only) and (cell.quick or not quick)]
    todo = [cell for cell in chosen if again or cell.key not in results]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small matrices: a second thread mostly waits
    try:
        for cell in progress(todo, description="cells"):
            start = time.process_time()
            values = dict(cell.run())
            values.setdefault("cpu_seconds", time.process_time() - start)
            results[cell.key] = {name: _tidy(value) for name, value in values.items()}
            if file is not None:
                write(file, cells, results)
    finally:
        torch.set_num_threads(threads)
    return {cell.key: results[cell.key] for cell in chosen}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _tidy(value: Any) -> Any:
    """A value as the record keeps it: four digits; no infinities, for JSON has none."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_tidy(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value
