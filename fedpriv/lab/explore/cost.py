"""What a defense costs: the same training with it and without."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

import fedpriv
from fedpriv import privacy
from fedpriv.lab.explore.choice import Choice, Data
from fedpriv.lab.explore.federation import Samples, draw, loss_of, protections, victim
from fedpriv.lab.explore.limits import DELTA
from fedpriv.training import FedSGD

ROUNDS = 150
SAMPLES = 40
"""Of each person, in the training that shows the cost."""
_TEST = 200
_LEARNING_RATE = 0.3
_CHUNK = 10
_MEASURED: dict[Choice, float] = {}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """How good the model gets.

    Parameters
    ----------
    measure : str
        ``"test accuracy"``, ``"test loss"``, or empty where nothing was measured.
    with_defense, without : float
        After `ROUNDS` rounds with the chosen defenses, and with averaging alone; NaN where training diverged.
    words : str
        The same in a sentence or two.
    """

    measure: str
    with_defense: float
    without: float
    words: str


def cost(choice: Choice, go_on: Callable[[], bool] = lambda: True) -> Cost | None:
    """Train with and without the chosen clip and noise, and test on samples that nobody trained on.

    Faces have no test: a hundred people with one picture each.

    Parameters
    ----------
    choice : Choice
    go_on : callable, optional
        Asked every few rounds; a no ends the training, and the result is None.

    Examples
    --------
    >>> cost(Choice(data=Data.FACES)).words
    'Not measured: there is one picture of each person, so nothing is left to test on.'
    """
    if choice.data is Data.FACES:
        words = "Not measured: there is one picture of each person, so nothing is left to test on."
        return Cost(measure="", with_defense=math.nan, without=math.nan, words=words)
    # What the training does not depend on is set to one value, so that it is done only once.
    asked = replace(choice, batch_size=1, visits=1, time_budget=1.0)
    bare = replace(asked, clip_norm=None, noise_multiplier=0.0)
    try:
        without, defended = (_measured(wanted, go_on) for wanted in (bare, asked))
    except _Interrupted:
        return None
    measure = "test loss" if choice.data is Data.POINTS else "test accuracy"
    people = "Bob alone" if choice.people == 1 else f"{choice.people} people"
    setting = f"{ROUNDS} rounds of {people} with {SAMPLES} samples each"
    if bare == asked:
        words = f"After {setting}, with nothing to slow them down."
    else:
        words = f"After {setting}; without clip and noise {show(without, measure)}. {_spent(asked)}"
    return Cost(measure=measure, with_defense=defended, without=without, words=words.strip())


class _Interrupted(Exception):
    """Something more urgent has come."""


def show(value: float, measure: str) -> str:
    """The value of a measure as it is read."""
    if math.isnan(value):
        return "training diverged"
    return f"{value:.0%}" if measure == "test accuracy" else f"{value:.3f}"


def _measured(choice: Choice, go_on: Callable[[], bool]) -> float:
    """As `_trained`, each choice once."""
    if choice not in _MEASURED:
        _MEASURED[choice] = _trained(choice, go_on)
    return _MEASURED[choice]


def _trained(choice: Choice, go_on: Callable[[], bool]) -> float:
    """Accuracy (images) or mean squared error (points) on fresh samples."""
    generator = torch.Generator().manual_seed(choice.seed)
    inputs, targets = draw(choice, _TEST + choice.people * SAMPLES, generator)
    parts = zip(inputs[_TEST:].chunk(choice.people), targets[_TEST:].chunk(choice.people), strict=True)
    clients: dict[str, Samples] = {f"person {k}": part for k, part in enumerate(parts)}
    points = choice.data is Data.POINTS
    trainer = fedpriv.FederatedTrainer(
        victim(choice, generator),
        torch.nn.functional.mse_loss if points else loss_of(choice),
        clients,
        lr=_LEARNING_RATE,
        schedule=FedSGD(),
        defenses=protections(choice),
        generator=generator,
    )
    state = None
    for _ in range(0, ROUNDS, _CHUNK):
        if not go_on():
            raise _Interrupted
        try:
            run = trainer.run(rounds=_CHUNK, record=False, state=state)
        except ValueError:  # a loss that is not finite
            return math.nan
        state = run.state
    with torch.no_grad():
        outputs = run.model(inputs[:_TEST])
    if points:
        return float((outputs - targets[:_TEST]).square().mean())
    return float((outputs.argmax(1) == targets[:_TEST]).double().mean())


def _spent(choice: Choice) -> str:
    if not choice.noise_multiplier:
        return ""
    guarantee = privacy.account(protections(choice), delta=DELTA, rounds=ROUNDS)
    return f"All these rounds together spend ε = {guarantee.epsilon:,.3g} (client, add/remove)."
