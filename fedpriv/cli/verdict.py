"""What an audit found, for a reader: a table, a verdict, a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from fedpriv.defenses.pipeline import AnyDefense
    from fedpriv.lab.audit import Setting, Trial


def drawn(trials: Sequence[Trial], path: Path) -> list[str]:
    """The trial that leaked most, truth beside reconstruction, if the samples are images."""
    from fedpriv.lab import compare_images

    shown = [trial for trial in trials if trial.found is not None and _is_image(trial.truth)]
    if not shown:
        return []
    worst = max(shown, key=lambda trial: (trial.leaked(), sum(trial.psnr) / len(trial.psnr)))
    assert worst.found is not None
    title = "What stayed at home, and what the server has"
    return [str(compare_images(worst.truth, worst.found, path, title=title))]


def _is_image(samples: torch.Tensor) -> bool:
    return samples.dim() == 4 and samples.shape[1] in (1, 3) and min(samples.shape[2:]) >= 4


def report(
    result: dict[str, Any], trials: Sequence[Trial], chain: Sequence[AnyDefense], threshold: float
) -> str:
    """A row a setting, without and with the defenses, and what follows."""
    shape = " × ".join(map(str, result["sample_shape"])) or "one number"
    lines = [
        f"{result['model']}, {result['numbers_sent']:,} numbers sent, loss {result['loss']}",
        f"{result['samples']} samples ({shape} each); the server is told how many there are, and no labels",
    ]
    for defended, group in groupby(trials, key=lambda trial: trial.defended):
        lines += ["", " → ".join(map(repr, chain)) if defended else "without a defense", _HEAD]
        for setting, same in groupby(group, key=lambda trial: trial.setting):
            lines.append(_row(setting, list(same), threshold))
    return "\n".join(
        [*lines, "", _verdict(result, [t for t in trials if t.defended == bool(chain)], threshold)]
    )


_HEAD = f"  {'batch':>5} {'people':>6} {'leaked':>12} {'best dB':>8} {'a guess':>8} {'proven':>7}  by"


def _row(setting: Setting, trials: list[Trial], threshold: float) -> str:
    samples = sum(len(trial.truth) for trial in trials)
    leaked = sum(trial.leaked(threshold) for trial in trials)
    best = max(max(trial.psnr) for trial in trials)
    guess = max(max(trial.guess_psnr) for trial in trials)
    by = ", ".join(dict.fromkeys(t.method or f"nothing: {_short(t.refusal)}" for t in trials))
    shown = f"{best:8.1f}" if math.isfinite(best) else f"{'-':>8}"
    return (
        f"  {setting.batch_size:5} {setting.people:6} {f'{leaked} of {samples}':>12} {shown} {guess:8.1f} "
        f"{sum(trial.certified for trial in trials):7}  {by}"
    )


def _short(refusal: str) -> str:
    """The beginning of a refusal, without what all of them begin with."""
    return f"{refusal.removeprefix('the data cannot be recovered; ').partition('. ')[0]:.60}"


def _verdict(result: dict[str, Any], judged: Sequence[Trial], threshold: float) -> str:
    epsilon = max(trial.epsilon for trial in judged)
    rounds = judged[0].setting.rounds
    these = "this round" if rounds == 1 else f"these {rounds} rounds"
    if result["leaks"]:
        return (
            f"It leaks: samples came back with {threshold:g} dB or more, half the error of a guess or less."
        )
    if math.isfinite(epsilon):
        return (
            f"Nothing came back with {threshold:g} dB. What holds against every attack is the account: "
            f"ε = {epsilon:.3g} for a {judged[0].unit} in {these} (δ = 1e-5, add/remove); more cost more."
        )
    return (
        f"Nothing came back with {threshold:g} dB. That says something about these attacks and promises "
        "nothing: no noise here is accounted by ε."
    )
