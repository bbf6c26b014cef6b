"""Small images as float32 tensors in [0, 1], with the source of each set."""

from __future__ import annotations

import numpy as np
import torch

_SKLEARN_PHOTOGRAPHS = ("china.jpg", "flower.jpg")
_SKIMAGE_PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Handwritten digits of 8 × 8 pixels, with what they show.

    Returns
    -------
    images : Tensor of shape (1797, 1, 8, 8), float32 in [0, 1]
        The source counts ink in sixteenths.
    labels : Tensor of shape (1797,), int64
        0 to 9.

    References
    ----------
    E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
    1998, https://doi.org/10.24432/C50P49, as shipped with scikit-learn.

    Examples
    --------
    >>> images, labels = digits()
    >>> tuple(images.shape), labels[:3].tolist()
    ((1797, 1, 8, 8), [0, 1, 2])
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images.astype(np.float32) / 16)
    return images[:, None], torch.from_numpy(bunch.target.astype(np.int64))


def faces() -> torch.Tensor:
    """One hundred faces of 25 × 25 gray pixels.

    Returns
    -------
    Tensor of shape (100, 1, 25, 25), float32 in [0, 1]

    References
    ----------
    G. B. Huang, M. Ramesh, T. Berg, E. Learned-Miller, "Labeled Faces in the Wild", University of
    Massachusetts, Amherst, 2007, http://vis-www.cs.umass.edu/lfw/, the subset shipped with scikit-image.

    Examples
    --------
    >>> tuple(faces().shape)
    (100, 1, 25, 25)
    """
    from skimage.data import lfw_subset

    images = np.asarray(lfw_subset()[:100], dtype=np.float32)  # the other hundred show no faces
    return torch.from_numpy(images)[:, None]


def photographs(count: int = 16, *, size: int = 32, generator: torch.Generator | None = None) -> torch.Tensor:
    """Square patches of color photographs, cut at random places.

    Parameters
    ----------
    count : int, optional
        How many patches; they take turns among six photographs.
    size : int, optional
        Pixels a side, at most 300.
    generator : torch.Generator, optional
        Chooses the places; by default one with seed 0, so the patches are the same every time.

    Returns
    -------
    Tensor of shape (count, 3, size, size), float32 in [0, 1]

    Notes
    -----
    Two photographs come with scikit-learn (CC BY 2.0), four with scikit-image (its documentation names the
    source and license of each).

    Examples
    --------
    >>> tuple(photographs(2, size=24).shape)
    (2, 3, 24, 24)
    """
    if count < 1 or not 1 <= size <= 300:
        raise ValueError(
            f"expected at least one patch of 1 to 300 pixels a side, got count={count}, size={size}"
        )
    generator = generator or torch.Generator().manual_seed(0)
    sources = _sources()
    return torch.stack([_patch(sources[index % len(sources)], size, generator) for index in range(count)])


def _sources() -> list[torch.Tensor]:
    """Return the photographs, each (3, H, W) of uint8."""
    import skimage.data
    from sklearn.datasets import load_sample_image

    arrays = [load_sample_image(name) for name in _SKLEARN_PHOTOGRAPHS]
    arrays += [getattr(skimage.data, name)() for name in _SKIMAGE_PHOTOGRAPHS]
    return [torch.from_numpy(np.array(array)).permute(2, 0, 1) for array in arrays]


def _patch(image: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    top, left = (
        int(torch.randint(extent - size + 1, (), generator=generator))
        for extent in (image.shape[1], image.shape[2])
    )
    return image[:, top : top + size, left : left + size].float() / 255
