"""The lab: the only room that holds the truth and a reconstruction at once.

`match` pairs them, `score` measures them, and the plots show them side by side, at their own resolution.
"""

from fedpriv.lab.efficiency import Efficiency, attack_efficiency
from fedpriv.lab.matching import match
from fedpriv.lab.metrics import PSNR_CAP, max_abs_error, mse, psnr, ssim
from fedpriv.lab.plots import (
    Landscape,
    compare_images,
    plot_error_vs_noise,
    plot_landscapes,
    plot_mosaics,
    plot_points,
    plot_visits,
    sheet_of_numbers,
)
from fedpriv.lab.scoring import Score, score

__all__ = [
    "PSNR_CAP",
    "Efficiency",
    "Landscape",
    "Score",
    "attack_efficiency",
    "compare_images",
    "match",
    "max_abs_error",
    "mse",
    "plot_error_vs_noise",
    "plot_landscapes",
    "plot_mosaics",
    "plot_points",
    "plot_visits",
    "psnr",
    "score",
    "sheet_of_numbers",
    "ssim",
]
