"""PySyft's peers: an approved job keeps the file at home, and its gradient gives the pictures away
================================================================================================

Bob and Alice hold handwritten digits behind PySyft of today (``pip install fedpriv[syft]``): data sets with a
mock for everybody, jobs that a server submits, a review by the owner. The server first sends a job that
copies Bob's file: it is refused and logged. Then it asks for what everybody agreed to, one gradient. Bob
reads the job, finds nothing but an operation of the allow-list, approves it, and the server computes his
digits from the answer. The last round is the same job with noise that Bob adds before he answers.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import attacks
import fedpriv
from fedpriv.defenses import GaussianNoise
from fedpriv.engines.syft import SyftEngine

TAKES = "10 s"
DIGITS = 4
"""Digits that each of the two owns."""
NOISE = 0.1
"""Noise multiplier of the defense: standard deviation of each coordinate over the clip norm of 1."""
COPY_THE_FILE = """mkdir -p code/outputs
find "$SYFTBOX_FOLDER" -path "*private*" -name "*.npz" -exec cp {} code/outputs/ \\;
"""


# %%
# Bob and Alice
# -------------
# Each has a data set on a PySyft peer: the real file, and a mock for everybody.
def owners(generator: torch.Generator) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Random digits for Bob and Alice, none for both."""
    images, labels = fedpriv.data.digits()
    chosen = torch.randperm(len(images), generator=generator)[: 2 * DIGITS].split(DIGITS)
    return {name: (images[rows], labels[rows]) for name, rows in zip(("bob", "alice"), chosen, strict=True)}


def federation(
    clients: dict[str, tuple[torch.Tensor, torch.Tensor]], engine: SyftEngine, *, seed: int, noisy: bool
) -> fedpriv.FederatedTrainer:
    """The same training each time; only the owners' defense differs."""
    generator = torch.Generator().manual_seed(seed)
    return fedpriv.FederatedTrainer(
        fedpriv.models.mlp([64, 256, 128, 10], generator=generator),
        cross_entropy,
        clients,
        lr=0.1,
        schedule=fedpriv.FedSGD(),
        defenses=[GaussianNoise(clip_norm=1.0, noise_multiplier=NOISE)] if noisy else [],
        generator=generator,
        engine=engine,
    )


# %%
# Training and attack
# -------------------
# The server submits jobs; what comes back is attacked like any other gradient.
def leak(run: fedpriv.Run, truth: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Any]:
    """What the server makes of Bob's answer, and how close it is."""
    try:
        found = attacks.reconstruct(run.transcript, client="bob", time_budget=15.0)
    except attacks.NotIdentifiable as refusal:
        return {"refusal": str(refusal), "recovered": 0.0, "certified": False}
    score = fedpriv.lab.score(found, *truth, data_range=1.0)
    return {
        "inputs": found.inputs,
        "psnr": score.psnr.tolist(),
        "recovered": score.recovered(40.0),
        "method": found.method,
        "certified": bool(found.certified.all()),
    }


# %%
# Three jobs
# ----------
# One that copies the file, one that everybody agreed to, and the same with noise.
def main(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Try to copy, ask for a gradient, ask again when Bob adds noise."""
    clients = owners(torch.Generator().manual_seed(seed))
    with SyftEngine() as engine:
        plain = federation(clients, engine, seed=seed, noisy=False)
        copied = engine.submit("bob", COPY_THE_FILE)
        run = plain.run(rounds=1)
        defended = federation(clients, engine, seed=seed, noisy=True).run(rounds=1)
        log = list(engine.log)
    leaks = {name: leak(result, clients["bob"]) for name, result in (("approved", run), ("noise", defended))}
    pictures = {name: row.pop("inputs") for name, row in leaks.items() if "inputs" in row}
    title = "Bob's digits (above), and what the server has of them"
    path = out / "syft_peers.png"
    return {
        "seed": seed,
        "copy": {"status": copied.status, "files": sorted(copied.files), "reason": copied.reason},
        "log": [{"client": v.client, "approved": v.approved, "reason": v.reason} for v in log],
        "leaks": leaks,
        "files": [fedpriv.lab.compare_images(clients["bob"][0], pictures, path, title=title)]
        if pictures
        else [],
    }


def report(result: dict[str, Any]) -> str:
    """The owners' log, and what leaked."""
    lines = ["  The owners' log:"]
    lines += [
        f"    {row['client']:6} {'approved' if row['approved'] else 'REFUSED'}: {row['reason']}"
        for row in result["log"]
    ]
    copied = result["copy"]
    lines += [
        "",
        f"  The job that copies Bob's file: {copied['status']}, {len(copied['files'])} files for the server.",
        "  What the server computes from Bob's approved answers:",
    ]
    for name, row in result["leaks"].items():
        if "refusal" in row:
            lines.append(f"    {name:9} nothing: {row['refusal']:.120}")
            continue
        numbers = ", ".join("missing" if value == -math.inf else f"{value:.1f}" for value in row["psnr"])
        lines.append(f"    {name:9} {row['recovered']:4.0%} of his digits (dB: {numbers}; {row['method']})")
    lines += [
        "",
        "The review does its work: no line of the server's code ran, the file stayed at home. But what was\n"
        "approved is a gradient, and the gradient contains the digits. Reading jobs does not show that;\n"
        f"noise of {NOISE} times the clip norm, added by Bob before he answers, stops it.",
    ]
    return "\n".join(lines)


# %%
# What it prints
# --------------
if __name__ == "__main__":
    from fedpriv.cli import run_script

    run_script(main, report)
