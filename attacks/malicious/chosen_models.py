"""A server that sends models of its own choice to a linear regression, for perfect conditioning.

Against least squares the moments A and c are all that any model can reveal, so a malicious server
learns nothing more than a curious one. It learns it better: training moves along a narrow path, on which
``g = A theta - c`` is badly conditioned, while the zero model followed by orthogonal ones reads off c and the
columns of A. Starting at zero has a second effect: the returned parameters then *are* the scaled gradient,
with nothing large beside it that could swallow its digits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def chosen_models(
    model: nn.Module, *, visits: int, scale: float = 1.0, generator: torch.Generator | None = None
) -> list[dict[str, Tensor]]:
    """States to send, one a visit: zero first, then orthogonal directions of length `scale`.

    Parameters
    ----------
    model : nn.Module
        The linear model that clients expect; every state has its names, shapes and dtypes.
    visits : int
        2 or more. d + 2 visits determine the moments of any number of samples with d features; n visits are
        enough for n <= d samples.
    scale : float, default 1.0
        Length of the parameter vector that is sent.
    generator : torch.Generator, optional
        Draws the directions; seed 0 if not given.

    Returns
    -------
    list of dict
        Give it to the schedule that sends chosen models.

    Raises
    ------
    ValueError
        If `visits` is below 2 or `scale` is not positive.

    Examples
    --------
    >>> states = chosen_models(nn.Linear(2, 1), visits=3)
    >>> [round(float(torch.cat([t.reshape(-1) for t in s.values()]).norm()), 3) for s in states]
    [0.0, 1.0, 1.0]
    """
    if visits < 2:
        raise ValueError(f"visits must be 2 or more, got {visits}: one answer cannot separate A from c")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale must be a positive number, got {scale}")
    generator = generator or torch.Generator().manual_seed(0)
    parameters = dict(model.named_parameters())
    size = sum(p.numel() for p in parameters.values())
    directions: list[Tensor] = []
    while len(directions) < visits - 1:
        # Orthonormal in blocks of `size`: more visits than dimensions start over with a fresh basis.
        basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
        directions += list(basis)
    vectors = [torch.zeros(size, dtype=torch.float64), *(scale * v for v in directions[: visits - 1])]
    sent = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return [{**sent, **_split(v, parameters)} for v in vectors]


def _split(vector: Tensor, like: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    parts = vector.split([p.numel() for p in like.values()])
    return {n: part.reshape(p.shape).to(p.dtype) for (n, p), part in zip(like.items(), parts, strict=True)}
