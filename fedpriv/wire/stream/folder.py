"""The files of a streamed transcript: their names, the header, the index, and the checks of all three."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as brief  # a hostile value can be long or deep
from typing import Any

from safetensors import SafetensorError, safe_open

from fedpriv.wire.records import FORMAT

HEADER, INDEX = "transcript.json", "index.jsonl"


@dataclass(frozen=True)
class Part:
    """One file with exchanges."""

    file: str
    count: int


def read_header(folder: Path) -> dict[str, Any]:
    """What the folder says about the training."""
    path = folder / HEADER
    if not path.is_file():
        raise ValueError(f"expected a folder with a streamed transcript, but {folder} has no {HEADER}")
    header = parse(path.read_text(encoding="utf-8"), path)
    if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("content") != "stream":
        raise ValueError(
            f"{path} must describe a streamed transcript of format {FORMAT}, got {brief(header)}; write it "
            "with trainer.run(record=folder)"
        )
    return header


def whole_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of the index that were written to their end; a cut last line is a round that was not over."""
    path = folder / INDEX
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as index:
        for text in index:
            if not text.endswith("\n"):
                return
            line = parse(text, path)
            lists = ("parts", "senders", "clients")
            if not isinstance(line, dict) or not all(isinstance(line.get(key), list) for key in lists):
                raise ValueError(f"a line of {path} must hold the lists {lists}, got {brief(line)}")
            yield line


def parts_of(folder: Path, line: dict[str, Any]) -> list[Part]:
    """The files of one round, with the sizes that they had when the round was over."""
    found = []
    for part in line["parts"]:
        if not (
            isinstance(part, list)
            and len(part) == 3
            and is_part_name(part[0])
            and all(type(number) is int and number >= 1 for number in part[1:])
        ):
            raise ValueError(f"{folder / INDEX}: a part must be [file, bytes, exchanges], got {brief(part)}")
        path = folder / part[0]
        size = path.stat().st_size if path.is_file() else None
        if size != part[1]:
            raise ValueError(f"{path} must have {part[1]} bytes, got {size}; it was cut off or changed")
        found.append(Part(part[0], part[2]))
    return found


def part_name(number: int) -> str:
    """The file of part `number`, counted from 0."""
    return f"{number:08d}.safetensors"


def is_part_name(name: Any) -> bool:
    """Whether it is a name that `part_name` gives: nothing outside the folder can be named."""
    return isinstance(name, str) and name.endswith(".safetensors") and name[:-12].isdigit() and name.isascii()


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """``safe_open`` with our sentence for a file that is not whole."""
    try:
        file = safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error!s:.200}); was it cut off or changed?"
        ) from error
    with file:
        yield file


def parse(text: str, path: Path) -> Any:
    """``json.loads`` with our sentence for text that is not whole."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not whole JSON ({error!s:.200}); was it cut off or changed?") from error
