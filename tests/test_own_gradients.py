"""Bring your own gradients: files of other software, a model by name, and a check before the attack."""

import io
import json
import struct
import sys
import zipfile

import matplotlib.image
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy

import attacks
from fedpriv import Knowledge, Observation
from fedpriv.cli import main
from fedpriv.cli.fit import check_fit
from fedpriv.wire.loaders import load_arrays
from fedpriv.wire.npy import read_npy, to_npy

SHOP = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        layers = nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 5)
        super().__init__(nn.Flatten(), *layers)

def broken():
    raise OSError("no disk")

number = 3
"""
LR = 0.1


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 5)
        )


@pytest.fixture
def shop(tmp_path, monkeypatch):
    (tmp_path / "shop_of_a_test.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "shop_of_a_test"
    sys.modules.pop("shop_of_a_test", None)


def net(seed=0):
    torch.manual_seed(seed)
    return Net()


def batch(n=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n) % 5


def gradient(model, data=None):
    inputs, labels = data or batch()
    loss = cross_entropy(model(inputs), labels)
    return dict(
        zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True)
    )


def after(model, data=None):
    step = gradient(model, data)
    return {name: (p - LR * step[name]).detach() for name, p in model.named_parameters()}


def arrays(tensors, prefix=""):
    return {prefix + name: tensor.detach().numpy() for name, tensor in tensors.items()}


def cli(*arguments, code=0, capsys=None):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    assert ended.value.code == code, captured.err
    return captured.out if code < 2 else captured.err


# --- loaders


def test_two_state_dicts_give_the_gradient():
    model = net()
    seen = Observation.from_state_dicts(
        model.state_dict(),
        after(model),
        lr=LR,
        model=Net(),
        loss_fn=cross_entropy,
        knowledge=Knowledge(num_samples=3),
    )
    assert seen.knowledge == Knowledge(num_samples=3, learning_rate=LR)
    for name, tensor in gradient(model).items():
        assert torch.allclose(seen.gradient()[name].float(), tensor, atol=2e-6)


@pytest.mark.parametrize("form", ["named", "prefixed", "numbered", "both", "safetensors"])
def test_every_form_of_file_gives_the_same_observation(form, tmp_path):
    model, path = net(), tmp_path / "update.npz"
    step = gradient(model)
    sent = arrays(model.state_dict(), "before/")
    if form == "named":
        np.savez(path, **sent, **arrays(step))
    elif form == "prefixed":
        np.savez_compressed(path, **sent, **arrays(step, "gradient/"))
    elif form == "numbered":
        np.savez(path, *[tensor.numpy() for tensor in step.values()], **sent)
    elif form == "safetensors":
        save_file({f"before/{n}": t for n, t in model.state_dict().items()} | step, path)
    else:
        np.savez(path, **sent, **arrays(after(model), "after/"))
    seen = Observation.from_npz(
        path, model=Net(), loss_fn=cross_entropy, knowledge=Knowledge(learning_rate=LR)
    )
    assert torch.equal(seen.state["1.weight"], model[1].weight.detach())
    for name, tensor in step.items():
        assert torch.allclose(seen.gradient()[name].float(), tensor, atol=2e-6 if form == "both" else 0)


def test_without_the_sent_model_the_models_own_values_count(tmp_path):
    model = net()
    np.savez(tmp_path / "g.npz", **arrays(gradient(model)))
    seen = Observation.from_npz(tmp_path / "g.npz", model=model, loss_fn=cross_entropy)
    assert torch.equal(seen.state["1.weight"], model[1].weight.detach())


def good():
    return arrays(gradient(net()))


WRONG = {
    "missing": (lambda g: {n: a for n, a in g.items() if n != "3.bias"}, r"\['3.bias'\] are missing"),
    "surplus": (lambda g: {**g, "head": g["3.bias"]}, r"\['head'\] are not in the model"),
    "shape": (
        lambda g: {**g, "3.bias": g["1.bias"]},
        r"'?gradient/3.bias'? must have shape \(24,\), got \(48,\)",
    ),
    "NaN": (lambda g: {**g, "3.bias": g["3.bias"] * np.nan}, "'3.bias' contains NaN"),
    "text": (lambda g: {**g, "3.bias": np.array(["a"] * 24)}, "must hold real or whole numbers"),
    "complex": (lambda g: {**g, "3.bias": g["3.bias"] * 1j}, "must hold real or whole numbers"),
    "groups": (lambda g: {f"after/{n}": a for n, a in g.items()}, "without the one that was sent"),
    "empty": (lambda g: {}, "expected 1 to"),  # noqa: ARG005
}


@pytest.mark.parametrize("case", WRONG)
def test_files_that_do_not_fit_are_refused_with_the_parameter(case, tmp_path):
    change, sentence = WRONG[case]
    np.savez(tmp_path / "g.npz", **change(good()))
    with pytest.raises(ValueError, match=sentence):
        Observation.from_npz(tmp_path / "g.npz", model=net(), loss_fn=cross_entropy)


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_objects_are_never_unpickled(tmp_path):
    content = good() | {"3.bias": np.array([Bomb()] * 24, dtype=object)}
    np.savez(tmp_path / "g.npz", **content)
    with pytest.raises(ValueError, match="nothing is unpickled"):
        Observation.from_npz(tmp_path / "g.npz", model=net(), loss_fn=cross_entropy)


def header(shape, descr="<f4", extra=b""):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".encode() + extra
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    "data",
    [
        header((10**12,)) + b"\0" * 8,
        header((2,)) + b"\0" * 4,
        header((2,)) + b"\0" * 12,
        header((-2, -1)) + b"\0" * 8,
        header((2,), "|O") + b"\0" * 16,
        header("(" * 3000)[:60],
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        b"\x93NUMPY\x09\x00",
        b"\x80\x04\x95",
        b"",
    ],
)
def test_a_lying_header_takes_no_memory_and_gives_a_sentence(data):
    with pytest.raises(ValueError, match="an array"):
        read_npy(io.BytesIO(data), len(data), what="an array")


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.float32, torch.float64, torch.int64, torch.bool, torch.uint8]
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_arrays_survive_the_way_there_and_back(dtype, shape):
    tensor = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    data = to_npy(tensor)
    back = read_npy(io.BytesIO(data), len(data), what="it")
    assert back.dtype == dtype
    assert torch.equal(back, tensor)


def test_a_truncated_file_at_every_length_is_a_sentence_or_whole(tmp_path):
    path = tmp_path / "g.npz"
    np.savez_compressed(path, **good())
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="was it cut off"):
            load_arrays(path, net())


def test_a_zip_whose_directory_lies_about_sizes_is_refused(tmp_path):
    path = tmp_path / "g.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, array in good().items():
            extra = b"\0" * 50_000_000 if name == "1.weight" else b""
            file.writestr(f"{name}.npy", to_npy(torch.from_numpy(array)) + extra)
    with pytest.raises(ValueError, match=r"gradient/1\.weight announces"):
        load_arrays(path, net())


# --- the replay check


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


def spoil(step, name, change):
    return {n: change(t) if n == name else t for n, t in step.items()}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda step: {n: 0 * t for n, t in step.items()}, "zero for every parameter"),
        (lambda step: spoil(step, "3.weight", lambda t: 1e6 * t), r"'3.weight' moved 10\^\+6"),
        (lambda step: spoil(step, "5.bias", lambda t: t + 1), "'5.bias' breaks 1 relation"),
        (lambda step: {n: 1e9 * t for n, t in step.items()}, r"the whole update is 10\^9"),
        (lambda step: spoil(step, "3.weight", torch.randn_like), "'3.weight' has rank 24, .* at most 3"),
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


# --- the command line


def test_a_gradient_of_ones_own_becomes_pictures_json_and_an_exit_code(shop, capsys):
    model = net()
    np.savez("g.npz", **arrays(model.state_dict(), "before/"), **arrays(gradient(model)))
    options = ["--model", f"{shop}:Net", "--loss", "cross_entropy", "--input-shape", "1,8,8", "--out", "o"]
    result = json.loads(cli("attack", "g.npz", *options, "--json", capsys=capsys))
    assert all(result["certified"])
    found = torch.tensor(result["inputs"])
    inputs, labels = batch()
    nearest = torch.cdist(inputs.flatten(1), found.flatten(1).float()).min(1)
    assert float(nearest.values.max()) < 1e-3
    assert [result["targets"][k] for k in nearest.indices] == labels.tolist()
    assert [row["name"] for row in result["replay_check"]] == list(gradient(model))
    assert matplotlib.image.imread("o/g-reconstruction.png").shape[2] == 4
    assert "certified: 3" in cli("attack", "g.npz", *options, "--fail-on-leak", code=1, capsys=capsys)


def test_a_returned_model_of_ones_own_leaks_too(shop, capsys):
    model = net()
    save_file(dict(model.state_dict()), "before.safetensors")
    np.savez("after.npz", **arrays(after(model)))
    options = ["--model", f"{shop}:Net", "--loss", "cross_entropy", "--out", "o", "--json"]
    result = json.loads(
        cli("attack", "after.npz", "--before", "before.safetensors", "--lr", LR, *options, capsys=capsys)
    )
    found = torch.tensor(result["inputs"]).float()
    assert float(torch.cdist(batch()[0].flatten(1), found.flatten(1)).min(1).values.max()) < 1e-2
    sentence = cli("attack", "after.npz", "--before", "before.safetensors", *options, code=2, capsys=capsys)
    assert "--lr 0.1" in sentence


def test_the_wrong_weights_are_noticed_before_an_hour_is_lost(shop, capsys):
    other = spoil(gradient(net()), "5.bias", lambda t: t + 1)
    np.savez("g.npz", **arrays(other))
    options = ["g.npz", "--model", f"{shop}:Net", "--loss", "cross_entropy", "--out", "o"]
    assert "'5.bias' breaks 1 relation" in cli("attack", *options, code=2, capsys=capsys)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "--model MODULE:FACTORY and --loss NAME are needed"),
        (["--model", "{}:Net"], "--loss NAME are needed"),
        (["--model", "{}:Net", "--loss", "hinge"], "--loss must be one of"),
        (["--model", "{}", "--loss", "cross_entropy"], "must be MODULE:NAME"),
        (["--model", "{}:Nothing", "--loss", "cross_entropy"], "has no 'Nothing'"),
        (["--model", "no_such_module:Net", "--loss", "cross_entropy"], "cannot be imported"),
        (["--model", "{}:broken", "--loss", "cross_entropy"], "calling it raised OSError: no disk"),
        (["--model", "{}:number", "--loss", "cross_entropy"], "TypeError"),
        (["--model", "{}:Net", "--loss", "{}:number"], "must be callable"),
        (["--model", "{}:Net", "--loss", "cross_entropy", "--input-shape", "a"], "whole numbers such as"),
    ],
)
def test_bad_options_are_one_sentence(shop, capsys, options, sentence):
    np.savez("g.npz", **good())
    error = cli("attack", "g.npz", *[o.format(shop) for o in options], code=2, capsys=capsys)
    assert sentence in error
    assert error.count("\n") == 1


def test_pickles_are_not_even_opened(shop, capsys, tmp_path):
    torch.save({"weight": Bomb()}, tmp_path / "model.pt")
    sentence = cli(
        "attack", "model.pt", "--model", f"{shop}:Net", "--loss", "cross_entropy", code=2, capsys=capsys
    )
    assert "may hold a pickle" in sentence


def test_no_module_is_imported_unless_it_is_named(shop, capsys):
    np.savez("g.npz", **good())
    cli("attack", "g.npz", code=2, capsys=capsys)
    assert shop not in sys.modules


def test_the_answer_of_the_library_and_of_the_command_line_agree(shop, capsys):
    model = net()
    np.savez("g.npz", **arrays(model.state_dict(), "before/"), **arrays(gradient(model)))
    seen = Observation.from_npz("g.npz", model=Net(), loss_fn=cross_entropy)
    found = attacks.reconstruct(seen)
    options = ["--model", f"{shop}:Net", "--loss", "cross_entropy", "--out", "o", "--json"]
    result = json.loads(cli("attack", "g.npz", *options, capsys=capsys))
    assert torch.allclose(torch.tensor(result["inputs"]), found.inputs.to(torch.float32), atol=1e-6)
