"""The matrix as files: JSON keeps the structure, CSV is flat for spreadsheets; both are read back exactly."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from fedpriv.lab.matrix.limits import ASSUMPTIONS, Limits
from fedpriv.lab.matrix.measure import Leak, Leaked, Learned, Row

_PARTS: Mapping[str, type[Leak] | type[Limits]] = {"plain": Leak, "adaptive": Leak, "limits": Limits}
_TEXT = ("model", "defense", "strength", "family", "adaptive_needs", "plain_attack", "adaptive_attack")
_INFINITE = {"Infinity": math.inf, "-Infinity": -math.inf}


def write_json(rows: Iterable[Row], path: str | os.PathLike[str]) -> Path:
    """Write ``{"assumptions": {...}, "rows": [...]}``; infinities as words, for JSON has no such numbers."""
    target = _prepared(path)
    content = {"assumptions": ASSUMPTIONS, "rows": [_words(asdict(row)) for row in rows]}
    target.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return target


def read_json(path: str | os.PathLike[str]) -> list[Row]:
    """What `write_json` wrote."""
    return [_row(values) for values in json.loads(Path(path).read_text(encoding="utf-8"))["rows"]]


def write_csv(rows: Iterable[Row], path: str | os.PathLike[str]) -> Path:
    """Write one line a row; the columns of an opponent start with its name, an empty cell means none."""
    target = _prepared(path)
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _columns())
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in flat(row).items()})
    return target


def read_csv(path: str | os.PathLike[str]) -> list[Row]:
    """What `write_csv` wrote.

    Raises
    ------
    ValueError
        If the columns are not those of a matrix.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != _columns():
            raise ValueError(
                f"a matrix has the columns {_columns()}, got {reader.fieldnames}; write it again"
            )
        lines = [{column: _value(column, cell) for column, cell in line.items()} for line in reader]
    return [Row(**_nested(line, Row)) for line in lines]


def _prepared(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def flat(measured: Row | Leaked | Learned) -> dict[str, Any]:
    """What was measured, by column; the columns of an opponent start with its name.

    Examples
    --------
    >>> flat(Learned(rate=0.4, accuracy=0.9, accuracy_low=0.8, accuracy_high=1.0))
    {'rate': 0.4, 'accuracy': 0.9, 'accuracy_low': 0.8, 'accuracy_high': 1.0}
    """
    columns: dict[str, Any] = {}
    for name, value in asdict(measured).items():
        if name in _PARTS:
            columns |= {f"{name}_{part}": of_part for part, of_part in value.items()}
        else:
            columns[name] = value
    return columns


def leaked_of(columns: Mapping[str, Any]) -> Leaked:
    """What `flat` was given, out of these `columns`; others are left out."""
    return Leaked(**_nested(columns, Leaked))


def learned_of(columns: Mapping[str, Any]) -> Learned:
    """What `flat` was given, out of these `columns`; others are left out."""
    return Learned(**_nested(columns, Learned))


def _row(values: Mapping[str, Any]) -> Row:
    whole: dict[str, Any] = dict(values)
    for name, kind in _PARTS.items():
        whole[name] = kind(**{key: _INFINITE.get(str(v), v) for key, v in whole[name].items()})
    return Row(**{key: _INFINITE.get(str(v), v) for key, v in whole.items()})


def _words(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _words(item) for key, item in value.items()}
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _nested(columns: Mapping[str, Any], kind: type[Row | Leaked | Learned]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for f in fields(kind):
        if f.name in _PARTS:
            part = _PARTS[f.name]
            values[f.name] = part(**{p.name: columns[f"{f.name}_{p.name}"] for p in fields(part)})
        else:
            values[f.name] = columns[f.name]
    return values


def _columns() -> list[str]:
    names: list[str] = []
    for f in fields(Row):
        parts = fields(_PARTS[f.name]) if f.name in _PARTS else ()
        names += [f"{f.name}_{part.name}" for part in parts] or [f.name]
    return names


def _cell(value: Any) -> str:
    """Numbers with all their digits, so that reading gives back the same."""
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _value(column: str, cell: str) -> str | float | None:
    if column in _TEXT:
        return cell
    return float(cell) if cell else None
