"""The HTML of the page, without a browser."""

from __future__ import annotations

import html.parser
import math
import time

import pytest
import torch

from fedpriv.explorer import parts
from fedpriv.lab.explore import Answer, Choice, Data, Job, Model, observe
from fedpriv.lab.explore.cost import Cost
from fedpriv.lab.explore.limits import Limit

VOID = {"img", "br"}


class Strict(html.parser.HTMLParser):
    """Every tag closed in order, every image described."""

    def __init__(self):
        super().__init__()
        self.open, self.images = [], 0

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            assert dict(attrs)["alt"]
            self.images += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def images_in(text):
    parser = Strict()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser.images


def job(**values):
    made = Job(number=1, choice=Choice(batch_size=2), started=time.monotonic())
    for name, value in values.items():
        setattr(made, name, value)
    return made


def answered(**values):
    truth = torch.zeros(2, 1, 8, 8)
    given = {
        "choice": Choice(batch_size=2),
        "truth": truth,
        "found": torch.cat([truth[:1], torch.full_like(truth[:1], torch.nan)]),
        "psnr": (90.0, -math.inf),
        "guess_psnr": (9.0, 9.0),
        "certified": (True, False),
        "labels_right": (True, False),
        "num_claimed": 1,
        "method": "a <method>",
        "citation": "",
        "residual": 1e-3,
        "refusal": "",
        "determined": {},
        "notes": ("a & b",),
        "seconds": 0.1,
        "error": Limit(name="error", shown="none", meaning="words"),
    }
    return Answer(**{**given, **values})


@pytest.mark.parametrize(
    "choice",
    [
        Choice(people=3, batch_size=2),
        Choice(batch_size=32),
        Choice(clip_norm=1.0, noise_multiplier=1.0),
        Choice(data=Data.POINTS, model=Model.LINEAR, batch_size=2, visits=3),
        Choice(data=Data.POINTS, model=Model.MLP, batch_size=2, people=8),
        Choice(data=Data.PHOTOGRAPHS, model=Model.LENET, batch_size=1),
    ],
    ids=["people", "batch", "noise", "points", "points of eight", "photographs"],
)
def test_a_scene_is_well_formed_and_says_who_sent_what(choice):
    scene = observe(choice)
    assert images_in(parts.people(scene)) == (
        1 if choice.data is Data.POINTS else min(parts.MOST_SAMPLES, choice.people * choice.batch_size)
    )
    text = parts.server(scene)
    assert images_in(text) == (0 if choice.data is Data.POINTS else 8)
    assert ("no name on any part" if choice.people > 1 else "Bob alone") in text
    assert ("noise in it" in text) is bool(choice.noise_multiplier)
    images_in(parts.theory(parts.scene_limits(scene)))


def test_an_outcome_counts_and_escapes():
    text = parts.outcome(job(answer=answered()))
    assert "The server has 1 of 2, and can prove 1 of them." in text
    assert "a &lt;method&gt;" in text
    assert "a &amp; b" in text
    assert "not found" in text
    assert images_in(text) == 3  # two truths, one reconstruction


def test_an_outcome_without_a_reconstruction_says_why():
    refused = answered(
        found=None,
        psnr=(-math.inf,) * 2,
        certified=(False, False),
        refusal="nothing; rank <2>; no time",
        determined={"num_samples": (2.0,), "mean": (0.25, 0.5)},
    )
    text = parts.outcome(job(answer=refused))
    images_in(text)
    assert "No attack has an answer" in text
    assert "<li>rank &lt;2&gt;</li><li>no time</li>" in text
    assert "<dt>num samples</dt><dd>2</dd>" in text
    assert "0.25, 0.5" in text
    nothing = parts.outcome(job(answer=answered(psnr=(14.0, 10.0), certified=(False, False))))
    assert "none of 2 exactly, with this attack and this time." in nothing
    assert "likeness" not in nothing
    assert "No result: canceled." in parts.outcome(job(fault="canceled"))


def test_a_likeness_is_no_success_and_no_failure():
    text = parts.outcome(job(answer=answered(psnr=(33.0, -math.inf), certified=(False, False))))
    assert "none of 2 exactly" in text
    assert "Of 1 it has a likeness: much closer than a guess." in text
    assert "fp-near" in text


def test_progress_shows_the_share_of_the_time():
    text = parts.progress(job(started=time.monotonic() - 5.0))
    assert 'aria-valuenow="25"' in text
    images_in(text)
    images_in(parts.progress(job(answer=answered())))


def test_the_price_is_a_line_like_the_others():
    words = Cost(measure="test accuracy", with_defense=0.5, without=0.9, words="words")
    lines = parts.job_limits(job(answer=answered(), cost=words))
    assert [line.shown for line in lines] == ["none", "50%"]
    assert parts.job_limits(job(fault="canceled")) == []
    diverged = parts.price(Cost(measure="test loss", with_defense=math.nan, without=0.1, words="words"))
    assert diverged.shown == "training diverged"
