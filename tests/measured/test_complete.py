"""No number that looks measured stands in a page without a record, a test, or a reason."""

from __future__ import annotations

import re

import pytest

from tests.measured.not_measured import NOT_MEASURED
from tests.measured.records import PAGES, ROOT, fill, flat, sentences

NUMBER = r"[−-]?\d[\d.,]*"
MEASURED = re.compile(
    rf"{NUMBER}(?:[ -](?:dB|s|ms|µs|ns|seconds?|minutes?|CPU|[kMG]B)\b| ?%)|\d+ of (?:the )?\d+"
    rf"|{NUMBER} (?:to|and|or) {NUMBER}(?:[ -](?:dB|s|ms|seconds?|minutes?|[kMG]B)\b| ?%)"
)
"""Numbers with the units of measurement: decibels, seconds, bytes, percent, so many of so many."""
KEEPERS = re.compile(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]+\$|\]\([^)]*\)|<!--.*?-->", re.DOTALL)
"""Code, formulas and links: code is run by the tests of the pages."""
PLANS = re.compile(r"^(?:\*\*Time\.\*\*|Timing:).*?\.(?=\s)", re.DOTALL | re.MULTILINE)
"""How long a lesson is meant to take; ``tests/test_course.py`` compares these with each other."""


def uncovered(page: str) -> list[str]:
    """What looks measured in a page after taking away what a record gives or a reason covers."""
    text = PLANS.sub("", fill.PLACE.sub("", PAGES[page].read_text(encoding="utf-8")))
    rest = flat("\n".join(line for line in text.splitlines() if not line.lstrip().startswith("|")))
    tables = [flat(line) for line in text.splitlines() if line.lstrip().startswith("|")]
    covered = [words for _, where, words in sentences() if where == page]
    covered += [flat(words) for words in NOT_MEASURED.get(page, {})]
    for words in sorted(covered, key=len, reverse=True):
        rest = rest.replace(words, " ")
        tables = [row.replace(words, " ") for row in tables]
    found = MEASURED.findall(KEEPERS.sub(" ", rest))
    for row in tables:
        found += re.findall(r"[^|]*\d[^|]*", KEEPERS.sub(" ", row))
    return [words.strip() for words in found]


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.ko.md"])
def test_every_number_that_looks_measured_is_covered(page):
    assert uncovered(page) == []


@pytest.mark.parametrize("page", NOT_MEASURED)
def test_every_reason_is_still_needed(page):
    text = flat(PAGES[page].read_text(encoding="utf-8"))
    for words in NOT_MEASURED[page]:
        assert flat(words) in text, words


def test_a_reason_that_names_a_test_names_one():
    for page, reasons in NOT_MEASURED.items():
        for words, reason in reasons.items():
            if reason.startswith("tests/"):
                file, _, name = reason.partition("::")
                assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), (page, words)


@pytest.mark.parametrize(
    "words", ["120 dB", "0.5 s", "16 ms", "87 %", "87%", "66 of 80", "2 to 4 s", "317 MB"]
)
def test_what_looks_measured(words):
    assert MEASURED.search(f"it takes {words} here")
