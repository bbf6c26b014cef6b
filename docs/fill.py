"""Write the tables of what was measured into the pages: ``make pages``.

A benchmark made of cells says in ``tables(results)`` which tables its record gives, by page and name, and in
``sentences(results)`` which words of a page carry a number of its record. In a page a table stands between
``<!-- measured: benchmark.name -->`` and ``<!-- end -->``. Tables are filled in here; sentences are only
checked, by the tests.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from fedpriv.cli import scripts  # noqa: E402
from fedpriv.lab import study  # noqa: E402

RECORDS = ROOT / "docs" / "measured"
PLACE = re.compile(r"(<!-- measured: (\w+)\.(\w+) -->)\n(.*?)(<!-- end -->)", re.DOTALL)


def benchmarks() -> Iterator[tuple[str, ModuleType, study.Results]]:
    """Every benchmark that has a record: its name, its module, and what the record holds."""
    available = scripts.find("benchmarks")
    for file in sorted(RECORDS.glob("*.json")):
        yield file.stem, scripts.load(scripts.choose(file.stem, available, "benchmark")), study.read(file)


def complete(module: ModuleType, results: study.Results) -> bool:
    """Whether the record holds every cell, so that its tables can be printed."""
    return all(cell.key in results for cell in module.cells())


def tables() -> dict[tuple[str, str], str]:
    """Every table that the records give, by benchmark and name."""
    return {
        (benchmark, name): text
        for benchmark, module, results in benchmarks()
        if hasattr(module, "tables") and complete(module, results)
        for name, text in module.tables(results).items()
    }


def filled(text: str, given: dict[tuple[str, str], str]) -> str:
    """The page `text` with its tables as the records give them."""

    def table(place: re.Match[str]) -> str:
        before, benchmark, name, _, after = place.groups()
        if (benchmark, name) not in given:
            raise ValueError(f"no record gives the table {benchmark}.{name}")
        return f"{before}\n\n{given[benchmark, name].strip()}\n\n{after}"

    return PLACE.sub(table, text)


def main() -> None:
    """Fill all pages, and name those that changed."""
    given = tables()
    for page in [*ROOT.glob("README*.md"), *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        if (new := filled(text, given)) != text:
            page.write_text(new, encoding="utf-8")
            print(page.relative_to(ROOT))


if __name__ == "__main__":
    main()
