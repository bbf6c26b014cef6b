"""The matrix: what each defense leaves of the model, what it sends, and what two opponents still get
==================================================================================================

Five clients learn digits with a small network. Before the training goes on, one client's first update, of a
single image, is attacked twice: by somebody who ignores the defense and by somebody who has read its code.
The picture shows accuracy to the right and leakage upwards; a good defense is at the lower right. Here is a
part of the rows; `fedpriv bench defenses` measures all of them, `defenses_convnet` those of a second model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fedpriv.lab.matrix import (
    ASSUMPTIONS,
    MLP,
    Plan,
    Row,
    entries,
    measure,
    plot_fronts,
    write_csv,
    write_json,
)
from fedpriv.progress import progress

TAKES = "1 min"
SHOWN = (
    "no defense",
    "Gaussian noise σ 0.001",
    "Gaussian noise σ 0.01",
    "Gaussian noise σ 0.1",
    "DP-SGD σ 1",
    "clipping 0.1",
    "top-k 1.0%",
    "signs",
    "Soteria 80%",
    "averaging",
    "Krum",
)
"""The rows of this demo, by name."""
READABLE = 20.0
"""PSNR in dB from which a reader knows the digit."""


# %%
# What is measured
# ----------------
# Rows are defenses. Truth is seen in ```fedpriv.lab``` only, where both opponents' answers are scored.
def plan_for(seed: int) -> Plan:
    """One attacked round and one training, with the learning rate chosen on another seed."""
    return Plan(seeds=(seed,), training_seeds=(seed,), tuning_seed=seed + 1000, tuning_rounds=15)


def main(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Measure the rows, write them as JSON and CSV, draw them."""
    torch.set_num_threads(1)  # small tensors: a second thread mostly waits
    chosen = [entry for entry in entries(MLP) if entry.name in SHOWN]
    rows = [measure(entry, MLP, plan_for(seed)) for entry in progress(chosen, description="defenses")]
    files = [
        plot_fronts(rows, out / "matrix.png"),
        write_json(rows, out / "matrix.json"),
        write_csv(rows, out / "matrix.csv"),
    ]
    return {"seed": seed, "model": MLP.name, "rows": rows, "assumptions": ASSUMPTIONS, "files": files}


def report(result: dict[str, Any]) -> str:
    """The table and what it means."""
    rows: list[Row] = result["rows"]
    lines = [
        f"  {'defense':24}{'changes':>9}{'accuracy':>10}{'bytes':>9}{'ignorant':>11}{'informed':>11}"
        "  no attack beats",
        *(_line(row) for row in rows),
        f"  {'a gray picture':24}{'':28}{rows[0].guess_psnr:8.1f} dB",
        "",
    ]
    defended = [row for row in rows if row.defense != "no defense"]
    broken = [row.name for row in defended if row.leak >= READABLE]
    hidden = [row.name for row in defended if row.leak < READABLE]
    idle = [row.name for row in defended if row.does_nothing]
    lines += [
        f"A digit is readable from about {READABLE:g} dB. It still is behind: {', '.join(broken) or 'none'}.",
        f"It is not behind: {', '.join(hidden) or 'none'}.",
        *([f"These change nothing at all: {', '.join(idle)}."] if idle else []),
        "What hides an image in one update costs accuracy or is a number that theory limits; what costs",
        "nothing hides nothing from somebody who knows it. Averaging and robust rules such as Krum are about",
        "whose data moved the model, or about liars, and not about what the data are. This is one seed; all",
        "defenses, several seeds and the assumptions of each limit are in docs/defenses_measured.md.",
    ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    changed = "-" if row.change is None else f"{row.change:.0%}"
    limits, told = row.limits, ""
    if limits.cramer_rao_psnr is not None:
        told = f"{limits.cramer_rao_psnr:.0f} dB unbiased"
    if limits.rero is not None:
        told = "; ".join([*([told] if told else []), f"1 in 10 told apart {limits.rero:.0%}"])
    return (
        f"  {row.name:24}{changed:>9}{row.accuracy:10.1%}{row.bytes_per_round:9.0f}{row.plain.psnr:8.1f} dB"
        f"{row.adaptive.psnr:8.1f} dB  {told}"
    ).rstrip()


# %%
# What it prints
# --------------
if __name__ == "__main__":
    from fedpriv.cli import run_script

    run_script(main, report)
