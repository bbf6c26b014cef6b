"""Every exercise: blank it fails, solved it passes, and a typical wrong answer gets the hint that helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedpriv.cli import grading, scripts
from tests.exercises.wrong import WRONG

EXERCISES = grading.find()
SOLUTIONS = Path(__file__).parents[2] / "exercises" / "solutions"
MISTAKES = [(name, mistake) for name, mistakes in WRONG.items() for mistake in mistakes]


def hints(name, text, tmp_path, *, seed=0):
    answer = tmp_path / f"{name}.py"
    answer.write_text(text, encoding="utf-8")
    return {verdict.task: verdict.hint for verdict in grading.check(EXERCISES[name], answer, seed=seed)}


def solution(name):
    return (SOLUTIONS / f"{name}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", EXERCISES)
def test_the_blank_exercise_fails_everywhere(name, tmp_path):
    found = hints(name, EXERCISES[name].read_text(encoding="utf-8"), tmp_path)
    assert found
    assert set(found.values()) == {grading.NOT_WRITTEN}


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_solution_passes_in_every_variant(name, seed, tmp_path):
    assert set(hints(name, solution(name), tmp_path, seed=seed).values()) == {None}


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_a_typical_mistake_gets_its_hint(name, mistake, seed, tmp_path):
    task, body, words = WRONG[name][mistake]
    found = hints(name, f"{solution(name)}\n\n{body}", tmp_path, seed=seed)
    wrong = {other: hint for other, hint in found.items() if hint is not None}
    assert task in wrong
    assert words in wrong[task]


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_has_three_typical_mistakes(name):
    assert len(WRONG[name]) >= 3


def test_exercises_come_in_the_order_of_the_lessons():
    lessons = [
        int(scripts.title(path).removeprefix("Lesson ").partition(":")[0]) for path in EXERCISES.values()
    ]
    assert lessons == sorted(lessons)
    assert len(set(lessons)) == len(lessons)


def test_what_a_student_sees_of_an_error_is_the_line_in_her_file(tmp_path):
    text = solution("tutorial").replace("return round(float(a[-1, -1]))", "return a[9, 9]")
    line = 1 + text.splitlines().index("    return a[9, 9]")
    assert (
        f"IndexError: index 9 is out of bounds for dimension 0 with size 3 (line {line})"
        in hints("tutorial", text, tmp_path)["count"]
    )


def test_a_file_that_python_cannot_read(tmp_path):
    assert "'(' was never closed, line 1" in hints("tutorial", "x = (", tmp_path)["count"]


def test_start_never_overwrites(tmp_path):
    file = grading.start(EXERCISES["tutorial"], tmp_path)
    file.write_text("mine")
    with pytest.raises(ValueError, match="your work would be lost"):
        grading.start(EXERCISES["tutorial"], tmp_path)
    assert file.read_text() == "mine"


def test_a_wheel_carries_every_exercise_and_no_solution():
    tomllib = pytest.importorskip("tomllib")
    root = SOLUTIONS.parents[1]
    build = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    carried = {name for name in build["targets"]["wheel"]["force-include"] if name.startswith("exercises/")}
    assert carried == {"exercises/checks", *(f"exercises/{name}.py" for name in EXERCISES)}
