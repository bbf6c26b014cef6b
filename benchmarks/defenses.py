"""Every defense at every strength against both opponents: leakage, accuracy, bytes, and the limits.

Five clients learn digits. One round of it is attacked by somebody who ignores the defense and by somebody who
knows it; the training goes on to show what the defense costs. The protocol, the rule for bytes and the
assumptions of the limits are in `fedpriv.lab.matrix`; docs/defenses_measured.md explains what comes out.
`defenses_convnet` does the same with a network of convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedpriv.lab.matrix import MLP, Plan, Row, entries, plot_fronts, record, write_csv, write_json
from fedpriv.lab.study import Cell, Results
from fedpriv.privacy import epsilon, rero_bound

PLAN = Plan(seeds=(300, 301, 302), training_seeds=(300, 301, 302), seconds=600.0)
"""Seeds that nothing was tried on before. No search uses up its seconds but ends with its own steps, so that
what comes out does not depend on how busy the machine is."""
THEORY = "theory, one round with noise of 1"
QUICK = {
    "MLP, no defense, leak",
    "MLP, no defense, accuracy",
    "MLP, clipping 0.1, leak",
    "MLP, random pruning 10.0%, leak",
    "MLP, CENSOR, leak",
    "MLP, averaging, leak",
    "MLP, median, leak",
    "MLP, Krum, leak",
}
"""Cells that take a second, and are exact or refusals: the same everywhere. One is a training."""


def large_epsilon() -> dict[str, float]:
    """What a noise of 1 promises, as an epsilon and for somebody who has to guess one of a million."""
    return {
        "epsilon": epsilon(noise_multiplier=1.0, delta=1e-5),
        "success": rero_bound(prior_success=1e-6, noise_multiplier=1.0),
    }


def cells() -> list[Cell]:
    """Two of each row, and one of theory alone."""
    return [Cell(THEORY, large_epsilon, quick=True), *record.cells(MLP, entries(MLP), PLAN, QUICK)]


def rows(results: Results) -> list[Row]:
    """The rows of which both cells are there."""
    return record.rows(MLP, entries(MLP), results)


def tables(results: Results) -> dict[str, str]:
    """All rows."""
    return {"rows": record.table(rows(results))}


def draw(result: dict[str, Any], out: Path) -> list[Path]:
    """A picture, and all rows as JSON and CSV, in the folder `out`."""
    measured = rows(result["cells"])
    files = [write_json(measured, out / "defenses.json"), write_csv(measured, out / "defenses.csv")]
    if any(of.family != "contrast" for of in measured):
        files.append(plot_fronts(measured, out / "defenses_mlp.png"))
    return files


def sentences(results: Results) -> dict[str, list[str]]:
    """Words of the pages that carry these numbers; the tables carry all others."""
    theory, of = results[THEORY], {of.name: of for of in rows(results)}
    one, ten = (of[f"DP-SGD σ {size}"].limits for size in (1, 10))
    return {
        "README.md": _readme(of),
        "docs/defenses_measured.md": [
            f"at most {100 * (one.rero or 1):.0f} % for telling ten images apart in one round",
            f"over all {PLAN.rounds} rounds its ε = {record.spent(one)} promises next to nothing",
            f"over the whole training (ε = {record.spent(ten)})",
        ],
        "docs/privacy_bounds.md": [
            f"(ε = {theory['epsilon']:.1f} at δ = 10⁻⁵) no attack succeeds in more than"
            f" {100 * theory['success']:.2g} %"
        ],
    }


def _readme(of: dict[str, Row]) -> list[str]:
    """Ends of the rows of the table of defenses, and the words around it."""

    def each(shown: Iterable[str]) -> str:
        found = list(shown)
        return found[0] if len(set(found)) == 1 else ", ".join(found)

    def cost(*names: str) -> str:
        return each(f"{100 * of[name].accuracy:.0f}" for name in names) + " %"

    def leaks(*names: str) -> str:
        silent = {name for name in names if of[name].plain.refused == of[name].adaptive.refused == 1}
        return each("nothing" if name in silent else f"{of[name].leak:.0f}" for name in names)

    def end(*names: str) -> str:
        return f"| {cost(*names)} | {leaks(*names)} |"

    sums = ("averaging", "secret sharing", "secure aggregation")
    kept = [of[name].bytes_per_round / of["no defense"].bytes_per_round for name in sums]
    few, some, much = (f"Gaussian noise σ {size}" for size in ("0.001", "0.01", "0.1"))
    one, ten = "DP-SGD σ 1", "DP-SGD σ 10"
    return [
        f"A gray picture has {of['no defense'].guess_psnr:.0f} dB",
        f"| nothing | nothing {end('no defense')}",
        f"| {cost(*sums)}; {kept[0]:.0f}, {kept[1]:.0f} and {kept[2]:.0f} times the bytes | {leaks(*sums)} |",
        f"one number {end('clipping 0.1', 'L1 clipping 10', 'adaptive clipping from 0.1')}",
        f"a sample {end('clipping per layer 0.1', 'clipping per sample 0.1')}",
        f"multiplier 0.001, 0.01 | what is below the noise {end(few, some)}",
        f"multiplier 0.1 | the same {end(much)}",
        f"a promise (ε = {record.spent(of[much].limits)} over 60 rounds)",
        f"multiplier 1 | single samples {end(one)}",
        f"told apart in at most {100 * (of[one].limits.rero or 1):.0f} % in one round, but"
        f" ε = {record.spent(of[one].limits)} over 60",
        f"multiplier 10 | the same {end(ten)}",
        f"ε = {record.spent(of[ten].limits)} over 60 rounds",
        f"scale 0.0002 | what is below the noise {end('Laplace noise b 0.0002')}",
        f"1 % | the small numbers {end('top-k 1.0%')}",
        f"(0.1 %: {leaks('top-k 0.1%')} dB, but {cost('top-k 0.1%')} accuracy)",
        f"1 % | a random part {end('random pruning 1.0%')}",
        f"| sizes {end('signs')}",
        f"16 levels | low digits {end('quantization 16 levels')}",
        f"80 % | some columns of one layer {end('Soteria 80%')}",
        f"| what is behind it {end('PRECODE')}",
        f"| which sample is which {end('mixup', 'InstaHide')}",
        f"| the gradient | {cost('CENSOR')}: a guess | {leaks('CENSOR')} |",
        f"| nothing {end('median', 'Krum')}",
        f"[dropout, 20 local steps](docs/defenses/not_defenses.md) | nothing"
        f" {end('dropout 50%', 'local steps 20')}",
    ]
