"""The README keeps its promises: its Python prints what it says, its tables are those of the demos."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from fedpriv.cli import scripts

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_a_snippet_prints_what_its_comments_say(code):
    promised = re.findall(r"^# (.*)$", code, flags=re.MULTILINE)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue().splitlines() == promised


def masked(text):
    """Errors of rounding differ between machines, so digits of powers of ten do not count."""
    return re.sub(r"\de-\d\d", "#", text)


@pytest.mark.parametrize("name", ["tutorial", "one_image"])
def test_the_tables_are_those_of_the_demos(name, tmp_path):
    module = scripts.load(scripts.find("demos")[name])
    shown = masked(module.report(module.main(tmp_path, seed=0)))
    rows = [line for line in shown.splitlines() if re.match(r"  (client|bob|alice|image|digit|face) ", line)]
    assert rows
    for row in rows:
        assert row in masked(README)


def test_every_demo_and_benchmark_is_listed():
    for kind, command in (("demos", "demo"), ("benchmarks", "bench")):
        for name in scripts.find(kind):
            assert f"`fedpriv {command} {name}`" in README


def test_the_files_that_it_links_to_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (Path(__file__).parents[1] / target).is_file(), target
