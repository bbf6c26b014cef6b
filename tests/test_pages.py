"""A page for every attack and every defense, and each keeps its promises: code, links, parts, names."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from pathlib import Path

import pytest
import torch

import attacks
from attacks import Attack
from fedpriv import defenses
from fedpriv.cli import scripts
from fedpriv.defenses import Aggregator, DataDefense, Defense, StepDefense

DOCS = Path(__file__).parents[1] / "docs"
ATTACKS, DEFENSES = (sorted((DOCS / room).glob("*.md")) for room in ("attacks", "defenses"))
ALL = ATTACKS + DEFENSES
PAGES = [page for page in ALL if page.stem != "index"]
PARTS = ("Idea", "Formula", "When it fails", "Citation")
MECHANISMS = (Defense, Aggregator, DataDefense, StepDefense)


def name_of(page):
    return f"{page.parent.name}/{page.stem}"


def text_of(page):
    return page.read_text(encoding="utf-8")


def text_of_all(pages):
    return "\n".join(map(text_of, pages))


def blocks(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def public(room, kinds):
    """The classes of `kinds` among a room's public names that can be used, not only derived from."""
    names = {name: getattr(room, name) for name in room.__all__}
    found = {n: c for n, c in names.items() if inspect.isclass(c) and issubclass(c, kinds)}
    return {n: c for n, c in found.items() if not inspect.isabstract(c)}


ATTACK_CLASSES = public(attacks, Attack) | public(attacks.adaptive, Attack)
DEFENSE_CLASSES = [*public(defenses, MECHANISMS), "VariationalBottleneck"]

each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@each_page
def test_a_page_prints_what_its_comments_say(page):
    names: dict[str, object] = {}
    codes = blocks(text_of(page))
    assert codes
    with torch.random.fork_rng():
        for code in codes:
            promised = re.findall(r"^# (.*)$", code, flags=re.MULTILINE)
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, page.name, "exec"), names)
            assert printed.getvalue().splitlines() == promised


@each_page
def test_a_page_has_an_idea_a_formula_its_limits_and_a_citation(page):
    text = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    sections = dict(re.findall(r"^## (.+?)$\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL))
    if page.stem == "adaptive":  # one section an attack, with the parts in bold
        written = {name: re.split(r"\*\*(.+?)\.\*\*", body) for name, body in sections.items()}
        parts = [dict(zip(split[1::2], split[2::2], strict=True)) for split in written.values()]
        assert set(written) == set(public(attacks.adaptive, Attack))
    else:
        parts = [sections]
    for given in parts:
        assert set(PARTS) <= set(given)
        assert all(given[part].strip() for part in PARTS)
        assert "$" in given["Formula"]


@each_page
def test_the_idea_is_about_three_sentences(page):
    ideas = re.findall(r"^## Idea\n(.*?)(?=^## )", text_of(page), flags=re.MULTILINE | re.DOTALL)
    ideas += re.findall(r"^\*\*Idea\.\*\* (.*?)\n\n", text_of(page), flags=re.MULTILINE | re.DOTALL)
    for idea in ideas:
        assert 2 <= len(re.findall(r"[.?!:](?=\s|$)", idea)) <= 5


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_links_and_commands_lead_somewhere(page):
    text = text_of(page)
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        where = page.parent / target
        if "/gallery/" in target:  # built from the demo of that name
            assert target.endswith("/index") or (DOCS.parent / "demos" / f"{where.name}.py").is_file(), target
        else:
            assert where.is_file(), target
    for kind, command in (("demos", "demo"), ("benchmarks", "bench")):
        for name in re.findall(rf"fedpriv {command} ([a-z]\w*)", text):
            assert name in scripts.find(kind), name


@pytest.mark.parametrize("room", ["attacks", "defenses"])
def test_the_index_shows_every_page_in_table_and_menu(room):
    text = text_of(DOCS / room / "index.md")
    table, _, menu = text.partition("```{toctree}")
    pages = {page.stem for page in PAGES if page.parent.name == room}
    assert set(re.findall(r"\]\((\w+)\.md\)", table)) == pages
    assert set(re.findall(r"^(\w+)$", menu, flags=re.MULTILINE)) == pages
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1


def test_the_demos_of_the_attacks_exist():
    rows = [row for row in text_of(DOCS / "attacks" / "index.md").splitlines() if row.startswith("| [")]
    for row in rows:
        for name in re.findall(r"`(\w+)` \|$", row):
            assert name in scripts.find("demos"), name


@pytest.mark.parametrize("name", ATTACK_CLASSES)
def test_every_attack_has_a_page_that_cites_its_paper(name):
    mine = [page for page in ATTACKS if page.stem != "index" and re.search(rf"\b{name}\b", text_of(page))]
    assert mine, f"no page in docs/attacks names {name}"
    author = re.findall(r"\w+", ATTACK_CLASSES[name].citation)[0]
    assert any(author in text_of(page) for page in mine), author


@pytest.mark.parametrize("name", DEFENSE_CLASSES)
def test_every_defense_has_a_page_and_a_row(name):
    pages = [page for page in DEFENSES if page.stem != "index"]
    assert re.search(rf"\b{name}\b", text_of_all(pages)), f"no page in docs/defenses names {name}"
    assert f"`{name}`" in text_of(DOCS / "defenses" / "index.md")


def test_every_way_to_read_labels_is_explained():
    page = text_of(DOCS / "attacks" / "labels.md")
    functions = [n for n in attacks.labels.__all__ if inspect.isfunction(getattr(attacks.labels, n))]
    assert len(functions) >= 8
    for name in functions:
        assert f"`{name}`" in page, name
