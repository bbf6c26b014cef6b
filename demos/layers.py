"""One image through a deep network, layer by layer: every layer gives up its input, as a system of equations
==========================================================================================================

Bob's picture passes three convolutions with sigmoids and one linear layer before a gradient leaves his
machine: the very network on which gradient leakage was first shown. The server goes back from the loss. The
last bias gradient is the backward signal there; with it the last weight gradient gives the layer's input;
undo the sigmoid; and now the convolution below has a known output and a known signal, which is a linear
system for its input. And so on to the picture. A second network, with ReLUs, a max pooling and a global
average pool, shows where this ends, and that the last convolution still gives up its whole input.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import attacks
import fedpriv
from attacks.exact.layers import LayerByLayerInversion, LayerReport, go_back, peel_patches
from fedpriv.victims import conv_small, lenet_dlg

TAKES = "8 s"


# %%
# One gradient
# ------------
# The network of the DLG paper, and one with ReLUs and pooling.
def bobs_round(model: torch.nn.Sequential, image: torch.Tensor, label: torch.Tensor) -> fedpriv.Observation:
    """What the server sees of one round: one gradient of one picture, in float32."""
    trainer = fedpriv.FederatedTrainer(
        model, cross_entropy, {"bob": (image, label)}, lr=0.1, schedule=fedpriv.FedSGD()
    )
    return trainer.run(rounds=1).transcript.observations("bob")[0]


def rows_of(reports: tuple[LayerReport, ...]) -> list[dict[str, Any]]:
    """One row a layer, from the loss to the picture."""
    return [
        {
            "layer": r.name,
            "input": list(r.in_shape),
            "equations": r.equations,
            "unknowns": r.unknowns,
            "rank": r.rank,
            "exact": r.exact,
        }
        for r in reports
    ]


# %%
# Down, layer by layer
# --------------------
# Known above: what the layer put out and the signal that came back to it. Unknown: its input.
def invert(name: str, image: torch.Tensor, generator: torch.Generator, out: Path) -> dict[str, Any]:
    """Attack one picture behind the sigmoid network."""
    model = lenet_dlg(tuple(image.shape[1:]), generator=generator)  # type: ignore[arg-type]
    label = torch.randint(10, (1,), generator=generator)
    observation = bobs_round(model, image, label)
    found = LayerByLayerInversion()(observation)
    start = time.process_time()
    track = go_back(observation)
    seconds = time.process_time() - start
    score = fedpriv.lab.score(found, image, label, data_range=1.0)
    path = fedpriv.lab.compare_images(
        image, found.inputs, out / f"layers_{name}.png", title=f"A {name} behind four layers"
    )
    return {
        "layers": rows_of(track.reports),
        "psnr": float(score.psnr[0]),
        "guess_psnr": float(score.baseline.psnr[0]) if score.baseline else None,
        "label_found": None if found.targets is None else bool(torch.equal(found.targets, label)),
        "certified": bool(found.certified.all()),
        "seconds": seconds,
        "seconds_with_certificate": found.seconds,
        "file": path,
    }


# %%
# Where it ends
# -------------
# A max pooling forgets where its values came from. The input of the last convolution is still determined.
def peel(image: torch.Tensor, generator: torch.Generator) -> dict[str, Any]:
    """Attack the last convolution of the ReLU network, and compare with what really passed there."""
    model = conv_small(generator=generator)
    label = torch.randint(10, (1,), generator=generator)
    observation = bobs_round(model, image, label)
    refusal = None
    try:
        LayerByLayerInversion()(observation)
    except attacks.NotIdentifiable as reason:
        refusal = str(reason)
    start = time.process_time()
    found = peel_patches(observation)
    seconds = time.process_time() - start
    with torch.no_grad():  # the observation keeps the weights as they were sent
        truth = torch.func.functional_call(observation.model[:7], _below(observation), (image,))  # type: ignore[index]
    error = float((found.features - truth.double()).abs().max() / truth.abs().max())
    return {
        "refusal": refusal,
        "layer": found.layer,
        "map": list(found.features.shape[1:]),
        "relative_error": error,
        "residual": found.residual,
        "seconds": seconds,
    }


def _below(observation: fedpriv.Observation) -> dict[str, torch.Tensor]:
    """Weights of the layers before the last convolution."""
    return {n: t for n, t in observation.state.items() if int(n.split(".")[0]) < 7}


def main(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Attack a gray face, a color patch, and the end of a ReLU network."""
    generator = torch.Generator().manual_seed(seed)
    faces = fedpriv.data.faces()
    face = faces[int(torch.randint(len(faces), (), generator=generator)), None]
    patch = fedpriv.data.photographs(1, generator=generator)
    result: dict[str, Any] = {"seed": seed, "files": []}
    for name, image in {"face": face, "photograph": patch}.items():
        result[name] = invert(name, image, generator, out)
        result["files"].append(result[name].pop("file"))
    result["relu"] = peel(patch, generator)
    return result


def report(result: dict[str, Any]) -> str:
    """The tables and what they mean."""
    lines: list[str] = []
    for name in ("face", "photograph"):
        row = result[name]
        lines.append(f"  {name}, from the loss back to the picture:")
        lines.append(f"    {'layer':14}{'input':>12}{'equations':>11}{'unknowns':>10}{'rank':>7}  exact")
        lines += [
            f"    {r['layer']:14}{'x'.join(map(str, r['input'])):>12}{r['equations']:11d}{r['unknowns']:10d}"
            f"{r['rank']:7d}  {'yes' if r['exact'] else 'no'}"
            for r in row["layers"]
        ]
        lines.append(
            f"    {row['psnr']:.0f} dB (a guess: {row['guess_psnr']:.0f} dB), label "
            f"{'found' if row['label_found'] else 'not found'}, "
            f"{'certified' if row['certified'] else 'not certified'}, {row['seconds']:.1f} s of computing, "
            f"{row['seconds_with_certificate']:.1f} s with the certificate"
        )
        lines.append("")
    relu = result["relu"]
    shape = "x".join(map(str, relu["map"]))
    lines += [
        f"  the ReLU network: {relu['refusal']}.",
        f"  Its last convolution all the same: the whole {shape} input,",
        f"  largest error {relu['relative_error']:.0e} of its largest value, in {relu['seconds']:.2f} s.",
        "",
    ]
    rows = [result[n] for n in ("face", "photograph")]
    if all(r["certified"] and r["psnr"] > 60 for r in rows) and relu["relative_error"] < 1e-3:
        lines.append(
            "Depth does not hide a picture. As long as the activations can be undone and every layer\n"
            "has enough equations (rank = unknowns), the picture follows by solving linear systems, to the\n"
            "precision of the numbers sent. What stops this is a layer that throws information away, such\n"
            "as max pooling; and even then the convolution behind it gave up all that passed it, which is\n"
            "where optimizing attacks begin."
        )
    else:
        worst = min(r["psnr"] for r in rows)
        lines.append(
            f"Not everything came back exactly (worst picture: {worst:.1f} dB); a layer that\n"
            f"had too few equations, or whose system is badly conditioned, is the reason."
        )
    return "\n".join(lines)


# %%
# What it prints
# --------------
if __name__ == "__main__":
    from fedpriv.cli import run_script

    run_script(main, report)
