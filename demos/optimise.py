"""Watch a picture come out of a gradient: a color photograph and a face, from a flat gray on, stage by stage
==========================================================================================================

Where ReLU and max pooling stand in the way of linear algebra, attacks search: change an image until its
gradient is the one that Bob sent. The usual search compares all gradients at once and ends in a blur. Ours
first takes what is exact. The last convolution gives up its whole input, so the layers below it are a small
problem of their own with a known output. That block is searched with ReLU and pooling made smooth at first,
then sharper and sharper; where it came near enough, the choices of the pooling, as unknowns of their own,
finish it to the last digit. The strip shows every stage; the last column is the usual search with as many
steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import fedpriv
from attacks.matching.blocks import BlockwiseInversion
from attacks.matching.inverting_gradients import InvertingGradients
from fedpriv.lab.plots.strips import plot_strips
from fedpriv.victims import conv_small

TAKES = "1 min"
WIDTH = 16
STEPS = 300
SHOWN = (1, 30, 100, 200)
SECONDS = 30.0
CENTER, SPREAD = 0.45, 0.25
"""Bob normalizes his pictures, as everybody does; the server wrote that code and knows the numbers."""


# %%
# Bob's gradient
# --------------
# One picture through convolutions, ReLU, max pooling and a linear layer.
def bobs_round(image: torch.Tensor, generator: torch.Generator) -> tuple[fedpriv.Observation, torch.Tensor]:
    """One gradient of one picture, and its label, which the server is not told."""
    shape = (image.shape[1], image.shape[2], image.shape[3])
    model = conv_small(shape, width=WIDTH, generator=generator)
    label = torch.randint(10, (1,), generator=generator)
    loss = cross_entropy(model((image - CENTER) / SPREAD), label)
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    known = fedpriv.Knowledge(input_shape=shape)
    return fedpriv.Observation(model, gradient, cross_entropy, known), label


# %%
# Watching
# --------
# The attack reports every stage; the recorder keeps the picture.
class Recorder:
    """Keeps what the search looks like now and then, up to the end of the first finish."""

    def __init__(self) -> None:
        self.frames: dict[str, torch.Tensor] = {}
        self._counts = {"search": 0, "finish": 0}
        self._done = False

    def __call__(self, stage: str, inputs: torch.Tensor) -> None:
        """See `BlockwiseInversion`."""
        if self._done or (stage == "search" and self._counts["finish"]):
            self._done = True  # a second search, or the run that proves the first
            return
        self._counts[stage] = step = self._counts[stage] + 1
        if step in (SHOWN if stage == "search" else (1,)):
            self.frames[f"{stage}, step {step}"] = inputs[0]


# %%
# Two attacks
# -----------
# Block by block, and the usual search with as many steps. Both are told the same.
def attack(image: torch.Tensor, generator: torch.Generator) -> dict[str, Any]:
    """Both attacks on one picture, and how good they are."""
    observation, label = bobs_round(image, generator)
    recorder = Recorder()
    ours = BlockwiseInversion(steps=STEPS, watch=recorder)
    found = ours(observation, time_budget=SECONDS, generator=generator)
    usual = InvertingGradients(starts=1, steps=STEPS)
    told = fedpriv.Observation(
        observation.model,
        observation.update,
        cross_entropy,
        fedpriv.Knowledge(num_samples=1, input_shape=tuple(image.shape[1:])),
    )
    plain = usual(told, time_budget=SECONDS, generator=generator)
    shots = {**recorder.frames, "result": found.inputs[0], "usual search": plain.inputs[0]}
    strip = {name: shot.double() * SPREAD + CENTER for name, shot in shots.items()}
    return {
        "strip": strip,
        "psnr": {name: _psnr(shot, image[0]) for name, shot in strip.items()},
        "guess_psnr": _psnr(image.mean().expand_as(image[0]), image[0]),
        "label_found": found.targets is not None and bool(torch.equal(found.targets, label)),
        "residual": found.residual,
        "certified": bool(found.certified.all()),
        "seconds": found.seconds,
        "usual_seconds": plain.seconds,
        "note": found.notes[0] if found.notes else "",
    }


def _psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
    return float(fedpriv.lab.score(image[None].double(), truth[None].double(), data_range=1.0).psnr[0])


# %%
# All of it
# ---------
# The score is computed afterwards, with the truth.
def main(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Attack a photograph and a face, draw how they appear."""
    generator = torch.Generator().manual_seed(seed)
    faces = fedpriv.data.faces()
    images = {
        "photograph": fedpriv.data.photographs(1, generator=generator),
        "face": faces[int(torch.randint(len(faces), (), generator=generator)), None],
    }
    rows = {
        name: attack(image.reshape(1, -1, *image.shape[-2:]), generator) for name, image in images.items()
    }
    strips = {
        name: {
            "truth": images[name].reshape(-1, *images[name].shape[-2:]),
            **{f"{shot}\n{row['psnr'][shot]:.0f} dB": pixels for shot, pixels in row.pop("strip").items()},
        }
        for name, row in rows.items()
    }
    picture = plot_strips(strips, out / "optimise.png", title="A picture comes out of one gradient")
    return {"seed": seed, "pictures": rows, "files": [picture]}


def report(result: dict[str, Any]) -> str:
    """The table and what it means."""
    rows = result["pictures"]
    lines = [f"  {'PSNR in dB':<22}" + "".join(f"{name:>14}" for name in rows)]
    stages = [stage for row in rows.values() for stage in row["psnr"]]
    for stage in sorted(dict.fromkeys(stages), key=stages.index):
        cells = (
            f"{row['psnr'][stage]:>14.1f}" if stage in row["psnr"] else f"{'':>14}" for row in rows.values()
        )
        lines.append(f"  {stage:<22}" + "".join(cells))
    lines.append(f"  {'a flat gray':<22}" + "".join(f"{row['guess_psnr']:>14.1f}" for row in rows.values()))
    lines += [
        f"  {'label':<22}"
        + "".join(f"{'found' if row['label_found'] else 'not found':>14}" for row in rows.values()),
        f"  {'residual':<22}" + "".join(f"{row['residual']:>14.0e}" for row in rows.values()),
        f"  {'certified':<22}"
        + "".join(f"{'yes' if row['certified'] else 'no':>14}" for row in rows.values()),
        f"  {'seconds':<22}" + "".join(f"{row['seconds']:>14.1f}" for row in rows.values()),
        f"  {'seconds, usual search':<22}"
        + "".join(f"{row['usual_seconds']:>14.1f}" for row in rows.values()),
        "",
    ]
    exact = [name for name, row in rows.items() if row["psnr"]["result"] > 60]
    rest = [name for name in rows if name not in exact]
    if exact:
        lines.append(
            f"Exact: {' and '.join(exact)}. The search came near enough to decide the choices of the\n"
            "pooling, and with the right choices nothing is left but equations, which are solved."
        )
    if rest:
        lines.append(
            f"Not exact within {SECONDS:.0f} s: {' and '.join(rest)}. A few choices of the pooling stayed\n"
            "undecided. The residual tells the server as much, without the truth."
        )
    return "\n".join(lines)


# %%
# What it prints
# --------------
if __name__ == "__main__":
    from fedpriv.cli import run_script

    run_script(main, report)
