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
from fedpriv.lab.matrix.measure import Leak, Row

_PARTS: Mapping[str, type[Leak] | type[Limits]] = {"plain": Leak, "adaptive": Leak, "limits": Limits}
_TEXT = ("model", "defense", "strength", "family", "adaptive_needs", "attack")
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
            writer.writerow({name: _cell(value) for name, value in _flat(asdict(row)).items()})
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
        return [_row(_nested(line)) for line in reader]


def _prepared(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


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


def _places() -> dict[str, tuple[str, str]]:
    """Column to the part of a row and the field that it holds; the part is empty for the row itself."""
    places: dict[str, tuple[str, str]] = {}
    for f in fields(Row):
        if f.name in _PARTS:
            places |= {f"{f.name}_{part.name}": (f.name, part.name) for part in fields(_PARTS[f.name])}
        else:
            places[f.name] = ("", f.name)
    return places


def _columns() -> list[str]:
    return list(_places())


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return {column: values[part][key] if part else values[key] for column, (part, key) in _places().items()}


def _nested(line: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {name: {} for name in _PARTS}
    for column, (part, key) in _places().items():
        holder = values[part] if part else values
        holder[key] = line[column] if key in _TEXT else _number(line[column])
    return values


def _cell(value: Any) -> str:
    """Numbers with all their digits, so that reading gives back the same."""
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _number(cell: str) -> float | None:
    return float(cell) if cell else None
