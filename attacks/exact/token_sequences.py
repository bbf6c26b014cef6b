"""From single tokens to sequences: what a token looks like behind attention depends on the tokens before it.

Petrov et al. 2024, section 5: the span test is repeated on a layer behind the first attention. In a decoder the
vector of a token depends on its prefix alone, so prefixes grow token by token and only true ones survive. In an
encoder it depends on the whole sequence, so whole sequences are tried, as many as the budget allows.
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
from attacks.exact.token_spans import Group, Span, TokenModel, span_of, vectors_with_rounding

Words = tuple[int, ...]
_PROBES = 2048  # sequences in one batch
_CLEAR = 1e4  # a weakest signal this far above the noise is as good as any; the earlier layer is then cheaper
_GROUPS = 4  # layers looked at: output of the attention, both layers of the perceptron, next query


class Layer(NamedTuple):
    """A group of linear layers with the span that its gradient holds."""

    group: Group
    span: Span


class Findings(NamedTuple):
    """Prefixes (decoder) or whole sequences (encoder) that lie in the span, and how close a wrong one came."""

    nodes: tuple[Words, ...]
    nearest_wrong: float  # smallest excess of a rejected vector
    complete: bool  # whether as many were found as the rank says there are


def choose_layer(model: TokenModel, *, contextual: bool) -> Layer | str:
    """The layer that saw the most tokens without being full, of equals the first that is well conditioned; or a reason."""
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
    layers.sort(key=lambda one: (one.span.rank, min(_CLEAR, one.span.strength)), reverse=True)  # stable: earlier first
    for layer in layers:
        ready = _with_rounding(model, layer)
        if ready is not None:
            return ready
    best = layers[0]
    return (
        f"the gradient of {best.group.names[0]!r} has full rank ({best.span.rank} of {best.span.basis.shape[1]} "
        f"dimensions), so that every token lies in its span: the batch holds as many tokens as the model is wide, or more"
    )


def _with_rounding(model: TokenModel, layer: Layer) -> Layer | None:
    """The layer with the client's rounding measured, or None if it is full: random probes lie in its span, too."""
    if layer.span.rank >= len(layer.group.gradient if layer.group.gradient is not None else ()):
        return None
    generator = torch.Generator().manual_seed(0)
    low = min(1, model.vocabulary - 2)
    ids = torch.randint(low, model.vocabulary, (8, model.length), generator=generator)
    exact, rounding = vectors_with_rounding(model, layer.group, ids)
    span = layer.span._replace(rounding=rounding)
    # Some probes may be tokens of the batch; in a full layer all of them are inside.
    return None if bool((span.excess(exact) <= 1).double().mean() > 0.9) else Layer(layer.group, span)


def tokens_in_span(model: TokenModel, layer: Layer, vocabulary: Tensor) -> tuple[list[list[int]], float]:
    """Span test of every token of `vocabulary` at every position, each alone.

    Returns
    -------
    list of list of int
        The tokens that were seen at position 0, 1, ..., up to the last position with any.
    float
        Smallest excess of a rejected one (infinity: none was rejected).
    """
    found: list[list[int]] = [[] for _ in range(model.length)]
    nearest = math.inf
    for part in vocabulary.split(_PROBES):
        ids = part[:, None].expand(len(part), model.length)
        excess = layer.span.excess(model.vectors(layer.group, ids))  # (tokens, positions)
        wrong = excess[~(excess <= 1)]
        nearest = min(nearest, float(wrong.min()) if len(wrong) else math.inf)
        for token, position in (excess <= 1).nonzero().tolist():
            found[position].append(int(part[token]))
    while found and not found[-1]:
        found.pop()
    return found, nearest


def grow_prefixes(model: TokenModel, layer: Layer, choices: list[list[int]], deadline: float) -> Findings:
    """Decoder: extend every true prefix by every token of the next position, and keep what stays in the span."""
    nodes: list[Words] = []
    front: list[Words] = [()]
    nearest = math.inf
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
        wrong = excess[~(excess <= 1)]
        nearest = min(nearest, float(wrong.min()) if len(wrong) else math.inf)
        nodes += front
    return Findings(tuple(nodes), nearest, len(nodes) == layer.span.rank)


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
            f"the tokens of every position are known, but they form {sum(sizes)} sequences, and every token of an "
            f"encoder sees the whole sequence, so that each must be tried; {budget} are allowed (max_sequences)"
        )
    nodes: list[Words] = []
    nearest = math.inf
    remaining = layer.span.rank
    for length in range(len(choices), 0, -1):
        for part in _batches(itertools.product(*choices[:length])):
            if remaining <= 0 or time.perf_counter() > deadline:
                break
            excess = layer.span.excess(model.vectors(layer.group, torch.tensor(part))).amax(dim=1)
            hits = [words for words, value in zip(part, excess.tolist(), strict=True) if value <= 1]
            nodes += hits
            remaining -= length * len(hits)
            wrong = excess[~(excess <= 1)]
            nearest = min(nearest, float(wrong.min()) if len(wrong) else math.inf)
    return Findings(tuple(nodes), nearest, remaining == 0)


def _batches(words: Iterable[Words]) -> Iterator[list[Words]]:
    """Up to `_PROBES` at a time."""
    source = iter(words)
    while part := list(itertools.islice(source, _PROBES)):
        yield part
