"""Eight faces in one batch: the last layers give up everybody exactly, then each face follows
===========================================================================================

"Convolutions and a batch: now it is safe." Eight people are in one batch, and the network has convolutions,
ReLU and max pooling before its linear layers. The linear layers are consistent with eight samples only: their
exact features and labels follow by algebra, with no search over images. After that the convolutions have a
known output and a known backward signal for every person, so the search below them is no longer one for a
mixture, and an exact finish is near. The usual search, told the number of people, is shown beside it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fedpriv
from attacks.exact.consistency import features
from attacks.matching.blocks import BlockwiseInversion
from attacks.matching.inverting_gradients import InvertingGradients

TAKES = "1 min"
PEOPLE = 8
CHANNELS = 24
SECONDS = 60.0
SECONDS_USUAL = 15.0
CENTER, SPREAD = 0.5, 0.25
"""Bob normalizes his pictures, as everybody does; the server wrote that code and knows the numbers."""


# %%
# A batch of faces
# ----------------
# Convolutions, pooling, two linear layers.
def victim(side: int, generator: torch.Generator) -> nn.Sequential:
    """Two convolutions, one of them with a stride, max pooling, three linear layers."""
    after = ((side + 1) // 2) // 2
    layers: list[nn.Module] = [
        *(nn.Conv2d(1, CHANNELS, 5, padding=2), nn.ReLU()),
        *(nn.Conv2d(CHANNELS, 2 * CHANNELS, 5, stride=2, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(2 * CHANNELS * after**2, 128), nn.ReLU()),
        *(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)),
    ]
    return fedpriv.models.initialize(nn.Sequential(*layers), generator)


def bobs_round(
    people: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, fedpriv.Observation]:
    """Faces, whose they are, and the gradient of their batch."""
    faces = fedpriv.data.faces()
    chosen = torch.randperm(len(faces), generator=generator)[:people]
    images = faces[chosen]
    labels = torch.randint(10, (people,), generator=generator)
    model = victim(images.shape[-1], generator)
    loss = cross_entropy(model((images - CENTER) / SPREAD), labels)
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    known = fedpriv.Knowledge(input_shape=tuple(images.shape[1:]))
    return images, labels, fedpriv.Observation(model, gradient, cross_entropy, known)


# %%
# Exact first
# -----------
# Features and labels of everybody, by algebra.
def head(
    observation: fedpriv.Observation, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
) -> dict[str, Any]:
    """What the linear layers give away, against what really passed there."""
    begun = time.process_time()
    found = features(observation, generator=generator)
    seconds = time.process_time() - begun
    body = nn.Sequential(*list(observation.model.children())[:6])  # up to the first linear layer
    state = {n: t for n, t in observation.state.items() if n in body.state_dict()}
    with torch.no_grad():  # the observation keeps the weights as they were sent
        truth = torch.func.functional_call(body, dict(state), ((images - CENTER) / SPREAD,)).double()
    distances = torch.cdist(found.values, truth, p=float("inf"))
    nearest = distances.argmin(0) if len(found.values) else torch.zeros(0, dtype=torch.int64)
    right = found.labels is not None and torch.equal(found.labels[nearest], labels)
    return {
        "layer": found.layer,
        "found": len(found.values),
        "relative_error": float(distances.amin(0).max() / truth.abs().max()),
        "labels_right": bool(right),
        "seconds": seconds,
    }


# %%
# Then the faces
# --------------
# Block by block, beside the usual search.
def main(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """The head, then the images, then the usual search."""
    generator = torch.Generator().manual_seed(seed)
    images, labels, observation = bobs_round(PEOPLE, generator)
    result: dict[str, Any] = {"seed": seed, "batch": PEOPLE}
    result["head"] = head(observation, images, labels, generator)
    told = fedpriv.Observation(
        observation.model,
        observation.update,
        cross_entropy,
        fedpriv.Knowledge(num_samples=PEOPLE, input_shape=tuple(images.shape[1:])),
    )
    tried = {
        "block by block": BlockwiseInversion()(observation, time_budget=SECONDS, generator=generator),
        "usual search": InvertingGradients(starts=1, steps=2000)(
            told, time_budget=SECONDS_USUAL, generator=generator
        ),
    }
    shown = {}
    for name, found in tried.items():
        shown[name] = found.inputs.double() * SPREAD + CENTER
        score = fedpriv.lab.score(shown[name], images, data_range=1.0)
        result[name] = {
            "psnr": score.psnr.tolist(),
            "guess_psnr": None if score.baseline is None else float(score.baseline.psnr.mean()),
            "residual": found.residual,
            "certified": int(found.certified.sum()),
            "seconds": found.seconds,
        }
    picture = fedpriv.lab.compare_images(
        images, shown, out / "batch_images.png", title=f"{PEOPLE} faces from the gradient of one batch"
    )
    return {**result, "files": [picture]}


def report(result: dict[str, Any]) -> str:
    """The table and what it means."""
    first = result["head"]
    lines = [
        f"  input of the first linear layer ({first['layer']!r}), by algebra: {first['found']} people "
        f"(the number was not told),",
        f"  largest error {first['relative_error']:.0e} of the largest value, labels "
        f"{'all right' if first['labels_right'] else 'not all right'}, {first['seconds']:.1f} s",
        "",
        f"  {'':<18}{'mean dB':>9}{'worst dB':>10}{'residual':>10}{'certified':>11}{'seconds':>9}",
    ]
    for name in ("block by block", "usual search"):
        row = result[name]
        lines.append(
            f"  {name:<18}{sum(row['psnr']) / len(row['psnr']):>9.1f}{min(row['psnr']):>10.1f}"
            f"{row['residual']:>10.0e}{row['certified']:>11d}{row['seconds']:>9.1f}"
        )
    guess = result["usual search"]["guess_psnr"]
    if guess is not None:
        lines.append(f"  {'a flat gray':<18}{guess:>9.1f}")
    lines.append("")
    mean = sum(result["block by block"]["psnr"]) / result["batch"]
    if min(result["block by block"]["psnr"]) > 60:
        lines.append(
            "Every face is exact. The batch mixed them in one gradient, and the linear layers sorted them\n"
            "out again; max pooling hid three values of four, and the equations told which."
        )
    else:
        lines.append(
            "The linear layers sorted the people out again, exactly; the faces are a matter of search then,\n"
            f"{mean:.0f} dB on average within {SECONDS:.0f} s."
        )
    return "\n".join(lines)


# %%
# What it prints
# --------------
if __name__ == "__main__":
    from fedpriv.cli import run_script

    run_script(main, report)
