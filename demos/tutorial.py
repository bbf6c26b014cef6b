"""The tutorial, finished: Bob's and Alice's points come back out of the models they returned
===========================================================================================

PySyft 0.2's "Part 2: Intro to Federated Learning" sends a model to Bob and Alice in turn and gets it back
trained, without the data. Its last cell remarks that training data can sometimes be restored perfectly from
what comes back. Here is that training run, with the data on two workers, followed by what the server can
compute from the returned models alone, visit by visit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import attacks
import fedpriv

TAKES = "5 s"
ROUNDS = 6
EXACT = 1e-3
"""The largest error of a coordinate at which we call a point restored."""


# %%
# Training as in the tutorial
# ---------------------------
# Bob has two points, Alice has two. The model travels from one to the other and back; the data stay.
def train(seed: int) -> tuple[fedpriv.Run, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """The tutorial's data and training: the model travels from Bob to Alice and back, for some rounds."""
    data = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1.0]])
    target = torch.tensor([[0], [0], [1], [1.0]])
    truth = {"bob": (data[:2], target[:2]), "alice": (data[2:], target[2:])}
    generator = torch.Generator().manual_seed(seed)
    with fedpriv.TorchHook(torch) as hook:
        clients = {}
        for name, (inputs, targets) in truth.items():
            worker = fedpriv.VirtualWorker(hook, id=name)
            clients[name] = (fedpriv.pointers.send(inputs, worker), fedpriv.pointers.send(targets, worker))
        trainer = fedpriv.FederatedTrainer(
            fedpriv.models.linear(2, generator=generator),
            fedpriv.losses.squared_error,
            clients,
            lr=0.1,
            schedule=fedpriv.Sequential(),
            generator=generator,
        )
        return trainer.run(rounds=ROUNDS), truth


def distance_to_truth(found: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest error of a coordinate, every true point compared with the estimate nearest to it."""
    return float((truth[:, None] - found[None]).abs().amax(dim=2).amin(dim=1).max())


# %%
# The attack
# ----------
# The server has nothing but the transcript: the models it sent, and those that came back.
def attack_visit_by_visit(
    transcript: fedpriv.Transcript, client: str, truth: torch.Tensor
) -> tuple[attacks.Reconstruction, int, list[float]]:
    """The first certified reconstruction, the visits it took, and the error after every visit."""
    visits = transcript.observations(client)
    results = [attacks.reconstruct(visits[:k]) for k in range(1, len(visits) + 1)]
    certified = [bool(result.certified.all()) for result in results]
    used = certified.index(True) + 1 if any(certified) else len(visits)
    return results[used - 1], used, [distance_to_truth(r.inputs, truth) for r in results]


def main(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Train, attack both clients, draw."""
    run, truth = train(seed)
    result: dict[str, Any] = {"seed": seed, "losses": run.losses}
    errors, estimates = {}, {}
    for client, (inputs, targets) in truth.items():
        found, used, errors[client] = attack_visit_by_visit(run.transcript, client, inputs)
        score = fedpriv.lab.score(found, inputs, targets, data_range=1.0)
        estimates[client] = found.inputs
        result[client] = {
            "inputs": found.inputs,
            "targets": found.targets,
            "num_samples": found.num_samples,
            "visits_used": used,
            "visits_until_exact": next((k for k, e in enumerate(errors[client], 1) if e < EXACT), None),
            "max_abs_error": float(score.max_abs_error.max()),
            "guess_max_abs_error": float(score.baseline.max_abs_error.max()) if score.baseline else None,
            "residual": found.residual,
            "certified": bool(found.certified.all()),
            "error_by_visit": errors[client],
        }
    points = {client: inputs for client, (inputs, _) in truth.items()}
    result["files"] = [
        fedpriv.lab.plot_points(points, estimates, out / "tutorial_points.png"),
        fedpriv.lab.plot_visits(errors, out / "tutorial_visits.png", threshold=EXACT),
    ]
    return result


def report(result: dict[str, Any]) -> str:
    """The table and what it means."""
    lines = ["what the server computed from the returned models:", ""]
    lines.append(f"  {'client':8}{'point':>18}{'target':>10}   visits   largest error   certified")
    for client in ("bob", "alice"):
        row = result[client]
        for point, target in zip(row["inputs"].tolist(), row["targets"].tolist(), strict=True):
            place = "(" + ", ".join(_digits(v) for v in point) + ")"
            lines.append(
                f"  {client:8}{place:>18}{_digits(target[0]):>10}{row['visits_used']:9d}"
                f"{row['max_abs_error']:16.0e}   {'yes' if row['certified'] else 'no'}"
            )
    exact = all(result[client]["max_abs_error"] < EXACT for client in ("bob", "alice"))
    lines += ["", _interpretation(result) if exact else "The points were not restored with this seed."]
    return "\n".join(lines)


def _digits(value: float) -> str:
    """Five digits, without the sign of a rounded zero."""
    return f"{round(value, 5) + 0.0:.5f}"


def _interpretation(result: dict[str, Any]) -> str:
    first = max(result[c]["visits_until_exact"] for c in ("bob", "alice"))
    used = max(result[c]["visits_used"] for c in ("bob", "alice"))
    return (
        "No data ever left Bob or Alice, and yet the server holds their points and targets.\n"
        f"After one visit it sees only a mixture. After visit {first} both points follow from the two\n"
        f"gradients, and visit {used} proves that there are two points and no more: the certificate\n"
        "is computed from the returned models alone. See `fedpriv demo averaging` and\n"
        "`fedpriv demo noise` for what helps against it and what does not."
    )


# %%
# What it prints
# --------------
if __name__ == "__main__":
    from fedpriv.cli import run_script

    run_script(main, report)
