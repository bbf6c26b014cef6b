"""The commands, and the one place where errors become a sentence and an exit code.

Exit codes: 0 fine, 1 a leak (of `audit`, and of `attack` where --fail-on-leak asks for it), 2 bad input (one
sentence on standard error says what was expected, what came and what to do), 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from fedpriv import __version__
from fedpriv.cli import measuring, options, output, scripts
from fedpriv.cli.attack import attack_file
from fedpriv.cli.audit import audit
from fedpriv.cli.exercise import exercise
from fedpriv.cli.explore import explore

_existing = click.Path(exists=True, dir_okay=False, path_type=Path)
_positive = click.FloatRange(min=0, min_open=True)


@click.group(context_settings=options.CONTEXT, invoke_without_command=True)
@click.option(
    "--traceback",
    is_flag=True,
    expose_value=False,  # read where errors end up, in _run
    help="On bad input, show where the error arose instead of one sentence.",
)
@click.version_option(version=__version__, prog_name="fedpriv")
@click.pass_context
def app(context: click.Context) -> None:
    """Show what a server can reconstruct from the updates of federated learning.

    \b
    Start here:
      fedpriv demo tutorial     Bob's and Alice's points come back out of their models
      fedpriv demo --list       what else there is to see
      fedpriv audit --help      does your model leak your data?
      fedpriv COMMAND --help    examples of each command
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@app.command()
@options.name("demos")
@options.list_only
@options.out
@options.seed
@options.as_json
def demo(name: str | None, list_only: bool, out: Path, seed: int, as_json: bool) -> None:
    """Run a demo: a table, pictures, and what they mean.

    \b
    Examples:
      fedpriv demo                           what there is
      fedpriv demo tutorial                  pictures in out/
      fedpriv demo tutorial --out pictures --seed 7
      fedpriv demo tutorial --json > result.json
    """
    available = scripts.find("demos")
    if name is None or list_only:
        output.show_list("demos", available, as_json)
    else:
        module = scripts.load(scripts.choose(name, available, "demo"))
        _run_demo(module.main, module.report, out, seed, as_json)


@app.command()
@options.name("benchmarks")
@options.list_only
@click.option("--quick", is_flag=True, help="Fewer repetitions: seconds instead of minutes, rougher figures.")
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep every measurement in this file, and go on from what it holds.",
)
@click.option("--only", metavar="PATTERN", help="Only measurements with such a name, as in 'ReLU*seed 3'.")
@click.option("--again", is_flag=True, help="Measure also what the record holds.")
@options.out
@options.as_json
def bench(name: str | None, list_only: bool, out: Path, as_json: bool, **given: Any) -> None:
    """Run one benchmark, or all if no NAME is given.

    \b
    Examples:
      fedpriv bench --list                   what there is
      fedpriv bench tutorial --quick
      fedpriv bench tutorial --json > result.json
      fedpriv bench labels --record docs/measured/labels.json
    """
    available = scripts.find("benchmarks")
    if list_only:
        output.show_list("benchmarks", available, as_json)
        return
    if name is None and (given["record"] or given["only"]):
        raise ValueError("--record and --only need the name of one benchmark")
    chosen = list(available.values()) if name is None else [scripts.choose(name, available, "benchmark")]
    results: dict[str, Any] = {}
    for path in chosen:
        with output.only_json(as_json):
            module = scripts.load(path)
            result = results[path.stem] = measuring.run(module, **given)
            if hasattr(module, "draw"):
                result["files"] = module.draw(result, out)
        if not as_json:
            output.show_result(result, measuring.report(module, result), as_json=False)
    if as_json:
        output.echo_json(results if name is None else results[chosen[0].stem])


@app.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--client", help="Whose data to reconstruct, in a transcript of several clients.")
@click.option("--model", metavar="MODULE:FACTORY", help="Makes the model. This imports and runs MODULE.")
@click.option("--loss", metavar="NAME", help="The clients' loss: its name, or MODULE:FUNCTION.")
@click.option(
    "--before", type=_existing, help="The model as it was sent; FILE is then the one that came back."
)
@click.option("--lr", type=_positive, help="The clients' learning rate.")
@click.option("--local-steps", type=click.IntRange(min=1), help="Gradient steps of a client.")
@click.option("--input-shape", metavar="SHAPE", help="Shape of one sample: 20, or 3,32,32.")
@click.option("--num-samples", type=click.IntRange(min=1), help="How many samples the client used, if known.")
@click.option("--no-check", is_flag=True, help="Attack even if the model cannot have given such an update.")
@click.option("--fail-on-leak", is_flag=True, help="Exit with code 1 if any sample is certified.")
@options.out
@click.option("--time-budget", type=_positive, default=60.0, show_default=True, help="In seconds.")
@options.as_json
def attack(file: Path, out: Path, as_json: bool, fail_on_leak: bool, **given: Any) -> int:
    """Reconstruct training data from a saved file.

    FILE is what Transcript.save or Observation.save wrote, or your own: a gradient, or a returned model, as
    numpy.savez or safetensors saves it. First it is checked that the model can have given such an update.
    Writes the reconstruction as NumPy arrays (FILE-reconstruction.npz), its description as JSON, and images
    as a picture into --out. Nothing is unpickled, and no code but --model and --loss is imported.

    \b
    Examples:
      fedpriv attack run.safetensors --client bob
      fedpriv attack observation.safetensors --time-budget 10 --json
      fedpriv attack gradient.npz --model shop:Net --loss cross_entropy --input-shape 1,28,28
      fedpriv attack after.npz --before before.npz --lr 0.1 --model shop:Net --loss cross_entropy
    """
    with output.only_json(as_json):
        result, text = attack_file(file, out=out, **given)
    output.show_result(result, text, as_json)
    return int(fail_on_leak and any(result["certified"]))


app.add_command(audit)
app.add_command(exercise)
app.add_command(explore)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run ``fedpriv`` with `arguments` (by default those of the process) and exit."""
    sys.exit(_run(app, arguments, "fedpriv"))


def run_script(main: Callable[..., dict[str, Any]], report: Callable[[dict[str, Any]], str]) -> None:
    """Run a demo with the options of ``fedpriv demo``: the last lines of every demo script.

    It works in a script, in a notebook and in the gallery of the site. So it returns where all went well and
    exits with a code where not: an exit would end more than the script.
    """
    module = sys.modules.get(main.__module__)
    in_notebook = "ipykernel" in sys.modules

    @click.command(
        context_settings=options.CONTEXT, help=scripts.first_line(module.__doc__ if module else "")
    )
    @options.out
    @options.seed
    @options.as_json
    def script(out: Path, seed: int, as_json: bool) -> None:
        result = _run_demo(main, report, out, seed, as_json)
        if in_notebook:
            output.show_pictures(result.get("files", ()))

    code = _run(script, [] if in_notebook else None, "demo")
    if code:
        sys.exit(code)


def _run_demo(
    main: Callable[..., dict[str, Any]],
    report: Callable[[dict[str, Any]], str],
    out: Path,
    seed: int,
    as_json: bool,
) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    with output.only_json(as_json):
        result = main(out, seed=seed)
        text = report(result)
    output.show_result(result, text, as_json)
    return result


def _run(command: click.Command, arguments: list[str] | None, program: str) -> int:
    """Run `command`; turn what goes wrong with the user's input into one sentence and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = command.main(args=arguments, prog_name=program, standalone_mode=False)
    except click.exceptions.Abort:  # what click makes of Ctrl-C
        click.echo(f"{program}: interrupted", err=True)
        sys.exit(130)
    except click.MissingParameter as error:
        _complain(program, error.format_message().rstrip(".") + output.example(error.ctx))
    except click.ClickException as error:
        _complain(program, error.format_message())
    except (ValueError, OSError, ImportError) as error:
        if "--traceback" in arguments:
            raise
        _complain(program, output.sentence(error))
    return code if isinstance(code, int) else 0


def _complain(program: str, message: str) -> NoReturn:
    click.echo(f"{program}: {message}", err=True)
    sys.exit(2)
