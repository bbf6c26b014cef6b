"""Where blockwise inversion starts, what it has found so far, and how good that is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.matching.blocks.block import Block
from attacks.matching.blocks.smooth import BlockEnergy, Weights
from fedpriv.wire import Observation


@dataclass(frozen=True, eq=False)
class Begin:
    """The block to solve and an estimate of its input.

    Parameters
    ----------
    block : Block
    x : Tensor of shape (n, *input_shape)
    stopped : bool
        Ctrl-C was pressed on the way here.
    notes : tuple of str
    """

    block: Block
    x: Tensor
    stopped: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Answer:
    """An estimate of the input.

    Parameters
    ----------
    x : Tensor of shape (n, *input_shape)
    weights : Weights
        It was searched with.
    error : float
        See `misfit_of`; zero if `exact`.
    note : str
    exact : bool
        The weight gradient is explained so well that all choices must be right; rounding is left to `polish`.
    """

    x: Tensor
    weights: Weights
    error: float
    note: str
    exact: bool = False


def misfit_of(block: Block, x: Tensor, variation: float = 0.0) -> float:
    """How well `x` explains the block, whatever weights it was found with; with total variation on demand."""
    energy = BlockEnergy(block=block, weights=Weights(values=1.0, rows=0.0, variation=variation))
    return float(energy(x.reshape(1, -1)).detach())


def tolerance_of(observation: Observation) -> float:
    """What an entry may be off relative to the largest, from rounding of the numbers that were sent."""
    epsilon = max(torch.finfo(t.dtype).eps for t in observation.update.tensors.values())
    return max(10 * epsilon, 1e-10)
