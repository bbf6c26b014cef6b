"""What docs/explorer.md says of the page: its numbers, and what happens in class."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from fedpriv.lab.explore import Choice, Data, answer, cost, limits
from fedpriv.lab.explore.answer import CLOSER, RECOVERED
from fedpriv.lab.explore.scene import observe

GUIDE = re.sub(r"\s+", " ", (Path(__file__).parents[2] / "docs" / "explorer.md").read_text(encoding="utf-8"))


def pixels(data):
    inputs, _ = observe(Choice(data=data, model=data.models[0], batch_size=1)).truth
    return f"{inputs.shape[-2]} × {inputs.shape[-1]}"


def test_the_controls_have_the_limits_that_the_guide_names():
    assert f"faces ({pixels(Data.FACES)}) and photographs ({pixels(Data.PHOTOGRAPHS)}, color)" in GUIDE
    assert f"digits ({pixels(Data.DIGITS)})" in GUIDE
    assert Data.POINTS.max_batch == Data.PHOTOGRAPHS.max_batch
    faces, digits = Data.FACES.max_batch, Data.DIGITS.max_batch
    assert f"up to {Data.POINTS.max_batch} points or photographs, {faces} faces, {digits} digits" in GUIDE
    widths = {p.shape[0] for p in observe(Choice(batch_size=1)).observations[0].model.parameters()}
    assert widths - {10} == {int(re.search(r"three linear layers \((\d+) wide", GUIDE)[1])}


def test_the_grades_are_those_that_the_guide_names():
    assert (
        f"means {RECOVERED:.0f} dB or more: an error of {10 ** (-RECOVERED / 20):.0%} of the range"
        in GUIDE.replace(" %", "%")
    )
    assert f"at least {CLOSER:.0f} dB closer than a gray guess: half its error" in GUIDE
    half = 10 ** (-CLOSER / 20)
    assert half == pytest.approx(0.5, abs=0.01)
    assert f"after {cost.ROUNDS} rounds" in GUIDE
    assert limits.PRIOR == 0.1  # "one time in ten"


def test_averaging_over_a_batch_hides_nobody():
    for samples in (1, 32):
        found = answer(Choice(batch_size=samples, seed=21))
        assert found.recovered == sum(found.certified) == samples


def test_noise_takes_the_proof_first_then_the_digits_then_the_likeness():
    bare = Choice(batch_size=1, clip_norm=1.0, seed=22, time_budget=5.0)
    exact, small, medium, large = (
        answer(replace(bare, noise_multiplier=noise)) for noise in (0.0, 0.001, 0.01, 3.0)
    )
    assert exact.certified == (True,)
    for noisy in (small, medium, large):
        assert noisy.certified == (False,)
    closer = [found.psnr[0] - found.guess_psnr[0] for found in (exact, small, medium, large)]
    assert closer == sorted(closer, reverse=True)
    assert min(closer[:3]) > CLOSER > closer[3]
    assert medium.recovered == large.recovered == 0
    said = [limits.epsilon(observe(replace(bare, noise_multiplier=noise))).value for noise in (0.01, 3.0)]
    assert said[0] > 1000 > 10 > said[1]
