"""A batch does not hide you: 64 digits and their labels out of one gradient, with certificates
============================================================================================

"The gradient is an average over the batch, so nobody can see my picture in it." Here is the gradient of one
batch of 64 handwritten digits through a network with three linear layers, and the 64 digits that follow from
it. The attack is told neither the number of images nor their labels, and uses no optimization over images, no
prior and no training data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import attacks
import fedpriv

TAKES = "6 s"
BATCH = 64
WIDTH = 256


# %%
# Bob's batch
# -----------
# 64 digits. Their gray average is what most people expect a server to see.
def bob(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """64 random handwritten digits with their labels."""
    images, labels = fedpriv.data.digits()
    chosen = torch.randperm(len(images), generator=generator)[:BATCH]
    return images[chosen], labels[chosen]


# %%
# The attack
# ----------
# Input vectors lie in the span of the first layer's gradient, hidden vectors in that of the second. Only the
# true samples satisfy both.
def main(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """One gradient, one attack, one picture."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = bob(generator)
    model = fedpriv.models.mlp([64, WIDTH, WIDTH, 10], activation=torch.nn.GELU, generator=generator)
    trainer = fedpriv.FederatedTrainer(
        model,
        cross_entropy,
        {"bob": (images, labels)},
        lr=0.1,
        schedule=fedpriv.FedSGD(),
        generator=generator,
    )
    transcript = trainer.run(rounds=1).transcript
    seen = list(transcript.observations("bob")[0].update.tensors.values())
    found = attacks.reconstruct(transcript, client="bob")
    score = fedpriv.lab.score(found, images, labels, data_range=1.0)
    order = score.assignment[score.assignment >= 0]
    sheets = {
        "Bob's batch": images,
        f"what the server sees: {sum(map(torch.numel, seen)):,} numbers": fedpriv.lab.sheet_of_numbers(seen),
        "what it computes from them": found.inputs[order],
        "what most people expect: an average": images.mean(0, keepdim=True),
    }
    picture = fedpriv.lab.plot_mosaics(
        sheets, out / "batch.png", title=f"{BATCH} digits from the gradient of one batch"
    )
    return {
        "seed": seed,
        "batch": BATCH,
        "claimed": found.num_samples,
        "recovered": score.recovered(psnr=40.0),
        "labels_right": 0.0 if score.target_correct is None else float(score.target_correct.double().mean()),
        "certified": int(found.certified.sum()),
        "worst_psnr": float(score.psnr.min()),
        "guess_best_psnr": float(score.baseline.psnr.max()) if score.baseline else None,
        "residual": found.residual,
        "method": found.method,
        "seconds": found.seconds,
        "files": [picture],
    }


def report(result: dict[str, Any]) -> str:
    """The table and what it means."""
    lines = [
        f"  images in the batch          {result['batch']:6d}   (not told to the attack)",
        f"  images claimed               {result['claimed']:6d}",
        f"  recovered (40 dB or better)  {result['recovered']:6.0%}",
        f"  labels right                 {result['labels_right']:6.0%}",
        f"  certified                    {result['certified']:6d}",
        f"  worst image                  {result['worst_psnr']:6.1f} dB",
        f"  best guess without the leak  {result['guess_best_psnr']:6.1f} dB",
        f"  time, certificate included   {result['seconds']:6.2f} s     by {result['method']}",
        "",
    ]
    if result["recovered"] == 1.0:
        lines.append(
            "The average of 64 gradients still holds 64 pictures. Every input lies in the span of the\n"
            "first layer's gradient and every activation in that of the second; the pictures alone\n"
            "satisfy both, so each is found and removed on its own. (Without a certificate a picture is\n"
            "right here, too, but the server cannot prove it from rounded numbers.) A batch hides you only\n"
            "when it is about half as large as the layers are wide, or when somebody adds noise."
        )
    else:
        lines.append("Not every image came back; what is missing carries no certificate.")
    return "\n".join(lines)


# %%
# What it prints
# --------------
if __name__ == "__main__":
    from fedpriv.cli import run_script

    run_script(main, report)
