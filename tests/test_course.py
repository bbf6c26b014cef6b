"""The lessons keep their promises: what their Python prints stands behind it, and what they name exists."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from fedpriv.cli import grading, scripts

DOCS = Path(__file__).parents[1] / "docs"
LESSONS = sorted((DOCS / "course").glob("[0-9]*.md"))
PAGES = sorted(DOCS.glob("*.md")) + sorted((DOCS / "course").glob("*.md"))


def text_of(page):
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", LESSONS, ids=lambda page: page.stem)
def test_a_lesson_prints_what_its_comments_say(page):
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", text_of(page), flags=re.DOTALL):
        promised = re.findall(r"^# (.*)$", code, flags=re.MULTILINE)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page.name, "exec"), names)
        assert printed.getvalue().splitlines() == promised


@pytest.mark.parametrize("page", LESSONS, ids=lambda page: page.stem)
def test_a_lesson_has_goals_time_an_exercise_and_questions(page):
    text = text_of(page)
    for part in ("**Goals.**", "**Before.**", "**Time.**", "## Exercise", "## Questions"):
        assert part in text
    assert len(re.findall(r"^\d\. ", text.partition("## Questions")[2], flags=re.MULTILINE)) >= 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_exists(page):
    text = text_of(page)
    for kind, command in (("demos", "demo"), ("benchmarks", "bench")):
        for name in re.findall(rf"fedpriv {command} ([a-z]\w*)", text):
            assert name in scripts.find(kind), name
    for name in re.findall(r"fedpriv exercise \w+ ([a-z]\w*)", text):
        assert name in grading.find(), name
    for target in re.findall(r"\]\(([^)#:]+\.md)", text):
        assert (page.parent / target).is_file(), target


def test_the_instructor_has_an_answer_to_every_question():
    answers = text_of(DOCS / "course" / "instructor.md")
    for page in LESSONS:
        title = text_of(page).partition("\n")[0].removeprefix("# ")
        section = re.search(
            rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", answers, flags=re.MULTILINE | re.DOTALL
        )
        assert section, title
        asked = re.findall(r"^\d\. ", text_of(page).partition("## Questions")[2], flags=re.MULTILINE)
        answered = re.findall(r"^\d\. ", section[1], flags=re.MULTILINE)
        assert asked == answered


def minutes(page):
    return int(re.search(r"\*\*Time\.\*\* (\d+) minutes", text_of(page))[1])


def test_the_minutes_of_the_index_and_of_the_instructor_are_those_of_the_lessons():
    index, instructor = (text_of(DOCS / "course" / f"{name}.md") for name in ("index", "instructor"))
    plans = re.findall(r"^Timing: (.*?)\.(?=\s)", instructor, flags=re.MULTILINE | re.DOTALL)
    sums = [sum(map(int, re.findall(r"\d+", re.sub(r"\(.*?\)", "", plan)))) for plan in plans]
    for page in LESSONS:
        row = rf"^\| {int(page.stem[:2])} \| .*\({page.name}\) \|[^|]*\| {minutes(page)} \|"
        assert re.search(row, index, flags=re.MULTILINE), page.stem
    assert sums == [minutes(page) for page in LESSONS]
    assert f"lessons of {min(sums)} to {max(sums)} minutes" in index


def takes(demo):
    """Seconds that a demo says it takes."""
    number, unit = scripts.duration(scripts.find("demos")[demo]).split()
    return int(number) * {"s": 1, "min": 60}[unit]


@pytest.mark.parametrize("page", LESSONS, ids=lambda page: page.stem)
def test_a_lesson_computes_as_long_as_it_says(page):
    """The Python in it takes a second or two; what counts are its demos."""
    demos = [takes(name) for name in set(re.findall(r"fedpriv demo ([a-z]\w*)", text_of(page)))]
    (promised,) = re.findall(r"\*\*Time\.\*\* \d+ minutes, (.*)\.", text_of(page))
    assert promised == ("seconds of compute" if max(demos) <= 20 else "a minute of compute for each demo")
    assert max(demos) <= 60
    assert sum(demos) <= 120  # "no lesson computes for longer than two minutes"
