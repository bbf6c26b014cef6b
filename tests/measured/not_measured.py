"""Numbers in the pages that look measured and no record gives: by page, the words, and why.

A reason is a sentence (a definition, a setting, the result of somebody else's paper), or the test that checks
the number, as ``tests/test_x.py::test_y``.
"""

from __future__ import annotations

_LESSONS = (
    "tests/test_course.py::test_the_minutes_of_the_index_and_of_the_instructor_are_those_of_the_lessons"
)
_CONTROLS = "tests/explorer/test_guide.py::test_the_controls_have_the_limits_that_the_guide_names"
_GRADES = "tests/explorer/test_guide.py::test_the_grades_are_those_that_the_guide_names"

NOT_MEASURED: dict[str, dict[str, str]] = {
    "README.md": {
        "PSNR is capped at 120 dB; 40 dB is an error of 1 % of the range": "definitions",
        "takes 20 minutes. `fedpriv demo --list`": _LESSONS,
        "after 5 to 20 local steps": "a setting of the benchmark",
        "of 20 to 40 minutes": _LESSONS,
        "secure sums for up to 5000 clients": "a setting of the benchmark",
        "10 to 10 000 clients: seconds": "a setting of the benchmark",
    },
    "docs/attacks/adaptive.md": {
        "120 dB is the cap": "a definition",
    },
    "docs/audit.md": {"(30: an error of 3 % of the data's range)": "a definition: 30 dB"},
    "docs/broken_defenses.md": {
        "40 dB is an error of 1 % of the range": "a definition",
        "Soteria zeroes 40 % of the columns": "a setting",
    },
    "docs/consistency_peeling.md": {
        "| rounds | 1 | 2 | 3 | K |": "a number of rounds",
        "m/2 | 2m/3 | 3m/4 | Km/(K + 1)": "a count of equations",
    },
    "docs/course/10_text_and_tables.md": {
        "90 % of the cells right may be what a *guess* gets": "an example, not a result",
        "An attack gets 81 % of the cells": "an example in a question",
    },
    "docs/course/index.md": {
        **{f"| {number} | [": "the number of a lesson" for number in range(1, 11)},
        **{f"| {minutes} | `": _LESSONS for minutes in (20, 30, 40)},
        "lessons of 20 to 40 minutes": _LESSONS,
    },
    "docs/defenses/clip.md": {
        "L2": "the name of a norm",
    },
    "docs/engines.md": {
        "safetensors files of about 32 MB": "a setting: PART_BYTES of the writer",
    },
    "docs/explorer.md": {
        "digits (8 × 8), faces (25 × 25) and photographs (24 × 24, color)": _CONTROLS,
        "three linear layers (128 wide, GELU)": _CONTROLS,
        "up to 4 points or photographs, 8 faces, 32 digits": _CONTROLS,
        "with 1, Bob answers himself": "a definition",
        "means 40 dB or more: an error of 1 % of the range": _GRADES,
        "at least 6 dB closer than a gray guess": _GRADES,
        "noise from 0.1 % to 300 %": (
            "tests/explorer/test_guide.py::test_noise_takes_the_proof_first_then_the_digits_then_the_likeness"
        ),
    },
    "docs/flower.md": {
        "| Flower 1.41 |": "a version",
        "`clipping_range` (8)": "Flower's own setting",
    },
    "docs/matching.md": {"capped at 120 dB": "a definition: the cap of the score"},
    "docs/measured.md": {
        "came back above 60 dB": "a definition",
        "came back above 40 dB": "a definition",
    },
    "docs/privacy_bounds.md": {
        "min(κe^ε + δ, 1 − e^−ε(1 − δ − κ))": "a formula",
        "κe^ε / (1 − κ + κe^ε)": "a formula",
        "(κe^ε)^((α−1)/α)": "a formula",
    },
    "docs/tabular.md": {
        '"over 90 %"': "what the paper says of its own tables",
    },
}
