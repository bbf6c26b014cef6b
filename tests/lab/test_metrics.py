"""Measures against their formulas and against scikit-image called directly."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from fedpriv.lab import PSNR_CAP, max_abs_error, mse, psnr, ssim


def random_pair(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(*shape, generator=generator)
    return truth + 0.1 * torch.randn(*shape, generator=generator), truth


def test_squared_and_largest_error_of_mental_arithmetic():
    estimate, truth = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[1.0, 2.0, 3.0, 0.0]])
    assert mse(estimate, truth).tolist() == [4.0]
    assert max_abs_error(estimate, truth).tolist() == [4.0]


@settings(max_examples=30, deadline=None)
@given(error=st.floats(1e-5, 1e3), data_range=st.floats(1e-2, 1e2))
def test_psnr_is_the_formula(error, data_range):
    truth = torch.zeros(1, 5, dtype=torch.float64)
    expected = min(20 * math.log10(data_range / error), PSNR_CAP)
    assert psnr(truth + error, truth, data_range=data_range).item() == pytest.approx(expected)


def test_psnr_equals_scikit_image():
    estimate, truth = random_pair(3, 1, 8, 8)
    expected = [
        peak_signal_noise_ratio(t.numpy(), e.numpy(), data_range=1.0)
        for t, e in zip(truth, estimate, strict=True)
    ]
    assert psnr(estimate, truth, data_range=1.0).tolist() == pytest.approx(expected, rel=1e-5)


def test_an_exact_sample_has_the_cap_and_not_infinity():
    truth = torch.rand(2, 3)
    assert psnr(truth, truth, data_range=1.0).tolist() == [PSNR_CAP] * 2


def test_psnr_falls_as_the_error_grows():
    truth = torch.zeros(4, 2)
    estimate = torch.tensor([[1e-3], [1e-2], [1e-1], [1.0]]).expand(4, 2)
    assert psnr(estimate, truth, data_range=1.0).tolist() == pytest.approx([60.0, 40.0, 20.0, 0.0], abs=1e-4)


@pytest.mark.parametrize(("size", "window"), [(25, 7), (8, 7), (7, 7), (6, 5), (4, 3), (3, 3)])
def test_ssim_of_gray_images_equals_scikit_image(size, window):
    estimate, truth = random_pair(2, size, size)
    expected = [
        structural_similarity(t.double().numpy(), e.double().numpy(), data_range=1.0, win_size=window)
        for t, e in zip(truth, estimate, strict=True)
    ]
    assert ssim(estimate, truth, data_range=1.0).tolist() == pytest.approx(expected)
    with_channel = ssim(estimate[:, None], truth[:, None], data_range=1.0)
    assert with_channel.tolist() == pytest.approx(expected)


def test_ssim_of_color_images_equals_scikit_image():
    estimate, truth = random_pair(1, 3, 12, 9)
    expected = structural_similarity(
        truth[0].permute(1, 2, 0).double().numpy(),
        estimate[0].permute(1, 2, 0).double().numpy(),
        data_range=1.0,
        channel_axis=2,
    )
    assert ssim(estimate, truth, data_range=1.0).item() == pytest.approx(expected)
    assert ssim(truth, truth, data_range=1.0).item() == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(2, 5), (2, 2, 2), (2, 3, 2, 9), (2,)])
def test_ssim_of_what_is_no_image_is_nan(shape):
    assert ssim(torch.zeros(shape), torch.zeros(shape), data_range=1.0).isnan().all()


def test_nan_in_one_estimate_stays_there():
    estimate, truth = random_pair(2, 8, 8)
    estimate[0, 3, 3] = math.nan
    for values in (
        mse(estimate, truth),
        max_abs_error(estimate, truth),
        psnr(estimate, truth, data_range=1.0),
        ssim(estimate, truth, data_range=1.0),
    ):
        assert values.isnan().tolist() == [True, False]


@pytest.mark.parametrize("data_range", [0.0, -1.0, math.nan, math.inf])
def test_a_range_that_is_none_is_refused(data_range):
    with pytest.raises(ValueError, match="data_range must be a positive number"):
        psnr(torch.zeros(1, 1), torch.zeros(1, 1), data_range=data_range)


def test_unpaired_samples_are_refused():
    with pytest.raises(ValueError, match=r"expected two tensors of one shape.*pair the samples first"):
        mse(torch.zeros(2, 3), torch.zeros(1, 3))
