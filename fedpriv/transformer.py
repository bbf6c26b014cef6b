"""Small transformers as victims: a decoder that predicts the next token, an encoder that classifies.

Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.3 (layer norm before
each sub-block). Everything that is not needed to train on sentences is left out: no dropout, no caching, no
mixed precision. Weights are drawn from a `torch.Generator`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedpriv.models import initialize

__all__ = ["PADDING", "Block", "SelfAttention", "Transformer", "decoder", "encoder"]

PADDING = 0
"""Id of the token that fills the end of short sequences."""


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself.

    Parameters
    ----------
    width : int
        Numbers per token; a multiple of `heads`.
    heads : int
    causal : bool
        Whether a token sees only itself and the tokens before it.
    """

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Mix the tokens of `x` (n, T, width); none looks at those marked in `hidden` (n, T)."""
        n, length, width = x.shape
        q, k, v = (  # each (n, heads, T, width / heads)
            layer(x).view(n, length, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        unseen = hidden[:, None, None, :]
        if self.causal:
            unseen = unseen | torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        scores = (q @ k.transpose(2, 3)) / (width // self.heads) ** 0.5
        mixed: Tensor = scores.masked_fill(unseen, float("-inf")).softmax(dim=3) @ v
        out: Tensor = self.output(mixed.transpose(1, 2).reshape(n, length, width))
        return out


class Block(nn.Module):
    """Attention and a two-layer perceptron, each after a layer norm and around a residual connection."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, causal=causal)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Map (n, T, width) to the same shape."""
        x = x + self.attention(self.norm1(x), hidden)
        out: Tensor = x + self.down(torch.nn.functional.gelu(self.up(self.norm2(x))))
        return out


class Transformer(nn.Module):
    """Token and position embeddings, blocks, a last layer norm, and a linear head.

    Use `decoder` or `encoder` to make one.

    Parameters
    ----------
    vocabulary, outputs : int
        Numbers of token ids and of classes to predict.
    width, heads, blocks, length : int
        Numbers per token, attention heads, layers, and the longest sequence.
    causal : bool
        True: the outputs are next-token logits at every position. False: one prediction for each sequence,
        from the mean over its tokens.
    """

    def __init__(
        self, vocabulary: int, outputs: int, *, width: int, heads: int, blocks: int, length: int, causal: bool
    ) -> None:
        super().__init__()
        if width % heads or min(width, heads, blocks, length, outputs) < 1 or vocabulary < 2:
            raise ValueError(
                f"expected a width divisible by heads, at least one of everything and two tokens, got "
                f"width={width}, heads={heads}, blocks={blocks}, length={length}, vocabulary={vocabulary}, "
                f"outputs={outputs}"
            )
        self.causal = causal
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=None if causal else PADDING)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, causal=causal) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits: (n, outputs, T) for a decoder, which `cross_entropy` takes as they are, else (n, outputs).

        Parameters
        ----------
        ids : int64 Tensor of shape (n, T)
            In an encoder `PADDING` is invisible. A decoder needs no mask, since a token never sees later
            ones; its padded targets are -100, which `cross_entropy` ignores.
        """
        if ids.shape[1] > self.positions.num_embeddings:
            raise ValueError(
                f"expected at most {self.positions.num_embeddings} tokens, got {ids.shape[1]}; "
                f"cut the sequences"
            )
        hidden = torch.zeros_like(ids, dtype=torch.bool) if self.causal else ids == PADDING
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x, hidden)
        x = self.norm(x)
        if self.causal:
            logits: Tensor = self.head(x).transpose(1, 2)
            return logits
        seen = (~hidden)[:, :, None].to(x.dtype)
        pooled: Tensor = self.head((x * seen).sum(1) / seen.sum(1))
        return pooled


def decoder(
    vocabulary: int,
    *,
    width: int = 64,
    heads: int = 4,
    blocks: int = 2,
    length: int = 32,
    tied: bool = False,
    generator: torch.Generator | None = None,
) -> Transformer:
    """Make a language model: predict each token from those before it.

    Parameters
    ----------
    vocabulary : int
        Number of token ids.
    width, heads, blocks, length : int
        Numbers per token, attention heads, layers, and the longest sequence.
    tied : bool, default False
        Whether the head shares its weight with the token embedding, as in GPT-2.
    generator : torch.Generator, optional
        Draws the weights; seed 0 if not given.

    Examples
    --------
    >>> decoder(100)(torch.zeros(3, 7, dtype=torch.int64)).shape
    torch.Size([3, 100, 7])
    """
    model = Transformer(
        vocabulary, vocabulary, width=width, heads=heads, blocks=blocks, length=length, causal=True
    )
    _draw(model, generator)
    if tied:
        model.head.weight = model.tokens.weight
    return model


def encoder(
    vocabulary: int,
    num_classes: int,
    *,
    width: int = 64,
    heads: int = 4,
    blocks: int = 2,
    length: int = 32,
    generator: torch.Generator | None = None,
) -> Transformer:
    """Make a sentence classifier: every token sees all others, `PADDING` apart.

    Examples
    --------
    >>> encoder(100, 3)(torch.ones(5, 7, dtype=torch.int64)).shape
    torch.Size([5, 3])
    """
    model = Transformer(
        vocabulary, num_classes, width=width, heads=heads, blocks=blocks, length=length, causal=False
    )
    _draw(model, generator)
    return model


def _draw(model: Transformer, generator: torch.Generator | None) -> None:
    """Linear layers as everywhere in this package; embeddings from N(0, 0.02²), GPT-2's choice."""
    generator = generator or torch.Generator().manual_seed(0)
    initialize(model, generator)
    with torch.no_grad():
        for embedding in (model.tokens, model.positions):
            embedding.weight.normal_(0.0, 0.02, generator=generator)
