"""Come back tomorrow: a batch that one round protects and two rounds give away
============================================================================

"My batch is large enough: the server has fewer equations than unknowns." That is true for one round. But Bob
takes part again, with the same data, and the model has changed in between: every visit adds equations, and no
unknowns. Here 40 digits pass a network of width 64: one gradient has equations for at most 32, two for 42.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import attacks
import fedpriv

TAKES = "15 s"
BATCH = 40
WIDTH = 64
APART = 10  # rounds of training between two visits that the server keeps


# %%
# Two visits
# ----------
# Bob takes part again with the same data, after the model has been trained for some rounds on others.
def visits(images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> list[Any]:
    """What the server saw of Bob in three rounds of an honest training, `APART` rounds from each other."""
    trainer = fedpriv.FederatedTrainer(
        fedpriv.models.mlp([64, WIDTH, WIDTH, 10], activation=torch.nn.GELU, generator=generator).double(),
        cross_entropy,
        {"bob": (images.double(), labels)},
        lr=0.1,
        schedule=fedpriv.FedSGD(),
        generator=generator,
    )
    return trainer.run(rounds=2 * APART + 1).transcript.observations("bob")[::APART]


# %%
# One round, then two
# -------------------
# The attack is the same. Only the evidence grows.
def attempt(
    seen: list[Any], images: torch.Tensor, labels: torch.Tensor
) -> tuple[dict[str, Any], torch.Tensor | None]:
    """Attack some visits; the scores, and the images in Bob's order."""
    try:
        found = attacks.reconstruct(seen, time_budget=10.0)
    except attacks.NotIdentifiable as refusal:
        return {"visits": len(seen), "recovered": 0.0, "certified": 0, "refusal": str(refusal)}, None
    score = fedpriv.lab.score(found, images, labels, data_range=1.0)
    right = score.target_correct
    result = {
        "visits": len(seen),
        "recovered": score.recovered(psnr=40.0),
        "certified": int(found.certified.sum()),
        "labels_right": 0.0 if right is None else float(right.double().mean()),
        "worst_psnr": float(score.psnr.min()),
        "seconds": found.seconds,
    }
    return result, found.inputs[score.assignment[score.assignment >= 0]]


def main(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """The same batch attacked with one visit, with two, and with three."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = fedpriv.data.digits()
    chosen = torch.randperm(len(images), generator=generator)[:BATCH]
    images, labels = images[chosen], labels[chosen]
    seen = visits(images, labels, generator)
    sheets, attempts = {"Bob's batch": images}, []
    for count in range(1, len(seen) + 1):
        result, recovered = attempt(seen[:count], images, labels)
        attempts.append(result)
        if count < 3:
            nothing = torch.full_like(images, 0.5)
            name = f"from {count} visit{'s' * (count > 1)}"
            sheets[f"{name}: {result['recovered']:.0%}"] = nothing if recovered is None else recovered
    picture = fedpriv.lab.plot_mosaics(
        sheets, out / "rounds.png", title=f"{BATCH} digits at width {WIDTH}: one visit hides them, two do not"
    )
    return {"seed": seed, "batch": BATCH, "width": WIDTH, "attempts": attempts, "files": [picture]}


def report(result: dict[str, Any]) -> str:
    """The table and what it means."""
    lines = ["  visits   recovered   certified   labels right   worst image"]
    for a in result["attempts"]:
        line = f"  {a['visits']:6d}   {a['recovered']:9.0%}   {a['certified']:9d}"
        if "refusal" not in a:
            line += f"   {a['labels_right']:12.0%}   {a['worst_psnr']:8.1f} dB"
        lines.append(line)
    first, second = result["attempts"][:2]
    lines.append("")
    if first["recovered"] < 0.5 and first["certified"] == 0 and second["recovered"] == 1.0:
        lines.append(
            f"One gradient of {result['batch']} samples at width {result['width']} has fewer equations than "
            f"unknowns: a search is all that\nis left, and proves nothing. The second visit shows the same "
            f"samples through another model: twice the\nequations, the same unknowns, and everything comes "
            f"back. A batch size that is safe once is not safe twice."
        )
    else:
        lines.append("Not every image came back this time; what is missing carries no certificate.")
    return "\n".join(lines)


# %%
# What it prints
# --------------
if __name__ == "__main__":
    from fedpriv.cli import run_script

    run_script(main, report)
