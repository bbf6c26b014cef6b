"""One picture: what is left of accuracy against what leaks, a panel for each kind of defense."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from fedpriv.lab.matrix.measure import Row
from fedpriv.lab.plots._style import headline, new_figure, style_of, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {
    "noise": "Noise",
    "clipping": "Clipping: costs, hides nothing",
    "compression": "Sending less",
    "training": "Changing the training",
    "pooling": "One update of all clients",
}
"""Title of the panel by family."""
CAP = 60.0
"""PSNR in dB at which the axis ends: an error of 0.1 % of the range; better ones are drawn there."""
_RECOVERED = 20.0
_LABEL_STEP = 0.062


def plot_fronts(rows: Sequence[Row], path: str | os.PathLike[str]) -> Path:
    """Draw every row as a vertical line from the plain attack (open) to the better of both (filled).

    Whoever knows a defense can also ignore it, so the filled mark is never below the open one. Strengths of
    one defense are joined. Each defense has its name beside it, so that no legend is needed.

    Parameters
    ----------
    rows : sequence of Row
        Of one model, with or without the row of no defense.
    path : path
        The PNG to write.

    Raises
    ------
    ValueError
        If there are no rows, or they are of several models.
    """
    models = {row.model for row in rows}
    if len(models) != 1:
        raise ValueError(f"a picture shows the rows of one model, got {sorted(models)}; draw one for each")
    families = [f for f in PANELS if any(row.family == f for row in rows)]
    figure = new_figure(5.2 * min(3, len(families)), 4.4 * math.ceil(len(families) / 3) + 0.5)
    headline(figure, f"Five clients learn digits ({models.pop()}): what is learned, and what leaks")
    cells = figure.subplots(math.ceil(len(families) / 3), min(3, len(families)), squeeze=False).flatten()
    guess = sum(row.guess_psnr for row in rows) / len(rows)
    bare = [row for row in rows if row.family == "contrast"]
    for axes, family in zip(cells, families, strict=False):
        _panel(axes, [row for row in rows if row.family == family], bare, guess)
        axes.set_title(PANELS[family], fontsize=12, loc="left", fontweight="bold")
    for axes in cells[len(families) :]:
        _legend(axes)
    if len(families) == len(cells):
        _caption(figure)
    return write(figure, path)


def _panel(axes: Axes, rows: Sequence[Row], bare: Sequence[Row], guess: float) -> None:
    _ground(axes, guess)
    for row in bare:
        axes.plot(row.accuracy, _shown(row.leak, guess), "*", color="0.35", markersize=13, zorder=2)
    ends: list[tuple[float, float, str, str]] = []
    written: list[tuple[float, float]] = []
    for index, (defense, group) in enumerate(groupby(rows, key=lambda row: row.defense)):
        look, front = style_of(index), list(group)
        color = look.color if index != 4 else "#6f767d"  # the lightest gray is no color for words
        x = [row.accuracy for row in front]
        before = [_shown(row.plain.psnr, guess) for row in front]
        after = [_shown(row.leak, guess) for row in front]
        axes.vlines(x, before, after, color=color, linewidth=1.2, alpha=0.7)
        axes.plot(x, after, color=color, linestyle=look.line, linewidth=1.0, alpha=0.6)
        axes.plot(x, before, look.marker, color=color, markersize=10, markerfacecolor="none")
        axes.plot(x, after, look.marker, color=color, markersize=5)  # fits into the open one
        for row, height in zip(front, after, strict=True):
            # Words on words are read by nobody: of strengths that meet in a point, one is named.
            near = any(abs(row.accuracy - x) < 0.1 and abs(height - y) < 1.5 for x, y in written)
            if len(front) > 1 and not near:
                written.append((row.accuracy, height))
                axes.annotate(
                    row.strength.removeprefix("from "), (row.accuracy, height), (-6, -3),
                    textcoords="offset points", ha="right", fontsize=7, color=color,
                )  # fmt: skip
        ends.append((x[0], after[0], defense if len(front) > 1 else front[0].name, color))
    _names(axes, ends)


def _ground(axes: Axes, guess: float) -> None:
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(guess - 4, CAP + 3)
    axes.axhspan(guess - 4, guess, color="0.93", zorder=0)
    axes.axhline(_RECOVERED, color="0.7", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.text(0.015, guess - 3.8, "no better than a gray picture", fontsize=8, va="bottom", color="0.4")
    axes.text(0.015, _RECOVERED + 0.6, "a reader knows the digit", fontsize=8, va="bottom", color="0.5")
    axes.set_xlabel("test accuracy", fontsize=11)
    axes.set_ylabel("best image that came back, PSNR (dB)", fontsize=10)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_yticks([10, 20, 30, 40, 50, CAP], ["10", "20", "30", "40", "50", f"{CAP:g}+"])
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _names(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names in a column at the right edge, pushed apart where they would overlap, with a thin line each."""
    low, high = axes.get_ylim()
    places: list[float] = []
    ordered = sorted(ends, key=lambda end: -end[1])
    for _, height, _, _ in ordered:
        wish = (height - low) / (high - low)
        places.append(min(wish, places[-1] - _LABEL_STEP) if places else min(wish, 0.97))
    lift = max(0.0, 0.02 - min(places, default=1.0))
    for (x, y, name, color), place in zip(ordered, places, strict=True):
        axes.annotate(
            name, (x, y), (1.03, place + lift), textcoords="axes fraction", va="center", fontsize=9.5,
            color=color, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "alpha": 0.5, "shrinkB": 4},
        )  # fmt: skip


def _legend(axes: Axes) -> None:
    axes.axis("off")
    lines = (
        "How to read this",
        "open: an attack that ignores the defense",
        "filled: an attack that may use it",
        "right: the model learns.  low: nothing leaks",
        "star: no defense at all",
        "joined: one defense, several strengths",
        "Good defenses are at the lower right.",
    )
    for index, line in enumerate(lines):
        axes.text(0.02, 0.9 - 0.11 * index, line, fontsize=11, fontweight="bold" if index == 0 else "normal")


def _caption(figure: Figure) -> None:
    figure.supxlabel(
        "open: the attack ignores the defense.  filled: it may know it.  star: no defense", fontsize=9
    )


def _shown(psnr: float, guess: float) -> float:
    """On the axis: nobody hands in what is worse than a gray picture."""
    return min(max(psnr, guess - 1.5), CAP)
