"""The two small models of the matrix, and the room that each leaves for a defense inside the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fedpriv.models import initialize, mlp
from fedpriv.victims import lenet_dlg

Inside = Callable[[int], nn.Module]
"""A layer for `width` features, such as dropout, to stand in front of the last linear layer."""


@dataclass(frozen=True)
class Victim:
    """A model for digits of 1 × 8 × 8 pixels.

    Parameters
    ----------
    name : str
        As in the tables.
    make : callable
        ``make(generator)`` draws it.
    hidden : str
        Name of a linear layer that is not the first one: what Soteria defends.
    """

    name: str
    make: Callable[[torch.Generator], nn.Sequential]
    hidden: str

    def model(self, generator: torch.Generator, inside: Inside | None = None) -> nn.Sequential:
        """The model, with a defense in front of its last layer if one is given.

        Examples
        --------
        >>> model = MLP.model(torch.Generator().manual_seed(0), inside=lambda width: nn.Dropout(0.5))
        >>> type(model[-2]).__name__, model(torch.zeros(3, 1, 8, 8)).shape
        ('Dropout', torch.Size([3, 10]))
        """
        model = self.make(generator)
        if inside is None:
            return model
        *body, last = model
        assert isinstance(last, nn.Linear)
        return nn.Sequential(*body, initialize(inside(last.in_features), generator), last)


def _mlp(generator: torch.Generator) -> nn.Sequential:
    return mlp([64, 512, 64, 10], generator=generator)


def _conv(generator: torch.Generator) -> nn.Sequential:
    return lenet_dlg((1, 8, 8), activation=nn.Tanh, generator=generator)


MLP = Victim("MLP", _mlp, hidden="3")
"""64-512-64-10 with ReLU, 66 762 parameters."""
CONVNET = Victim("ConvNet", _conv, hidden="7")
"""Three convolutions of 12 channels with tanh and one linear layer, 8026 parameters."""
VICTIMS = {victim.name: victim for victim in (MLP, CONVNET)}
