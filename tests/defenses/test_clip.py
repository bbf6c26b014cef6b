from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.defenses import Clip
from fedpriv.defenses.vectors import joint_norm

DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])


def test_the_norm_is_joint_over_tensors_and_scalars():
    # 3-4-5: clipped alone, either tensor would keep more than 3/5 and 4/5.
    clipped, report = Clip(clip_norm=1.0)({"w": torch.tensor([[3.0]]), "b": torch.tensor(4.0)})
    torch.testing.assert_close(clipped["w"], torch.tensor([[0.6]]))
    torch.testing.assert_close(clipped["b"], torch.tensor(0.8))
    assert report.values["norm_before"] == 5.0
    assert report.values["scale"] == pytest.approx(0.2)
    assert report.values["clipped"] is True


def test_small_updates_keep_every_bit():
    update = {"w": torch.tensor([0.1, 0.2], dtype=torch.float16), "b": torch.tensor(0.3)}
    clipped, report = Clip(clip_norm=1.0)(update)
    assert all(torch.equal(clipped[name], tensor) for name, tensor in update.items())
    assert report.values["clipped"] is False


def test_an_update_exactly_on_the_bound_is_not_clipped():
    assert Clip(clip_norm=5.0)({"w": torch.tensor([3.0, 4.0])})[1].values["clipped"] is False


@given(
    values=st.lists(st.floats(-6e4, 6e4, allow_subnormal=False), min_size=1, max_size=20),
    dtype=DTYPES,
    clip_norm=st.floats(0.01, 100.0),
)
@settings(max_examples=150, deadline=None)
def test_the_result_never_exceeds_the_bound_and_keeps_its_direction(values, dtype, clip_norm):
    update = {"w": torch.tensor(values, dtype=dtype), "b": torch.tensor(values[0], dtype=dtype)}
    clipped, report = Clip(clip_norm=clip_norm)(update)
    assert joint_norm(clipped) <= clip_norm * (1 + 1e-12)
    assert report.values["norm_after"] == joint_norm(clipped)
    for name, tensor in update.items():
        exact = tensor.double() * report.values["scale"]
        torch.testing.assert_close(clipped[name].double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-7)


@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.float16, 6e4), (torch.float64, 1e200), (torch.float64, 1e-200)]
)
def test_norms_neither_overflow_nor_vanish(dtype, value):
    # float16 squares overflow above 256, float64 squares above 1e154
    _, report = Clip(clip_norm=1.0)({"w": torch.full((4,), value, dtype=dtype)})
    assert report.values["norm_before"] == pytest.approx(
        2 * float(torch.tensor(value, dtype=dtype)), rel=1e-12
    )


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.inf, math.nan])
def test_bad_bounds_are_refused(clip_norm):
    with pytest.raises(ValueError, match="clip_norm must be a positive finite number"):
        Clip(clip_norm=clip_norm)
