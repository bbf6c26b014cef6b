"""The options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fedpriv.cli import scripts

Command = TypeVar("Command", bound=Callable[..., Any])
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def name(kind: str, *, required: bool = False) -> Callable[[Command], Command]:
    """The NAME of a script of a `kind`, which the shell can complete."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
        return [known for known in scripts.find(kind) if known.startswith(incomplete)]

    return click.argument("name", required=required, shell_complete=complete)


list_only = click.option("--list", "list_only", is_flag=True, help="Show what there is, and stop.")
out = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out"),
    show_default=True,
    envvar="FEDPRIV_OUT",
    show_envvar=True,
    help="Folder for the files, made if it is missing.",
)
seed = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="For every random choice."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")

folder = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Where your file is. By default: here.",
)
