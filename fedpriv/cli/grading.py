"""Exercises: a file to fill in for every lesson, and a check that says what is wrong."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpriv.cli import scripts

if TYPE_CHECKING:
    import pytest

NOT_WRITTEN = "not written yet"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the check says of one function: nothing (`hint` is None) or what is wrong with it."""

    task: str
    hint: str | None


def start(path: Path, folder: Path) -> Path:
    """Copy the blank exercise at `path` into `folder`; never over what is there.

    Returns
    -------
    Path
        The student's file.
    """
    target = folder / path.name
    if target.exists():
        raise ValueError(
            f"expected a folder without {path.name}, for your work would be lost; {target} is there: rename "
            f"it or choose another --folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    return target


def check(path: Path, answer: Path, *, seed: int, patience: float = 20.0) -> list[Verdict]:
    """Run the checks of the exercise at `path` against the file `answer`.

    Parameters
    ----------
    path : Path
        The blank exercise; its checks stand in ``checks/`` beside it.
    answer : Path
        The student's file. It is executed.
    seed : int
        Which variant of the data.
    patience : float
        Seconds that a function may take before it counts as an endless loop.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C.
    """
    try:
        import pytest
    except ImportError as error:
        raise ImportError("exercises are graded by pytest: pip install 'fedpriv[course]'") from error
    grader = Grader()
    arguments = [
        str(path.parent / "checks" / f"test_{path.stem}.py"),
        f"--answer={answer}",
        f"--variant={seed}",
        f"--patience={patience}",
        f"--rootdir={path.parent}",
        "--config-file=" + str(path.parent / "checks" / "pytest.toml"),
        "--disable-plugin-autoload",
        "--assert=plain",
        "--capture=no",  # a student may look for a mistake with print
        # The third collects garbage five times, which takes longer than the checks.
        *("-p", "no:terminal", "-p", "no:cacheprovider", "-p", "no:unraisableexception"),
    ]
    code = pytest.main(arguments, plugins=[grader])
    if code == pytest.ExitCode.INTERRUPTED and grader.stopped:
        raise KeyboardInterrupt
    if not grader.verdicts:
        trouble = grader.trouble or f"exit code {int(code)}"
        raise ValueError(
            f"expected pytest to run the checks of {path.stem}, but it ran none ({trouble}); is the "
            "installation whole?"
        )
    return grader.verdicts


class Grader:
    """Collect what pytest finds, for a student: the sentence of each failed check, without the traceback."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self.stopped = False
        self.trouble = ""

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Called by pytest after Ctrl-C."""
        self.stopped = isinstance(excinfo.value, KeyboardInterrupt)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Called by pytest after reading the checks, which fails in a broken installation only."""
        if report.failed:
            self.trouble = str(report.longrepr).strip().rpartition("\n")[2].removeprefix("E").strip()

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
        """Called by pytest after each step of a check."""
        task = item.name.removeprefix("test_")
        if call.excinfo is not None:
            error = call.excinfo.value
            hint = (
                _of_the_file(error) if call.when == "setup" else _of_the_task(error, task, self._tasks(item))
            )
            self.verdicts.append(Verdict(task=task, hint=hint))
        elif call.when == "call":
            self.verdicts.append(Verdict(task=task, hint=None))

    def _tasks(self, item: pytest.Item) -> list[str]:
        return [other.name.removeprefix("test_") for other in item.session.items]

    def pytest_sessionfinish(self) -> None:
        """Called by pytest at the end: a function that uses a wrong one may be right itself."""
        wrong = {verdict.task for verdict in self.verdicts if verdict.hint not in (None, NOT_WRITTEN)}
        for i, verdict in enumerate(self.verdicts):
            function = getattr(sys.modules.get("answer"), verdict.task, None)
            uses = set(getattr(getattr(function, "__code__", None), "co_names", ()))
            causes = sorted((uses & wrong) - {verdict.task})
            if verdict.hint is not None and causes and not verdict.hint.startswith("because of"):
                note = f" (it uses {causes[0]}, which is not right yet: mend that first)"
                self.verdicts[i] = Verdict(task=verdict.task, hint=verdict.hint + note)


def _of_the_file(error: BaseException) -> str:
    """Say why the student's file cannot be used at all."""
    if isinstance(error, AssertionError):
        return _sentence(error)
    lines = _lines(error)
    if isinstance(error, SyntaxError) and not lines:
        return f"Python cannot read the file: {error.msg}, line {error.lineno}"
    if not lines:
        return f"the check could not start: {type(error).__name__}: {error}"
    return f"Python cannot import the file: {type(error).__name__}: {error} (line {lines[-1][1]})"


def _of_the_task(error: BaseException, task: str, tasks: list[str]) -> str:
    """Say what is wrong with one function."""
    if isinstance(error, AssertionError) and not _raised_by_the_student(error):
        return _sentence(error)
    lines = _lines(error)
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    cause = next(((name, line) for name, line in reversed(lines) if name in tasks and name != task), None)
    if isinstance(error, NotImplementedError):
        return f"because of {cause[0]}: {NOT_WRITTEN}" if cause else str(error) or NOT_WRITTEN
    if cause:
        return f"because of {cause[0]}, line {lines[-1][1]}: {what}"
    if not lines:
        return (
            f"the check cannot use what your function returned ({what}): is it what the docstring asks for?"
        )
    return f"your function raised {what} (line {lines[-1][1]})"


def _sentence(error: AssertionError) -> str:
    """Leave out what pytest adds to an assert, where a check is graded inside another run of pytest."""
    return str(error).partition("\nassert ")[0]


def _raised_by_the_student(error: BaseException) -> bool:
    """Tell an assert in the student's own file from one of the check."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") == "answer"


def _lines(error: BaseException) -> list[tuple[str, int]]:
    """Functions and lines of the student's file on the way to the error, innermost last."""
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") == "answer":
            lines.append((trace.tb_frame.f_code.co_name, trace.tb_lineno))
        trace = trace.tb_next
    return lines


def report(name: str, verdicts: list[Verdict]) -> str:
    """The result for a reader. What is wrong with the whole file is said once."""
    width = max(len(verdict.task) for verdict in verdicts)
    lines = [f"  {v.task:{width}}  {'right' if v.hint is None else v.hint}" for v in verdicts]
    hints = {verdict.hint for verdict in verdicts}
    if len(verdicts) > 1 and len(hints) == 1 and not hints & {None, NOT_WRITTEN}:
        lines = [f"  {verdicts[0].hint}"]
    right = sum(verdict.hint is None for verdict in verdicts)
    close = "Well done." if right == len(verdicts) else "Change your file and check again."
    return "\n".join([f"{name}: {right} of {len(verdicts)} right", *lines, close])


def find() -> dict[str, Path]:
    """The blank exercises by name, in the order of the lessons: their titles begin with ``Lesson 2:``."""
    found = scripts.find("exercises")
    lesson = {
        name: int("".join(filter(str.isdigit, scripts.title(p).partition(":")[0])))
        for name, p in found.items()
    }
    return {name: found[name] for name in sorted(found, key=lesson.__getitem__)}


def choose(name: str) -> Path:
    """Return the blank exercise called `name`, or that of the lesson with this number."""
    available = find()
    if name.isdecimal() and 1 <= int(name) <= len(available):
        return list(available.values())[int(name) - 1]
    return scripts.choose(name, available, "exercise")
