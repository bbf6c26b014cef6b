"""From single tokens to sequences: what a token looks like behind attention depends on the tokens before it.

Petrov et al. 2024, section 5: the span test is repeated on a layer behind the first attention. In a decoder
the vector of a token depends on its prefix alone, so prefixes grow token by token and only true ones survive.
In an encoder it depends on the whole sequence, so whole sequences are tried, as many as the budget allows.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.base import NotIdentifiable
from attacks.exact.token_model import Group, TokenModel
from attacks.exact.token_signals import Words
from attacks.exact.token_spans import Span, span_of, vectors_with_rounding

_PROBES = 2048  # sequences in one batch
_CLEAR = 1e6  # a wrong context this far above the noise is as clear as any
_GROUPS = 4  # layers looked at: output of the attention, both layers of the perceptron, next query


class Layer(NamedTuple):
    """A group of linear layers with the span that its gradient holds."""

    group: Group
    span: Span


class Gap(NamedTuple):
    """How clearly a span test decided: the largest accepted and the smallest rejected excess."""

    right: float = 0.0
    wrong: float = math.inf

    @property
    def margin(self) -> float:
        """Rejected over accepted; excess below the estimate's own precision counts as that."""
        return self.wrong / max(self.right, 0.01)

    def widened(self, excess: Tensor) -> Gap:
        """The gap after more tests; NaN counts as rejected, at no distance."""
        right, wrong = excess[excess <= 1], excess[~(excess <= 1)].nan_to_num(nan=0.0)
        return Gap(max([self.right, *right.tolist()]), min([self.wrong, *wrong.tolist()]))


class Findings(NamedTuple):
    """Prefixes (decoder) or whole sequences (encoder) that lie in the span, and how clearly."""

    nodes: tuple[Words, ...]
    gap: Gap
    complete: bool  # whether as many were found as the rank says there are


def choose_layers(model: TokenModel, *, contextual: bool) -> list[Layer] | str:
    """The layers that are not full, those that saw most tokens first, of equals the clearest; or a reason."""
    where = "behind the first attention" if contextual else "before any attention"
    groups = [g for g in model.groups if g.contextual == contextual][:_GROUPS]
    if not groups:
        return f"no linear layer sees the tokens {where}"
    layers = [Layer(g, span_of(g)) for g in groups if g.gradient is not None]
    if not layers:
        frozen = [n for g in groups for n in g.names]
        return f"every linear layer {where} is frozen or its gradient did not come back: {frozen}"
    layers = [layer for layer in layers if layer.span.rank > 0]
    if not layers:
        return f"the gradients of the linear layers {where} are zero up to rounding"
    # The sort is stable: of equals the earlier layer, which is cheaper to reach, comes first.
    layers.sort(key=lambda one: (one.span.rank, _clarity(model, one)), reverse=True)
    ready = [checked for layer in layers if (checked := _with_rounding(model, layer)) is not None]
    if ready:
        return ready
    best = layers[0]
    return (
        f"the gradient of {best.group.names[0]!r} has full rank ({best.span.rank} of "
        f"{best.span.basis.shape[1]} dimensions), so that every token lies in its span: the batch holds as "
        f"many tokens as the model is wide, or more"
    )


def _clarity(model: TokenModel, layer: Layer) -> float:
    """How far above the noise this layer shows that a token stands in a wrong context, up to `_CLEAR`.

    What a single head of attention returns is a mixture of one vector for each token. With the prefixes of
    "a b" and "c d" its span holds those of all four, so that "c b" lies inside as well: behind one head, or
    several that agree, nothing tells them apart before the next nonlinearity. So the layer is tried out on
    random sequences.
    """
    if not layer.group.contextual:
        return min(_CLEAR, layer.span.strength)
    width, size = layer.span.basis.shape[1], min(model.length, 4)
    generator = torch.Generator().manual_seed(0)
    low, count = min(1, model.vocabulary - 2), max(2, min(8, width // (2 * size)))
    ids = torch.randint(low, model.vocabulary, (count, size), generator=generator)
    crossed = torch.cat([ids[:, :-1], ids.roll(1, 0)[:, -1:]], dim=1)
    true = model.vectors(layer.group, ids).reshape(-1, width)
    wrong = model.vectors(layer.group, crossed)[:, -1]
    basis = torch.linalg.svd(true, full_matrices=False)[2]
    outside = torch.linalg.vector_norm(wrong - wrong @ basis.T @ basis, dim=1)
    separation = float((outside / torch.linalg.vector_norm(wrong, dim=1)).median())
    return min(_CLEAR, separation * layer.span.strength)


def _with_rounding(model: TokenModel, layer: Layer) -> Layer | None:
    """The layer with the client's rounding measured, or None if it is full: random probes are inside."""
    if layer.span.rank >= len(layer.group.gradient if layer.group.gradient is not None else ()):
        return None
    generator = torch.Generator().manual_seed(0)
    low = min(1, model.vocabulary - 2)
    ids = torch.randint(low, model.vocabulary, (8, model.length), generator=generator)
    exact, rounding = vectors_with_rounding(model, layer.group, ids)
    span = layer.span._replace(rounding=rounding)
    # A few probes may be tokens of the batch; in a full layer all of them are inside.
    return None if bool((span.excess(exact) <= 1).double().mean() > 0.5) else Layer(layer.group, span)


def tokens_in_span(model: TokenModel, layer: Layer, vocabulary: Tensor) -> tuple[list[list[int]], Gap]:
    """Span test of every token of `vocabulary` at every position, each alone.

    Returns
    -------
    list of list of int
        The tokens that were seen at position 0, 1, ..., up to the last position with any.
    Gap
    """
    found: list[list[int]] = [[] for _ in range(model.length)]
    gap = Gap()
    for part in vocabulary.split(_PROBES):
        ids = part[:, None].expand(len(part), model.length)
        excess = layer.span.excess(model.vectors(layer.group, ids))  # (tokens, positions)
        gap = gap.widened(excess)
        for token, position in (excess <= 1).nonzero().tolist():
            found[position].append(int(part[token]))
    while found and not found[-1]:
        found.pop()
    return found, gap


def grow_prefixes(model: TokenModel, layer: Layer, choices: list[list[int]], deadline: float) -> Findings:
    """Decoder: extend every true prefix by every token of the next position, keep what is in the span."""
    nodes: list[Words] = []
    front: list[Words] = [()]
    gap = Gap()
    for tokens in choices:
        trials = [(*prefix, token) for prefix in front for token in tokens]
        if not trials:
            break
        excess = torch.cat(
            [
                layer.span.excess(model.vectors(layer.group, torch.tensor(part))[:, -1])
                for part in _batches(trials)
                if time.perf_counter() < deadline
            ]
            or [torch.empty(0)]
        )
        front = [trial for trial, value in zip(trials, excess.tolist(), strict=False) if value <= 1]
        gap = gap.widened(excess)
        nodes += front
        if len(nodes) > layer.span.rank:
            break  # the span is nearly full: more prefixes fit than there can be
    return Findings(tuple(nodes), gap, len(nodes) == layer.span.rank)


def try_sequences(
    model: TokenModel, layer: Layer, choices: list[list[int]], budget: int, deadline: float
) -> Findings:
    """Encoder: try every sequence of every length, until the rank is used up.

    Raises
    ------
    NotIdentifiable
        If there are more sequences than `budget`.
    """
    sizes = [math.prod(len(c) for c in choices[:length]) for length in range(1, len(choices) + 1)]
    if sum(sizes) > budget:
        raise NotIdentifiable(
            f"the tokens of every position are known, but they form {sum(sizes)} sequences, and every "
            f"token of an encoder sees the whole sequence, so that each must be tried; {budget} are "
            f"allowed (max_sequences)"
        )
    nodes: list[Words] = []
    gap = Gap()
    remaining = layer.span.rank
    for length in range(len(choices), 0, -1):
        for part in _batches(itertools.product(*choices[:length])):
            if remaining <= 0 or time.perf_counter() > deadline:
                break
            excess = layer.span.excess(model.vectors(layer.group, torch.tensor(part))).amax(dim=1)
            hits = [words for words, value in zip(part, excess.tolist(), strict=True) if value <= 1]
            nodes += hits
            remaining -= length * len(hits)
            gap = gap.widened(excess)
    return Findings(tuple(nodes), gap, remaining == 0)


def _batches(words: Iterable[Words]) -> Iterator[list[Words]]:
    """Up to `_PROBES` at a time."""
    source = iter(words)
    while part := list(itertools.islice(source, _PROBES)):
        yield part
