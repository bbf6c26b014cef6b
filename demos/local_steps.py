"""Local steps do not hide you: a batch of faces out of parameters after ten steps of federated averaging
======================================================================================================

"We never send gradients. Every client trains for a while and sends its parameters, and nobody can undo that."
Bob takes up to ten full-batch steps on nine faces. The span of his pictures and their hyperplane stay
exact whatever he does; what mixes the steps is approximate, and replaying his training corrects it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import fedpriv
from attacks.exact.local_steps import LocalStepsInversion

TAKES = "20 s"
BATCH = 9
WIDTH = 128
STEPS = (2, 10)
RATES = (0.01, 0.05, 0.2)
SHOWN = (10, 0.2)
"""Steps and learning rate of the picture."""
BEFORE, AFTER = "equations alone", "replay"


# %%
# Bob trains, the server replays
# ------------------------------
# The server sees parameters before and after. It knows the learning rate and how often Bob steps, for these
# are rules of the training.
def attack_once(
    data: tuple[torch.Tensor, torch.Tensor], steps: int, rate: float, seed: int
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Train at Bob's, attack without and with the replay: a row of the table, and the pictures."""
    images, labels = data
    model = fedpriv.models.mlp(
        [images[0].numel(), WIDTH, WIDTH, 10],
        activation=torch.nn.GELU,
        generator=torch.Generator().manual_seed(seed),
    )
    trainer = fedpriv.FederatedTrainer(
        model, cross_entropy, {"bob": data}, lr=rate, local_steps=steps, schedule=fedpriv.FedAvg()
    )
    observations = trainer.run(rounds=1).transcript.observations("bob")
    row: dict[str, Any] = {"steps": steps, "rate": rate}
    pictures = {}
    for name, corrections in ((BEFORE, 0), (AFTER, 30)):
        found = LocalStepsInversion(corrections=corrections)(observations)
        score = fedpriv.lab.score(found, images, labels, data_range=1.0)
        pictures[name] = found.inputs[score.assignment[score.assignment >= 0]]
        row[name] = {
            "claimed": found.num_samples,
            "recovered": score.recovered(psnr=40.0),
            "rms_error": float(score.mse.mean()) ** 0.5,
            "worst_psnr": float(score.psnr.min()),
            "labels_right": 0.0
            if score.target_correct is None
            else float(score.target_correct.double().mean()),
            "certified": int(found.certified.sum()),
            "residual": found.residual,
            "seconds": found.seconds,
        }
    return row, pictures


# %%
# From two steps to ten
# ---------------------
# More steps and a larger learning rate move the hidden layers further from what the server sent.
def main(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """One batch, several numbers of steps and learning rates, two pictures."""
    generator = torch.Generator().manual_seed(seed)
    faces = fedpriv.data.faces()
    images = faces[torch.randperm(len(faces), generator=generator)[:BATCH]]
    data = (images, torch.randint(10, (BATCH,), generator=generator))
    rows, shown = [], {}
    for steps in STEPS:
        for rate in fedpriv.progress.progress(RATES, description=f"{steps} local steps"):
            row, pictures = attack_once(data, steps, rate, seed)
            rows.append(row)
            if (steps, rate) == SHOWN:
                shown = pictures
    sheets = {
        "Bob's batch": images,
        "equations alone": shown[BEFORE],
        "corrected by replay": shown[AFTER],
        "what intuition expects": images.mean(0, keepdim=True),
    }
    title = f"{BATCH} faces out of parameters after {SHOWN[0]} local steps at learning rate {SHOWN[1]:g}"
    errors = {
        f"{steps} steps, {name}": [r[name]["rms_error"] for r in rows if r["steps"] == steps]
        for steps in STEPS
        for name in (BEFORE, AFTER)
    }
    guess = float((images - images.mean(0)).square().mean().sqrt())
    return {
        "seed": seed,
        "batch": BATCH,
        "rows": rows,
        "files": [
            fedpriv.lab.plot_mosaics(sheets, out / "local_steps.png", title=title),
            fedpriv.lab.plot_error_vs_noise(
                RATES,
                errors,
                out / "local_steps_error.png",
                guess=guess,
                title="Error of the faces against the client's learning rate",
                xlabel="learning rate of the local steps",
                ylabel="root mean squared error (units of the data)",
            ),
        ],
    }


def report(result: dict[str, Any]) -> str:
    """The table and what it means."""
    lines = [
        "                          equations alone        corrected by replay",
        "  steps  rate        RMS error  worst dB      RMS error  worst dB  labels  certified  seconds",
    ]
    for row in result["rows"]:
        before, after = row[BEFORE], row[AFTER]
        lines.append(
            f"  {row['steps']:5d}  {row['rate']:<8g}{before['rms_error']:12.1e}{before['worst_psnr']:10.1f}"
            f"{after['rms_error']:15.1e}{after['worst_psnr']:10.1f}{after['labels_right']:8.0%}"
            f"{after['certified']:8d}/{result['batch']}{after['seconds']:9.2f}"
        )
    lines.append("")
    recovered = [row[AFTER]["recovered"] for row in result["rows"]]
    if min(recovered) == 1.0:
        lines.append(
            "Every face came back, from all numbers of steps and learning rates. All steps see the same\n"
            "pictures, so the first layer moves inside their span, however many steps there are. Small\n"
            "learning rates lose digits to the rounding of float32 parameters, large ones mix different\n"
            "models, and replaying Bob's training undoes the mixing."
        )
    else:
        lines.append("Not every face came back; what is missing carries no certificate.")
    return "\n".join(lines)


# %%
# What it prints
# --------------
if __name__ == "__main__":
    from fedpriv.cli import run_script

    run_script(main, report)
