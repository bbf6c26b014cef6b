"""Pictures of leakage: the truth beside the reconstruction, and error against what was done about it."""

from fedpriv.lab.plots.curves import plot_error_vs_noise, plot_visits
from fedpriv.lab.plots.landscape import Landscape, plot_landscapes
from fedpriv.lab.plots.mosaics import plot_mosaics, sheet_of_numbers
from fedpriv.lab.plots.samples import compare_images, plot_points

__all__ = [
    "Landscape",
    "compare_images",
    "plot_error_vs_noise",
    "plot_landscapes",
    "plot_mosaics",
    "plot_points",
    "plot_visits",
    "sheet_of_numbers",
]
