"""Differential privacy: what the best attacks reach at every epsilon, below the limit that none can pass
======================================================================================================

Bob has one handwritten digit and answers with one clipped, noisy gradient. Two servers attack it. The first
knows that the digit is one of ten pictures and names the one whose own gradient is nearest: no other method
is right more often. ReRo bounds how often *any* method can be right. The second knows nothing and
reconstructs all pixels by maximum likelihood; the Cramér-Rao line bounds the error of every unbiased method.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import fedpriv
from attacks.adaptive import NoisyInversion
from fedpriv.defenses import GaussianNoise

TAKES = "50 s"
DELTA = 1e-5
EPSILONS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Of one release, for the client's whole update, add/remove adjacency."""
PIXEL_EPSILONS = (1.0, 4.0, 16.0, 64.0, 256.0, 1e3, 1e4, 1e5)
"""The second attack needs far less noise before it sees anything."""
CANDIDATES = 10
RELEASES = 100
"""For each candidate and epsilon."""
DRAWS = 10
"""Reconstructions for each epsilon."""
SECONDS = 60.0  # at most, for one of them; they need a tenth of a second
CLIP_NORM = 0.1
"""Below every gradient here, so that every update has this length: the most that noise must hide."""
LR = 1e-9
"""So small that all releases of a run answer the same model, and each is a draw of its own."""


# %%
# Ten candidates
# --------------
# Bob's digit is one of ten, and the server knows which ten.
def victims(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten digits (10, 1, 8, 8), one of each class, and their labels."""
    images, labels = fedpriv.data.digits()
    order = torch.randperm(len(images), generator=generator)
    chosen = torch.stack([order[labels[order] == digit][0] for digit in range(CANDIDATES)])
    return images[chosen].double(), labels[chosen]


def observe(
    model: torch.nn.Module,
    image: torch.Tensor,
    label: torch.Tensor,
    noise_multiplier: float,
    releases: int,
    generator: torch.Generator,
) -> list[fedpriv.Observation]:
    """Independent releases of the gradient of one digit."""
    noise = GaussianNoise(clip_norm=CLIP_NORM, noise_multiplier=noise_multiplier, generator=generator)
    trainer = fedpriv.FederatedTrainer(
        model,
        cross_entropy,
        {"bob": (image[None], label[None])},
        lr=LR,
        schedule=fedpriv.FedSGD(),
        defenses=[noise],
        generator=generator,
    )
    return trainer.run(rounds=releases).transcript.observations("bob")


def expected_updates(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What each candidate would send without the noise, (k, p): the clipping is public."""
    rows = []
    for image, label in zip(images, labels, strict=True):
        loss = cross_entropy(model(image[None]), label[None])
        flat = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])
        rows.append(flat * min(1.0, CLIP_NORM / float(flat.norm())))
    return torch.stack(rows)


def named(observation: fedpriv.Observation, expected: torch.Tensor) -> int:
    """The candidate of largest likelihood; all are equally likely beforehand."""
    sent = torch.cat([g.reshape(-1) for g in observation.gradient().values()])
    return int((expected - sent).square().sum(1).argmin())


def interval(right: int, tries: int, z: float = 3.0) -> tuple[float, float]:
    """Wilson's interval for a rate, by default of three standard errors."""
    rate, spread = right / tries, z**2 / tries
    middle = (rate + spread / 2) / (1 + spread)
    half = z * math.sqrt(rate * (1 - rate) / tries + spread / (4 * tries)) / (1 + spread)
    return max(0.0, min(rate, middle - half)), min(1.0, max(rate, middle + half))


# %%
# Naming the digit
# ----------------
# A thousand releases at every epsilon. The limit holds for every method; this one is the best for its task.
def success(
    model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
) -> list[dict[str, float]]:
    """How often the right candidate is named, beside the bound, for every epsilon."""
    expected, rows = expected_updates(model, images, labels), []
    for epsilon in fedpriv.progress.progress(EPSILONS, description="epsilons"):
        noise = fedpriv.privacy.noise_for(epsilon=epsilon, delta=DELTA)
        right = 0
        for k, (x, y) in enumerate(zip(images, labels, strict=True)):
            right += sum(named(o, expected) == k for o in observe(model, x, y, noise, RELEASES, generator))
        tries = RELEASES * len(images)
        low, high = interval(right, tries)
        rows.append(
            {
                "epsilon": epsilon,
                "noise_multiplier": noise,
                "rate": right / tries,
                "low": low,
                "high": high,
                "tries": tries,
                "rero_bound": bound_at(epsilon),
            }
        )
    return rows


def bound_at(epsilon: float) -> float:
    """The ReRo bound of one release at this epsilon, when a guess is right one time in ten."""
    noise = fedpriv.privacy.noise_for(epsilon=epsilon, delta=DELTA)
    return fedpriv.privacy.rero_bound(prior_success=1 / CANDIDATES, noise_multiplier=noise)


# %%
# Reconstructing the pixels
# -------------------------
# Maximum likelihood knows nothing of the candidates. The line bounds unbiased attacks only.
def errors(
    model: torch.nn.Module, image: torch.Tensor, label: torch.Tensor, generator: torch.Generator
) -> list[dict[str, float]]:
    """Error of the reconstructed pixels, beside the bound, for every epsilon."""
    rows, for_unit_noise = [], math.nan
    for epsilon in fedpriv.progress.progress(PIXEL_EPSILONS, description="epsilons"):
        multiplier = fedpriv.privacy.noise_for(epsilon=epsilon, delta=DELTA)
        seen = observe(model, image, label, multiplier, DRAWS, generator)
        if math.isnan(for_unit_noise):
            for_unit_noise = fedpriv.privacy.cramer_rao_bound(
                seen[0], image[None], label[None], noise_std=1.0, clip_norm=CLIP_NORM
            )
        bound = (multiplier * CLIP_NORM) ** 2 * for_unit_noise
        found = [NoisyInversion()(o, time_budget=SECONDS) for o in seen]
        mse = torch.stack([fedpriv.lab.score(f, image[None]).mse.mean() for f in found])
        efficiency = fedpriv.lab.attack_efficiency(bound, mse)
        rows.append(
            {
                "epsilon": epsilon,
                "noise_multiplier": multiplier,
                "rmse": float(mse.mean()) ** 0.5,
                "cramer_rao_rmse": bound**0.5,
                "efficiency": efficiency.value,
                "standard_error": efficiency.standard_error,
            }
        )
    return rows


# %%
# All of it
# ---------
# Both curves over the same epsilons.
def main(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Measure both attacks at every epsilon, draw both beside their limits."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = victims(generator)
    model = fedpriv.models.mlp([64, 32, 10], generator=generator).double()
    result: dict[str, Any] = {
        "seed": seed,
        "delta": DELTA,
        "candidates": CANDIDATES,
        "success": success(model, images, labels, generator),
        "errors": errors(model, images[0], labels[0], generator),
        "guess_rmse": float((images[0] - images.mean()).square().mean().sqrt()),
    }
    result["files"] = [draw(result, out / "dp.png")]
    return result


def draw(result: dict[str, Any], path: Path) -> Path:
    """Left the success of naming, right the error of the pixels, both over epsilon."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2)
    rows = result["success"]
    at = [row["epsilon"] for row in rows]
    fine = torch.logspace(math.log10(at[0]), math.log10(at[-1]), 60).tolist() if len(at) > 1 else at
    left.plot(fine, [bound_at(e) for e in fine], color="black", linewidth=2, label="no attack passes (ReRo)")
    rates = [row["rate"] for row in rows]
    bars = [[row["rate"] - row["low"] for row in rows], [row["high"] - row["rate"] for row in rows]]
    left.errorbar(at, rates, yerr=bars, fmt="o", color="#1b3a6b", capsize=3, label="measured (3 s.e.)")
    left.axhline(1 / result["candidates"], color="0.35", linestyle=":", label="a guess")
    left.set(ylim=(0, 1.02), ylabel="right candidate named (rate)", title="one of ten known pictures")
    rows = result["errors"]
    at = [row["epsilon"] for row in rows]
    right.plot(
        at,
        [row["cramer_rao_rmse"] for row in rows],
        color="black",
        linewidth=2,
        label="Cramér–Rao (unbiased)",
    )
    right.plot(at, [row["rmse"] for row in rows], "s--", color="#d9730d", label="measured")
    right.axhline(result["guess_rmse"], color="0.35", linestyle=":", label="a gray picture")
    right.set(
        yscale="log", ylabel="root mean squared error of a pixel", title="all pixels, no prior knowledge"
    )
    for axes in (left, right):
        axes.set(xscale="log", xlabel=f"epsilon of one release, delta = {result['delta']:g}")
        axes.grid(visible=True, color="0.88")
        axes.set_axisbelow(True)
        axes.legend(fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    return path


def report(result: dict[str, Any]) -> str:
    """The table and what it means."""
    lines = [f"  {'epsilon':>8}{'noise':>8}{'named':>9}{'± 3 s.e.':>16}{'ReRo bound':>13}"]
    rows = result["success"]
    for row in rows:
        spread = f"{row['low']:.3f} to {row['high']:.3f}"
        lines.append(
            f"  {row['epsilon']:8g}{row['noise_multiplier']:8.2f}{row['rate']:9.3f}{spread:>16}"
            f"{row['rero_bound']:13.3f}"
        )
    lines += ["", f"  {'epsilon':>8}{'noise':>9}{'RMS error':>12}{'bound':>10}{'bound/MSE':>18}"]
    for row in result["errors"]:
        lines.append(
            f"  {row['epsilon']:8g}{row['noise_multiplier']:9.4f}{row['rmse']:12.3g}"
            f"{row['cramer_rao_rmse']:10.2g}{row['efficiency']:11.3f} ± {row['standard_error']:.3f}"
        )
    above = [row for row in rows if row["low"] > row["rero_bound"]]
    useful = [row["epsilon"] for row in result["errors"] if row["rmse"] < result["guess_rmse"]]
    tells = f"from epsilon {min(useful):g} on" if useful else "at none of these"
    return "\n".join(
        [
            *lines,
            "",
            f"Naming one of {result['candidates']} pictures: significantly above the bound at {len(above)} "
            f"of {len(rows)} epsilons. The attack\n"
            "is the best there is against these pictures; the distance to the curve is how much better it\n"
            "would fare against the worst possible ones.",
            f"Pixels without prior knowledge: better than a gray picture (error {result['guess_rmse']:.2f}) "
            f"{tells}.\n"
            "An epsilon that lets an attacker choose between candidates is still far from one that lets\n"
            "it draw the picture: say which of the two you are afraid of. T rounds are one with 1/sqrt(T)\n"
            "of the noise. A bound/MSE near 1: no unbiased attack does better. Far from 1 the noise is\n"
            "above the signal; an error below the line is that of answers that ignore the data (a bias).",
        ]
    )


# %%
# What it prints
# --------------
if __name__ == "__main__":
    from fedpriv.cli import run_script

    run_script(main, report)
