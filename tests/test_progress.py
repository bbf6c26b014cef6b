"""The progress bar is invisible to pipes and gone afterwards."""

from __future__ import annotations

import io
import sys

import pytest

from fedpriv.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_short_loop_or_a_pipe_shows_nothing(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    assert list(progress(range(5), description="rounds")) == list(range(5))
    assert sys.stderr.getvalue().strip("\r\n ") == ""


def test_a_long_loop_at_a_terminal_shows_a_bar(monkeypatch):
    import tqdm

    monkeypatch.setattr(sys, "stderr", Terminal())
    original = tqdm.tqdm
    monkeypatch.setattr(tqdm, "tqdm", lambda *args, **options: original(*args, **{**options, "delay": 0.0}))
    assert list(progress(iter("abc"), description="rounds", total=3)) == ["a", "b", "c"]
    assert "rounds" in sys.stderr.getvalue()
