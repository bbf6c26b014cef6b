"""Numbers in the pages that look measured and no record gives: by page, the words, and why.

A reason is a sentence (a definition, a setting, the result of somebody else's paper), or the test that checks
the number, as ``tests/test_x.py::test_y``.
"""

from __future__ import annotations

NOT_MEASURED: dict[str, dict[str, str]] = {}
