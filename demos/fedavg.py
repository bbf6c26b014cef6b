"""Local epochs do not hide you either: faces out of parameters after shuffled mini-batches
========================================================================================

Bob trains a small convolutional network for some epochs, on mini-batches that he shuffles anew every time,
and sends the parameters. The server knows the program that Bob runs, but not his labels and not who was in
which batch. Taken for one large gradient step, his update gives ghosts as soon as he trains for some epochs.
Replayed, it still gives faces; the larger his steps, the rougher.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fedpriv
from attacks import Attack, Claim
from attacks.matching.fedavg import FedAvgInversion
from attacks.matching.inverting_gradients import InvertingGradients
from attacks.matching.priors import Box
from attacks.threads import one_thread

TAKES = "25 s"
SAMPLES = 4
BATCH = 2
RUNS = ((1, 0.05), (3, 0.05), (3, 0.2))
"""Epochs and learning rates."""
ITERATIONS = 120
ONE, SHARED, OWN = "taken for one step", "replayed", "replayed, images of each epoch"
METHODS = (ONE, SHARED, OWN)


def small_network(seed: int) -> nn.Module:
    """Two strided convolutions and two linear layers, for gray images of 25 × 25 pixels and ten classes."""
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.GELU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GELU(), nn.Flatten()),
        *(nn.Linear(32 * 7 * 7, 64), nn.GELU(), nn.Linear(64, 10)),
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                bound = layer.weight[0].numel() ** -0.5
                for parameter in layer.parameters():
                    parameter.uniform_(-bound, bound, generator=generator)
    return model


# %%
# Bob trains
# ----------
# Some epochs over shuffled mini-batches; what he sends are parameters.
def bobs_answer(
    images: torch.Tensor, labels: torch.Tensor, epochs: int, rate: float, seed: int
) -> fedpriv.Observation:
    """Bob's local epochs, and what the server sees of them."""
    trainer = fedpriv.FederatedTrainer(
        small_network(seed),
        cross_entropy,
        {"bob": (images, labels)},
        lr=rate,
        local_steps=epochs * math.ceil(len(images) / BATCH),
        batch_size=BATCH,
        schedule=fedpriv.FedAvg(),
        weights="samples",  # as in the paper of federated averaging: the server learns how many samples
        generator=torch.Generator().manual_seed(seed),
    )
    return trainer.run(rounds=1).transcript.observations("bob")[0]


def knowing(seen: fedpriv.Observation, **changes: Any) -> fedpriv.Observation:
    """The same evidence with other knowledge."""
    known = fedpriv.Knowledge.from_json({**seen.knowledge.to_json(), **changes})
    return fedpriv.Observation(seen.model, seen.update, seen.loss_fn, known, state=seen.state)


# %%
# Three attacks
# -------------
# Taken for one large step; replayed with images that all epochs share; replayed with images of their own.
@one_thread()
def attempts(seen: fedpriv.Observation, seed: int) -> dict[str, tuple[Claim, float]]:
    """All three attacks on one answer, and CPU seconds; the server knows that images go from 0 to 1."""
    seen = knowing(seen, input_shape=(1, 25, 25))
    known = seen.knowledge
    assert known.learning_rate is not None  # the server chose it
    one_step = knowing(
        seen, learning_rate=known.learning_rate * known.local_steps, local_steps=1, batch_size=None
    )
    settings: dict[str, Any] = {
        "starts": 1,
        "steps": ITERATIONS,
        "scale": 0.1,
        "smoothness": 0.003,
        "box": Box(low=0.0, high=1.0),
    }
    tried: dict[str, tuple[Attack, fedpriv.Observation]] = {
        ONE: (InvertingGradients(**settings), one_step),
        SHARED: (FedAvgInversion(**settings, own_images=False), seen),
        OWN: (FedAvgInversion(**settings), seen),
    }
    found = {}
    for name, (attack, evidence) in tried.items():
        begun = time.process_time()
        generator = torch.Generator().manual_seed(seed)
        # Called as an attack, the first one would refuse: the update's rank is too high for one gradient.
        claim = attack.run((evidence,), generator=generator, deadline=float("inf"))
        found[name] = claim, time.process_time() - begun
    return found


# %%
# All of it
# ---------
# The score is computed afterwards, with the truth.
def main(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """One batch of faces, three ways of training, three attacks on each."""
    generator = torch.Generator().manual_seed(seed)
    faces = fedpriv.data.faces()
    images = faces[torch.randperm(len(faces), generator=generator)[:SAMPLES]]
    labels = torch.randint(10, (SAMPLES,), generator=generator)
    rows, pictures = [], {}
    for epochs, rate in fedpriv.progress.progress(RUNS, description="local training"):
        found = attempts(bobs_answer(images, labels, epochs, rate, seed), seed)
        row: dict[str, Any] = {"epochs": epochs, "rate": rate}
        for name, (claim, seconds) in found.items():
            score = fedpriv.lab.score(claim, images, labels, data_range=1.0)
            row[name] = {"psnr": float(score.psnr.mean()), "seconds": seconds}
            pictures[name] = claim.inputs
        counted = found[OWN][0].targets
        assert counted is not None
        row["labels_right"] = bool(torch.equal(counted.sort().values, labels.sort().values))
        rows.append(row)
    guess = images.mean(0, keepdim=True).expand_as(images)
    mean_face = fedpriv.lab.psnr(guess, images, data_range=1.0).mean()
    epochs, rate = RUNS[-1]
    title = f"{SAMPLES} faces after {epochs} epochs of shuffled batches of {BATCH} at learning rate {rate:g}"
    picture = fedpriv.lab.compare_images(images, pictures, out / "fedavg.png", title=title, data_range=1.0)
    return {"seed": seed, "rows": rows, "mean_face": float(mean_face), "files": [picture]}


def report(result: dict[str, Any]) -> str:
    """The table and what it means."""
    lines = [
        "  mean PSNR in dB    " + "".join(f"{name:>32}" for name in METHODS) + "   labels",
        "  epochs  rate",
    ]
    for row in result["rows"]:
        cells = [f"{row[name]['psnr']:.1f} ({row[name]['seconds']:.0f} s)" for name in METHODS]
        right = "right" if row["labels_right"] else "wrong"
        lines.append(
            f"  {row['epochs']:6d}  {row['rate']:<11g}" + "".join(f"{c:>32}" for c in cells) + f"   {right}"
        )
    lines += [
        "",
        f"The mean of Bob's own faces would have {result['mean_face']:.1f} dB. Labels were counted from the",
        "last bias before and after training. Nobody told the server who was in which batch; with images of",
        "their own, the epochs represent every order. No certificate: a guessed order cannot be proved.",
    ]
    return "\n".join(lines)


# %%
# What it prints
# --------------
if __name__ == "__main__":
    from fedpriv.cli import run_script

    run_script(main, report)
