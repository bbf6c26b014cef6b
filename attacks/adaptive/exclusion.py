"""Soteria, PRECODE, and pruning of any network: leave out what is false, and attack with what is left.

Soteria (J. Sun et al., CVPR 2021) zeroes columns of one linear layer's weight gradient; PRECODE (D. Scheliga
et al., WACV 2022) makes the gradients of a stochastic layer, and of all behind it, depend on secret draws.
All other gradients are true. A comparison without that layer sees no defense: M. Balunović et al., ICLR 2022,
section 5, for Soteria; D. Scheliga et al., https://arxiv.org/abs/2208.04767, for PRECODE.

We go two steps further. What Soteria did not zero is true as well and is kept. And exact attacks that use the
first layers alone do not need the rest at all: with a linear layer in front, one sample is read off, whatever
stands behind it.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.adaptive.complete import complete
from attacks.adaptive.evidence import Partial, beside, only, see_through, usable, without
from attacks.adaptive.grade import graded_note
from attacks.adaptive.rows import fit_rows, rows_of
from attacks.base import Attack, Claim, NotIdentifiable, Observations, Reconstruction
from attacks.exact.consistency import ConsistencyPeeling
from attacks.exact.first_layer import FirstLayerInversion
from attacks.exact.layers import LayerByLayerInversion
from attacks.labels import idlg
from attacks.matching.compose import MatchingAttack
from attacks.matching.dlg import DLG
from attacks.replay import compared_names
from fedpriv.wire import Observation
from fedpriv.wire.mechanisms import Perturbed, Sparsified

EXPLAINED = 1e-4
"""Relative residual on the intact evidence that ends the search for a better attack."""


@dataclass(frozen=True, kw_only=True)
class LeaveOut(Attack):
    """Run plain attacks on the numbers that the defense left intact, one after the other.

    Parameters
    ----------
    attacks : tuple of Attack
        Tried in this order, until one explains what is left.

    Examples
    --------
    >>> import fedpriv
    >>> model = fedpriv.models.mlp([4, 16, 8, 3])
    >>> x, y = torch.tensor([[0.1, 0.2, 0.3, 0.4]]), torch.tensor([1])
    >>> loss = torch.nn.functional.cross_entropy
    >>> soteria = fedpriv.defenses.Soteria(layer="3", pruned_fraction=0.4)
    >>> run = fedpriv.FederatedTrainer(
    ...     model, loss, {"bob": (x, y)}, lr=0.1, schedule="fedsgd", defenses=[soteria]
    ... ).run(rounds=1)
    >>> found = LeaveOut()(run.transcript.observations("bob"))
    >>> bool(torch.allclose(found.inputs.float(), x, atol=1e-4)), found.targets
    (True, tensor([1]))
    """

    attacks: tuple[Attack, ...] = (
        FirstLayerInversion(),
        ConsistencyPeeling(),
        LayerByLayerInversion(),
        DLG(),
    )
    name: ClassVar[str] = "attacks on what the defense left intact"
    citation: ClassVar[str] = "Balunović et al., Bayesian Framework for Gradient Leakage, ICLR 2022"

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`."""
        known = observations[-1].knowledge
        if not any(isinstance(m, Perturbed | Sparsified) for m in known.mechanisms):
            return "no layer is declared to be false: Knowledge.mechanisms holds no Perturbed or Sparsified"
        if (more := beside(known, Perturbed, Sparsified)) is not None:
            return more
        try:
            observation = usable(observations)[-1]
            tries = _tries(observation, self.attacks)
        except ValueError as error:
            return str(error)
        reasons = [f"{a.name}: {r}" for a, seen in tries if (r := a.why_not((seen,))) is not None]
        if len(reasons) < len(tries) or _holes(intact(observation)) is not None:
            return None
        return "; ".join(reasons)

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; of several visits the last one is taken, with error feedback the first."""
        observation = usable(observations)[-1]
        holes = _holes(intact(observation))
        if holes is not None:
            return self._filled(intact(observation), *holes, deadline=deadline)
        best, claim, refusals = float("inf"), None, []
        for attack, seen in _tries(observation, self.attacks):
            left = deadline - time.perf_counter()
            if left <= 0 or attack.why_not((seen,)) is not None:
                continue
            try:
                found = attack((seen,), generator=generator, time_budget=left)
            except NotIdentifiable as refusal:
                refusals.append(str(refusal))
                continue
            size = found.residual if found.residual == found.residual else 1e300
            if size < best:
                best, claim = size, _claim(observation, attack, found)
            if best <= EXPLAINED:
                break
        if claim is None:
            raise NotIdentifiable("; ".join(refusals) or "no time was left")
        return claim

    @staticmethod
    def _filled(seen: Observation, inputs: torch.Tensor, known: torch.Tensor, *, deadline: float) -> Claim:
        """One sample whose first layer has columns of zeros: the pixels there from the other layers."""
        found = complete((seen,), inputs, known, deadline=deadline)
        note = f"{int((~known).sum())} of {len(known)} coordinates follow from the other layers"
        return Claim(
            inputs=found.inputs,
            targets=found.targets,
            notes=(note, *graded_note(seen, found.inputs, found.targets)),
            assumed=None if found.residual <= EXPLAINED else "not all coordinates are determined",
        )


def _tries(observation: Observation, attacks: tuple[Attack, ...]) -> list[tuple[Attack, Observation]]:
    """Every attack with the evidence that suits it.

    Exact attacks read layers by their names and get whole layers. Matching compares numbers and gets all
    that are true.
    """
    whole = without(observation, _perturbed(observation)) if _perturbed(observation) else observation
    if not compared_names(whole) or not set(compared_names(whole)) & set(whole.update.tensors):
        raise NotIdentifiable("every parameter is declared to be false, nothing is left to attack")
    part = intact(observation)
    if observation.knowledge.applied(Sparsified):
        return [(a, part) for a in attacks if isinstance(a, MatchingAttack)]
    return [(a, part if isinstance(a, MatchingAttack) else whole) for a in attacks]


def _perturbed(observation: Observation) -> list[str]:
    """The parameters that are declared false and did come back."""
    names = [n for m in observation.knowledge.applied(Perturbed) for n in m.parameters]
    return [n for n in names if n in compared_names(observation)]


def _claim(observation: Observation, attack: Attack, found: Reconstruction) -> Claim:
    """What a plain attack found on the intact evidence, with the class by its sign where it is better."""
    note = f"by {attack.name}; on what the defense left intact the residual is {found.residual:.1e}"
    targets = found.targets
    # A stochastic layer changes how large the output signals are, not which one of them is negative.
    if len(found.inputs) == 1 and not found.residual <= EXPLAINED:
        with contextlib.suppress(ValueError):
            targets = idlg(observation)
    # No certificate on the true numbers, hence none on all of them.
    assumed = None if bool(found.certified.any()) else f"{attack.name} gave none on what was left intact"
    return Claim(inputs=found.inputs, targets=targets, notes=(note,), assumed=assumed)


def intact(observation: Observation) -> Observation:
    """`see_through`, but with those columns of a perturbed weight that are not zero.

    Soteria declares one weight and zeroes columns of it. Where nothing else of a layer is declared false and
    some columns are zero, the other columns are true.
    """
    perturbed = _perturbed(observation)
    if isinstance(observation.model, Partial) or observation.knowledge.applied(Sparsified):
        return see_through((observation,))[0]
    if len(perturbed) != 1:
        return see_through((observation,))[0]
    gradient = observation.gradient()
    weight = gradient[perturbed[0]]
    if weight.dim() != 2 or bool(weight.any(0).all()):
        return see_through((observation,))[0]
    masks = {n: torch.ones_like(g, dtype=torch.bool) for n, g in gradient.items()}
    masks[perturbed[0]] = weight.any(0).expand_as(weight)
    return only(observation, masks)


def _holes(seen: Observation) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A sample (1, *input_shape) read from a masked first layer, and the coordinates that are known."""
    if not isinstance(seen.model, Partial) or seen.knowledge.applied(Sparsified):
        return None
    try:
        rows = rows_of(seen)
    except ValueError:
        return None
    fit = fit_rows(rows)
    if fit.misfit > 1e-3 or not bool(fit.known.any()):
        return None
    return fit.inputs.reshape(1, *rows.shape), fit.known
