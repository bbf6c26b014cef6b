"""Labels of tokens or sequences under cross-entropy, all at once, with their multiplicity.

Known sequences give the vectors hᵢ that the head saw. While these are independent, the head's gradient ``G =
Σ dᵢᵀ hᵢ`` is solved for ``dᵢ = s (mᵢ pᵢ − cᵢ)``: pᵢ are the predicted probabilities, cᵢ counts the labels of
all mᵢ tokens that share this prefix, and s is the weight of one token in the loss (1/tokens for a mean).
Classes that are nobody's label show ``s mᵢ``, and what is left is ``s cᵢ``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from attacks.exact.token_model import TokenModel
from attacks.exact.token_signals import Words, solve_signals

IGNORED = -100
"""The target that `torch.nn.functional.cross_entropy` leaves out."""
Labels = dict[Words, list[int]]
"""For every prefix, the labels of its last token, one for each sequence that has the prefix."""


def label_prefixes(model: TokenModel, nodes: Iterable[Words]) -> Labels | str:
    """Labels of the last token of every prefix (or of every prefix as a whole); or why they are not known.

    A prefix without a label (an ignored target, or no sequence that ends there) gets an empty list.
    """
    words = sorted(nodes, key=lambda prefix: (len(prefix), prefix))
    solved = solve_signals(model, words)
    return solved if isinstance(solved, str) else _count(words, *solved)


def _count(words: list[Words], signals: Tensor, expected: Tensor, noise: Tensor) -> Labels | str:
    """Whole numbers of labels out of ``s (m p − c)``."""
    # s m: the largest ratio among the classes that are clearly positive; a label's ratio is smaller.
    clear = signals >= 0.01 * signals.amax(1, keepdim=True).clamp_min(1e-300)
    share = torch.where(clear, signals / expected, torch.zeros_like(signals)).amax(1)
    labeled = torch.linalg.vector_norm(signals, dim=1) > noise
    counts = torch.where(labeled[:, None], share[:, None] * expected - signals, torch.zeros_like(signals))
    largest = float(counts.max())
    if largest <= 0:
        return "no token has a label"
    unit = float(counts[counts > 0.05 * largest].min())
    whole = (counts / unit).round()
    if float((counts / unit - whole).abs().max()) > 0.2:
        return "the targets are not hard labels under cross-entropy, or too much rounding"
    return {
        prefix: [int(c) for c in row.nonzero().reshape(-1) for _ in range(int(row[c]))]
        for prefix, row in zip(words, whole, strict=True)
    }


def whole_sequences(labels: Labels) -> list[tuple[Words, list[int]]]:
    """Sequences that carry one label each: every prefix as often as it has labels."""
    return sorted((prefix, [label]) for prefix, found in labels.items() for label in found)


def next_token_sequences(labels: Mapping[Words, list[int]]) -> list[tuple[Words, list[int]]]:
    """Sequences that carry one label for each token, out of the labels of their prefixes.

    A prefix that has more labels than its continuations use ends that many sequences. Which of several
    sequences with a common prefix has which label there is no matter for the gradient; the next token is
    preferred.
    """
    children: dict[Words, list[Words]] = defaultdict(list)
    for prefix in labels:
        children[prefix[:-1]].append(prefix)
    return sorted(_walk((), children, labels))


def _walk(
    prefix: Words, children: Mapping[Words, list[Words]], labels: Mapping[Words, list[int]]
) -> list[tuple[Words, list[int]]]:
    """Sequences that start with `prefix`: all their words, and the labels from the end of `prefix` on."""
    longer = [
        (child, found) for child in children.get(prefix, []) for found in _walk(child, children, labels)
    ]
    if not prefix:
        return [found for _, found in longer]
    left = list(labels[prefix])
    chosen: list[int | None] = []
    for child, _ in longer:
        wanted = child[-1]
        chosen.append(wanted if wanted in left else None)
        if wanted in left:
            left.remove(wanted)
    sequences = []
    for (_, (words, following)), label in zip(longer, chosen, strict=True):
        own = label if label is not None else (left.pop(0) if left else IGNORED)
        sequences.append((words, [own, *following]))
    sequences += [(prefix, [label]) for label in left]
    return sequences or [(prefix, [IGNORED])]
