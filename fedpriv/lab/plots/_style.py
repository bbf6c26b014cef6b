"""What all pictures share: sizes, and colors of different lightness, which survive printing in gray."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Style(NamedTuple):
    """How one series looks; each differs from the others in color, lightness, marker and line."""

    color: str
    marker: str
    line: str


STYLES = (
    Style("#1b3a6b", "o", "-"),  # dark blue
    Style("#d9730d", "s", "--"),  # mid orange
    Style("#6cc5b0", "^", "-."),  # light green
    Style("#a0467f", "D", ":"),  # purple
    Style("#c4c8cc", "v", "-"),  # light gray
)


def style_of(index: int) -> Style:
    """Return the look of the series at `index`; after the last one they repeat."""
    return STYLES[index % len(STYLES)]


def new_figure(width: float, height: float) -> Figure:
    """Make a figure of that many inches without pyplot: nothing global, no display needed."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=150)


def headline(figure: Figure, title: str) -> None:
    """Write the title above everything, broken into as many lines as the width of the figure asks for."""
    letters = int(figure.get_figwidth() * 10)  # about ten letters of 12 points to the inch
    figure.suptitle("\n".join(textwrap.wrap(title, letters)), fontsize=12)


def label_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Set labels, and a light grid behind the data."""
    axes.set_xlabel(xlabel, fontsize=11)
    axes.set_ylabel(ylabel, fontsize=11)
    axes.grid(visible=True, color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)


def write(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Save as PNG (or what the suffix says), making the folder; equal pictures give equal files."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(
        target, facecolor="white", metadata={"Software": None} if target.suffix == ".png" else None
    )
    return target
