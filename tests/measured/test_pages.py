"""The pages print what was measured: tables and sentences are those that the records give."""

from __future__ import annotations

import re

import pytest

from tests.measured.records import BENCHMARKS, PAGES, fill, flat, sentences


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_record_holds_every_cell_and_no_other(name):
    module, results = BENCHMARKS[name]
    assert list(results) == [cell.key for cell in module.cells()]


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_are_those_of_the_records(page):
    text = PAGES[page].read_text(encoding="utf-8")
    assert fill.filled(text, fill.tables()) == text, "run `make pages`"


def test_every_table_of_a_record_stands_in_a_page():
    placed = {
        (benchmark, name)
        for page in PAGES.values()
        for _, benchmark, name, _, _ in fill.PLACE.findall(page.read_text(encoding="utf-8"))
    }
    assert placed == set(fill.tables())


@pytest.mark.parametrize(("benchmark", "page", "words"), sentences())
def test_a_sentence_says_what_was_measured(benchmark, page, words):  # noqa: ARG001
    assert words in flat(PAGES[page].read_text(encoding="utf-8"))


def test_a_changed_number_is_noticed():
    for page in PAGES.values():
        text = page.read_text(encoding="utf-8")
        for place in fill.PLACE.finditer(text):
            digit = re.search(r"\d", place[4])
            assert digit, place[0]
            at = place.start(4) + digit.start()
            wrong = text[:at] + str((int(digit[0]) + 1) % 10) + text[at + 1 :]
            assert fill.filled(wrong, fill.tables()) == text
