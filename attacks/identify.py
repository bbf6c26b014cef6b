"""What can be recovered from an observation, said before any attack runs."""

from __future__ import annotations

from collections.abc import Sequence

from attacks.adaptive.choose import for_mechanisms
from attacks.base import Attack, as_evidence
from attacks.exact.consistency import ConsistencyPeeling
from attacks.exact.count import told_count
from attacks.exact.dager import TokenSpanInversion
from attacks.exact.first_layer import FirstLayerInversion
from attacks.exact.layers import LayerByLayerInversion
from attacks.exact.local_steps import LocalStepsInversion
from attacks.exact.regression import MomentInversion
from attacks.exact.sparse import SparseBatchInversion
from attacks.matching.blocks import BlockwiseInversion
from attacks.matching.fedavg import FedAvgInversion
from attacks.matching.idlg import IDLG
from attacks.matching.inverting_gradients import InvertingGradients
from attacks.matching.tableak import TabLeak
from attacks.threads import one_thread
from attacks.verdicts import (
    Applicability,
    Identifiability,
    behind_a_defense,
    first_layer_rank,
    of_batch,
    of_local_steps,
    of_regression,
)
from fedpriv.wire import Observation

__all__ = ["ATTACKS", "Applicability", "Identifiability", "identifiability"]

ATTACKS: tuple[type[Attack], ...] = (
    FirstLayerInversion,
    MomentInversion,
    ConsistencyPeeling,
    SparseBatchInversion,
    LocalStepsInversion,
    LayerByLayerInversion,
    TokenSpanInversion,
    BlockwiseInversion,
    TabLeak,
    IDLG,
    InvertingGradients,
    FedAvgInversion,
)
"""The plain attacks that `attacks.reconstruct` tries, in this order; `attacks.adaptive` has the informed."""


@one_thread()
def identifiability(observations: Observation | Sequence[Observation]) -> Identifiability:
    """Say what the evidence determines, without attacking it.

    Parameters
    ----------
    observations : Observation or sequence of Observation
        One update, or several visits of one sender.

    Returns
    -------
    Identifiability
        ``print`` it for a table of attacks and reasons.

    Examples
    --------
    >>> import fedpriv, torch
    >>> model, loss = torch.nn.Linear(3, 2), torch.nn.functional.cross_entropy
    >>> value = loss(model(torch.ones(1, 3)), torch.tensor([0]))
    >>> gradient = torch.autograd.grad(value, model.parameters())
    >>> report = identifiability(fedpriv.Observation(model, gradient, loss))
    >>> report.rank, report.attacks[0].attack.name, report.attacks[0].applies
    (1, 'first-layer inversion', True)
    """
    evidence = as_evidence(observations)
    plain = tuple(Applicability(attack=a, reason=a().why_not(evidence)) for a in ATTACKS)
    informed = tuple(
        Applicability(attack=type(a), reason=a.why_not(evidence)) for a in for_mechanisms(evidence)
    )
    attacks = informed + plain
    told = told_count(evidence)
    if chosen := next((a.attack for a in informed if a.applies), None):
        return behind_a_defense(evidence, chosen, attacks, told)
    usable = {a.attack for a in plain if a.applies}
    if MomentInversion in usable and (len(evidence) > 1 or FirstLayerInversion not in usable):
        return of_regression(evidence, attacks)
    if FirstLayerInversion in usable:
        noisy = any(o.knowledge.noise_std > 0 for o in evidence)
        verdict = (
            f"One sample, {'up to the noise' if noisy else 'exactly'}: the weight gradient of the first "
            f"linear layer divided by its bias gradient."
        )
        return Identifiability(rank=1, min_samples=1, max_samples=1, verdict=verdict, attacks=attacks)
    if ConsistencyPeeling in usable:
        return of_batch(evidence, attacks, told)
    if LocalStepsInversion in usable:
        return of_local_steps(evidence, attacks, told)
    rank = first_layer_rank(evidence[-1])
    if SparseBatchInversion in usable:
        verdict = (
            f"A batch of {rank} different samples, exactly, if the search ends in time: backward signals in "
            f"front of a ReLU are the sparse vectors in the column space of the first layer's gradient."
        )
        return Identifiability(
            rank=rank,
            min_samples=max(rank or 1, told or 0),
            max_samples=told,
            verdict=verdict,
            attacks=attacks,
        )
    reasons = "; ".join(f"{a.attack.name}: {a.reason}" for a in attacks)
    verdict = f"No attack applies ({reasons})."
    for entry in attacks:
        if entry.applies:
            purpose = (entry.attack.__doc__ or "").strip().partition("\n")[0]
            verdict = f"{entry.attack.name[:1].upper()}{entry.attack.name[1:]} can be tried: {purpose}"
            break
    return Identifiability(
        rank=rank,
        min_samples=max(1 if rank is None else rank, told or 0),
        max_samples=told,
        verdict=verdict,
        attacks=attacks,
    )
