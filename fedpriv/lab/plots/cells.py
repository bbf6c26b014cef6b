"""A reconstructed table, cell by cell, beside how accuracy falls with the size of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fedpriv.lab.plots._style import headline, label_axes, new_figure, style_of, write

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from matplotlib.axes import Axes
    from torch import Tensor

_RIGHT, _WRONG = "#cfe3f5", "#f2a65a"  # they differ in lightness too


def plot_cells(
    names: Sequence[str],
    cells: Sequence[Sequence[str]],
    right: Tensor,
    curves: Mapping[str, Sequence[float]],
    sizes: Sequence[int],
    path: str | os.PathLike[str],
    *,
    caption: str,
    title: str,
) -> Path:
    """Draw a table whose wrong cells stand out, and shares of right cells against the size of the batch.

    Parameters
    ----------
    names : sequence of str
        The columns.
    cells : sequence of sequence of str
        What was reconstructed, row by row, as text.
    right : bool Tensor of shape (rows, columns)
    curves : mapping of str to sequence of float
        For every method the share of right cells, in [0, 1], at each size; NaN leaves a gap.
    sizes : sequence of int
        Rows in a batch.
    path : path
        The PNG to write.
    caption : str
        Above the table.
    title : str
        Headline of the figure.

    Returns
    -------
    pathlib.Path
        The file written.
    """
    if right.shape != (len(cells), len(names)) or any(len(row) != len(names) for row in cells):
        raise ValueError(
            f"expected {len(cells)} rows of {len(names)} cells and as many marks, "
            f"got marks of shape {tuple(right.shape)}"
        )
    if any(len(values) != len(sizes) for values in curves.values()):
        raise ValueError(f"expected one share for each of {len(sizes)} batch sizes in every curve")
    figure = new_figure(13.0, max(4.2, 1.4 + 0.3 * len(cells)))
    table, axes = figure.subplots(1, 2, width_ratios=[1.5, 1])
    headline(figure, title)
    _draw_table(table, names, cells, right, caption)
    _draw_curves(axes, curves, sizes)
    return write(figure, path)


def _draw_table(
    axes: Axes, names: Sequence[str], cells: Sequence[Sequence[str]], right: Tensor, caption: str
) -> None:
    from matplotlib.transforms import Bbox

    axes.set_axis_off()
    axes.set_title(caption, fontsize=10)
    colors = [[_RIGHT if ok else _WRONG for ok in row] for row in right.tolist()]
    table = axes.table(
        cellText=[list(row) for row in cells],
        colLabels=list(names),
        cellColours=colors,
        cellLoc="center",
        bbox=Bbox.unit(),
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    for cell in table.get_celld().values():
        cell.set_edgecolor("white")


def _draw_curves(axes: Axes, curves: Mapping[str, Sequence[float]], sizes: Sequence[int]) -> None:
    label_axes(axes, "rows in the batch", "cells right (%)")
    for index, (name, values) in enumerate(curves.items()):
        look = style_of(index)
        axes.plot(
            list(sizes),
            [100 * value for value in values],
            color=look.color,
            marker=look.marker,
            linestyle=look.line,
            markersize=6,
            label=name,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(sizes), [str(size) for size in sizes])
    axes.set_ylim(0, 104)
    axes.legend(fontsize=9, loc="lower left")
