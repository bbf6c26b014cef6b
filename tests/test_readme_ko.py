"""The Korean README says what the English one says: headings, code, links, commands and numbers agree."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = ("README.md", "README.ko.md")
ENGLISH, KOREAN = TEXTS = [(ROOT / name).read_text(encoding="utf-8") for name in NAMES]
FENCE = re.compile(r"^```(\w*)\n.*?^```$", flags=re.MULTILINE | re.DOTALL)


def blocks(text):
    return [match.group(0) for match in FENCE.finditer(text)]


def prose(text):
    return FENCE.sub("", text)


def headings(text):
    return [len(marks) for marks in re.findall(r"^(#+) ", prose(text), flags=re.MULTILINE)]


def links(text):
    """Where links and pictures lead, apart from the link to the other language."""
    return Counter(target for target in re.findall(r"\]\(([^)]+)\)", prose(text)) if target not in NAMES)


def commands(text):
    """The rows of the table of demos and benchmarks, in their order."""
    return re.findall(r"^\| `(fedpriv (?:demo|bench) \w+)` \|", text, flags=re.MULTILINE)


def code(text):
    """What stands in backquotes inside a line."""
    return set(re.findall(r"`([^`\n]+)`", prose(text)))


def numbers(text):
    """The numbers that carry a unit which both languages write alike."""
    return Counter(re.findall(r"[−\d.,]*\d(?= (?:dB|%))", prose(text)))


def table_sizes(text):
    return [line.count("|") for line in prose(text).splitlines() if line.startswith("|")]


@pytest.mark.parametrize("part", [headings, blocks, links, commands, code, numbers, table_sizes])
def test_both_languages_have_the_same(part):
    assert part(ENGLISH)
    assert part(KOREAN) == part(ENGLISH)


def test_each_leads_to_the_other_before_anything_else():
    for text, other in zip(TEXTS, reversed(NAMES), strict=True):
        first = re.search(r"\]\(([^)]+)\)", text)
        assert first is not None
        assert first.group(1) == other


def test_the_headings_and_rows_are_korean():
    for line in prose(KOREAN).splitlines():
        if line.startswith("## ") or re.match(r"\| `fedpriv ", line):
            assert re.search(r"[가-힣]", line), line


def test_a_change_in_one_language_alone_is_noticed():
    for part, old, new in (
        (headings, "\n## ", "\n### "),
        (blocks, "$ make demo\n", "$ make demos\n"),
        (links, "(docs/flower.md)", "(docs/engines.md)"),
        (commands, "| `fedpriv demo text` |", "| `fedpriv demo words` |"),
        (code, "`found.citation`", "`found.paper`"),
        (numbers, "120 dB", "110 dB"),
        (table_sizes, "|---|---|\n", "|---|---|---|\n"),
    ):
        assert old in KOREAN
        assert part(KOREAN.replace(old, new, 1)) != part(ENGLISH)
