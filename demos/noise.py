"""Noise: how the error of the best attack grows with it, and the limit that no unbiased attack passes
===================================================================================================

Bob answers three models with his gradient and adds Gaussian noise to every coordinate. The server knows the
noise's size and that Bob has two points, and does maximum likelihood. For every noise level many draws are
attacked; the line is the Cramér-Rao bound: the smallest error of any unbiased attack, whatever its method.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import attacks
import fedpriv
from fedpriv.defenses import GaussianNoise

TAKES = "20 s"
VISITS = 4
DRAWS = 100
LEVELS = tuple(10.0**k for k in (-5, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5))
"""Standard deviations of the noise on one coordinate of the gradient."""
CLIP_NORM = 100.0
"""Above every gradient here, so that clipping changes nothing and the noise alone is measured."""


# %%
# Bob and his answers
# -------------------
# Two points. The server chooses its models so that the answers say as much as possible; Bob adds noise to
# every answer.
def bob() -> tuple[torch.Tensor, torch.Tensor]:
    """Two points and their targets, in float64 so that rounding stays below the smallest noise."""
    inputs = torch.tensor([[0.2, 0.9], [0.7, 0.1]], dtype=torch.float64)
    return inputs, torch.tensor([[0.0], [1.0]], dtype=torch.float64)


def observe(noise_std: float, generator: torch.Generator) -> list[fedpriv.Observation]:
    """Bob's noisy answers to the models that a server would choose, with what it knows."""
    model = fedpriv.models.linear(2, generator=torch.Generator().manual_seed(0)).double()
    trainer = fedpriv.FederatedTrainer(
        model,
        fedpriv.losses.squared_error,
        {"bob": bob()},
        lr=0.1,
        schedule=fedpriv.ChosenModels(
            attacks.malicious.chosen_models(model, visits=VISITS), then=fedpriv.FedSGD()
        ),
        defenses=[GaussianNoise(clip_norm=CLIP_NORM, noise_multiplier=noise_std / CLIP_NORM)],
        generator=generator,
    )
    visits = trainer.run(rounds=VISITS).transcript.observations("bob")
    return [
        fedpriv.Observation(o.model, o.update, o.loss_fn, replace(o.knowledge, num_samples=2), state=o.state)
        for o in visits
    ]


# %%
# Many draws
# ----------
# One draw says little: the attack is repeated a hundred times at every level of noise, and the mean squared
# error is compared with the bound.
def measure(noise_std: float, generator: torch.Generator) -> dict[str, Any]:
    """Mean squared error per coordinate over many draws, with its standard error and the bound."""
    inputs, targets = bob()
    errors, refused = [], 0
    for _ in range(DRAWS):
        observations = observe(noise_std, generator)
        try:
            found = attacks.reconstruct(observations, generator=torch.Generator().manual_seed(0))
        except attacks.NotIdentifiable:
            refused += 1
            continue
        errors.append(float(fedpriv.lab.score(found, inputs, targets).mse.mean()))
    mse = torch.tensor(errors, dtype=torch.float64)
    bound = fedpriv.privacy.cramer_rao_bound(observations, inputs, targets, noise_std=noise_std)
    return {
        "noise_std": noise_std,
        "mse": float(mse.mean()) if errors else math.nan,
        "standard_error": float(mse.std() / len(errors) ** 0.5) if len(errors) > 1 else math.nan,
        "cramer_rao_bound": bound,
        "efficiency": bound / float(mse.mean()) if errors else math.nan,
        "refused": refused,
        "draws": DRAWS,
    }


def main(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Measure every level, draw those at which the attack always answered."""
    generator = torch.Generator().manual_seed(seed)
    levels = [
        measure(std, generator) for std in fedpriv.progress.progress(LEVELS, description="noise levels")
    ]
    # Where the attack refuses some draws, the rest are a selection of lucky ones: no point is drawn.
    answered = [row for row in levels if row["refused"] == 0]
    inputs, _ = bob()
    guess = float((inputs - inputs.mean()).square().mean().sqrt())
    picture = fedpriv.lab.plot_error_vs_noise(
        [row["noise_std"] for row in answered],
        {"maximum likelihood on two points": [row["mse"] ** 0.5 for row in answered]},
        out / "noise.png",
        bound=[row["cramer_rao_bound"] ** 0.5 for row in answered],
        guess=guess,
        xlabel="standard deviation of the noise on a coordinate of the gradient",
    )
    return {"seed": seed, "levels": levels, "guess_rmse": guess, "files": [picture]}


def report(result: dict[str, Any]) -> str:
    """The table and what it means."""
    lines = [f"  {'noise std':>10}{'RMS error':>12}{'bound':>11}{'bound/MSE':>17}{'refused':>10}"]
    for row in result["levels"]:
        uncertainty = row["efficiency"] * row["standard_error"] / row["mse"]
        lines.append(
            f"  {row['noise_std']:10.1e}{row['mse'] ** 0.5:12.1e}{row['cramer_rao_bound'] ** 0.5:11.1e}"
            f"{row['efficiency']:9.2f} ± {uncertainty:4.2f}{row['refused']:6d}/{row['draws']}"
        )
    answered = [row for row in result["levels"] if row["refused"] == 0]
    below = [row for row in answered if row["mse"] + 3 * row["standard_error"] < row["cramer_rao_bound"]]
    guess = result["guess_rmse"]
    harmless = [row["noise_std"] for row in answered if row["cramer_rao_bound"] ** 0.5 > guess]
    lines += [
        "",
        "The error is proportional to the noise over many orders of magnitude and lies on the Cramér-Rao\n"
        "line: the attack is as good as any unbiased attack can be, so the line is the true limit, not a\n"
        f"weakness of ours. Levels where the measured error is significantly below it: {len(below)}.",
        f"A guess that saw nothing of the update errs by {guess:.2f}"
        + (
            f"; noise of {min(harmless):.1g} makes every unbiased attack worse than that."
            if harmless
            else "."
        ),
        "Where noise exceeds the distance between the points the attack refuses some draws. The average\n"
        "of the others is one over lucky draws, so the picture leaves these levels out.",
    ]
    return "\n".join(lines)


# %%
# What it prints
# --------------
if __name__ == "__main__":
    from fedpriv.cli import run_script

    run_script(main, report)
