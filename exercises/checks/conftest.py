"""What every check gets: the student's file, and random data that depend on the seed alone."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import patience
import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of a check."""
    parser.addoption("--answer", type=Path, required=True, help="The student's file.")
    parser.addoption("--variant", type=int, default=0, help="Seed of the data.")
    parser.addoption("--patience", type=float, default=20.0, help="Seconds that a function may take.")


class Answer:
    """The student's functions: each may be missing, take other parameters, or never return."""

    def __init__(self, module: ModuleType, seconds: float) -> None:
        self._module = module
        self._seconds = seconds

    def __getattr__(self, name: str) -> Callable[..., Any]:
        file = Path(str(self._module.__file__)).name
        function = getattr(self._module, name, None)
        assert callable(function), f"{file} has no function {name!r}; did you rename it?"

        def called(*args: Any, **kwargs: Any) -> Any:
            try:
                inspect.signature(function).bind(*args, **kwargs)
            except TypeError as error:
                raise AssertionError(
                    f"{name} was given other parameters ({error}): keep those of the exercise"
                ) from None
            with patience.limit(self._seconds, f"{name} did not return within"):
                return function(*args, **kwargs)

        return called


@pytest.fixture(scope="session")
def answer(request: pytest.FixtureRequest) -> Answer:
    """The functions in the student's file."""
    path: Path = request.config.getoption("--answer")
    seconds: float = request.config.getoption("--patience")
    module = ModuleType("answer")
    module.__file__ = str(path)
    sys.modules["answer"] = module
    # Not imported: that takes old bytecode for a file of the same size saved in the same second.
    code = compile(path.read_bytes(), str(path), "exec")
    with patience.limit(seconds, f"{path.name} was not read, outside of the functions, within"):
        exec(code, module.__dict__)
    return Answer(module, seconds)


@pytest.fixture
def generator(request: pytest.FixtureRequest) -> torch.Generator:
    """Random numbers of this variant."""
    return torch.Generator().manual_seed(1000 + request.config.getoption("--variant"))
