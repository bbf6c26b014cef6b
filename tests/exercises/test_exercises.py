"""Every exercise: blank it fails, solved in any way it passes, and mistakes get a hint that helps."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedpriv.cli import grading, scripts
from fedpriv.cli.exercise import exercise
from tests.exercises.right import RIGHT
from tests.exercises.wrong import WRONG

EXERCISES = grading.find()
SOLUTIONS = Path(__file__).parents[2] / "exercises" / "solutions"
MISTAKES = [(name, mistake) for name, mistakes in WRONG.items() for mistake in mistakes]
OTHERS = [(name, way) for name, ways in RIGHT.items() for way in ways]


def hints(name, text, tmp_path, *, seed=0, patience=20.0):
    answer = tmp_path / f"{name}.py"
    answer.write_text(text, encoding="utf-8")
    verdicts = grading.check(EXERCISES[name], answer, seed=seed, patience=patience)
    return {verdict.task: verdict.hint for verdict in verdicts}


def solution(name):
    return (SOLUTIONS / f"{name}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", EXERCISES)
def test_the_blank_exercise_fails_everywhere(name, tmp_path):
    found = hints(name, EXERCISES[name].read_text(encoding="utf-8"), tmp_path)
    assert found
    assert set(found.values()) == {grading.NOT_WRITTEN}


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_solution_passes_in_every_variant(name, seed, tmp_path):
    assert set(hints(name, solution(name), tmp_path, seed=seed).values()) == {None}


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize(("name", "way"), OTHERS)
def test_another_right_answer_passes(name, way, seed, tmp_path):
    found = hints(name, f"{solution(name)}\n\n{RIGHT[name][way]}", tmp_path, seed=seed)
    assert set(found.values()) == {None}


@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_a_typical_mistake_gets_its_hint(name, mistake, tmp_path):
    task, body, words = WRONG[name][mistake]
    found = hints(name, f"{solution(name)}\n\n{body}", tmp_path, seed=5)
    wrong = {other: hint for other, hint in found.items() if hint is not None}
    assert task in wrong
    assert words in wrong[task]


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_has_typical_mistakes_and_other_right_answers(name):
    assert len(WRONG[name]) >= 3
    assert len(RIGHT[name]) >= 2


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


def test_what_a_student_prints_is_shown(tmp_path, capsys):
    hints("tutorial", solution("tutorial").replace("return round(", "print('here'); return round("), tmp_path)
    assert "here" in capsys.readouterr().out


KINDS = ["None", "()", "[]", "'words'", "(1, 2)", "object()", "len", "float('nan')"]
TENSORS = ["torch.empty(0)", "torch.zeros(3)", "torch.tensor(True)"]


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("wrong", KINDS + TENSORS)
def test_an_answer_of_a_wrong_kind_is_no_fault_of_the_function(name, wrong, tmp_path):
    text = EXERCISES[name].read_text(encoding="utf-8").replace("raise NotImplementedError", f"return {wrong}")
    for hint in hints(name, f"import torch\n{text.partition('annotations')[2]}", tmp_path).values():
        assert hint is not None
        assert "raised" not in hint
        assert "the check cannot use" not in hint


def test_a_function_under_another_name(tmp_path):
    found = hints("pointers", solution("pointers").replace("def total(", "def totale("), tmp_path)
    assert found["total"] == "pointers.py has no function 'total'; did you rename it?"
    assert found["place"] is None


def test_a_function_with_other_parameters(tmp_path):
    text = solution("tutorial").replace("def count(a: Tensor)", "def count()")
    assert "keep those of the exercise" in hints("tutorial", text, tmp_path)["count"]


def test_an_error_in_a_helper_that_is_a_task_itself(tmp_path):
    text = solution("batch").replace("rest = vectors - vectors @ basis.T @ basis", "rest = vectors[:, 99]")
    line = 1 + text.splitlines().index("    rest = vectors[:, 99]")
    found = hints("batch", text, tmp_path)
    assert found["distance"].startswith("your function raised IndexError")
    assert found["true_samples"].startswith(f"because of distance, line {line}: IndexError")
    assert found["batch_size"] is None


def test_a_helper_that_is_wrong_or_not_written(tmp_path):
    wrong = f"{solution('batch')}\n\ndef distance(v, g, n):\n    return torch.ones(len(v))\n"
    assert hints("batch", wrong, tmp_path)["true_samples"].endswith(
        "(it uses distance, which is not right yet: mend that first)"
    )
    blank = f"{solution('batch')}\n\ndef distance(v, g, n):\n    raise NotImplementedError\n"
    assert hints("batch", blank, tmp_path)["true_samples"] == "because of distance: not written yet"


def test_an_assert_of_the_student_is_an_error_like_any_other(tmp_path):
    text = solution("tutorial").replace("return round(", "assert False, 'mine'; return round(")
    assert hints("tutorial", text, tmp_path)["count"].startswith(
        "your function raised AssertionError: mine (line"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = (", "Python cannot read the file: '(' was never closed, line 1"),
        ("x = 1\ny = z\n", "Python cannot import the file: NameError: name 'z' is not defined (line 2)"),
        ("import nowhere_at_all\n", "No module named 'nowhere_at_all' (line 1)"),
        ("while True:\n    pass\n", "outside of the functions, within 0.5 s: an endless loop?"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_once(text, words, tmp_path):
    file = tmp_path / "tutorial.py"
    file.write_text(text)
    verdicts = grading.check(EXERCISES["tutorial"], file, seed=0, patience=0.5)
    assert all(words in verdict.hint for verdict in verdicts)
    assert grading.report("tutorial", verdicts).count(words) == 1


@pytest.mark.parametrize(
    "body",
    [
        "while True:\n        pass",
        "while True:\n        try:\n            x = 1\n        except Exception:\n            x = 2",
        "import time\n    time.sleep(600)",
    ],
)
def test_an_endless_loop_ends(body, tmp_path):
    began = time.monotonic()
    found = hints(
        "pointers", f"{solution('pointers')}\n\ndef place(value):\n    {body}\n", tmp_path, patience=0.5
    )
    assert found["place"] == "place did not return within 0.5 s: an endless loop?"
    assert found["total"] is None
    assert time.monotonic() - began < 60


def test_control_c_stops(tmp_path):
    began = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            hints(
                "pointers",
                f"{solution('pointers')}\n\ndef place(value):\n    while True:\n        pass\n",
                tmp_path,
            )
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, began)


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


class TestCommands:
    def run(self, *arguments):
        return CliRunner().invoke(exercise, [str(argument) for argument in arguments])

    def test_alone_it_shows_its_help(self):
        result = self.run()
        assert (result.exit_code, result.output.startswith("Usage:")) == (0, True)

    def test_the_number_of_a_lesson_is_a_name(self, tmp_path):
        first = self.run("start", "1", "--folder", tmp_path)
        assert (first.exit_code, (tmp_path / "pointers.py").is_file()) == (0, True)
        assert "fedpriv exercise check pointers" in first.output
        assert self.run("check", "1", "--folder", tmp_path).exit_code == 1

    @pytest.mark.parametrize("name", ["0", "11", "pointer"])
    def test_an_unknown_name(self, name, tmp_path):
        error = self.run("start", name, "--folder", tmp_path).exception
        assert str(error).startswith("expected the name of an exercise (pointers, ")


def test_a_file_of_the_same_size_saved_in_the_same_second_is_read_anew(tmp_path):
    answers = "    return 1 + 1\n", "    return 1 - 1\n"
    texts = [f"{solution('batch')}\n\ndef batch_size(gradient):\n{answer}" for answer in answers]
    wrong = [hints("batch", text, tmp_path)["batch_size"] for text in texts]
    assert "got 2" in wrong[0]
    assert "got 0" in wrong[1]
    assert not list(tmp_path.rglob("__pycache__"))
