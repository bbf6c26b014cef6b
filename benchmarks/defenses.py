"""Every defense at every strength against both opponents: leakage, accuracy, bytes, and the limits.

Five clients learn digits. One round of it is attacked by somebody who ignores the defense and by somebody who
knows it; the training goes on to show what the defense costs. The protocol, the rule for bytes and the
assumptions of the limits are in `fedpriv.lab.matrix`; docs/defenses_measured.md explains what comes out.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from fedpriv.lab.matrix import (
    ASSUMPTIONS,
    CONVNET,
    MLP,
    Entry,
    Plan,
    Row,
    Victim,
    entries,
    measure,
    plot_fronts,
    write_csv,
    write_json,
)
from fedpriv.progress import progress

FULL = Plan(seeds=(300, 301, 302), training_seeds=(300, 301))
"""Seeds that nothing was tried on before."""
QUICK = Plan(seeds=(300,), training_seeds=(300,), rates=(0.4,), rounds=20)
QUICK_DEFENSES = ("no defense", "clipping", "signs", "averaging")


def one_strength(rows: list[Entry]) -> list[Entry]:
    """Of each defense the strength in the middle, of two the stronger one."""
    groups = [list(group) for _, group in groupby(rows, key=lambda entry: entry.defense)]
    return [group[len(group) // 2] for group in groups]


def cases(quick: bool) -> list[tuple[Victim, Entry]]:
    """The MLP with every strength; the ConvNet, on which attacks take longer, with one of each."""
    mlp, conv = entries(MLP), one_strength(entries(CONVNET))
    if quick:
        return [(MLP, e) for e in one_strength(mlp) if e.defense in QUICK_DEFENSES]
    return [(MLP, e) for e in mlp] + [(CONVNET, e) for e in conv]


def main(*, quick: bool = False) -> dict[str, Any]:
    """Measure all rows; `quick` takes four defenses and one seed."""
    torch.set_num_threads(1)  # small tensors: a second thread mostly waits
    plan = QUICK if quick else FULL
    rows = [measure(e, v, plan) for v, e in progress(cases(quick), description="defenses")]
    return {"seeds": plan.seeds, "rounds": plan.rounds, "assumptions": ASSUMPTIONS, "rows": rows}


def report(result: dict[str, Any]) -> str:
    """The rows as a table; what opponents got is in dB, the spread of the seeds behind it."""
    lines = []
    for model, group in groupby(result["rows"], key=lambda row: row.model):
        lines += [
            f"{model}, {len(result['seeds'])} attacked rounds a row, {result['rounds']} rounds of training",
            f"  {'defense':28}{'accuracy':>9}{'bytes':>9}{'plain dB':>10}{'adaptive dB':>20}  {'limits'}",
            *(_line(row) for row in group),
        ]
    return "\n".join([*lines, *(f"{name}: {text}" for name, text in result["assumptions"].items())])


def _line(row: Row) -> str:
    leak, limits = row.adaptive, row.limits
    spread = f"{leak.psnr:.1f} ({leak.psnr_low:.1f}–{leak.psnr_high:.1f})"
    shown = []
    if limits.cramer_rao_psnr is not None:
        shown.append(f"unbiased {limits.cramer_rao_psnr:.1f} dB")
    if limits.rero is not None:
        shown.append(f"told apart {leak.identified:.0%}, at most {limits.rero:.0%}")
    if limits.epsilon_training is not None:
        shown.append(f"ε {limits.epsilon_training:.3g}")
    if row.does_nothing and row.defense != "no defense":
        shown.append("DOES NOTHING: what is sent is the plain update")
    return (
        f"  {row.name:28}{row.accuracy:9.1%}{row.bytes_per_round:9.0f}{row.plain.psnr:10.1f}{spread:>20}"
        f"  {'; '.join(shown)}".rstrip()
    )


def draw(result: dict[str, Any], out: Path) -> list[Path]:
    """A picture for each model, and all rows as JSON and CSV, in the folder `out`."""
    rows: list[Row] = result["rows"]
    files = [write_json(rows, out / "defenses.json"), write_csv(rows, out / "defenses.csv")]
    for model in dict.fromkeys(row.model for row in rows):
        chosen = [row for row in rows if row.model == model]
        files.append(plot_fronts(chosen, out / f"defenses_{model.lower()}.png"))
    return files
