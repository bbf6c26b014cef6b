"""The data sets are what their docstrings say."""

from __future__ import annotations

import pytest
import torch

from fedpriv import data


def test_digits_are_labeled_images_in_range():
    images, labels = data.digits()
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float32
    assert (images.min(), images.max()) == (0.0, 1.0)
    assert torch.equal(images * 16, (images * 16).round())  # sixteenths, as in the source
    assert labels.dtype == torch.int64
    assert torch.equal(labels.unique(), torch.arange(10))


def test_faces_are_a_hundred_gray_images():
    images = data.faces()
    assert images.shape == (100, 1, 25, 25)
    assert images.dtype == torch.float32
    assert 0.0 <= images.min() < 0.1
    assert 0.9 < images.max() <= 1.0


def test_patches_depend_on_the_generator_alone():
    first, again = data.photographs(7, size=16), data.photographs(7, size=16)
    other = data.photographs(7, size=16, generator=torch.Generator().manual_seed(5))
    assert first.shape == (7, 3, 16, 16)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first.dtype, first.min() >= 0, first.max() <= 1) == (torch.float32, True, True)


@pytest.mark.parametrize("arguments", [{"count": 0}, {"size": 0}, {"size": 301}])
def test_impossible_patches_are_refused(arguments):
    with pytest.raises(ValueError, match="expected at least one patch of 1 to 300 pixels"):
        data.photographs(**arguments)


def test_the_largest_patch_fits_into_every_photograph():
    assert data.photographs(6, size=300).shape == (6, 3, 300, 300)
