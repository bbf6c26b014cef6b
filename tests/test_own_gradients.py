"""Bring your own gradients: files of other software."""

import io
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from fedpriv import Knowledge, Observation
from fedpriv.wire.loaders import load_arrays
from fedpriv.wire.npy import read_npy, to_npy
from tests.own_scenes import LR, Bomb, Net, after, arrays, good, gradient, net


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


WRONG = {
    "missing": (
        lambda g: {n: a for n, a in g.items() if n != "3.bias"},
        r"but '3\.bias' is missing; it belongs",
    ),
    "surplus": (lambda g: {**g, "head": g["3.bias"]}, "but 'head' is not in the model; it belongs"),
    "shape": (
        lambda g: {**g, "3.bias": g["1.bias"]},
        r"'?gradient/3.bias'? must have shape \(24,\), got \(48,\)",
    ),
    "NaN": (lambda g: {**g, "3.bias": g["3.bias"] * np.nan}, "'3.bias' contains NaN"),
    "text": (lambda g: {**g, "3.bias": np.array(["a"] * 24)}, "must hold real or whole numbers"),
    "complex": (lambda g: {**g, "3.bias": g["3.bias"] * 1j}, "must hold real or whole numbers"),
    "other": (
        lambda g: {f"{n}2": a for n, a in g.items()},
        r"'5\.weight' and 1 more are missing and '1\.weight2', .* are not in the model",
    ),
    "groups": (lambda g: {f"after/{n}": a for n, a in g.items()}, "without the one that was sent"),
    "empty": (lambda g: {}, "expected 1 to"),  # noqa: ARG005
}


@pytest.mark.parametrize("case", WRONG)
def test_files_that_do_not_fit_are_refused_with_the_parameter(case, tmp_path):
    change, sentence = WRONG[case]
    np.savez(tmp_path / "g.npz", **change(good()))
    with pytest.raises(ValueError, match=sentence):
        Observation.from_npz(tmp_path / "g.npz", model=net(), loss_fn=cross_entropy)


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
