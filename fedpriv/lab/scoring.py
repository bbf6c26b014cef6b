"""What a reconstruction got right, with the score of a guess beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from fedpriv.lab.matching import match, pairwise_mse
from fedpriv.lab.metrics import PSNR_CAP, max_abs_error, mse, psnr, ssim

_ROWS_SHOWN = 12


class Claim(Protocol):
    """What `score` reads of an ``attacks.Reconstruction``."""

    @property
    def inputs(self) -> torch.Tensor:
        """The samples that the attack claims, (m, *shape)."""

    @property
    def targets(self) -> torch.Tensor | None:
        """Their targets, (m, ...), if the attack names them."""


@dataclass(frozen=True, kw_only=True, eq=False)  # tensors have no single truth value
class Score:
    """How close a reconstruction came, for every true sample.

    A true sample without a counterpart (the attack claimed fewer samples, or NaN) counts as not recovered:
    its psnr is ``-inf``, its mse and max_abs_error are ``inf``, its ssim is NaN and its target is wrong.

    Parameters
    ----------
    psnr : Tensor of shape (n,)
        Peak signal-to-noise ratio in dB, at most `fedpriv.lab.PSNR_CAP`.
    ssim : Tensor of shape (n,)
        Structural similarity, -1 to 1; NaN for samples that are no images.
    mse, max_abs_error : Tensor of shape (n,)
        Mean squared error and largest error of a coordinate, in units of the data.
    target_correct : Tensor of shape (n,), bool, or None
        Whether the target of the counterpart is the true one; None if no true targets were given.
    assignment : Tensor of shape (n,), int64
        The index of the counterpart among the claimed samples, -1 if there is none.
    num_claimed : int
        Samples in the reconstruction; more than n means invented ones.
    data_range : float
        Largest minus smallest possible value, the reference of psnr and ssim.
    baseline : Score or None
        The same measures for a guess that saw nothing of the update; a leak is what exceeds it.
    """

    psnr: torch.Tensor
    ssim: torch.Tensor
    mse: torch.Tensor
    max_abs_error: torch.Tensor
    target_correct: torch.Tensor | None
    assignment: torch.Tensor
    num_claimed: int
    data_range: float
    baseline: Score | None = None

    def recovered(self, psnr: float = 40.0) -> float:
        """Return the fraction of true samples recovered with at least `psnr` dB (40 dB: 1 % of the range).

        Parameters
        ----------
        psnr : float, optional
            Threshold in dB, at most `fedpriv.lab.PSNR_CAP`, which no score exceeds.
        """
        if not psnr <= PSNR_CAP:  # NaN too
            raise ValueError(
                f"the threshold must be at most {PSNR_CAP:g} dB, where PSNR is capped, got {psnr!r}"
            )
        return float((self.psnr >= psnr).double().mean())

    def __str__(self) -> str:
        """Return a table: one line a sample, the guess beside it, and what was recovered."""
        count = len(self.psnr)
        lines = [
            f"{count} true samples, {self.num_claimed} claimed, data range {self.data_range:g}",
            f"{'sample':>6} {'psnr/dB':>8} {'guess/dB':>8} {'ssim':>6} {'max error':>9} target",
        ]
        lines += [self._row(index) for index in range(min(count, _ROWS_SHOWN))]
        if count > _ROWS_SHOWN:
            lines.append(f"{'...':>6} and {count - _ROWS_SHOWN} more")
        summary = f"recovered at 40 dB: {round(self.recovered() * count)} of {count}"
        if self.baseline is not None:
            summary += f" (guess: {round(self.baseline.recovered() * count)} of {count})"
        return "\n".join([*lines, summary])

    def _row(self, index: int) -> str:
        guess = math.nan if self.baseline is None else float(self.baseline.psnr[index])
        target = "-" if self.target_correct is None else ("right" if self.target_correct[index] else "wrong")
        if self.assignment[index] < 0:
            return f"{index:>6} {'none':>8} {_cell(guess, '8.1f')} {'-':>6} {'-':>9} {target}"
        values = (
            _cell(float(self.psnr[index]), "8.1f"),
            _cell(guess, "8.1f"),
            _cell(float(self.ssim[index]), "6.3f"),
            _cell(float(self.max_abs_error[index]), "9.1e"),
        )
        return f"{index:>6} {' '.join(values)} {target}"


def score(
    rec: Claim | torch.Tensor,
    inputs: torch.Tensor,
    targets: torch.Tensor | None = None,
    *,
    data_range: float | None = None,
    guess: torch.Tensor | None = None,
    target_tolerance: float = 1e-3,
) -> Score:
    """Compare a reconstruction with the truth: optimal matching, then measures for every true sample.

    Parameters
    ----------
    rec : attacks.Reconstruction or Tensor of shape (m, *shape)
        What the attack claims, in any order and number.
    inputs : Tensor of shape (n, *shape)
        The truth, which the attack never saw.
    targets : Tensor of shape (n, ...), optional
        The true targets.
    data_range : float, optional
        Largest minus smallest possible value. By default 1.0 if all of the truth lies in [0, 1], else the
        largest minus the smallest true value.
    guess : Tensor of shape (*shape) or (k, *shape), optional
        What the adversary could say without the update, such as public samples of the same kind; every true
        sample is compared with the nearest of them. By default a sample whose every coordinate is the mean of
        the truth, which is generous: the adversary does not know that mean.
    target_tolerance : float, optional
        Targets that are not integers count as correct within this absolute error.

    Returns
    -------
    Score

    Examples
    --------
    >>> truth = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    >>> result = score(truth.flip(0), truth)  # exact, in another order
    >>> result.recovered(psnr=100.0), result.baseline.recovered(psnr=40.0)
    (1.0, 0.0)
    >>> score(truth[:1], truth).recovered()
    0.5
    """
    _check_truth(inputs, targets)
    claimed, claimed_targets = (rec, None) if isinstance(rec, torch.Tensor) else (rec.inputs, rec.targets)
    data_range = _default_range(inputs) if data_range is None else data_range
    assignment = match(claimed, inputs, data_range=data_range)
    correct = None if targets is None else _compare(claimed_targets, targets, assignment, target_tolerance)
    baseline = _measure(*_guessed(guess, inputs), inputs, None, data_range, None)
    return _measure(claimed, assignment, inputs, correct, data_range, baseline)


def _measure(
    claimed: torch.Tensor,
    assignment: torch.Tensor,
    inputs: torch.Tensor,
    correct: torch.Tensor | None,
    data_range: float,
    baseline: Score | None,
) -> Score:
    count, found = len(inputs), assignment >= 0
    values = {
        "psnr": torch.full((count,), -math.inf, dtype=torch.float64),
        "ssim": torch.full((count,), math.nan, dtype=torch.float64),
        "mse": torch.full((count,), math.inf, dtype=torch.float64),
        "max_abs_error": torch.full((count,), math.inf, dtype=torch.float64),
    }
    if found.any():
        pair = claimed.detach().cpu()[assignment[found]], inputs.detach().cpu()[found]
        values["psnr"][found] = psnr(*pair, data_range=data_range)
        values["ssim"][found] = ssim(*pair, data_range=data_range)
        values["mse"][found] = mse(*pair)
        values["max_abs_error"][found] = max_abs_error(*pair)
    return Score(
        **values,
        target_correct=correct,
        assignment=assignment,
        num_claimed=len(claimed),
        data_range=data_range,
        baseline=baseline,
    )


def _guessed(guess: torch.Tensor | None, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the guesses (k, *shape) and for every true sample the index of the nearest."""
    if guess is None:
        guess = torch.full_like(inputs[:1], inputs.double().mean().item(), dtype=torch.float64)
    elif guess.shape == inputs.shape[1:]:
        guess = guess[None]
    if guess.shape[1:] != inputs.shape[1:] or len(guess) == 0 or not guess.isfinite().all():
        raise ValueError(
            f"guess must hold finite samples of shape {tuple(inputs.shape[1:])}, as the truth has, "
            f"got a tensor of shape {tuple(guess.shape)}"
        )
    flat = [samples.detach().cpu().double().reshape(len(samples), -1) for samples in (guess, inputs)]
    return guess, pairwise_mse(*flat).argmin(dim=1)


def _compare(
    claimed: torch.Tensor | None, targets: torch.Tensor, assignment: torch.Tensor, tolerance: float
) -> torch.Tensor:
    """Whether the target of every counterpart is right, (n,) of bool."""
    correct = torch.zeros(len(targets), dtype=torch.bool)
    found = assignment >= 0
    if claimed is None or not found.any():
        return correct
    truth = targets.detach().cpu().reshape(len(targets), -1)
    values = claimed.detach().cpu().reshape(len(claimed), -1)
    if values.shape[1] != truth.shape[1]:
        raise ValueError(
            f"expected reconstructed targets of shape {tuple(targets.shape[1:])}, as the true ones have, "
            f"got {tuple(claimed.shape[1:])}"
        )
    allowed = tolerance if truth.is_floating_point() else 0.0
    error = (values[assignment[found]].double() - truth[found].double()).abs()
    correct[found] = (error <= allowed).all(dim=1)
    return correct


def _default_range(inputs: torch.Tensor) -> float:
    low, high = inputs.min().item(), inputs.max().item()
    if low >= 0 and high <= 1:
        return 1.0
    if low == high:
        raise ValueError(f"every true value is {low:g}, so the data have no range; pass data_range=...")
    return high - low


def _check_truth(inputs: torch.Tensor, targets: torch.Tensor | None) -> None:
    if inputs.ndim == 0 or inputs.numel() == 0 or not inputs.isfinite().all():
        raise ValueError(
            f"expected finite true samples of shape (n, *shape), got a tensor of shape {tuple(inputs.shape)} "
            "that is empty or holds NaN or infinity"
        )
    if targets is not None and (targets.ndim == 0 or len(targets) != len(inputs)):
        raise ValueError(
            f"expected one target for each of {len(inputs)} samples, got shape {tuple(targets.shape)}"
        )


def _cell(value: float, spec: str) -> str:
    return f"{value:{spec}}" if math.isfinite(value) else f"{'-':>{spec.split('.')[0]}}"
