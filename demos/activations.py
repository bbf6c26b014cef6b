"""Any activation: the same attack through eight of them, and a map of what it searches
====================================================================================

The literature recovers batches through ReLU because its zeros betray which neurons were off. Nothing of
that is needed. With three pictures the hyperplane on which all inputs lie is a plane, so the function that
the attack drives to zero can be drawn: it vanishes at the three pictures alone, whatever the activation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import attacks
import fedpriv
from attacks.exact.consistency.approach import approach
from attacks.exact.consistency.spans import affine_set
from fedpriv.lab import Landscape

TAKES = "8 s"

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "ReLU": nn.ReLU,
    "leaky ReLU": nn.LeakyReLU,
    "ELU": nn.ELU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}
DRAWN = ("ReLU", "GELU", "tanh", "sigmoid")
BATCH = 16


# %%
# What the attack searches
# ------------------------
# A candidate's hidden vector must lie in the span of the second layer's gradient. The distance from it is a
# function of the candidate, and with three pictures it can be drawn.
def observe(
    activation: type[nn.Module], batch: int, generator: torch.Generator
) -> tuple[fedpriv.Observation, torch.Tensor, torch.Tensor]:
    """One gradient of a batch of digits, with the digits and labels that nobody may look at."""
    images, labels = fedpriv.data.digits()
    chosen = torch.randperm(len(images), generator=generator)[:batch]
    x, y = images[chosen].double(), labels[chosen]
    model = fedpriv.models.mlp([64, 128, 128, 10], activation=activation, generator=generator).double()
    gradient = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()))
    knowledge = fedpriv.Knowledge(input_shape=tuple(x.shape[1:]))
    return fedpriv.Observation(model, gradient, cross_entropy, knowledge), x, y


def landscape(activation: type[nn.Module], generator: torch.Generator) -> Landscape:
    """How inconsistent each point of the plane is: the part of its activations outside the second span."""
    observation, x, _ = observe(activation, 3, generator)
    way = approach(observation, raw=True)
    if isinstance(way, str):
        raise ValueError(way)
    evidence = way[1]
    one, two, layers = evidence.one, evidence.two, evidence.layers
    origin, directions = affine_set(evidence.plane, torch.zeros(0, one.rank, dtype=torch.float64))
    truth = (x.flatten(1) @ one.rows.T - origin) @ directions.T  # (3, 2)
    middle, reach = truth.mean(0), 1.6 * (truth - truth.mean(0)).abs().amax()
    line = torch.linspace(-1, 1, 161, dtype=torch.float64) * reach
    grid = (
        torch.stack(torch.meshgrid(line + middle[1], line + middle[0], indexing="ij"), -1)
        .flip(-1)
        .reshape(-1, 2)
    )
    activations = layers.act((origin + grid @ directions) @ evidence.forward + layers.bias_1)
    center = layers.act(origin @ evidence.forward + layers.bias_1)
    outside = activations - (activations @ two.rows.T) @ two.rows
    values = outside.norm(dim=1) / (activations - center).norm(dim=1).clamp_min(1e-12)
    return Landscape(x=line + middle[0], y=line + middle[1], values=values.reshape(161, 161), truth=truth)


# %%
# Eight activations
# -----------------
# Nothing in the attack depends on which one it is, as long as it is not linear.
def main(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Attack one batch through every activation, and draw four maps."""
    generator = torch.Generator().manual_seed(seed)
    result: dict[str, Any] = {"seed": seed, "batch": BATCH, "activations": {}}
    for name, activation in ACTIVATIONS.items():
        observation, x, y = observe(activation, BATCH, generator)
        found = attacks.reconstruct(observation)
        score = fedpriv.lab.score(found, x, y, data_range=1.0)
        result["activations"][name] = {
            "recovered": score.recovered(psnr=40.0),
            "labels_right": 0.0
            if score.target_correct is None
            else float(score.target_correct.double().mean()),
            "certified": int(found.certified.sum()),
            "largest_error": float(score.max_abs_error.max()),
            "seconds": found.seconds,
        }
    maps = {name: landscape(ACTIVATIONS[name], generator) for name in DRAWN}
    result["files"] = [
        fedpriv.lab.plot_landscapes(
            maps,
            out / "activations.png",
            title="On the plane of all inputs the residual vanishes at the three pictures (circles) alone",
            label="log10 of the relative residual",
        )
    ]
    return result


def report(result: dict[str, Any]) -> str:
    """The table and what it means."""
    head = f"  {'activation':12}{'recovered':>10}{'labels':>8}{'certified':>11}{'largest error':>15}"
    lines = [head + f"{'seconds':>9}"]
    for name, row in result["activations"].items():
        lines.append(
            f"  {name:12}{row['recovered']:10.0%}{row['labels_right']:8.0%}{row['certified']:8d}"
            f"/{result['batch']}{row['largest_error']:15.0e}{row['seconds']:9.2f}"
        )
    rows = result["activations"].values()
    lines.append("")
    if all(row["recovered"] == 1.0 for row in rows):
        lines.append(
            f"All batches of {result['batch']} came back whole, through every activation. Dead neurons are\n"
            "not what leaks: a picture must make its activations fit into the span that the second\n"
            "layer's gradient shows, and these are many more equations than it has unknowns on the\n"
            "first layer's hyperplane."
        )
    else:
        lines.append("Not every batch came back whole; see the table.")
    return "\n".join(lines)


# %%
# What it prints
# --------------
if __name__ == "__main__":
    from fedpriv.cli import run_script

    run_script(main, report)
