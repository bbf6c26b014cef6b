"""The demo: what leaks from Flower's quickstart, and what stops it."""

from pathlib import Path

import pytest

from fedpriv.cli import scripts

APP = Path(__file__).parents[3] / "demos" / "flower_app"


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [0, 1])
def test_two_lines_show_every_picture_and_noise_hides_them(seed, tmp_path):
    module = scripts.load(scripts.find("demos")["flower_leak"])
    result = module.main(tmp_path, seed=seed)
    rows = result["cases"]
    assert rows["nothing (the quickstart)"]["certified"] == 4
    for leaking in ("nothing (the quickstart)", "Flower: central DP", "fedpriv: Clip"):
        assert rows[leaking]["recovered"] == 1.0
    for safe in ("Flower: local DP, ε = 8", "fedpriv: GaussianNoise"):
        assert rows[safe]["recovered"] == 0.0
        assert rows[safe]["psnr"] < rows[safe]["guess_psnr"]
    assert rows["Flower: SecAgg+"]["saw"] == "the mean"
    assert all(Path(file).is_file() for file in result["files"])
    assert "central DP" in module.report(result)


def test_the_server_has_two_lines_more_than_flowers_quickstart():
    lines = (APP / "leak_app" / "server_app.py").read_text().splitlines()
    ours = [line for line in lines if "Curious" in line]
    assert len(ours) == 2
    assert ours[0].endswith("# line 1")
    assert lines[lines.index(ours[1]) - 1].strip() == "# line 2:"
    for side in ("client_app.py", "task.py"):
        assert "fedpriv" not in (APP / "leak_app" / side).read_text()
