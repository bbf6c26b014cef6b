"""Which defenses hold: every row of docs/broken_defenses.md, attacked with and without knowledge of it.

Handwritten digits, small networks, five seeds. The plain attack takes what arrives for a gradient, the
informed one reads the published mechanism; both get the same evidence, and steps end them, not seconds. The
scenes and the two attackers are in benchmarks/defended.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

import fedpriv
from fedpriv.cli import scripts
from fedpriv.defenses import TopK
from fedpriv.lab.study import CAP, Cell, Results, Values

if TYPE_CHECKING:
    from benchmarks.defended import measure, rows, scenes
else:  # a folder of benchmarks is no package, and is called differently in a wheel
    _defended = scripts.load(Path(__file__).parent / "defended" / "__init__.py")
    measure, rows, scenes = (
        importlib.import_module(f".{n}", _defended.__name__) for n in ("measure", "rows", "scenes")
    )

UNRANGED_SEEDS = range(300, 306)
WIDTHS = (512, 256, 128)
ZEROS = (10, 5, 2, 1)
SUMS = ("differencing", "collusion", "krum")
FEATURES, SECOND = "Soteria at the features of a LeNet", "Soteria at the second layer, batch of 8"
FACES = "signs of three faces, 1024 neurons"
Named: TypeAlias = Callable[..., str]
QUICK = {
    "clipping of each layer",
    "signs, 512 neurons",
    "signs, 128 neurons",
    "CENSOR",
    "PRECODE, batch of 8",
    "mixup of 6",
}
LIMITS = [("0.001", 1), ("0.01", 1), ("0.01", 8), ("0.1", 1)]


def beside() -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """Numbers in the text around the table."""
    scene, pictures = scenes.Scene, fedpriv.data.digits
    zeros = {
        p: partial(measure.anyway, scene(defenses=(TopK(kept_fraction=p / 100),), model=rows.WIDE))
        for p in ZEROS
    }
    return [
        ("a gray picture", lambda: measure.gray(pictures()[0], pictures()[0])),
        *((f"DLG takes zeros for numbers, top {percent} %", run) for percent, run in zeros.items()),
        *(
            (
                f"limit, {multiplier}, {rounds} rounds",
                partial(measure.limit, scene(defenses=(rows.gauss(float(multiplier)),), rounds=rounds), 1.0),
            )
            for multiplier, rounds in LIMITS
        ),
        *(
            (
                f"signs without a range, {width} neurons",
                partial(measure.unranged_signs, width, UNRANGED_SEEDS),
            )
            for width in WIDTHS
        ),
        (FACES, partial(measure.sign_of_faces, 1024, 3)),
        ("single starts behind noise", partial(measure.single_starts, 4)),
        ("sums of five clients", measure.sums),
    ]


def cells() -> list[Cell]:
    """The rows of the table, and the numbers beside it."""
    table = [
        Cell(r.name, partial(measure.both, r.scene, r.plain, r.informed), quick=r.name in QUICK)
        for r in rows.ROWS
    ]
    return [*table, *(Cell(name, run, quick=name == "a gray picture") for name, run in beside())]


def decibels(values: Sequence[float | None], choose: Callable[[list[float]], float] = median) -> str:
    """The median or another choice, as the pages print it; a refusal counts less than any number."""
    chosen = choose([-math.inf if v is None else v for v in values])
    return f"{chosen:.1f}".removesuffix(".0").replace("-", "−") if chosen > -math.inf else "–"


def line(r: rows.Row, values: Values) -> str:
    """A row of the table."""
    plain, right = decibels(values["plain_psnr"]), values["plain_right"]
    right = "–" if plain == "–" else right
    if r.informed is None:
        return f"| {r.name} | {r.network} | {plain} | {r.instead} | | {right} / |"
    found = [decibels(values["informed_psnr"], choose) for choose in (median, min)]
    named = "–" if found[0] == "–" else values["informed_right"]
    return f"| {r.name} | {r.network} | {plain} | {found[0]} | {found[1]} | {right} / {named} |"


def tables(results: Results) -> dict[str, str]:
    """The table of docs/broken_defenses.md."""
    head = "| defense | network | plain | informed, median | worst | classes right, plain / informed |"
    return {"rows": "\n".join([head, "|---" * 6 + "|", *(line(r, results[r.name]) for r in rows.ROWS)])}


def sentences(results: Results) -> dict[str, list[str]]:
    """Words of the pages that carry these numbers."""

    def informed(name: str, choose: Callable[[list[float]], float] = median) -> str:
        return decibels(results[name]["informed_psnr"], choose)

    def plain(name: str) -> str:
        return decibels(results[name]["plain_psnr"])

    def other(name: str, value: str = "psnr") -> str:
        return decibels(results[name][value])

    return {
        "docs/broken_defenses.md": _overview(results, informed, plain, other),
        "docs/attacks/adaptive.md": _attacks(results, informed, other),
    } | {f"docs/defenses/{page}.md": words for page, words in _defenses(results, informed, plain).items()}


def _overview(results: Results, informed: Named, plain: Named, other: Named) -> list[str]:
    zeros = [other(f"DLG takes zeros for numbers, top {percent} %") for percent in ZEROS]
    bound = [other(f"limit, {multiplier}, {rounds} rounds") for multiplier, rounds in LIMITS]
    unranged = [other(f"signs without a range, {width} neurons") for width in WIDTHS]
    slowest = max(v.get("informed_slowest_seconds", 0) for v in results.values())
    sums = results["sums of five clients"]
    exact = {name: sum((p or 0) >= CAP for p in sums[f"{name}_psnr"]) for name in SUMS}
    return [
        f"a gray picture of the mean brightness has {decibels([results['a gray picture']['psnr']])} dB",
        f"no informed attack took more than {math.ceil(slowest)} CPU seconds",
        f"reached {zeros[0]} dB at 10 %, {zeros[1]} at 5 %, {zeros[2]} at 2 % and {zeros[3]} at 1 %",
        f"in each of 16 rounds gives {informed('random 0.5 %, 16 rounds')} dB, one such round"
        f" {informed('random 0.5 %')}",
        f"gradient matching fails, too (DLG: {plain('clipping of each layer, DLG')} dB)",
        f"1024 neurons for 625 pixels give {other(FACES)} dB where a gray picture has"
        f" {other(FACES, 'gray_psnr')} (three faces)",
        f"medians of {unranged[0]} dB with 512 neurons, {unranged[1]} with 256 and {unranged[2]} with 128",
        f"the bound is {bound[0]} dB at multiplier 0.001, {bound[1]} at 0.01, {bound[2]} at 0.01 over eight"
        f" rounds and {bound[3]} at 0.1",
        f"exact in {exact['differencing']}, {exact['collusion']} and {exact['krum']} of {len(scenes.SEEDS)}"
        " cases",
    ]


def _attacks(results: Results, informed: Named, other: Named) -> list[str]:
    starts = results["single starts behind noise"]
    return [
        f"Random 2 % of one round: {informed('random 2 %')} dB in the median",
        f"{informed('Gaussian noise, multiplier 0.001')} dB at multiplier 0.001,"
        f" {informed('Gaussian noise, 0.01')} at 0.01, {informed('Gaussian noise, 0.1')} at 0.1 and"
        f" {informed('Gaussian noise, 0.8')} at 0.8",
        f"{starts['found']} of {starts['starts']} single starts",
        f"{informed('quantization, 16 levels')} dB at 16 levels; eight rounds give"
        f" {informed('quantization, 16 levels, 8 rounds')}, and"
        f" {informed('quantization, 4 levels, 8 rounds')} at 4 levels",
        f"{informed('signs, 512 neurons')} dB with 512 for 64 pixels, {informed('signs, 128 neurons')} with"
        f" 128, and for 625 pixels 1024 give {other(FACES)} dB where a gray picture has"
        f" {other(FACES, 'gray_psnr')}",
        f"Soteria at the second layer with a batch of 8: {informed(SECOND)} dB",
    ]


def _defenses(results: Results, informed: Named, plain: Named) -> dict[str, list[str]]:
    seeds = len(scenes.SEEDS)
    rounds = ", 8 rounds"
    return {
        "clip": [
            f"`Clip`: {informed('clipping')} dB, with the class from",
            f"gradient matching fails (DLG {plain('clipping of each layer, DLG')} dB), the informed attack"
            f" does not ({informed('clipping of each layer')} dB)",
            f"**A batch clipped by sample**: {informed('clipping of each sample, batch of 8')} dB",
        ],
        "gaussian_noise": [
            f"{informed('Gaussian noise, multiplier 0.001')} dB at multiplier 0.001,"
            f" {informed('Gaussian noise, 0.01')} at 0.01 and {informed('Gaussian noise, 0.01' + rounds)} at"
            " 0.01 over eight rounds",
            f"With 0.8 it has {informed('Gaussian noise, 0.8')} dB",
        ],
        "laplace_noise": [
            f"{informed('Laplace noise, scale 0.001')} dB for the informed attack at scale 0.001",
            f"plain DLG has {plain('Laplace noise, scale 0.001, DLG')} dB",
        ],
        "quantization": [
            f"{informed('quantization, 256 levels')} dB at 256 levels, {informed('quantization, 16 levels')}"
            " at 16",
            f"16 levels over eight rounds {informed('quantization, 16 levels' + rounds)} dB, 4 levels"
            f" {informed('quantization, 4 levels' + rounds)}",
        ],
        "random_pruning": [
            f"{informed('random 10 %')} dB from 10 %; at 2 % the median is {informed('random 2 %')} dB, the"
            f" class is right in {results['random 2 %']['informed_right']} of {seeds} cases",
            f"half a percent in each of 16 rounds on the same data gives"
            f" {informed('random 0.5 %, 16 rounds')} dB, one such round {informed('random 0.5 %')}",
        ],
        "sign_sgd": [
            f"{informed('signs, 512 neurons')} dB with 512 neurons, {informed('signs, 128 neurons')} with"
            f" 128, and {informed('signs, 512 neurons, 6 rounds')} with 512 over six rounds",
            f"right in {results['signs, 512 neurons']['informed_right']} of {seeds} cases",
        ],
        "soteria": [
            f"{informed(FEATURES)} dB at the features of a LeNet, where the plain attack has"
            f" {plain(FEATURES)}",
            f"**A batch, the last layer**: {informed('Soteria at the last layer, batch of 8')} dB",
            f"which peeling needs: {informed(SECOND)} dB",
        ],
        "top_k": [
            f"{informed('top 10 % of the gradient')}, {informed('top 2 %')} and {informed('top 1 %')} dB in"
            " the median from 10 %, 2 % and 1 % of the numbers,"
            f" {informed('top 2 %, narrower network')} from 2 % of a network with a narrower second layer,"
            f" and for a LeNet {informed('top 10 %, LeNet')} from 10 %",
        ],
        "precode": [f"a batch from the first two: {informed('PRECODE, batch of 8')} dB"],
        "mixup": [_mixed("mixup of 6", informed)],
        "instahide": [_mixed("InstaHide of 6", informed)],
        "not_defenses": [f"**Dropout, one half, one sample**: {plain('dropout, one half')} dB"],
    }


def _mixed(name: str, informed: Named) -> str:
    worst = informed(name, min)
    return f"{informed(name)} dB in the median of {len(scenes.SEEDS)} batches of six, {worst} in the worst"
