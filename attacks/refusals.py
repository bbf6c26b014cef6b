"""Of a dozen refusals, the one that says most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from attacks.base import Attack, NotIdentifiable


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why one attack gave nothing.

    Parameters
    ----------
    attack : Attack
    reason : str
        Without the name of the attack, if it does not apply.
    ran : bool
        Whether it came as far as looking for the data.
    determines : bool
        Whether it says what *is* determined.
    """

    attack: Attack
    reason: str
    ran: bool
    determines: bool

    @classmethod
    def of(cls, attack: Attack, refusal: NotIdentifiable) -> Refusal:
        """Read it off an exception; one that comes before the search begins as `Attack.__call__` says it."""
        before, said = f"{attack.name} does not apply: ", str(refusal)
        return cls(
            attack=attack,
            reason=said.removeprefix(before),
            ran=not said.startswith(before),
            determines=bool(refusal.determined),
        )


def why(refusals: Sequence[Refusal], late: Sequence[str], budget: float) -> str:
    """The reason that says most, who had no time left, and where the other reasons are.

    An attack that ran says most, above all if something is determined. Where none applies, the reason that
    most of them have speaks, and what the searches lack, which need least of a model.

    Parameters
    ----------
    refusals : sequence of Refusal
    late : sequence of str
        Names of attacks that were not tried, for `budget` seconds were over.
    budget : float
    """
    ran = sorted((r for r in refusals if r.ran), key=lambda r: not r.determines)
    others = [r for r in refusals if not r.ran]
    said = list(dict.fromkeys(r.reason for r in ran))
    if late:
        said.append(f"no time left of {budget:g} s for {', '.join(late)}")
    if not said:
        said = list(dict.fromkeys([_commonest(others), _commonest([r for r in others if r.attack.searches])]))
        who = "No attack applies"
    else:
        who = (
            "1 other attack does not apply"
            if len(others) == 1
            else f"{len(others)} other attacks do not apply"
        )
    closing = f". {who}: attacks.identifiability(observation) lists why" if others else ""
    return "; ".join(filter(None, said)) + closing


def _commonest(refusals: Sequence[Refusal]) -> str:
    """The reason that most give, of several the first; nothing if nobody refuses."""
    counted = Counter(r.reason for r in refusals).most_common(1)
    return counted[0][0] if counted else ""
