"""What every check gets: the student's file, and random data that depend on the seed alone."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options of a check."""
    parser.addoption("--answer", type=Path, required=True, help="The student's file.")
    parser.addoption(
        "--variant", type=int, default=0, help="Seed of the data; an instructor keeps one to herself."
    )


@pytest.fixture(scope="session")
def answer(request: pytest.FixtureRequest) -> ModuleType:
    """The student's file as a module."""
    path: Path = request.config.getoption("--answer")
    spec = importlib.util.spec_from_file_location("answer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["answer"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def generator(request: pytest.FixtureRequest) -> torch.Generator:
    """Random numbers of this variant."""
    return torch.Generator().manual_seed(1000 + request.config.getoption("--variant"))
