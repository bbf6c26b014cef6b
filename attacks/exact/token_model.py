"""A model over token ids as the server sees it: no architecture is assumed, ids are sent through and watched.

The embedding is the one that sees the ids, layers that see the same vectors belong together, and whether a
layer's vectors depend on other tokens shows when one of those is changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from attacks.replay import REPLAY_ERRORS, own_randomness, sent_state
from fedpriv.wire import Observation

SAFETY = 8.0
"""A vector may leave the span by this many times the rounding that is estimated."""
_CHUNK = 2**22  # numbers in one batch of probes


class Seen(NamedTuple):
    """One call of a module: its name, what went in and what came out."""

    name: str
    input: Tensor
    output: Any


class Group(NamedTuple):
    """Linear layers that see the same vectors (query, key, value, for example), their gradients stacked."""

    names: tuple[str, ...]
    gradient: Tensor | None  # (outputs of all layers, width), float64; None if all are frozen
    noise: float  # spectral norm of what rounding and defenses did to the gradient
    contextual: bool  # whether the vector of a token depends on other tokens


@dataclass(frozen=True, kw_only=True)
class TokenModel:
    """What watching a model tells: its vocabulary, its longest sequence, and its linear layers in order."""

    observation: Observation
    embedding: str
    vocabulary: int
    length: int
    causal: bool
    groups: tuple[Group, ...]
    head: str | None
    token_targets: bool  # whether the head predicts at every token, or once for a sequence
    classes_first: bool  # whether the output is (n, classes, T)

    @property
    def padding(self) -> int:
        """The token that fills short sequences: declared by the embedding, else 0."""
        padding = dict(self.observation.model.named_modules())[self.embedding].padding_idx
        return 0 if padding is None else int(padding)

    def vectors(self, group: Group, ids: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """What the layers of `group` see of `ids` (n, T): shape (n, T, width)."""
        state = sent_state(self.observation, dtype)
        width = dict(self.observation.model.named_modules())[group.names[0]].in_features
        step = max(1, _CHUNK // (ids.shape[1] * int(width)))
        return torch.cat(
            [run_until(self.observation, state, group.names[0], part) for part in ids.split(step)]
        )


def watch_tokens(observation: Observation) -> TokenModel | str:
    """Find embedding, linear layers and head of a model over token ids; or say why there are none."""
    embeddings = [n for n, m in observation.model.named_modules() if isinstance(m, nn.Embedding)]
    if not embeddings:
        return "the model has no embedding of tokens"
    state = sent_state(observation, torch.float64)
    pair = torch.tensor([[1, 0], [1, 0]])
    try:
        seen, _ = _watch(observation, state, pair)
        token = next((s.name for s in seen if s.name in embeddings and torch.equal(s.input, pair)), None)
        if token is None:
            return "no embedding sees the token ids"
        modules: dict[str, Any] = dict(observation.model.named_modules())
        vocabulary = int(modules[token].num_embeddings)
        length = _longest(observation, seen, modules)
        if length is None:
            return "the longest sequence is unknown; set Knowledge.input_shape"
        groups, causal, head = _layers(observation, state, vocabulary, length)
    except REPLAY_ERRORS as error:
        return f"the model does not accept token ids of shape (n, T) ({str(error).splitlines()[0]:.200})"
    if not groups:
        return "no linear layer sees one vector for each token"
    return TokenModel(
        observation=observation,
        embedding=token,
        vocabulary=vocabulary,
        length=length,
        causal=causal,
        groups=groups,
        head=head[0],
        token_targets=head[1],
        classes_first=head[2],
    )


def _longest(observation: Observation, seen: list[Seen], modules: dict[str, Any]) -> int | None:
    """The longest sequence: declared, or the size of the embedding that sees the positions 0, 1."""
    if observation.knowledge.input_shape is not None:
        return observation.knowledge.input_shape[0]
    for call in seen:
        if isinstance(modules[call.name], nn.Embedding) and call.input.reshape(-1)[:2].tolist() == [0, 1]:
            return int(modules[call.name].num_embeddings)
    return None


def _layers(
    observation: Observation, state: dict[str, Tensor], vocabulary: int, length: int
) -> tuple[tuple[Group, ...], bool, tuple[str | None, bool, bool]]:
    """All groups of linear layers in order, whether later tokens stay unseen, and the head."""
    size = min(length, 4)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(min(1, vocabulary - 2), vocabulary, (1, size), generator=generator)
    other = torch.cat([(ids[:, :1] - 1) % vocabulary, ids[:, 1:-1], (ids[:, -1:] - 1) % vocabulary], dim=1)
    first, last = ids.clone(), ids.clone()
    first[:, 0], last[:, -1] = other[:, 0], other[:, -1]
    seen, output = _watch(observation, state, torch.cat([ids, first, last]))
    modules = dict(observation.model.named_modules())
    linear = [s for s in seen if isinstance(modules[s.name], nn.Linear)]
    gradient = observation.gradient()
    merged: list[tuple[list[str], Tensor]] = []
    for call in linear:
        if call.input.dim() != 3 or call.input.shape[:2] != (3, size):
            continue
        if merged and torch.equal(merged[-1][1], call.input):
            merged[-1][0].append(call.name)
        else:
            merged.append(([call.name], call.input))
    groups = []
    for names, value in merged:
        contextual = _differ(value[0, 1:], value[1, 1:]) or _differ(value[0, :-1], value[2, :-1])
        groups.append(_group(observation, gradient, names, contextual))
    mixed = [v for (_, v), g in zip(merged, groups, strict=True) if g.contextual]
    causal = not any(_differ(v[0, :-1], v[2, :-1]) for v in mixed)
    return tuple(groups), causal, _head(linear, output)


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether vectors differ by more than the order of a sum could change."""
    return float((one - other).abs().max()) > 1e-10 * float(one.abs().max())


def _group(
    observation: Observation, gradient: dict[str, Tensor], names: list[str], contextual: bool
) -> Group:
    keys = [f"{n}.weight" if n else "weight" for n in names]
    present = [k for k in keys if k in gradient]
    if not present:
        return Group(tuple(names), None, 0.0, contextual)
    stacked = torch.cat([gradient[k].double() for k in present])
    return Group(tuple(names), stacked, gradient_noise(observation, stacked, present), contextual)


def gradient_noise(observation: Observation, stacked: Tensor, keys: list[str]) -> float:
    """Spectral norm of a gradient's error: its rounding, that of returned parameters, a defense's noise.

    Errors of single numbers are independent, and a matrix of such has the spectral norm
    ``|E| (1/sqrt(rows) + 1/sqrt(columns))`` with the Frobenius norm ``|E|``.
    """
    spread = math.fsum(n**-0.5 for n in stacked.shape)
    rounding = precision(observation) * float(stacked.norm())
    added = observation.knowledge.noise_std * math.sqrt(stacked.numel())
    if observation.update.kind == "parameters":
        rate = observation.knowledge.learning_rate or 1.0
        size = math.hypot(*(float(observation.update.tensors[k].double().norm()) for k in keys))
        rounding, added = rounding + precision(observation) * size / rate, added / rate
    own = torch.finfo(torch.float64).eps * math.sqrt(max(stacked.shape)) * float(stacked.norm())
    return spread * (rounding + added) + own  # our singular values are rounded, too


def precision(observation: Observation) -> float:
    """Precision of the update: that of its coarsest tensor."""
    return max(torch.finfo(t.dtype).eps for t in observation.update.tensors.values() if t.is_floating_point())


def _head(linear: list[Seen], output: Any) -> tuple[str | None, bool, bool]:
    """The last linear layer whose output is the model's, whether for each token, and with classes first."""
    for call in reversed(linear):
        per_token = call.output.dim() == 3
        if isinstance(output, Tensor) and torch.equal(call.output, output):
            return call.name, per_token, False
        if isinstance(output, Tensor) and per_token and torch.equal(call.output.transpose(1, 2), output):
            return call.name, True, True
    return None, isinstance(output, Tensor) and output.dim() == 3, False


class _Enough(Exception):
    """The layer was reached; the rest of the model need not run."""


def run_until(observation: Observation, state: dict[str, Tensor], name: str, ids: Tensor) -> Tensor:
    """What the layer `name` sees of `ids`."""
    found: list[Tensor] = []

    def stop(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.append(args[0].detach())
        raise _Enough

    handle = observation.model.get_submodule(name).register_forward_pre_hook(stop)
    try:
        with torch.no_grad(), own_randomness():
            functional_call(observation.model, state, (ids,))
    except _Enough:
        pass
    finally:
        handle.remove()
    return found[0]


def _watch(observation: Observation, state: dict[str, Tensor], ids: Tensor) -> tuple[list[Seen], Any]:
    """Every call of an embedding or a linear layer while `ids` pass, in order, and the model's output."""
    seen: list[Seen] = []

    def watcher(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Any], None]:
        def remember(_: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
            seen.append(Seen(name, args[0].detach(), output))

        return remember

    modules = observation.model.named_modules()
    hooks = [
        m.register_forward_hook(watcher(n)) for n, m in modules if isinstance(m, nn.Embedding | nn.Linear)
    ]
    try:
        with torch.no_grad(), own_randomness():
            output = functional_call(observation.model, state, (ids,))
    finally:
        for hook in hooks:
            hook.remove()
    return seen, output
