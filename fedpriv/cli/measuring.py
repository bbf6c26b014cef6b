"""Running a benchmark: one made of cells can be recorded and continued, an older one runs as a whole."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any


def run(
    module: ModuleType, *, quick: bool, record: Path | None, only: str | None, again: bool
) -> dict[str, Any]:
    """Return what a benchmark measured; ``{"machine": ..., "cells": {key: values}}`` if made of cells."""
    if not hasattr(module, "cells"):
        if record or only or again:
            raise ValueError(
                "--record, --only and --again are for benchmarks that are made of cells; this one is not"
            )
        whole: dict[str, Any] = module.main(quick=quick)
        return whole
    from fedpriv.lab import study

    cells = module.cells()
    results = study.measure(cells, record, quick=quick, only=only or "*", again=again)
    if not results:
        shown = ", ".join(repr(cell.key) for cell in cells[:5])
        raise ValueError(f"expected --only to match the name of a measurement, such as {shown}, got {only!r}")
    return {"machine": study.machine(), "cells": results}


def report(module: ModuleType, result: dict[str, Any]) -> str:
    """Return the figures as text: a line a cell, and the tables of the pages where all cells are there."""
    if not hasattr(module, "cells"):
        text: str = module.report(result)
        return text
    lines = [f"machine: {result['machine']}"]
    for key, values in result["cells"].items():
        lines.append(f"  {key}: " + ", ".join(f"{name} {_shown(value)}" for name, value in values.items()))
    if len(result["cells"]) == len(module.cells()) and hasattr(module, "tables"):
        lines += [f"\n{table}" for table in module.tables(result["cells"]).values()]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
