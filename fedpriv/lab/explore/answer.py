"""The attack on a scene, and its grades: the part that may take long."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

import attacks
from fedpriv.lab.explore.choice import Choice
from fedpriv.lab.explore.limits import Limit, error
from fedpriv.lab.explore.scene import Scene, observe
from fedpriv.lab.scoring import Score, score

RECOVERED = 40.0
"""PSNR in dB from which on a sample counts as recovered: an error of 1 % of the range."""
CLOSER = 6.0
"""By how many dB a sample must be closer than a guess to be counted as near: half the guess's error."""
_FEW = 4


@dataclass(frozen=True, kw_only=True, eq=False)  # tensors have no single truth value
class Answer:
    """What the server got, beside the truth.

    Parameters
    ----------
    choice : Choice
    truth : Tensor of shape (n, *shape)
        Everybody's samples.
    found : Tensor of shape (n, *shape) or None
        What the attack claims, in the order of the truth, NaN where it has no counterpart; None if it
        refused.
    psnr : tuple of float
        In dB, for each true sample; ``-inf`` where it was not found.
    guess_psnr : tuple of float
        The same for a guess that saw nothing.
    certified : tuple of bool
        For each true sample, whether the server can prove it.
    labels_right : tuple of bool or None
        Whether the target of each true sample was found; None if none was claimed.
    num_claimed : int
    method, citation : str
    residual : float
        Relative distance between the replayed and the observed update.
    refusal : str
        Why there is no reconstruction; empty if there is one.
    determined : mapping of str to tuple of float
        What is determined even where the attack refused, such as number and mean of the samples.
    notes : tuple of str
    seconds : float
        Of all attacks that were tried.
    error : Limit
        The Cramér-Rao bound.
    """

    choice: Choice
    truth: torch.Tensor
    found: torch.Tensor | None
    psnr: tuple[float, ...]
    guess_psnr: tuple[float, ...]
    certified: tuple[bool, ...]
    labels_right: tuple[bool, ...] | None
    num_claimed: int
    method: str
    citation: str
    residual: float
    refusal: str
    determined: dict[str, tuple[float, ...]]
    notes: tuple[str, ...]
    seconds: float
    error: Limit

    @property
    def recovered(self) -> int:
        """True samples that came back with `RECOVERED` dB or more."""
        return sum(value >= RECOVERED for value in self.psnr)

    @property
    def near(self) -> int:
        """True samples that did not come back so well, but closer than a guess by `CLOSER` dB or more."""
        pairs = zip(self.psnr, self.guess_psnr, strict=True)
        return sum(guess + CLOSER <= value < RECOVERED for value, guess in pairs)


def answer(choice: Choice, say: Callable[[str], None] = lambda _: None) -> Answer:
    """Observe, attack, grade.

    Parameters
    ----------
    choice : Choice
    say : callable, optional
        Told in a few words what is being done.

    Examples
    --------
    >>> result = answer(Choice(batch_size=2))
    >>> result.recovered, result.certified
    (2, (True, True))
    """
    scene = observe(choice)
    inputs, targets = scene.truth
    say("attacking")
    start = time.perf_counter()
    claim, refusal = _attacked(scene)
    seconds = time.perf_counter() - start
    grades = None if claim is None else score(claim, inputs, targets, data_range=1.0)
    guess = score(torch.full_like(inputs[:1], float(inputs.mean())).expand_as(inputs), inputs, data_range=1.0)
    say("computing the bound")
    return Answer(
        choice=choice,
        truth=inputs,
        found=None if claim is None or grades is None else _in_order(claim.inputs, grades),
        psnr=(float("-inf"),) * len(inputs) if grades is None else tuple(grades.psnr.tolist()),
        guess_psnr=tuple(guess.psnr.tolist()),
        certified=_certified(claim, grades, len(inputs)),
        labels_right=_labels(claim, grades),
        num_claimed=0 if claim is None else claim.num_samples,
        method="" if claim is None else claim.method,
        citation="" if claim is None else claim.citation,
        residual=float("nan") if claim is None else claim.residual,
        refusal="" if refusal is None else str(refusal),
        determined={} if refusal is None else _few(refusal.determined),
        notes=() if claim is None else claim.notes,
        seconds=seconds,
        error=error(scene),
    )


def _attacked(scene: Scene) -> tuple[attacks.Reconstruction | None, attacks.NotIdentifiable | None]:
    """What the attack claims, or why it refused. Where it claims a probability of each class, the largest."""
    try:
        claim = attacks.reconstruct(
            scene.observations,
            time_budget=scene.choice.time_budget,
            generator=torch.Generator().manual_seed(scene.choice.seed),
        )
    except attacks.NotIdentifiable as refusal:
        return None, refusal
    if claim.targets is not None and claim.targets.ndim > scene.truth[1].ndim:
        claim = replace(claim, targets=claim.targets.argmax(dim=1))
    return claim, None


def _few(determined: dict[str, torch.Tensor]) -> dict[str, tuple[float, ...]]:
    """Those that are a few numbers and no more."""
    return {n: tuple(t.flatten().tolist()) for n, t in determined.items() if t.numel() <= _FEW}


def _in_order(claimed: torch.Tensor, grades: Score) -> torch.Tensor:
    """The counterpart of each true sample, NaN where there is none."""
    claimed = claimed.detach().float()
    missing = torch.full_like(claimed[:1], float("nan"))
    return torch.cat([claimed, missing])[grades.assignment]  # -1 is the last, the missing one


def _certified(claim: attacks.Reconstruction | None, grades: Score | None, count: int) -> tuple[bool, ...]:
    if claim is None or grades is None:
        return (False,) * count
    padded = [*claim.certified.tolist(), False]
    return tuple(padded[index] for index in grades.assignment.tolist())


def _labels(claim: attacks.Reconstruction | None, grades: Score | None) -> tuple[bool, ...] | None:
    if claim is None or grades is None or claim.targets is None or grades.target_correct is None:
        return None
    return tuple(grades.target_correct.tolist())
