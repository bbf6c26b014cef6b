"""Exercises: a file to fill in for every lesson, and a check that says what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
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


def check(path: Path, answer: Path, *, seed: int) -> list[Verdict]:
    """Run the checks of the exercise at `path` against the file `answer`.

    Parameters
    ----------
    path : Path
        The blank exercise; its checks stand in ``checks/`` beside it.
    answer : Path
        The student's file. It is executed.
    seed : int
        Which variant of the data.
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
        f"--rootdir={path.parent}",
        "--config-file=" + str(path.parent / "checks" / "pytest.toml"),
        "-p",
        "no:terminal",
        "-p",
        "no:cacheprovider",
    ]
    pytest.main(arguments, plugins=[grader])
    if not grader.verdicts:
        raise ValueError(f"expected a Python file that can be imported, got {answer}")
    return grader.verdicts


class Grader:
    """Collect what pytest finds, for a student: the sentence of each failed check, without the traceback."""

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
        """Called by pytest after each step of a check."""
        task = item.name.removeprefix("test_")
        if call.excinfo is not None:
            self.verdicts.append(Verdict(task=task, hint=_hint(call.excinfo.value)))
        elif call.when == "call":
            self.verdicts.append(Verdict(task=task, hint=None))


def _hint(error: BaseException) -> str:
    if isinstance(error, NotImplementedError):
        return str(error) or NOT_WRITTEN
    if isinstance(error, AssertionError):
        return str(error).partition("\nassert ")[0]
    if isinstance(error, SyntaxError):
        return f"Python cannot read the file: {error.msg}, line {error.lineno}"
    place = next(_lines(error), "")
    return f"your function raised {type(error).__name__}: {error}{place}"


def _lines(error: BaseException) -> Iterator[str]:
    """Where in the student's file the error arose, innermost first."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame.f_globals.get("__name__"), trace.tb_lineno))
        trace = trace.tb_next
    yield from (f" (line {line})" for module, line in reversed(frames) if module == "answer")


def report(name: str, verdicts: list[Verdict]) -> str:
    """The result for a reader."""
    width = max(len(verdict.task) for verdict in verdicts)
    lines = [f"  {v.task:{width}}  {'right' if v.hint is None else v.hint}" for v in verdicts]
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
