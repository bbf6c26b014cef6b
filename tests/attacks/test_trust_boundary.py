"""The trust boundary: attacks read the wire, and cannot reach data, clients or workers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import attacks

ROOT = Path(attacks.__file__).parents[1]
MODULES = sorted(ROOT.joinpath("attacks").rglob("*.py"))
ALLOWED = ("fedpriv.wire", "fedpriv.models", "fedpriv.losses")
TRICKS = {
    "importlib",
    "runpy",
    "pkgutil",
    "inspect",
    "gc",
    "sys",
    "builtins",
    "ctypes",
    "pickle",
    "subprocess",
}
CALLS = {"__import__", "eval", "exec", "compile", "globals"}


def trespasses(source):
    """Every way in which a module could reach beyond the wire."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "fedpriv" else [module]
            if node.level:
                found.append("relative import")
        else:
            names = []
            if isinstance(node, ast.Name) and node.id in CALLS:
                found.append(node.id)
            if isinstance(node, ast.Attribute) and node.attr in ("__globals__", "__subclasses__", "modules"):
                found.append(node.attr) if node.attr != "modules" or _of_sys(node) else None
        for name in names:
            inside = any(name == allowed or name.startswith(f"{allowed}.") for allowed in ALLOWED)
            if (name.split(".")[0] == "fedpriv" and not inside) or name.split(".")[0] in TRICKS:
                found.append(name)
    return found


def _of_sys(node):
    return isinstance(node.value, ast.Name) and node.value.id == "sys"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_attacks_import_the_wire_and_nothing_behind_it(path):
    assert trespasses(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import fedpriv",
        "import fedpriv.training",
        "from fedpriv import FederatedTrainer",
        "from fedpriv import wire, lab",
        "from fedpriv.lab import score",
        "from fedpriv.wired import x",
        "def f():\n    from fedpriv.pointers import VirtualWorker",
        "import importlib",
        "from importlib import import_module",
        "import sys\nsys.modules['fedpriv']",
        "__import__('fedpriv')",
        "exec('import fedpriv')",
        "from ..fedpriv import data",
        "import gc",
    ],
)
def test_the_reading_of_imports_can_fail(source):
    assert trespasses(source)


def test_what_is_allowed_is_allowed():
    source = "import torch\nfrom fedpriv.wire import Update\nfrom fedpriv import wire\nimport fedpriv.losses"
    assert trespasses(source) == []


def test_there_are_attacks_to_read():
    assert len(MODULES) > 10


def test_attacks_load_without_the_rooms_behind_the_wire():
    hidden = ("training", "pointers", "defenses", "data", "lab", "privacy", "cli")
    code = (
        "import sys, types\n"
        f"package = types.ModuleType('fedpriv'); package.__path__ = [{str(ROOT / 'fedpriv')!r}]\n"
        "sys.modules['fedpriv'] = package\n"  # an empty package: only what attacks ask for is imported
        "import attacks\n"
        f"print([name for name in {hidden} if f'fedpriv.{{name}}' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
