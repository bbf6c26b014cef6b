"""Measurements that are kept: bands, records, and going on after an interruption."""

from __future__ import annotations

import json

import pytest

from fedpriv.lab.study import Cell, agree, differences, measure, read


def cells(seen):
    def run(key):
        seen.append(key)
        return {"psnr": 25.0 + len(key), "share_found": 1 / 3, "words": "yes", "endless": float("inf")}

    return [Cell(key, lambda key=key: run(key), quick=key == "a") for key in ("a", "bb", "ccc")]


@pytest.mark.parametrize(
    ("name", "then", "now", "same"),
    [
        ("psnr", 25.0, 27.9, True),
        ("psnr", 25.0, 28.1, False),
        ("worst_psnr", 120.0, 101.0, True),
        ("worst_psnr", 120.0, 99.0, False),
        ("share_found", 0.5, 0.59, True),
        ("share_found", 0.5, 0.61, False),
        ("cpu_seconds", 0.001, 0.4, True),
        ("cpu_seconds", 2.0, 19.0, True),
        ("cpu_seconds", 2.0, 21.0, False),
        ("cpu_seconds", 21.0, 2.0, False),
        ("found", 64, 58, True),
        ("found", 64, 57, False),
        ("found", 0, 1, False),
        ("certified", True, False, False),
        ("attack", "DLG", "IDLG", False),
        ("psnr", None, 20.0, False),
        ("psnr", [120.0, 25.0], [120.0, 26.0], True),
        ("psnr", [120.0, 25.0], [120.0, 25.0, 25.0], False),
    ],
)
def test_bands(name, then, now, same):
    assert agree(name, then, now) is same


def test_a_tolerance_of_its_own_replaces_the_band():
    assert agree("psnr", 25.0, 30.0, tolerance=6.0)
    assert not agree("found", 64, 63, tolerance=0.0)


def test_a_record_is_continued_and_keeps_the_order_of_the_cells(tmp_path):
    file, seen = tmp_path / "r.json", []
    measure(cells(seen), file, only="ccc")
    assert list(read(file)) == ["ccc"]
    assert list(measure(cells(seen), file)) == ["a", "bb", "ccc"]
    assert seen == ["ccc", "a", "bb"]
    assert list(read(file)) == ["a", "bb", "ccc"]
    assert read(file)["a"] | {"cpu_seconds": 0} == {
        "psnr": 26.0,
        "share_found": 0.3333,
        "words": "yes",
        "endless": None,
        "cpu_seconds": 0,
    }


def test_quick_and_again(tmp_path):
    file, seen = tmp_path / "r.json", []
    assert list(measure(cells(seen), file, quick=True)) == ["a"]
    measure(cells(seen), file, quick=True, again=True)
    assert seen == ["a", "a"]


def test_what_was_measured_survives_an_interruption(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    file = tmp_path / "r.json"
    with pytest.raises(KeyboardInterrupt):
        measure([*cells([]), Cell("last", interrupted)], file)
    assert list(read(file)) == ["a", "bb", "ccc"]
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_differences_are_sentences(tmp_path):
    file = tmp_path / "r.json"
    measure(cells([]), file)
    record = json.loads(file.read_text(encoding="utf-8"))["cells"]
    assert differences(cells([]), record, read(file)) == []
    record["a"]["psnr"], record["bb"]["old"] = 20.0, 1
    del record["ccc"]
    assert differences(cells([]), record, read(file)) == [
        "a: psnr was 20.0, now 26.0",
        "bb: old is only in the record",
        "ccc: not in the record",
    ]


def test_bad_input_is_a_sentence(tmp_path):
    file = tmp_path / "r.json"
    for text in ("[]", "{}", "nonsense"):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="expected a record that `fedpriv bench --record` wrote"):
            measure(cells([]), file)
        assert file.read_text(encoding="utf-8") == text
    with pytest.raises(ValueError, match="different keys"):
        measure([*cells([]), *cells([])])
