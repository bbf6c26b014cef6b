"""Patches back to a map: zero padding and the overlap of neighbors tell which patch sits where."""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.base import NotIdentifiable
from attacks.exact.layers.maps import ConvolutionMap, settings
from attacks.exact.layers.precondition import taps_read

_TOLERANCE = 1e-3
_MAX_TRIALS = 200_000


def place_patches(layer: ConvolutionMap, patches: Tensor) -> tuple[Tensor, Tensor]:
    """Arrange patches so that padding reads zeros and neighbors agree where they overlap.

    Parameters
    ----------
    layer : ConvolutionMap
        Two-dimensional, one group.
    patches : Tensor of shape (positions, channels, kh, kw)
        In any order.

    Returns
    -------
    features : Tensor of shape (1, channels, H, W)
        Zero where no patch reads.
    unseen : bool Tensor of shape (H, W)
        Where that is.

    Raises
    ------
    NotIdentifiable
        If no arrangement fits, or more than one does.
    """
    height, width = layer.in_shape[1:]
    spots, inside = taps_read(layer)
    values = patches.flatten(2)  # (positions, channels, taps)
    limit = _TOLERANCE * float(values.abs().max())
    clean = torch.stack([_is_zero(values[:, :, ~inside[p]], limit) for p in range(len(spots))])
    found = _arrangements(spots, inside, values, clean, limit)
    if len(found) != 1:
        how = "cannot be arranged at all" if not found else "can be arranged in more than one way"
        raise NotIdentifiable(
            f"the {len(patches)} patches of {layer} are exact but {how} (kernel "
            f"{tuple(patches.shape[2:])}, stride {settings(layer.module).stride})",
            {"patches": patches},
        )
    total = torch.zeros(patches.shape[1], height * width, dtype=torch.float64)
    reads = torch.zeros(height * width, dtype=torch.float64)
    for place, patch in enumerate(found[0]):
        spot = spots[place, inside[place]]
        total[:, spot] += values[patch][:, inside[place]]
        reads[spot] += 1
    features = (total / reads.clamp_min(1)).reshape(1, -1, height, width)
    return features, (reads == 0).reshape(height, width)


def _is_zero(values: Tensor, limit: float) -> Tensor:
    """Whether each patch is zero at all of the given taps."""
    return (values.abs() <= limit).flatten(1).all(dim=1)


def _arrangements(
    spots: Tensor, inside: Tensor, values: Tensor, clean: Tensor, limit: float
) -> list[tuple[int, ...]]:
    """At most two ways to give every place a patch, by backtracking in raster order."""
    overlaps = [_overlaps(spots, inside, place) for place in range(len(spots))]
    found: list[tuple[int, ...]] = []
    trials = 0

    def extend(chosen: tuple[int, ...]) -> None:
        nonlocal trials
        place = len(chosen)
        if place == len(spots):
            found.append(chosen)
            return
        for patch in clean[place].nonzero().reshape(-1).tolist():
            trials += 1
            if len(found) > 1 or trials > _MAX_TRIALS:
                return
            if patch not in chosen and all(
                bool(((values[patch][:, mine] - values[chosen[other]][:, theirs]).abs() <= limit).all())
                for other, mine, theirs in overlaps[place]
            ):
                extend((*chosen, patch))

    extend(())
    return found


def _overlaps(spots: Tensor, inside: Tensor, place: int) -> list[tuple[int, Tensor, Tensor]]:
    """Earlier places that read some of the same input, with the taps of both at which they do."""
    shared = []
    for other in range(place):
        same = (spots[place][:, None] == spots[other]) & inside[place][:, None] & inside[other]
        mine, theirs = torch.nonzero(same, as_tuple=True)
        if len(mine):
            shared.append((other, mine, theirs))
    return shared
