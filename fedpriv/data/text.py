"""Sentences of real prose, and a tokenizer that turns them into whole numbers and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib import resources

import torch
from torch import Tensor

SPECIAL = ("<pad>", "<end>", "<unknown>")
"""Ids 0, 1 and 2 of every tokenizer."""
IGNORED = -100
"""Target of a padded position, which `torch.nn.functional.cross_entropy` leaves out."""
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|[0-9]+|[.,;:!?]")
_MARKUP = re.compile(r"[`*|<>=_{}\[\]\\+~^@#/]|::|\.\.\s|--|\bhttp")


def sentences(*, shortest: int = 4, longest: int = 20) -> list[str]:
    """Sentences from the descriptions of scikit-learn's data sets, in a fixed order, each once.

    Parameters
    ----------
    shortest, longest : int, optional
        Numbers of words between which a sentence is kept.

    Returns
    -------
    list of str
        Lower-case words and punctuation, separated by blanks.

    References ---------- The reStructuredText files in ``sklearn/datasets/descr``, copyright the scikit-learn
    developers, BSD-3-Clause ("Redistribution and use in source and binary forms, with or without
    modification, are permitted ..."). They are read from the installed package; nothing is copied into this
    one.

    Examples
    --------
    >>> all(4 <= len(s.split()) <= 20 for s in sentences())
    True
    """
    if not 1 <= shortest <= longest:
        raise ValueError(f"expected 1 <= shortest <= longest, got shortest={shortest}, longest={longest}")
    folder = resources.files("sklearn.datasets") / "descr"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".rst"))
    found: dict[str, None] = {}
    for name in names:
        for paragraph in re.split(r"\n\s*\n", (folder / name).read_text(encoding="utf-8")):
            for sentence in re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split())):
                if sentence.endswith((".", "!", "?")) and not _MARKUP.search(sentence):
                    words = _WORD.findall(sentence.lower())
                    initials = any(len(word) == 1 and word.isalpha() and word not in "ai" for word in words)
                    if shortest <= len(words) <= longest and words[0].isalpha() and not initials:
                        found[" ".join(words)] = None
    return list(found)


class Tokenizer:
    """One id for every word that occurs in a text.

    Parameters
    ----------
    text : iterable of str
        Sentences whose words become the vocabulary, in alphabetical order.

    Examples
    --------
    >>> tokenizer = Tokenizer(["the cat sat", "the dog"])
    >>> tokenizer.encode("The dog sat!")
    [6, 4, 5, 2]
    >>> tokenizer.decode([6, 4, 5])
    'the dog sat'
    """

    def __init__(self, text: Iterable[str]) -> None:
        words = sorted({word for sentence in text for word in _WORD.findall(sentence.lower())})
        if not words:
            raise ValueError("expected text with at least one word, got none; pass for example sentences()")
        self.words: tuple[str, ...] = (*SPECIAL, *words)
        self._ids = {word: index for index, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, sentence: str) -> list[int]:
        """Ids of the words of `sentence`; 2 for a word that is not in the vocabulary."""
        return [self._ids.get(word, SPECIAL.index("<unknown>")) for word in _WORD.findall(sentence.lower())]

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Words of `ids`, without padding, up to the end mark."""
        words: list[str] = []
        for index in [int(i) for i in ids]:
            if not 0 <= index < len(self.words):
                raise ValueError(
                    f"expected ids from 0 to {len(self.words) - 1}, got {index}; use its own tokenizer"
                )
            if self.words[index] == "<end>":
                break
            if index:
                words.append(self.words[index])
        return " ".join(words)

    def batch(self, text: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Inputs and next-token targets of sentences, for training a decoder.

        Returns
        -------
        inputs : int64 Tensor of shape (n, T)
            Padded with 0 behind the end.
        targets : int64 Tensor of shape (n, T)
            The next word, `<end>` after the last one, -100 where there is padding.

        Examples
        --------
        >>> inputs, targets = Tokenizer(["the cat sat", "the dog"]).batch(["the cat sat", "the dog"])
        >>> inputs.tolist(), targets.tolist()
        ([[6, 3, 5], [6, 4, 0]], [[3, 5, 1], [4, 1, -100]])
        """
        encoded = [self.encode(sentence) for sentence in text]
        if not encoded or not all(encoded):
            raise ValueError("expected sentences of at least one word each; leave the empty ones out")
        longest = max(map(len, encoded))
        inputs = torch.zeros(len(encoded), longest, dtype=torch.int64)
        targets = torch.full_like(inputs, IGNORED)
        for row, ids in enumerate(encoded):
            inputs[row, : len(ids)] = torch.tensor(ids)
            targets[row, : len(ids)] = torch.tensor([*ids[1:], SPECIAL.index("<end>")])
        return inputs, targets
