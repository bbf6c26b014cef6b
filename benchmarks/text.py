"""Text out of a transformer's gradient: exactly, up to the width of the model; and by search, where TAG ends.

Sentences come from the descriptions of scikit-learn's data sets. The language models have two fresh blocks,
and their batches grow across the width. TAG attacks one random sequence through a small classifier.
"""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import attacks
import fedpriv
from fedpriv.data import Tokenizer
from fedpriv.lab.study import Cell, Results
from fedpriv.transformer import decoder, encoder

WIDTHS = (32, 64)
BEYOND = (-8, -4, -2, -1, 0, 8)  # words more than the model is wide
SEEDS = (700, 701, 702)  # chosen before looking
LENGTHS, SEQUENCES = (4, 16), range(710, 715)
VOCABULARY = 50


def counts(width: int) -> tuple[int, ...]:
    """Words in a batch."""
    return (width // 2, *(width + more for more in BEYOND))


def of_length(text: list[str], words: int) -> list[str]:
    """The first sentences, the last of them cut, so that together they have so many words."""
    chosen: list[str] = []
    for sentence in text:
        parts = sentence.split()[:words]
        words -= len(parts)
        chosen += [" ".join(parts)] * bool(parts)
    return chosen


def span(width: int, words: int, seed: int) -> dict[str, Any]:
    """The share of the words that stand in sentences which come back as a whole."""
    generator = torch.Generator().manual_seed(seed)
    text = fedpriv.data.sentences()
    tokenizer = Tokenizer(text)
    order = torch.randperm(len(text), generator=generator).tolist()
    batch = of_length([text[i] for i in order], words)
    model = decoder(len(tokenizer), width=width, generator=generator)
    inputs, targets = tokenizer.batch(batch)
    gradient = torch.autograd.grad(cross_entropy(model(inputs), targets), list(model.parameters()))
    start = time.process_time()
    try:
        found = attacks.TokenSpanInversion()(fedpriv.Observation(model, gradient, cross_entropy))
    except attacks.NotIdentifiable:
        return {"share": 0.0, "invented": 0, "certified": False, "cpu_seconds": time.process_time() - start}
    seconds = time.process_time() - start
    left = [tokenizer.decode(ids) for ids in found.inputs]
    exact = 0
    for sentence in batch:
        if sentence in left:
            left.remove(sentence)
            exact += len(sentence.split())
    return {
        "share": exact / words,
        "invented": len(left),
        "certified": bool(found.certified.all()),
        "cpu_seconds": seconds,
    }


def tag(length: int, seed: int) -> dict[str, Any]:
    """How many tokens of a sequence TAG finds, and whether the label."""
    generator = torch.Generator().manual_seed(seed)
    model = encoder(VOCABULARY, 3, width=16, blocks=1, length=16, generator=generator)
    ids = torch.randint(1, VOCABULARY, (1, length), generator=generator)
    label = torch.randint(3, (1,), generator=generator)
    gradient = torch.autograd.grad(cross_entropy(model(ids), label), list(model.parameters()))
    known = fedpriv.Knowledge(num_samples=1, input_shape=(length,))
    found = attacks.TagInversion()(fedpriv.Observation(model, gradient, cross_entropy, known))
    assert found.targets is not None  # TAG always names a class
    return {"tokens": int((found.inputs == ids).sum()), "label": torch.equal(found.targets, label)}


def cells() -> list[Cell]:
    """Every width, number of words and seed; every length and sequence."""
    spans = [
        Cell(
            _span_key(width, words, seed),
            partial(span, width, words, seed),
            quick=width == WIDTHS[0] and seed == SEEDS[0] and words in (16, 24, 32, 40),
        )
        for width in WIDTHS
        for words in counts(width)
        for seed in SEEDS
    ]
    tags = [
        Cell(
            f"TAG, {length} tokens, seed {seed}",
            partial(tag, length, seed),
            quick=length == LENGTHS[0] and seed == SEQUENCES[0],
            bands={"tokens": 1},  # 400 steps in float32 may end at a neighbor elsewhere
        )
        for length in LENGTHS
        for seed in SEQUENCES
    ]
    return spans + tags


def tables(results: Results) -> dict[str, str]:
    """The share of the words across the width; what TAG finds by length."""
    names = ["half the width", *(f"width {m:+d}".replace("-", "−") if m else "width" for m in BEYOND)]
    lines = ["| words in the batch | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for width in WIDTHS:
        row = [f"{_share(results, width, words):.0%}".replace("%", " %") for words in counts(width)]
        lines.append(f"| width {width} | " + " | ".join(row) + " |")
    found = ["| tokens in the sequence | tokens found | whole sequences | labels |", "|---" * 4 + "|"]
    for length in LENGTHS:
        runs = [results[f"TAG, {length} tokens, seed {seed}"] for seed in SEQUENCES]
        tokens = sum(run["tokens"] for run in runs)
        whole, labels = sum(run["tokens"] == length for run in runs), sum(run["label"] for run in runs)
        of = len(runs)
        found.append(f"| {length} | {tokens} of {length * of} | {whole} of {of} | {labels} of {of} |")
    return {"width": "\n".join(lines), "tag": "\n".join(found)}


def _span_key(width: int, words: int, seed: int) -> str:
    return f"width {width}, {words} words, seed {seed}"


def _share(results: Results, width: int, words: int) -> float:
    return statistics.fmean(results[_span_key(width, words, seed)]["share"] for seed in SEEDS)


def sentences(results: Results) -> dict[str, list[str]]:
    """Words of the pages that carry these numbers."""
    below = [_share(results, w, words) for w in WIDTHS for words in counts(w) if words <= w - 2]
    short, long = (
        [results[f"TAG, {length} tokens, seed {seed}"]["tokens"] for seed in SEQUENCES] for length in LENGTHS
    )
    whole = sum(tokens == LENGTHS[0] for tokens in short)
    return {
        "README.md": [
            f"{min(below):.0%}".replace("%", " %")
            + " of the words of all batches up to two words below the width",
            f"{whole} of {len(short)} sequences of {LENGTHS[0]} tokens whole, no certificate",
            f"{LENGTHS[1]} tokens: {sum(long)} of {LENGTHS[1] * len(long)} found",
        ]
    }
