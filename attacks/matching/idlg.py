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
from attacks.matching.compose import claim_at, inputs_alone, precise, refine
from attacks.matching.dlg import DLG, EXPLAINED
from attacks.matching.problem import Problem
from attacks.matching.search import Search


@dataclass(frozen=True, kw_only=True)
class IDLG(DLG):
    """Labels from the last layer, then inputs by L-BFGS and Gauss-Newton (Zhao et al. 2020).

    Parameters are those of `DLG`.

    Examples
    --------
    >>> import fedpriv
    >>> from torch import nn
    >>> model = fedpriv.models.mlp([6, 12, 3], activation=nn.Sigmoid).double()
    >>> bob = {"bob": (torch.linspace(0.1, 0.6, 6)[None].double(), torch.tensor([2]))}
    >>> run = fedpriv.FederatedTrainer(model, nn.functional.cross_entropy, bob, lr=0.1).run(rounds=1)
    >>> IDLG()(run.transcript.observations("bob")).inputs.float()
    tensor([[0.1000, 0.2000, 0.3000, 0.4000, 0.5000, 0.6000]])
    """

    starts: int = 2
    steps: int = 60
    name: ClassVar[str] = "iDLG"
    citation: ClassVar[str] = "Zhao, Mopuri and Bilen, iDLG: Improved Deep Leakage from Gradients, 2020"
    needs_labels: ClassVar[bool] = True

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; of several visits the last one is taken."""
        problem = Problem.of(observations[-1], dtype=precise(observations[-1]))
        unknowns, notes = inputs_alone(problem)
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
        return claim_at(unknowns, best[0], notes)
