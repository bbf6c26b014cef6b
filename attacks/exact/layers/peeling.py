"""Patch peeling: the exact input of a ReLU convolution behind a global average pool, from one gradient.

A convolution is a linear layer whose batch is the set of its output positions. Behind a global average over
P positions every active position of channel c receives the same signal ``g_c / P``, so

    P dL/dW_c / g_c = sum over positions p of mask[c, p] patch_p,        mask[c, p] in {0, 1},

and the bias gradient gives in the same way the whole number of active positions. Rows with one active
position, and combinations of rows whose counts add up to one, are candidates for a patch. A candidate
predicts its own mask column through the layer's weights; only the column of a true patch lies in the column
space of the left-hand side. Found patches are subtracted (their columns are known for every row), which
lowers counts and gives new candidates. Zero padding and the overlap of neighboring patches tell which patch
sits where.

The idea is ours; it turns the sparsity argument of Dimitrov et al., "SPEAR: Exact Gradient Inversion of
Batches in Federated Learning", NeurIPS 2024, https://arxiv.org/abs/2403.03945, upside down: masks are
predicted, not drawn. What is exact afterwards: the input of that convolution, its output, and the backward
signal at its input. Nothing is said about the layers below; the values are meant as knowledge for attacks
that optimize those.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.base import NotIdentifiable
from attacks.exact.layers.columns import find_columns
from attacks.exact.layers.maps import ConvolutionMap
from attacks.exact.layers.placing import place_patches
from attacks.exact.layers.pooled import PooledBlock, pooled_block
from fedpriv.wire import Observation


@dataclass(frozen=True, kw_only=True, eq=False)
class PeeledMap:
    """The exact input of the last convolution, with what follows from it.

    Parameters
    ----------
    layer : str
        Name of the convolution.
    features : Tensor of shape (1, channels, H, W)
        Its input, float64.
    outputs : Tensor of shape (1, out_channels, h, w)
        Its output, before the ReLU.
    signal : Tensor of shape (1, channels, H, W)
        The gradient of the loss by `features`.
    unseen : bool Tensor of shape (H, W)
        Places that no patch reads (stride larger than the kernel, or a remainder at the border); zero there.
    residual : float
        How far the weight gradient and the pooled output computed from `features` are from the observed
        ones, relative; the proof that nothing was guessed.
    """

    layer: str
    features: Tensor
    outputs: Tensor
    signal: Tensor
    unseen: Tensor
    residual: float

    def __str__(self) -> str:
        shape = "x".join(str(n) for n in self.features.shape[1:])
        return (
            f"input ({shape}) and output of Conv2d {self.layer!r} and the signal at its input, exact "
            f"(relative residual {self.residual:.1e}); everything below it is still unknown"
        )


def peel_patches(observation: Observation) -> PeeledMap:
    """Recover the input of the last convolution of ``conv - ReLU - global average pool - linear``.

    Parameters
    ----------
    observation : Observation
        Of one image. Layers below the convolution may be of any kind; only their output shape is used, so
        ``Knowledge.input_shape`` is needed.

    Returns
    -------
    PeeledMap

    Raises
    ------
    NotIdentifiable
        If the model does not end in this way, the update mixes several images, or not every patch is found;
        the message says which.
    """
    block = pooled_block(observation)
    rows, counts = _rows(block)
    masks = _mask_columns(block, rows, counts)
    patches = torch.linalg.lstsq(masks, rows).solution
    features, unseen = place_patches(block.layer, patches.reshape(len(patches), *_patch_shape(block.layer)))
    outputs = block.layer.apply(features) + block.layer.offset
    behind = (outputs > 0) * block.signal[None, :, None, None] / block.positions
    residual = max(
        _relative(block.layer.weight_gradient(features, behind)[0], block.weight_gradient),
        _relative(outputs.relu().mean(dim=(2, 3))[0], block.pooled),
    )
    if residual > block.tolerance**0.5:
        raise NotIdentifiable(
            f"patch peeling of {block.layer} found patches that do not explain the gradient (residual "
            f"{residual:.1e}): more than one image, another model, or an update that was changed"
        )
    return PeeledMap(
        layer=block.layer.name,
        features=features,
        outputs=outputs,
        signal=block.layer.transpose(behind),
        unseen=unseen,
        residual=residual,
    )


def _rows(block: PooledBlock) -> tuple[Tensor, Tensor]:
    """The sums of active patches (channels, patch size), NaN-free, and how many are in each (channels,)."""
    usable = block.signal.abs() > 1e-6 * block.signal.abs().max()
    factor = torch.where(usable, block.positions / block.signal, torch.zeros_like(block.signal))
    counts = block.bias_gradient * factor
    whole = counts.round()
    if float((counts - whole).abs().max()) > 0.05 or float(whole.max()) > block.positions or whole.min() < 0:
        raise NotIdentifiable(
            f"the bias gradients of {block.layer} do not count active positions (one gives "
            f"{float(counts[(counts - whole).abs().argmax()]):.3f} of {block.positions}): more than one "
            f"image, another model, or an update that was changed"
        )
    # The counts are whole: the bias gradient gives the signal without the errors of the layers behind.
    factor = torch.where(whole > 0, whole / block.bias_gradient, torch.zeros_like(factor))
    return block.weight_gradient.flatten(1) * factor[:, None], whole


def _mask_columns(block: PooledBlock, rows: Tensor, counts: Tensor) -> Tensor:
    """All columns of the mask matrix, (channels, positions), in any order.

    Raises
    ------
    NotIdentifiable
        With how many were found.
    """
    used = counts > 0
    both = torch.cat([rows, counts[:, None]], dim=1)[used]
    left, values, right = torch.linalg.svd(both, full_matrices=False)
    rank = int((values > block.tolerance * values[0]).sum())
    if rank < block.positions:
        raise NotIdentifiable(
            f"the gradient of {block.layer} shows {rank} different patches at {block.positions} "
            f"positions; positions where no channel is active, or that look alike, cannot be told apart"
        )
    if rank > block.positions:
        raise NotIdentifiable(
            f"the gradient of {block.layer} has rank {rank} at {block.positions} positions: more than "
            f"one image"
        )
    offset = block.layer.offset.flatten(2)[0, :, 0]
    kernel = torch.cat([block.layer.state["weight"].flatten(1), offset[:, None]], dim=1)[used]
    found = find_columns(left[:, :rank], both @ right[:rank].T, kernel @ right[:rank].T, counts[used])
    if found.shape[1] < block.positions:
        raise NotIdentifiable(
            f"patch peeling found {found.shape[1]} of {block.positions} patches of {block.layer}: "
            f"too few channels, or none whose numbers of active positions differ by one"
        )
    masks = torch.zeros(len(used), block.positions, dtype=torch.float64)
    masks[used] = found
    return masks


def _patch_shape(layer: ConvolutionMap) -> tuple[int, ...]:
    return tuple(layer.state["weight"].shape[1:])


def _relative(found: Tensor, observed: Tensor) -> float:
    return float((found - observed).norm() / observed.norm().clamp_min(1e-300))
