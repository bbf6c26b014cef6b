"""``fedpriv audit``: a model and data of the user's own, attacked as a server would, and graded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedpriv.cli import options, output
from fedpriv.cli.verdict import drawn, report

if TYPE_CHECKING:
    from fedpriv.lab.audit import Trial

INFERRED = {True: "mse_loss", False: "cross_entropy"}
"""The loss for real targets and for class labels, where none is named."""
AVERAGED = 5
"""Clients in a round behind an aggregator, unless the user says."""
_EXISTING = click.Path(exists=True, dir_okay=False, path_type=Path)
_POSITIVE = click.FloatRange(min=0, min_open=True)
_COUNT = click.IntRange(min=1)


@click.command(context_settings=options.CONTEXT)
@click.argument("model", metavar="MODULE:FACTORY")
@click.option(
    "--data", type=_EXISTING, required=True, help="Inputs and targets, from numpy.savez or safetensors."
)
@click.option("--loss", metavar="NAME", help="By default cross_entropy for classes, mse_loss for numbers.")
@click.option(
    "--defense",
    multiple=True,
    metavar="SPEC",
    help="NAME or NAME:key=value,...; several act in the order given.",
)
@click.option(
    "--batch", type=_COUNT, multiple=True, default=(1, 8), show_default=True, help="Samples of a client."
)
@click.option("--people", type=_COUNT, help="Clients in a round. By default 1, or 5 behind an aggregator.")
@click.option("--rounds", type=_COUNT, default=3, show_default=True, help="Rounds on the same data.")
@click.option("--lr", type=_POSITIVE, default=0.1, show_default=True, help="The clients' learning rate.")
@click.option(
    "--local-steps", type=_COUNT, default=1, show_default=True, help="Steps before a client answers."
)
@click.option("--trials", type=_COUNT, default=3, show_default=True, help="Random batches of each size.")
@click.option("--threshold", type=_POSITIVE, default=30.0, show_default=True, help="PSNR of a leak, in dB.")
@click.option(
    "--time-budget", type=_POSITIVE, default=20.0, show_default=True, help="Seconds for each attack."
)
@options.seed
@options.out
@options.as_json
def audit(model: str, as_json: bool, **given: Any) -> int:
    """Does MODEL leak these data? Train a round with them, attack it, compare.

    MODULE:FACTORY names a class or function without arguments that makes the model; it is imported and run.
    The server knows the model, the loss, the defenses and the number of samples, and no labels. Prints what
    came back without and with the defenses, and exits with code 1 if anything leaked through them (without
    any: at all): --threshold or better, and half the error of a guess or less.

    \b
    Examples:
      fedpriv audit shop.models:Net --data train.npz
      fedpriv audit shop.models:Net --data train.npz --batch 32 --local-steps 5
      fedpriv audit shop.models:Net --data train.npz --defense TopK:kept_fraction=0.1
      fedpriv audit shop.models:Net --data train.npz --defense DPSGD:denominator=8,noise_multiplier=1
    """
    with output.only_json(as_json):
        result, text = audit_model(model, **given)
    output.show_result(result, text, as_json)
    return int(result["leaks"])


def audit_model(
    model: str,
    *,
    data: Path,
    loss: str | None,
    defense: Sequence[str],
    batch: Sequence[int],
    people: int | None,
    rounds: int,
    lr: float,
    local_steps: int,
    trials: int,
    threshold: float,
    time_budget: float,
    seed: int,
    out: Path,
) -> tuple[dict[str, Any], str]:
    """Audit and write what came out.

    Parameters
    ----------
    model : str
        ``module:factory``.
    data : Path
        Inputs and targets, as `fedpriv.cli.samples.load_samples` reads them.
    loss : str or None
        The name of a loss or ``module:function``; by default by the kind of the targets.
    defense : sequence of str
        Specifications, see `fedpriv.cli.specification.named_defense`; they act in this order.
    batch : sequence of int
        Sizes of a client's batch.
    people : int or None
        Clients in a round; by default 1, or 5 behind an aggregator.
    rounds, lr, local_steps, trials, time_budget
        As in `fedpriv.lab.audit`.
    threshold : float
        In dB, from which on a sample counts as leaked.
    seed : int
    out : Path
        Folder for ``audit.json`` and, for images, ``audit.png``.

    Returns
    -------
    result : dict
        For JSON; ``result["leaks"]`` says whether anything leaked through the defenses (without any: at all).
    text : str
        The same for a reader.
    """
    import torch

    from fedpriv.cli.named import named_loss, named_model
    from fedpriv.cli.samples import load_samples
    from fedpriv.cli.specification import named_defense
    from fedpriv.defenses import Pipeline
    from fedpriv.lab.audit import Setting, audit

    chain = [named_defense(spec) for spec in defense]
    inputs, targets = load_samples(data)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # a factory draws its weights from the global generator
        net = named_model(model)
    loss = loss or INFERRED[targets.is_floating_point()]
    behind = Pipeline.of(chain).aggregator is not None
    count = people or (AVERAGED if behind else 1)
    settings = [
        Setting(batch_size=n, people=count, rounds=rounds, lr=lr, local_steps=local_steps) for n in batch
    ]
    found = audit(
        net,
        named_loss(loss),
        inputs,
        targets,
        settings=settings,
        defenses=chain,
        trials=trials,
        time_budget=time_budget,
        generator=generator,
    )
    judged = [trial for trial in found if trial.defended == bool(chain)]
    leaks = any(trial.leaked(threshold) for trial in judged)
    out.mkdir(parents=True, exist_ok=True)
    result = {
        "model": model,
        "loss": loss,
        "numbers_sent": sum(p.numel() for p in net.parameters()),
        "samples": len(inputs),
        "sample_shape": tuple(inputs.shape[1:]),
        "defenses": [repr(d) for d in chain],
        "threshold": threshold,
        "leaks": leaks,
        "trials": [_described(trial, threshold) for trial in found],
        "files": [str(out / "audit.json"), *drawn(judged, out / "audit.png")],
    }
    (out / "audit.json").write_text(json.dumps(output.to_jsonable(result), indent=2) + "\n", encoding="utf-8")
    return result, report(result, found, chain, threshold)


def _described(trial: Trial, threshold: float) -> dict[str, Any]:
    names = (
        "defended",
        "psnr",
        "guess_psnr",
        "certified",
        "method",
        "citation",
        "refusal",
        "epsilon",
        "unit",
    )
    setting = {
        name: getattr(trial.setting, name) for name in ("batch_size", "people", "rounds", "local_steps")
    }
    return {**setting, "leaked": trial.leaked(threshold), **{name: getattr(trial, name) for name in names}}
