"""Error against what the server did (visits) and against what was done about it (noise), on log axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedpriv.lab.plots._style import headline, label_axes, new_figure, style_of, write

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_SMALLEST = (
    1e-17  # an exact zero has no place on a log axis; it is drawn here, below any float64 rounding error
)


def plot_visits(
    errors: Mapping[str, Sequence[float]],
    path: str | os.PathLike[str],
    *,
    title: str = "What the server knows after each visit",
    ylabel: str = "largest error of a coordinate (units of the data)",
    threshold: float | None = None,
) -> Path:
    """Draw the error of the estimate against the number of visits seen, on a logarithmic error axis.

    Parameters
    ----------
    errors : mapping of client name to sequence of float
        Error after visit 1, 2, ...; NaN where there is no estimate yet leaves a gap.
    path : path
        The PNG to write.
    title, ylabel : str, optional
        The words on the figure.
    threshold : float, optional
        Draws a line below which a sample counts as recovered.

    Returns
    -------
    pathlib.Path
        The file written.
    """
    from matplotlib.ticker import MaxNLocator

    series = {client: _column(client, values) for client, values in errors.items()}
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    headline(figure, title)
    label_axes(axes, "visits seen by the server", ylabel)
    for index, (client, values) in enumerate(series.items()):
        _line(axes, np.arange(1.0, len(values) + 1), values, index, client)
    if threshold is not None:
        _reference(axes, threshold, f"recovered below {threshold:g}")
    axes.set_yscale("log")
    axes.set_xlim(0.7, max(map(len, series.values()), default=1) + 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=9)
    return write(figure, path)


def plot_error_vs_noise(
    noise_std: Sequence[float],
    errors: Mapping[str, Sequence[float]],
    path: str | os.PathLike[str],
    *,
    bound: Sequence[float] | None = None,
    bound_label: str = "Cramér–Rao bound (unbiased attacks)",
    guess: float | None = None,
    title: str = "Error of the reconstruction against noise",
    xlabel: str = "standard deviation of the noise (units of the update)",
    ylabel: str = "root mean squared error (units of the data)",
) -> Path:
    """Draw measured errors against noise on two log axes, with the bound that no unbiased attack passes.

    Parameters
    ----------
    noise_std : sequence of float
        Standard deviations, all positive.
    errors : mapping of attack name to sequence of float
        One error for each standard deviation; NaN leaves a gap.
    path : path
        The PNG to write.
    bound : sequence of float, optional
        The bound at each standard deviation, in the units of the errors.
    bound_label : str, optional
        What the bound is called in the legend.
    guess : float, optional
        Error of a guess that saw nothing, drawn as a horizontal line: above it nothing is learned.
    title, xlabel, ylabel : str, optional
        The words on the figure.

    Returns
    -------
    pathlib.Path
        The file written.
    """
    noise = np.asarray(noise_std, dtype=np.float64)
    if noise.ndim != 1 or not len(noise) or not (np.isfinite(noise) & (noise > 0)).all():
        raise ValueError(
            f"noise_std must be positive numbers, for a log axis has no zero, got {list(noise_std)}"
        )
    figure = new_figure(6.8, 4.6)
    axes = figure.subplots()
    headline(figure, title)
    label_axes(axes, xlabel, ylabel)
    for index, (attack, values) in enumerate(errors.items()):
        _line(axes, noise, _column(attack, values, len(noise)), index, attack)
    if bound is not None:
        axes.plot(
            noise, _column(bound_label, bound, len(noise)), color="black", linewidth=2.0, label=bound_label
        )
    if guess is not None:
        _reference(axes, guess, "a guess that saw nothing")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend(fontsize=9)
    return write(figure, path)


def _line(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], index: int, label: str) -> None:
    look = style_of(index)
    axes.plot(x, y, color=look.color, marker=look.marker, linestyle=look.line, markersize=6, label=label)


def _reference(axes: Axes, height: float, label: str) -> None:
    axes.axhline(height, color="0.35", linewidth=1.2, linestyle=(0, (1, 2)), label=label)


def _column(name: str, values: Sequence[float], count: int | None = None) -> NDArray[np.float64]:
    """Return checked errors, zeros lifted onto the log axis."""
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or len(column) != (len(column) if count is None else count) or (column < 0).any():
        expected = "non-negative errors" if count is None else f"{count} non-negative errors"
        raise ValueError(f"expected {expected} for {name!r}, got {list(values)}")
    return np.maximum(column, _SMALLEST)
