"""Bring your own gradients: the check that the model could have sent them, before the attack."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fedpriv import Knowledge, Observation
from fedpriv.cli.fit import check_fit
from tests.own_scenes import LR, after, batch, gradient, net, spoil


def observation(model, step, **knowledge):
    return Observation(model, step, cross_entropy, Knowledge(input_shape=(1, 8, 8), **knowledge))


def test_a_true_update_passes_the_check_for_many_seeds():
    for seed in range(5):
        model = net(seed)
        assert (
            check_fit(observation(model, gradient(model, batch(4, seed)), num_samples=4)).disagreements == ()
        )
        returned = Observation.from_state_dicts(
            model.state_dict(), after(model), lr=LR, model=model, loss_fn=cross_entropy
        )
        assert check_fit(returned).disagreements == ()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda step: {n: 0 * t for n, t in step.items()}, "zero for every parameter"),
        (lambda step: spoil(step, "3.weight", lambda t: 1e6 * t), r"'3.weight' moved 10\^\+6"),
        (
            lambda step: spoil(step, "5.bias", lambda t: t + 1),
            "'5.bias' must sum to zero for this model and loss, .* and sums to 5",
        ),
        (lambda step: {n: 1e9 * t for n, t in step.items()}, r"the whole update is 10\^9"),
        (
            lambda step: spoil(step, "3.weight", torch.randn_like),
            "'3.weight' has rank 24, .* at most 3 with --num-samples 3",
        ),
    ],
)
def test_the_check_names_the_parameter_that_disagrees(change, sentence):
    torch.manual_seed(3)
    model = net()
    fit = check_fit(observation(model, change(gradient(model)), num_samples=3))
    with pytest.raises(ValueError, match=sentence):
        fit.demand()


def test_a_parameter_without_influence_that_moved_is_named():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.used(x)

    model = Two()
    step = {n: torch.ones_like(p) for n, p in model.named_parameters()}
    fit = check_fit(Observation(model, step, cross_entropy))
    assert any("'unused.weight' has no influence" in s for s in fit.disagreements)


def test_where_nothing_can_be_replayed_the_check_says_so_and_lets_pass():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    step = [torch.ones_like(p) for p in model.parameters()]
    (note,) = check_fit(Observation(model, step, cross_entropy)).notes
    assert "--input-shape" in note
