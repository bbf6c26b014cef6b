"""The replay check: whether this model and this loss can have produced such an update at all.

It costs a second and saves an hour with the wrong file. Random data are replayed through the model; what
every replay has in common, the observed update must have too: which parameters move, how far, how many
directions the gradient of a layer spans, and relations such as "the last bias sums to zero" of cross-entropy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from attacks.replay import (
    REPLAY_ERRORS,
    compared_names,
    input_layer,
    observed_vector,
    own_randomness,
    replay,
    sent_state,
)
from fedpriv.wire import Observation

_DECADES = 4.0
"""A parameter may move 10^4 times more or less than in a replay, compared with all the others."""
_SMALL = 64
_SHARE = 1e-2


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What the replay check found.

    Parameters
    ----------
    disagreements : tuple of str
        One sentence each, naming the parameter; empty if the update fits.
    notes : tuple of str
        What could not be checked.
    parameters : tuple of dict
        For each parameter its name, norm, ``decades`` (log10 of its norm over that of a replay) and rank.
    """

    disagreements: tuple[str, ...]
    notes: tuple[str, ...]
    parameters: tuple[dict[str, object], ...]

    def demand(self) -> None:
        """Raise a ``ValueError`` with the first disagreement, if there is one."""
        if self.disagreements:
            raise ValueError(
                f"{self.disagreements[0]}; is it the right model, loss and learning rate? --no-check goes on "
                "anyway"
            )


def check_fit(observation: Observation) -> Fit:
    """Compare an update with replays of random data; names and shapes were compared when it was loaded."""
    parts = _parts(observation, observed_vector(observation))
    if not any(float(part.norm()) for part in parts.values()):
        sentence = "the update is zero for every parameter: were the same weights saved twice?"
        return Fit(disagreements=(sentence,), notes=(), parameters=())
    try:
        with own_randomness():
            replays = [_parts(observation, _random_replay(observation, seed)) for seed in range(4)]
    except REPLAY_ERRORS as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        note = f"only names and shapes were checked, for no random data could be replayed: {first}"
        return Fit(disagreements=(), notes=(note,), parameters=())
    rows, wrong = [], []
    typical = {name: sum(float(r[name].norm()) for r in replays) / len(replays) for name in parts}
    decades = {
        n: math.log10(float(p.norm()) / typical[n]) for n, p in parts.items() if p.any() and typical[n]
    }
    middle = sorted(decades.values())[len(decades) // 2] if decades else 0.0
    for name, part in parts.items():
        rank, most = _ranks(observation, name, part, replays[0][name])
        rows.append({"name": name, "norm": float(part.norm()), "decades": decades.get(name), "rank": rank})
        wrong += _scale_sentences(name, part, typical, decades.get(name), middle, observation)
        if most is not None and rank is not None and rank > most:
            wrong.append(
                f"the gradient of {name!r} has rank {rank}, but this model gives at most {most} with "
                f"--num-samples {observation.knowledge.num_samples}: more samples, noise, or another model"
            )
    if abs(middle) > 2 * _DECADES or (middle > _DECADES and observation.update.kind == "parameters"):
        wrong.append(
            f"the whole update is 10^{middle:.0f} times that of this model: is the learning rate right?"
        )
    wrong += _relations(observation, parts)
    return Fit(disagreements=tuple(wrong), notes=(), parameters=tuple(rows))


def _scale_sentences(
    name: str, part: Tensor, typical: dict[str, float], decades: float | None, middle: float, o: Observation
) -> list[str]:
    largest = max(typical.values())
    share = float(part.norm()) / max(_rounding(o, name) * part.numel() ** 0.5, 1e-300)
    if typical[name] < 1e-9 * largest and share > 1e3 and float(part.norm()) > _SHARE * largest:
        return [
            f"{name!r} has no influence on the loss of this model, but its part of the update is not zero"
        ]
    if decades is not None and typical[name] >= 1e-9 * largest and abs(decades - middle) > _DECADES:
        return [
            f"{name!r} moved 10^{decades - middle:+.0f} times as far as the other parameters, compared with "
            "this model"
        ]
    return []


def _ranks(o: Observation, name: str, part: Tensor, replayed: Tensor) -> tuple[int | None, int | None]:
    """Numerical rank of a matrix's gradient, and the most that the known number of samples allows."""
    if part.dim() != 2 or min(part.shape) < 2:
        return None, None
    values = torch.linalg.svdvals(part)
    noise = _rounding(o, name) * (part.shape[0] ** 0.5 + part.shape[1] ** 0.5)
    rank = int((values > max(1e-6 * float(values[0]), 4 * noise)).sum())
    if o.knowledge.num_samples is None or o.knowledge.noise_std:
        return rank, None
    once = torch.linalg.svdvals(replayed)
    return rank, int((once > 1e-9 * once[0]).sum()) * o.knowledge.local_steps


def _relations(o: Observation, parts: dict[str, Tensor]) -> list[str]:
    """Directions in which no replay ever moves a short parameter, and the update does."""
    short = [n for n, part in parts.items() if part.dim() == 1 and 2 <= part.numel() <= _SMALL][-1:]
    if not short or o.knowledge.noise_std:
        return []
    (name,) = short
    count = parts[name].numel() + 4
    with own_randomness():
        moves = torch.stack([_parts(o, _random_replay(o, seed))[name] for seed in range(count)])
    _, sizes, directions = torch.linalg.svd(moves / moves.norm().clamp_min(1e-300), full_matrices=True)
    still = directions[int((sizes > 1e-9).sum()) :]
    share = float((still @ parts[name]).norm()) / max(float(parts[name].norm()), 1e-300)
    noise = _rounding(o, name) * len(still) ** 0.5 / max(float(parts[name].norm()), 1e-300)
    if not len(still) or share <= max(_SHARE, 10 * noise):
        return []
    if len(still) == 1 and float(still[0].std()) < 1e-6 * float(still[0].norm()):
        return [
            f"{name!r} must sum to zero for this model and loss, as the last bias does with cross-entropy, "
            f"and sums to {float(parts[name].sum()):.2g}"
        ]
    broken = "a relation" if len(still) == 1 else f"{len(still)} relations"
    return [f"{name!r} breaks {broken} that every update of this model and loss obeys"]


def _rounding(o: Observation, name: str) -> float:
    """What rounding alone may change in one number of the update."""
    tensor = o.update.tensors[name]
    unit = torch.finfo(tensor.dtype).eps
    if o.update.kind == "gradient":
        return unit * float(tensor.double().abs().max())
    return unit * float(o.state[name].double().abs().max()) / (o.knowledge.learning_rate or 1.0)


def _parts(o: Observation, vector: Tensor) -> dict[str, Tensor]:
    names = compared_names(o)
    pieces = vector.detach().split([o.update.tensors[n].numel() for n in names])
    return {n: piece.reshape(o.update.tensors[n].shape) for n, piece in zip(names, pieces, strict=True)}


def _random_replay(o: Observation, seed: int) -> Tensor:
    """The update that random data would give, `num_samples` of them if that is known."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(o.knowledge.num_samples or 4, *_input_shape(o), generator=generator).double()
    with torch.no_grad():
        outputs = functional_call(o.model, sent_state(o, torch.float64), (inputs,))
    labels = torch.randint(outputs.shape[1] if outputs.dim() > 1 else 1, (len(inputs),), generator=generator)
    try:
        return replay(
            o, inputs, labels if outputs.dim() > 1 and outputs.shape[1] > 1 else torch.rand_like(outputs)
        )
    except REPLAY_ERRORS:
        return replay(o, inputs, torch.rand(outputs.shape, generator=generator).double())


def _input_shape(o: Observation) -> tuple[int, ...]:
    if o.knowledge.input_shape is not None:
        return o.knowledge.input_shape
    found = input_layer(o)
    if isinstance(found, str):
        raise ValueError(f"{found}; give --input-shape, such as 3,32,32")
    return found[2]
