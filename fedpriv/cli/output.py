"""What leaves the command line: one JSON object, or a sentence about an error."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from fedpriv.cli import scripts


def to_jsonable(value: Any) -> Any:
    """Return `value` as JSON can hold it.

    Tensors and arrays become nested lists, dataclasses and mappings objects, paths strings, and NaN and
    infinities null, for JSON has no such numbers.

    Examples
    --------
    >>> import torch
    >>> to_jsonable({"error": float("inf"), "inputs": torch.tensor([[1.0, torch.nan]]), 3: (True, Path("a"))})
    {'error': None, 'inputs': [[1.0, None]], '3': [True, 'a']}
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_jsonable(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "tolist"):  # torch tensors, numpy arrays and scalars, without importing either
        return to_jsonable(value.tolist())
    raise TypeError(f"expected a value that JSON can hold, got a {type(value).__name__}")


def echo_json(value: Any) -> None:
    """Print `value` as one JSON object on standard output."""
    click.echo(json.dumps(to_jsonable(value), indent=2, allow_nan=False))


@contextlib.contextmanager
def only_json(active: bool) -> Iterator[None]:
    """While `active`, send what is printed to standard error: standard output is for the object."""
    with contextlib.redirect_stdout(sys.stderr) if active else contextlib.nullcontext():
        yield


def sentence(error: Exception) -> str:
    """Say in one line what an error means to the user.

    Examples
    --------
    >>> sentence(FileNotFoundError(2, "No such file or directory", "a.npz"))
    "cannot use 'a.npz': no such file or directory"
    """
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"cannot use {str(error.filename)!r}: {error.strerror[0].lower()}{error.strerror[1:]}"
    return " ".join(str(error).split()) or type(error).__name__


def example(context: click.Context | None) -> str:
    """The first example in a command's help, to stand behind a complaint; nothing if it has none."""
    words = "" if context is None else context.command.help or ""
    lines = [line.strip() for line in words.splitlines()]
    return next((f"; for example: {line}" for line in lines if line.startswith("fedpriv ")), "")


def show_pictures(files: Iterable[str | Path]) -> None:
    """Show the pictures that a demo wrote, in the notebook that runs it."""
    from IPython.display import Image, display

    for file in map(Path, files):
        if file.suffix == ".png":  # tables are written as well
            display(Image(filename=str(file)))


def show_result(result: dict[str, Any], text: str, as_json: bool) -> None:
    """Print one JSON object, or the text and which files were written."""
    if as_json:
        echo_json(result)
        return
    click.echo(text)
    if result.get("files"):
        click.echo("\nwritten:" + "".join(f"\n  {file}" for file in result["files"]))


def show_list(kind: str, available: Mapping[str, Path], as_json: bool) -> None:
    """Print what there is of a `kind`, a line each, and how long it takes if it says so."""
    rows = [(name, scripts.title(path), scripts.duration(path)) for name, path in available.items()]
    if as_json:
        echo_json({kind: [{"name": name, "title": title, "takes": time} for name, title, time in rows]})
        return
    width = max(len(name) for name in available)
    timed = any(time for _, _, time in rows)
    for name, title, time in rows:
        click.echo(f"{name:<{width}}  " + (f"{time:>5}  " if timed else "") + title)
