"""Improved deep leakage: the label is read first, then only the inputs are searched for.

B. Zhao, K. Mopuri, H. Bilen, "iDLG: Improved Deep Leakage from Gradients", arXiv 2001.02610, algorithm 1. The
paper treats one sample; for more, the labels are counted (`attacks.labels.label_counts`). Departures beyond
that are those of `attacks.matching.dlg`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.base import Claim, Observations
from attacks.matching.compose import known_labels, precise, refine
from attacks.matching.dlg import DLG, EXPLAINED
from attacks.matching.problem import Problem
from attacks.matching.search import Search
from attacks.matching.unknowns import Unknowns


@dataclass(frozen=True, kw_only=True)
class IDLG(DLG):
    """Labels from the last layer, then inputs by L-BFGS and Gauss-Newton (Zhao et al. 2020).

    Parameters are those of `DLG`.

    Examples
    --------
    >>> import fedpriv
    >>> from torch import nn
    >>> model = fedpriv.models.mlp([6, 12, 3], activation=nn.Sigmoid).double()
    >>> x, loss = torch.linspace(0, 1, 6, dtype=torch.float64)[None], nn.functional.cross_entropy
    >>> gradient = torch.autograd.grad(loss(model(x), torch.tensor([2])), model.parameters())
    >>> known = fedpriv.Knowledge(num_samples=1)
    >>> found = IDLG()(fedpriv.Observation(model, gradient, loss, known))
    >>> bool(torch.allclose(found.inputs, x, atol=1e-6)), found.targets
    (True, tensor([2]))
    """

    starts: int = 2
    steps: int = 60
    name: ClassVar[str] = "iDLG"
    citation: ClassVar[str] = "Zhao, Mopuri and Bilen, iDLG: Improved Deep Leakage from Gradients, 2020"
    needs_labels: ClassVar[bool] = True

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; of several visits the last one is taken."""
        problem = Problem.of(observations[-1], dtype=precise(observations[-1]))
        labels, notes = known_labels(problem)
        unknowns = Unknowns(num_samples=problem.num_samples, input_shape=problem.input_shape, targets=labels)
        found: Search | None = None
        best = (torch.zeros(0), float("inf"))
        # Gauss-Newton often needs no more than a glimpse of the way; else the search goes on from there.
        for steps, share in ((max(self.steps // 3, 1), 0.5), (self.steps, 1.0)):
            now = time.perf_counter()
            until = now + share * (deadline - now)
            found = self._search(problem, unknowns, generator, until, steps=steps, resume=found)
            refined = refine(problem, unknowns, found.point, deadline=until)
            best = min(best, refined, key=lambda result: result[1]) if len(best[0]) else refined
            if best[1] < EXPLAINED:
                break
        return Claim(inputs=unknowns.split(best[0][None])[0][0], targets=labels, notes=notes)
