"""Finding and loading demos, benchmarks and exercises: in the checkout or inside the installed package."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).resolve().parent.parent


def find(kind: str) -> dict[str, Path]:
    """Return the scripts of a `kind` by name, sorted.

    Parameters
    ----------
    kind : {"demos", "benchmarks", "exercises"}
        A wheel carries them as ``fedpriv/_demos``; in a checkout they stand beside the package.

    Returns
    -------
    dict of str to Path
    """
    for folder in (_PACKAGE / f"_{kind}", _PACKAGE.parent / kind):
        paths = sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))
        if paths:
            return {path.stem: path for path in paths}
    raise ValueError(f"this installation has no {kind}; install fedpriv from a wheel or from a checkout")


def choose(name: str, available: dict[str, Path], kind: str) -> Path:
    """Return the script called `name`; answer an unknown name with what there is, and with the nearest."""
    if name in available:
        return available[name]
    close = difflib.get_close_matches(name, available, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    article = "an" if kind[0] in "aeiou" else "a"
    raise ValueError(f"expected the name of {article} {kind} ({', '.join(available)}), got {name!r}{hint}")


def title(path: Path) -> str:
    """Return the first line of a script's docstring, without running the script."""
    documentation = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))
    return first_line(documentation) or path.stem


def duration(path: Path) -> str:
    """Return how long a script says that it takes on two cores (its ``TAKES``), without running it."""
    for node in ast.parse(path.read_text(encoding="utf-8"), filename=str(path)).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TAKES":
            return str(ast.literal_eval(node.value))
    return ""


def first_line(documentation: str | None) -> str:
    """Return what a script says of itself in one line."""
    return (documentation or "").strip().partition("\n")[0]


def load(path: Path) -> ModuleType:
    """Import the script at `path` under a name of its own, not as ``__main__``."""
    name = f"fedpriv_script_{path.parent.name.lstrip('_')}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"expected a Python script, got {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
