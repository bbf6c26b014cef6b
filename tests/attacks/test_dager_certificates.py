"""Certificates of recovered text: given to the truth, never to anything else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from attacks.certificate import judge
from attacks.exact.dager import TokenSpanInversion
from fedpriv.transformer import decoder, encoder
from fedpriv.wire import Observation

VOCABULARY = 100


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def observed(dtype, seed, count=4, length=6):
    model = decoder(VOCABULARY, length=length, generator=seeded(seed)).to(dtype)
    words = torch.randint(VOCABULARY, (count, length + 1), generator=seeded(seed + 1))
    gradient = torch.autograd.grad(
        cross_entropy(model(words[:, :-1]), words[:, 1:]), list(model.parameters())
    )
    return Observation(model, gradient, cross_entropy), words


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_the_truth_is_certified(dtype):
    for seed in range(3):
        observation, words = observed(dtype, seed)
        found = TokenSpanInversion()(observation)
        assert sorted(found.inputs.tolist()) == sorted(words[:, :-1].tolist())
        assert found.certified.tolist() == [True] * 4
        assert found.residual < (1e-12 if dtype == torch.float64 else 1e-5)


def test_an_encoder_is_certified():
    model = encoder(VOCABULARY, 3, length=6, generator=seeded(5))
    words, classes = torch.randint(1, VOCABULARY, (2, 4), generator=seeded(6)), torch.tensor([2, 0])
    gradient = torch.autograd.grad(cross_entropy(model(words), classes), list(model.parameters()))
    found = TokenSpanInversion()(Observation(model, gradient, cross_entropy))
    assert found.certified.all()


def test_every_wrong_token_and_every_wrong_label_is_refused():
    observation, words = observed(torch.float32, 10, count=2, length=3)
    inputs, targets = words[:, :-1], words[:, 1:]

    def oracle(_):
        pytest.fail("a wrong answer must not come as far as a second attack")

    for place in range(6):
        for tensor, other in ((inputs, targets), (targets, inputs)):
            for token in range(0, VOCABULARY, 9):
                wrong = tensor.clone()
                if int(wrong.view(-1)[place]) == token:
                    continue
                wrong.view(-1)[place] = token
                claim = (wrong, other) if tensor is inputs else (other, wrong)
                assert not judge((observation,), *claim, oracle).certified.any()


class Liar(TokenSpanInversion):
    """Finds the truth and claims it, but returns the same answer for any other data."""

    def run(self, observations, *, generator, deadline):
        if not hasattr(Liar, "kept"):
            Liar.kept = super().run(observations, generator=generator, deadline=deadline)
        return replace(Liar.kept, assumed=None)


def test_an_attack_that_does_not_follow_the_data_gets_no_certificate():
    observation, _ = observed(torch.float64, 20)
    found = Liar()(observation)
    assert found.residual < 1e-12
    assert not found.certified.any()
    assert any("did not follow when other tokens" in note for note in found.notes)
