"""Several local steps: what is refused, in which words."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch.nn.functional as F
from torch import nn

import fedpriv
from attacks import NotIdentifiable
from attacks.exact.local_steps import LocalStepsInversion
from fedpriv import Observation
from fedpriv.defenses import Averaging
from tests.attacks.consistency_scenes import digits, model_for
from tests.attacks.local_steps_scenes import returned
from tests.attacks.scenes import same, seeded, snapshot, with_knowledge


def refusal(observation):
    with pytest.raises(NotIdentifiable) as refused:
        LocalStepsInversion()(observation)
    return str(refused.value)


@pytest.fixture(scope="module")
def seen():
    x, y = digits(4, seed=42)
    return returned(x, y, steps=2, lr=0.1, width=32)


def test_one_step_belongs_to_the_attacks_on_gradients(seen):
    (single,) = with_knowledge([seen], local_steps=1)
    assert "a single step" in refusal(single)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"noise_std": 1e-3}, "noise of standard deviation 0.001"),
        ({"batch_size": 2}, "the row space of the first layer's change still is the span"),
        ({"learning_rate": None}, "pass knowledge|only with Knowledge"),
    ],
)
def test_refuses_with_the_reason(seen, settings, sentence):
    (other,) = with_knowledge([seen], **settings)
    assert any(part in refusal(other) for part in sentence.split("|"))


def with_tensors(observation, tensors, *, model=None):
    """The same observation, had these tensors come back."""
    update = dataclasses.replace(observation.update, tensors=tensors)
    return Observation(
        model or observation.model,
        update,
        observation.loss_fn,
        observation.knowledge,
        state=observation.state,
    )


def test_a_model_that_did_not_change_is_refused_in_words(seen):
    unchanged = {name: seen.state[name] for name in seen.update.tensors}
    assert "zero up to rounding: nothing of" in refusal(with_tensors(seen, unchanged))


@pytest.mark.parametrize("layer", [0, 1])
def test_a_frozen_layer_is_refused_by_name(seen, layer):
    model = copy.deepcopy(seen.model)
    name = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)][layer]
    model.get_parameter(f"{name}.weight").requires_grad_(False)
    rest = {n: t for n, t in seen.update.tensors.items() if n != f"{name}.weight"}
    assert f"linear layer '{name}' is frozen" in refusal(with_tensors(seen, rest, model=model))


def test_the_evidence_stays_as_it_was(seen):
    before = snapshot(seen)
    LocalStepsInversion()(seen)
    assert same(before, snapshot(seen))


def test_refuses_averages_of_several_clients():
    x, y = digits(4, seed=44)
    trainer = fedpriv.FederatedTrainer(
        model_for(x, width=32),
        F.cross_entropy,
        {"bob": (x[:2], y[:2]), "alice": (x[2:], y[2:])},
        lr=0.1,
        local_steps=2,
        schedule=fedpriv.FedAvg(),
        defenses=[Averaging()],
    )
    (observation,) = trainer.run(rounds=1).transcript.observations("aggregator")
    assert "average of 2 clients' local training" in refusal(observation)


@pytest.mark.parametrize(
    ("n", "layers", "sentence"),
    [
        (
            40,
            [nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)],
            "shows no rank",
        ),
        (9, [nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10)], "at width 16"),
        (8, [nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)], "4 outputs are too few"),
        (4, [nn.Linear(64, 32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)], "nothing nonlinear"),
        (
            4,
            [nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)],
            "no bias",
        ),
        (4, [nn.Conv1d(64, 8, 1), nn.Flatten(), nn.ReLU(), nn.Linear(8, 10)], "no linear layer sees"),
    ],
)
def test_says_which_layer_hides_the_batch(n, layers, sentence):
    x, y = digits(n, seed=45)
    x = x.flatten(1)
    if isinstance(layers[0], nn.Conv1d):
        x = x[:, :, None]
    model = fedpriv.models.initialize(nn.Sequential(*layers), seeded(1)).double()
    observation = returned(x, y % list(model.modules())[-1].out_features, steps=2, lr=0.1, model=model)
    (told,) = with_knowledge([observation], input_shape=tuple(x.shape[1:]))
    assert sentence in refusal(told)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="starts must be 1 or more, got 0"):
        LocalStepsInversion(starts=0)
