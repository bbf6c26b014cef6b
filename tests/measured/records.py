"""What the tests of measured numbers share: the records, and the pages that quote them."""

from __future__ import annotations

import re
from pathlib import Path

from fedpriv.cli import scripts

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
fill = scripts.load(DOCS / "fill.py")

BENCHMARKS = {name: (module, results) for name, module, results in fill.benchmarks()}
PAGES = {
    str(page.relative_to(ROOT)): page
    for page in [ROOT / "README.md", ROOT / "README.ko.md", *sorted(DOCS.rglob("*.md"))]
    if not {"_build", "gallery", "generated"} & set(page.relative_to(ROOT).parts)
}


def flat(text: str) -> str:
    """Text without line breaks, so that a sentence is found wherever its lines are broken."""
    return re.sub(r"\s+", " ", text)


def sentences() -> list[tuple[str, str, str]]:
    """Every (benchmark, page, words) that a record gives."""
    return [
        (name, page, flat(words))
        for name, (module, results) in BENCHMARKS.items()
        if hasattr(module, "sentences") and fill.complete(module, results)
        for page, all_words in module.sentences(results).items()
        for words in all_words
    ]
