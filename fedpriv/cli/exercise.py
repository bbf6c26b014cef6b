"""``fedpriv exercise``: list, start, check."""

from __future__ import annotations

from pathlib import Path

import click

from fedpriv.cli import grading, options, output, scripts


@click.group()
def exercise() -> None:
    """Fill in the functions of a lesson and have them checked.

    \b
    Examples:
      fedpriv exercise list                  what there is
      fedpriv exercise start tutorial        a file to fill in
      fedpriv exercise check tutorial        what is right, and what is wrong with the rest
    """


@exercise.command("list")
@options.as_json
def list_exercises(as_json: bool) -> None:
    """Show the exercises, in the order of the lessons.

    \b
    Examples:
      fedpriv exercise list
    """
    output.show_list("exercises", grading.find(), as_json)


@exercise.command("start")
@options.name("exercises", required=True)
@options.folder
def start_exercise(name: str, folder: Path) -> None:
    """Put the file of exercise NAME into a folder, to be filled in.

    \b
    Examples:
      fedpriv exercise start tutorial
      fedpriv exercise start tutorial --folder homework
    """
    path = grading.start(scripts.choose(name, grading.find(), "exercise"), folder)
    click.echo(f"fill in the functions of {path}, then: fedpriv exercise check {name}{_unless_here(folder)}")


@exercise.command("check")
@options.name("exercises", required=True)
@options.folder
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Another variant of the data.")
@options.as_json
@click.pass_context
def check_exercise(context: click.Context, name: str, folder: Path, seed: int, as_json: bool) -> None:
    """Check the filled-in file of exercise NAME: exit code 0 if all is right, 1 if not.

    The file is executed, as any program of yours.

    \b
    Examples:
      fedpriv exercise check tutorial
      fedpriv exercise check tutorial --folder homework --seed 17
    """
    path = scripts.choose(name, grading.find(), "exercise")
    answer = folder / path.name
    if not answer.is_file():
        raise ValueError(f"expected your file {answer}; start with: fedpriv exercise start {name}")
    with output.only_json(as_json):
        verdicts = grading.check(path, answer, seed=seed)
    right = all(verdict.hint is None for verdict in verdicts)
    output.show_result(
        {"exercise": name, "right": right, "tasks": verdicts}, grading.report(name, verdicts), as_json
    )
    context.exit(0 if right else 1)


def _unless_here(folder: Path) -> str:
    return "" if folder == Path() else f" --folder {folder}"
