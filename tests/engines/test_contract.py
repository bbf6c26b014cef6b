"""One contract, every engine."""

from __future__ import annotations

import importlib.util

import pytest

from fedpriv.engines import LocalEngine
from tests.engines.contract import CHECKS

INSTALLED = {name: importlib.util.find_spec(name) is not None for name in ("syft_rds", "flwr")}


def syft():
    from fedpriv.engines.syft import SyftEngine

    return SyftEngine()


ENGINES = {"local": (LocalEngine, None), "syft": (syft, "syft_rds")}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("engine", ENGINES)
def test_contract(engine, check):
    make, package = ENGINES[engine]
    if package and not INSTALLED[package]:
        pytest.skip(f"{package} is not installed")
    check(make)
