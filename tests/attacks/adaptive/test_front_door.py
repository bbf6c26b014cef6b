"""The front door knows the defenses: informed attacks first, plain ones where none of them has an answer."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import attacks
import fedpriv
from attacks.adaptive import ClippedInversion, NoisyInversion, PrunedInversion, SignInversion, see_through
from fedpriv.defenses import Averaging, Censor, Clip, GaussianNoise, SignSGD, Soteria, TopK
from tests.attacks.adaptive.scenes import different_digits, digits, mlp, psnr, seen_of, transcript

ONE_SAMPLE = [
    ("pruning", TopK(kept_fraction=0.1), PrunedInversion, 40.0),
    ("signs", SignSGD(), SignInversion, 13.0),
    ("noise", GaussianNoise(clip_norm=1.0, noise_multiplier=1e-3), NoisyInversion, 35.0),
    ("clipping", Clip(clip_norm=0.05), ClippedInversion, 80.0),
]
"""Defense, the attack that must be chosen, and what it reaches at least (a guess has 8 to 9 dB)."""
one_sample = pytest.mark.parametrize(
    ("defense", "attack", "least"), [row[1:] for row in ONE_SAMPLE], ids=[row[0] for row in ONE_SAMPLE]
)


def behind(defense, seed=70, n=1):
    x, y = digits(n, seed=seed)
    return seen_of(mlp(256, 64, seed=seed), x, y, [defense] if defense else [], seed=seed), x, y


def secret(observations):
    """The same evidence, had the defense been kept secret."""
    return [
        fedpriv.Observation(
            o.model,
            o.update,
            o.loss_fn,
            dataclasses.replace(o.knowledge, mechanisms=(), noise_std=0.0),
            state=o.state,
        )
        for o in observations
    ]


@one_sample
@pytest.mark.parametrize("seed", [70, 71])
def test_the_informed_attack_comes_first(defense, attack, least, seed):
    seen, x, y = behind(defense, seed)
    found = attacks.reconstruct(seen)
    assert found.method == attack.name
    assert psnr(attacks.reconstruct, seen, x) > least
    assert found.targets.tolist() == y.tolist()


@one_sample
def test_the_report_names_it_before_all_others(defense, attack, least):  # noqa: ARG001
    seen, _, _ = behind(defense)
    report = attacks.identifiability(seen)
    assert report.attacks[0].attack is attack
    assert report.attacks[0].applies
    assert attack.name in report.verdict
    assert report.verdict.startswith("Behind ")


def test_what_arrived_of_a_pruned_update_certifies_the_digit():
    seen, x, _ = behind(TopK(kept_fraction=0.1))
    found = attacks.reconstruct(seen)
    assert found.residual < 1e-4
    assert found.certified.all()
    assert float((found.inputs - x).abs().max()) < 1e-3
    assert any("about the numbers that arrived" in note for note in found.notes)


def test_a_secret_mask_does_not_deceive_into_a_certificate():
    seen, x, _ = behind(TopK(kept_fraction=0.1))
    try:
        found = attacks.reconstruct(secret(seen), time_budget=5)
    except attacks.NotIdentifiable:
        return
    assert not found.certified.any()
    assert psnr(lambda _: found, seen, x) < 20


def test_without_defenses_nothing_changes():
    seen, _, _ = behind(None)
    assert attacks.reconstruct(seen).method == "first-layer inversion"
    assert attacks.identifiability(seen).attacks[0].attack is attacks.FirstLayerInversion


def test_soteria_before_the_last_layer_gives_a_batch_and_what_is_intact_certifies_it():
    x, y = digits(4, seed=70)
    seen = seen_of(mlp(256, 64, seed=70), x, y, [Soteria(layer="5", pruned_fraction=0.4)], seed=70)
    found = attacks.reconstruct(seen)
    assert found.method == "attacks on what the defense left intact"
    assert float(fedpriv.lab.score(found, x).max_abs_error.max()) < 1e-3
    assert not found.certified.any()  # an undefended replay differs from what arrived
    assert attacks.reconstruct(see_through(tuple(seen))).certified.all()


def test_plain_attacks_follow_where_the_informed_one_refuses():
    """Two points of a linear model under noise: the informed attack knows one sample only."""
    x, y = torch.tensor([[0.2, 0.9], [0.7, 0.1]]).double(), torch.tensor([[0.0], [1.0]]).double()
    trainer = fedpriv.FederatedTrainer(
        fedpriv.models.linear(2).double(),
        fedpriv.losses.squared_error,
        {"bob": (x, y)},
        lr=0.1,
        schedule="fedsgd",
        defenses=[GaussianNoise(clip_norm=100.0, noise_multiplier=1e-9)],
        generator=torch.Generator().manual_seed(70),
    )
    seen = trainer.run(rounds=6).transcript.observations("bob")
    known = [
        fedpriv.Observation(
            o.model, o.update, o.loss_fn, dataclasses.replace(o.knowledge, num_samples=2), state=o.state
        )
        for o in seen
    ]
    report = attacks.identifiability(known)
    assert not report.attacks[0].applies
    assert attacks.reconstruct(known).method == "moment inversion"


def test_refusals_of_informed_attacks_are_listed_first():
    x, y = digits(4, seed=70)
    seen = seen_of(mlp(64, seed=70), x, y, [GaussianNoise(clip_norm=1.0, noise_multiplier=2.0)], seed=70)
    with pytest.raises(attacks.NotIdentifiable, match="no time left") as refusal:
        attacks.reconstruct(seen, time_budget=1e-9)
    assert str(refusal.value).index(NoisyInversion.name) < str(refusal.value).index("first-layer inversion")


def test_censor_has_no_informed_attack_and_holds():
    seen, x, _ = behind(Censor())
    assert psnr(attacks.reconstruct, seen, x, time_budget=5) < 12


def test_a_client_that_joins_between_two_averages_is_read_off():
    """The trusted aggregator's means over all clients, and over all but one, at the same model."""
    model = mlp(128, 64, seed=70).double()
    x, y = different_digits(3, seed=70)
    clients = {name: (x[i : i + 1], y[i : i + 1]) for i, name in enumerate(("ann", "bob", "cem"))}
    everybody = transcript(model, clients, [Averaging()], seed=70).observations("aggregator")
    fewer = {name: data for name, data in clients.items() if name != "bob"}
    others = transcript(model, fewer, [Averaging()], seed=70).observations("aggregator")
    found = attacks.reconstruct([*everybody, *others])
    assert found.method == "differencing of averaged rounds"
    assert any("data of bob" in note for note in found.notes)
    assert float((found.inputs - x[1:2]).abs().max()) < 1e-6
