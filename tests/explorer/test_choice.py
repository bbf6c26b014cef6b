"""What can be chosen, and the sentence where it cannot."""

from __future__ import annotations

import pickle

import pytest

from fedpriv.lab.explore import Choice, Data, Model


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data": Data.POINTS, "model": Model.LENET}, "does not take points in the plane; choose one linear"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1 to 32 for handwritten digits, got 0"),
        ({"batch_size": 9, "data": Data.FACES}, "from 1 to 8 for faces, got 9"),
        ({"batch_size": 1.5}, "got 1.5"),
        ({"people": 9}, "people must be a whole number from 1 to 8"),
        ({"visits": 0}, "visits must be a whole number from 1 to 8"),
        ({"clip_norm": 0.0}, "clip_norm must be a positive number or None, got 0.0"),
        ({"clip_norm": float("inf")}, "clip_norm must be a positive number"),
        ({"noise_multiplier": -1.0, "clip_norm": 1.0}, "noise_multiplier must be a number of 0 or more"),
        ({"noise_multiplier": float("nan"), "clip_norm": 1.0}, "noise_multiplier must be a number"),
        ({"noise_multiplier": 1.0}, "choose a clip norm"),
        ({"seed": -1}, "seed must be a whole number of 0 or more"),
        ({"time_budget": 0.0}, "time_budget must be above 0 and at most 300 s"),
        ({"time_budget": 301.0}, "got 301.0"),
    ],
)
def test_what_does_not_work_is_said_in_a_sentence(values, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        Choice(**values)


@pytest.mark.parametrize("data", list(Data), ids=lambda data: data.name)
def test_the_largest_batch_on_the_page_is_allowed(data):
    for model in data.models:
        assert Choice(data=data, model=model, batch_size=data.max_batch).model is model


def test_a_choice_survives_the_way_to_another_process():
    choice = Choice(data=Data.POINTS, model=Model.LINEAR, visits=3, clip_norm=2.0)
    assert pickle.loads(pickle.dumps(choice)) == choice
