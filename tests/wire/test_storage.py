"""What is saved comes back, whatever the model; without pickle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fedpriv
from fedpriv.losses import NAMED, name_of, squared_error
from fedpriv.wire import Exchange, Knowledge, Observation, Transcript, Update, architecture
from fedpriv.wire import storage as storage_module


def everything():
    """One of each kind of layer that a file can describe."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect", bias=False),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Conv2d(4, 2, (3, 1), stride=(1, 2)),
        nn.AvgPool2d(2, stride=1, count_include_pad=False),
        nn.AdaptiveAvgPool2d((2, 2)),
        nn.Flatten(),
        nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5, affine=False), nn.GELU("tanh"), nn.Dropout(0.25)),
        nn.ELU(0.5),
        nn.Softplus(beta=2.0),
        nn.Linear(5, 3, bias=False),
    )


def observation(model, loss_fn=F.cross_entropy, knowledge=None):
    update = [torch.randn_like(p) for p in model.parameters()]
    return Observation(model, update, loss_fn, knowledge or Knowledge(num_samples=1))


def same_tensors(a, b):
    return list(a) == list(b) and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_an_observation_comes_back(tmp_path, dtype):
    saved = observation(everything().to(dtype), knowledge=Knowledge(input_shape=(1, 8, 8), noise_std=0.5))
    loaded = Observation.load(saved.save(tmp_path / "seen.safetensors"))
    assert same_tensors(saved.state, loaded.state)
    assert same_tensors(saved.update.tensors, loaded.update.tensors)
    assert (loaded.knowledge, loaded.loss_fn) == (saved.knowledge, F.cross_entropy)
    assert architecture.describe(loaded.model) == architecture.describe(saved.model)
    assert [p.name for p in tmp_path.iterdir()] == ["seen.safetensors"]


def test_the_model_that_comes_back_computes_the_same(tmp_path):
    model = everything().eval()
    model[0].weight.requires_grad_(False)
    loaded = Observation.load(observation(model).save(tmp_path / "seen")).model
    loaded.load_state_dict(model.state_dict())
    x = torch.randn(4, 1, 9, 9)
    assert torch.equal(loaded(x), model(x))
    assert not loaded.training
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]


def test_a_layer_that_is_used_twice_comes_back_twice(tmp_path):
    shared = nn.Tanh()
    model = nn.Sequential(nn.Linear(2, 3), shared, nn.Linear(3, 3), shared)
    loaded = Observation.load(observation(model).save(tmp_path / "seen")).model
    assert len(loaded) == 4


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.scale * self.layer(x)


def tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    return model


def with_extra_parameter():
    model = nn.Sequential(nn.Linear(2, 3))
    model.register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    return model


def with_hook():
    model = nn.Sequential(nn.Linear(2, 3))
    model[0].register_forward_hook(lambda _layer, _args, out: 2 * out)
    return model


@pytest.mark.parametrize("make", [Custom, tied, with_extra_parameter, with_hook])
def test_a_model_that_no_description_gives_again_must_be_passed(tmp_path, make):
    model = make()
    saved = observation(model)
    path = saved.save(tmp_path / "seen")
    with pytest.raises(ValueError, match=r"cannot be described without code; pass the module"):
        Observation.load(path)
    loaded = Observation.load(path, model=model)
    assert same_tensors(saved.state, loaded.state)
    with pytest.raises(ValueError, match="belongs to another model"):
        Observation.load(path, model=nn.Linear(7, 1))


def test_a_loss_without_a_name_must_be_passed(tmp_path):
    def loss(outputs, targets):
        return (outputs - targets).abs().pow(3).sum()

    path = observation(nn.Linear(2, 1), loss).save(tmp_path / "seen")
    with pytest.raises(ValueError, match=r"a loss without a name; pass it, as in load\(path, loss_fn=...\)"):
        Observation.load(path)
    assert Observation.load(path, loss_fn=loss).loss_fn is loss


@pytest.mark.parametrize("name", NAMED)
def test_losses_know_their_names(name):
    assert name_of(NAMED[name]) == name
    assert name_of(lambda outputs, targets: NAMED[name](outputs, targets)) == name
    assert name_of(lambda outputs, targets: 1.001 * NAMED[name](outputs, targets)) is None


def test_a_loss_that_takes_more_kinds_of_targets_is_not_the_named_one():
    def either(outputs, targets):
        return (
            F.mse_loss(outputs, targets) if targets.is_floating_point() else F.cross_entropy(outputs, targets)
        )

    assert name_of(either) is None


def test_a_loss_may_refuse_with_any_exception():
    def picky(_outputs, _targets):
        raise KeyError("no")

    assert name_of(picky) is None


def transcript():
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    clients = {"bob": (x, x[:, :1]), "alice": (x + 1, x[:, 1:])}
    trainer = fedpriv.FederatedTrainer(nn.Linear(2, 1), squared_error, clients, lr=0.1)
    return trainer.run(rounds=3).transcript


def test_a_transcript_comes_back(tmp_path):
    saved = transcript()
    loaded = Transcript.load(saved.save(tmp_path / "run.safetensors"))
    assert loaded.clients == saved.clients
    assert loaded.knowledge == saved.knowledge
    for one, other in zip(saved, loaded, strict=True):
        assert same_tensors(one.sent, other.sent)
        assert same_tensors(one.update.tensors, other.update.tensors)
        for name in ("kind", "sender", "contributors", "round", "num_samples"):
            assert getattr(one.update, name) == getattr(other.update, name)


def test_a_model_sent_to_many_is_stored_once(tmp_path):
    model = nn.Linear(1000, 1)
    sent = Observation(model, [torch.zeros(1, 1000), torch.zeros(1)], F.mse_loss).state
    small = {"weight": torch.zeros(1, 1000), "bias": torch.zeros(1)}
    visits = [
        Exchange(sent=sent, update=Update(kind="gradient", tensors=small, sender=f"client {i}"))
        for i in range(20)
    ]
    path = Transcript(visits, model=model, loss_fn=F.mse_loss).save(tmp_path / "run")
    assert path.stat().st_size < 22 * 4 * 1001 + 20_000
    assert len(Transcript.load(path).clients) == 20


def test_an_empty_transcript_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="the transcript is empty; run at least one round"):
        Transcript([], model=nn.Linear(2, 1), loss_fn=F.mse_loss).save(tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_transcript_of_another_model(tmp_path):
    path = transcript().save(tmp_path / "run")
    with pytest.raises(ValueError, match="pass the model of this training run"):
        Transcript.load(path, model=nn.Linear(3, 1))


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = observation(nn.Linear(2, 1)).save(tmp_path / "seen")
    before = path.read_bytes()

    def breaks(_tensors, name, **_):
        Path(name).write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(storage_module, "save_file", breaks)
    with pytest.raises(OSError, match="disk full"):
        observation(nn.Linear(2, 1)).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["seen"]


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*missing; create it"):
        observation(nn.Linear(2, 1)).save(tmp_path / "missing" / "seen")
