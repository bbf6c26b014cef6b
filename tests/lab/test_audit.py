"""An audit finds what leaks, blames nothing that does not, and never tells the attack the truth."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import attacks
import fedpriv
from fedpriv import defenses
from fedpriv.cli.specification import _kinds, named_defense
from fedpriv.defenses import Aggregator, Averaging, Clip, GaussianNoise, Krum
from fedpriv.lab.audit import CLOSER, Setting, Trial, audit

NEEDED = {"DPSGD": "denominator=2", "PerSampleClip": "denominator=2", "Soteria": "layer=3"}


def net(seed=0):
    return fedpriv.models.mlp([64, 32, 16, 10], generator=torch.Generator().manual_seed(seed))


def audited(chain=(), *, seed=1, trials=1, model=None, **setting):
    inputs, targets = fedpriv.data.digits()
    return audit(
        model or net(),
        cross_entropy,
        inputs,
        targets,
        settings=[Setting(**({"batch_size": 2, "rounds": 1} | setting))],
        defenses=chain,
        trials=trials,
        time_budget=1.0,
        generator=torch.Generator().manual_seed(seed),
    )


def test_undefended_training_leaks_and_is_proven():
    trials = audited(trials=3)
    assert len(trials) == 3
    assert all(t.leaked() == t.certified == 2 and t.epsilon == math.inf for t in trials)
    assert not any(t.defended for t in trials)


def test_noise_is_accounted_and_holds_beside_the_undefended():
    bare, noisy = audited([GaussianNoise(clip_norm=1.0, noise_multiplier=2.0)], rounds=3)
    assert (bare.defended, bare.leaked()) == (False, 2)
    assert (noisy.defended, noisy.leaked(), noisy.certified, noisy.unit) == (True, 0, 0, "client")
    expected = fedpriv.privacy.epsilon(noise_multiplier=2.0, delta=1e-5, rounds=3)
    assert noisy.epsilon == pytest.approx(expected, rel=1e-6)


def test_an_average_pools_everybody():
    _, pooled = audited([Clip(clip_norm=100.0), Averaging()], people=3)
    assert len(pooled.truth) == 6
    assert pooled.leaked() == 6


def test_of_krum_the_server_knows_that_one_client_is_passed_on():
    _, passed = audited([Krum()], people=3)
    assert (len(passed.truth), passed.leaked(), passed.certified) == (6, 2, 2)


def test_dp_sgd_is_accounted_for_single_samples():
    _, trial = audited([defenses.DPSGD(noise_multiplier=1.0, denominator=2.0)])
    assert trial.unit == "sample"
    assert 0 < trial.epsilon < 100


@pytest.mark.parametrize(("name", "local_steps"), [("TopK", 2), ("SignSGD", 1), ("Median", 1)])
def test_a_defense_can_be_audited(name, local_steps):
    audited_behind(name, local_steps)


@pytest.mark.slow
@pytest.mark.parametrize("local_steps", [1, 2])
@pytest.mark.parametrize("name", [name for name in _kinds() if name not in {"MixUp", "InstaHide"}])
def test_every_defense_can_be_audited(name, local_steps):
    audited_behind(name, local_steps)


def audited_behind(name, local_steps):
    chosen = named_defense(f"{name}:{NEEDED[name]}" if name in NEEDED else name)
    people = 3 if isinstance(chosen, Aggregator) else 1
    *_, trial = audited([chosen], people=people, local_steps=local_steps)
    assert trial.defended
    assert bool(trial.refusal) == (trial.found is None)


def test_a_leak_beats_the_threshold_and_the_guess():
    kept = {"truth": torch.zeros(3, 1), "found": None, "certified": 0, "method": "", "citation": ""}
    trial = Trial(
        **kept,
        setting=Setting(batch_size=3),
        defended=False,
        psnr=(29.9, 30.0, 30.0),
        guess_psnr=(5.0, 24.0, 24.1),
        refusal="",
        epsilon=math.inf,
        unit="",
    )
    assert trial.leaked() == 1
    assert trial.leaked(30.0 - CLOSER) == 2


def test_the_attack_gets_the_transcript_and_the_number_alone(monkeypatch):
    seen = []

    def attack(evidence, **given):
        seen.append((evidence, given))
        raise attacks.NotIdentifiable("nothing here")

    monkeypatch.setattr(attacks, "reconstruct", attack)
    (trial,) = audited()
    ((evidence, given),) = seen
    assert isinstance(evidence, fedpriv.Transcript)
    assert evidence.knowledge.num_samples == 2
    assert set(given) == {"client", "time_budget", "generator"}
    assert trial.psnr == (-math.inf, -math.inf)
    assert trial.refusal == "nothing here"


def test_nothing_is_changed_and_the_same_seed_repeats():
    model = net()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    one, two = (audited(model=model, seed=5)[0] for _ in range(2))
    assert torch.equal(one.truth, two.truth)
    assert torch.equal(one.found, two.found)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_too_few_samples_is_a_sentence():
    x, y, g = torch.rand(5, 64), torch.zeros(5, dtype=torch.int64), torch.Generator()
    with pytest.raises(ValueError, match=r"2 clients with 3 samples each need 6 samples, got 5"):
        audit(net(), cross_entropy, x, y, settings=[Setting(batch_size=3, people=2)], generator=g)
    with pytest.raises(ValueError, match="one target for each of 5 samples"):
        audit(nn.Linear(64, 2), cross_entropy, x, y[:4], settings=[Setting(batch_size=3)], generator=g)
