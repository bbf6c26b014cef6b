"""``fedpriv exercise``: list, start, check."""

from __future__ import annotations

from pathlib import Path

import click

from fedpriv.cli import grading, options, output


@click.group(invoke_without_command=True)
@click.pass_context
def exercise(context: click.Context) -> None:
    """Fill in the functions of a lesson and have them checked.

    A checkout has the answers, too, in exercises/solutions. Nobody stops you; what you learn is in the way
    there, and the check says what is wrong as often as you like.

    \b
    Examples:
      fedpriv exercise list                  what there is
      fedpriv exercise start tutorial        a file to fill in
      fedpriv exercise check tutorial        what is right, and what is wrong with the rest
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


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
    """Put the file of exercise NAME into a folder, to be filled in. The number of its lesson will do.

    \b
    Examples:
      fedpriv exercise start tutorial
      fedpriv exercise start 2
      fedpriv exercise start tutorial --folder homework
    """
    path = grading.start(grading.choose(name), folder)
    click.echo(
        f"fill in the functions of {path}, then: fedpriv exercise check {path.stem}{_unless_here(folder)}"
    )


@exercise.command("check")
@options.name("exercises", required=True)
@options.folder
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Other data, the same tasks.")
@options.as_json
@click.pass_context
def check_exercise(context: click.Context, name: str, folder: Path, seed: int, as_json: bool) -> None:
    """Check the filled-in file of exercise NAME: exit code 0 if all is right, 1 if not.

    The file is executed, as any program of yours. A right answer is right with every --seed.

    \b
    Examples:
      fedpriv exercise check tutorial
      fedpriv exercise check tutorial --folder homework --seed 3
    """
    path = grading.choose(name)
    answer = folder / path.name
    if not answer.is_file():
        raise ValueError(f"expected your file {answer}; start with: fedpriv exercise start {path.stem}")
    with output.only_json(as_json):
        verdicts = grading.check(path, answer, seed=seed)
    right = all(verdict.hint is None for verdict in verdicts)
    output.show_result(
        {"exercise": path.stem, "right": right, "tasks": verdicts},
        grading.report(path.stem, verdicts),
        as_json,
    )
    context.exit(0 if right else 1)


def _unless_here(folder: Path) -> str:
    return "" if folder == Path() else f" --folder {folder}"
