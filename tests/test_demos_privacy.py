"""The demos of broken defenses and of differential privacy, on other seeds than the documentation's."""

from __future__ import annotations

import pytest

from fedpriv.cli import scripts


def load(name):
    return scripts.load(scripts.find("demos")[name])


def test_all_three_defenses_fall_to_the_attack_that_knows_them(tmp_path, monkeypatch):
    demo = load("broken_defenses")
    monkeypatch.setattr(demo, "IMAGES", 1)
    result = demo.main(tmp_path, seed=5)
    for row in result["defenses"]:
        assert row["plain"]["median_psnr"] < 15 < 20 < row["adaptive"]["median_psnr"]
    assert all(path.stat().st_size > 5_000 for path in result["files"])
    assert "3 of 3 fall" in demo.report(result)


def test_naming_a_candidate_stays_below_the_bound_at_every_epsilon(tmp_path, monkeypatch):
    demo = load("dp")
    monkeypatch.setattr(demo, "RELEASES", 30)
    monkeypatch.setattr(demo, "PIXEL_EPSILONS", (16.0, 1e5))
    result = demo.main(tmp_path, seed=7)
    rows = {row["epsilon"]: row for row in result["success"]}
    assert tuple(rows) == demo.EPSILONS
    for row in rows.values():
        assert row["low"] <= row["rero_bound"]  # three standard errors
    # The attack is no straw man: near the bound where it matters, and never significantly worse than a guess.
    assert rows[8.0]["rate"] > 0.75 * rows[8.0]["rero_bound"]
    assert rows[32.0]["rate"] > 0.95
    assert all(row["high"] > 1 / demo.CANDIDATES for row in rows.values())
    hopeless, easy = result["errors"]
    assert hopeless["rmse"] > result["guess_rmse"] > easy["rmse"]
    # Ten draws of 64 squares: the ratio varies by 6 %.
    assert abs(easy["efficiency"] - 1) < max(0.25, 3 * easy["standard_error"])
    assert "above the bound at 0 of 6" in demo.report(result)


def test_wilsons_interval_is_that_of_the_textbook():
    demo = load("dp")
    # 10 of 100 at 95 %, z = 1.96: middle (0.1 + 0.0192) / 1.0384 = 0.1148, half width 0.0596.
    assert demo.interval(10, 100, z=1.959964) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert demo.interval(0, 10)[0] == pytest.approx(0.0, abs=1e-12)
    assert demo.interval(10, 10)[1] == pytest.approx(1.0, abs=1e-12)
    assert all(low <= k / 300 <= high for k in range(301) for low, high in [demo.interval(k, 300)])
