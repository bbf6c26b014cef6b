"""A file from a stranger: one ValueError, at once, and no memory for what it only claims."""

from __future__ import annotations

import json
import resource
import time

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from fedpriv.wire import Exchange, Observation, Transcript, Update

QUICK = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "Linear", "bob", "nan"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["layer", "kind", "0", "", "children", "round"]), inner, max_size=4)
    ),
    max_leaves=8,
)


def transcript():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    tensors = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    visits = [
        Exchange(
            sent=model.state_dict(), update=Update(kind="gradient", tensors=tensors, sender=who, round=i)
        )
        for i, who in enumerate(["bob", "alice"])
    ]
    return Transcript(visits, model=model, loss_fn=F.mse_loss)


@pytest.fixture
def saved(tmp_path):
    return transcript().save(tmp_path / "run.safetensors")


def read(path):
    with safe_open(str(path), framework="pt") as file:
        header = json.loads(file.metadata()["fedpriv"])
        return header, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)


def write(path, header, tensors):
    text = header if isinstance(header, str) else json.dumps(header)
    save_file(tensors, str(path), metadata={"fedpriv": text})
    return path


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def refuses_or_loads(path):
    """The only two outcomes."""
    start = time.perf_counter()
    loaded, sentence = None, ""
    try:
        loaded = Transcript.load(path)
    except ValueError as error:
        sentence = str(error)
    assert (loaded is None) == (10 < len(sentence) < 3000)
    assert time.perf_counter() - start < 5
    return loaded


@QUICK
@given(data=st.data(), value=JSON)
def test_any_json_in_any_place_of_the_description(saved, tmp_path, data, value):
    header, tensors = read(saved)
    place = data.draw(st.sampled_from(list(places(header))))
    refuses_or_loads(write(tmp_path / "hostile", replaced(header, place, value), tensors))


@pytest.mark.parametrize("value", [None, True, -1, 1e999, 2**70, "x", [], {}, [[]], {"a": 1}, ["bob", "bob"]])
def test_every_key_with_values_of_wrong_types(saved, tmp_path, value):
    header, tensors = read(saved)
    for place in places(header):
        refuses_or_loads(write(tmp_path / "hostile", replaced(header, place, value), tensors))


def test_every_key_left_out(saved, tmp_path):
    header, tensors = read(saved)
    refused = 0
    for key in header:
        lacking = {name: value for name, value in header.items() if name != key}
        refused += refuses_or_loads(write(tmp_path / "hostile", lacking, tensors)) is None
    assert refused >= 4  # format, content, architecture, loss, exchanges


@pytest.mark.parametrize(
    "text", ["", "[", "nonsense", "1" * 5000, "[" * 100_000, '{"format":' * 50_000, "null"]
)
def test_text_that_is_no_description(tmp_path, text):
    path = write(tmp_path / "hostile", text, {"sent/0/weight": torch.zeros(1)})
    with pytest.raises(ValueError):  # noqa: PT011 (the sentence depends on what is wrong first)
        Transcript.load(path)


@pytest.mark.parametrize("depth", [10, 100, 300, 600, 900, 960, 990])
def test_deeply_nested_models(saved, tmp_path, depth):
    header, tensors = read(saved)
    for opening, closing in [('{"layer": "Sequential", "children": {"0": ', "}}"), ("[", "]")]:
        deep = f"{opening * depth}{json.dumps(header['architecture'])}{closing * depth}"
        for key in ("architecture", "knowledge", "exchanges", "format", "frozen"):
            text = json.dumps({**header, key: "HERE"}).replace('"HERE"', deep)
            loaded = refuses_or_loads(write(tmp_path / "deep", text, tensors))
            assert loaded is None or key == "frozen"


@pytest.mark.parametrize(
    "layer",
    [
        {"layer": "Linear", "in_features": 2**30, "out_features": 2**30, "bias": True},
        {"layer": "Linear", "in_features": 2**14, "out_features": 2**14, "bias": True},
        {"layer": "Linear", "in_features": -1, "out_features": 1, "bias": True},
        {"layer": "Linear", "in_features": 2.5, "out_features": 1, "bias": True},
        {"layer": "Linear", "in_features": 1, "out_features": 1, "bias": True, "device": "cpu"},
        {
            "layer": "BatchNorm1d",
            "num_features": 2**30,
            "eps": 1,
            "momentum": 1,
            "affine": True,
            "track_running_stats": True,
        },
        {"layer": "Sequential", "children": {"": {"layer": "ReLU"}}},
        {"layer": "Sequential", "children": {"a.b": {"layer": "ReLU"}}},
        {"layer": "Sequential", "children": {"forward": {"layer": "ReLU"}}},
        {"layer": "Sequential", "children": [1]},
        {"layer": "os.system"},
        {"layer": ["Linear"]},
        {"layer": "Dropout", "p": 7},
        {
            "layer": "Conv2d",
            "in_channels": 2**30,
            "out_channels": 2**30,
            "kernel_size": [2**30, 2**30],
            "stride": 1,
            "padding": 0,
            "dilation": 1,
            "groups": 0,
            "bias": True,
            "padding_mode": "zeros",
        },
    ],
    ids=lambda layer: str(layer["layer"]),
)
def test_architectures_that_ask_for_too_much_or_make_no_sense(saved, tmp_path, layer):
    header, tensors = read(saved)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refuses_or_loads(write(tmp_path / "hostile", {**header, "architecture": layer}, tensors)) is None
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown < 100_000


def test_far_too_many_layers(saved, tmp_path):
    header, tensors = read(saved)
    children = {str(i): {"layer": "ReLU"} for i in range(50_000)}
    layer = {"layer": "Sequential", "children": children}
    assert refuses_or_loads(write(tmp_path / "hostile", {**header, "architecture": layer}, tensors)) is None


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint8], ids=str
)
def test_parameters_that_are_no_real_numbers(saved, tmp_path, dtype):
    header, tensors = read(saved)
    for key in ("sent/0/0.weight", "update/0/0.weight"):
        changed = {**tensors, key: torch.zeros(tensors[key].shape).to(dtype)}
        assert refuses_or_loads(write(tmp_path / "hostile", header, changed)) is None


def test_nan_in_a_file(saved, tmp_path):
    header, tensors = read(saved)
    changed = {**tensors, "update/1/0.bias": torch.full((3,), float("nan"))}
    with pytest.raises(ValueError, match="must be finite"):
        Transcript.load(write(tmp_path / "hostile", header, changed))


@pytest.mark.parametrize("key", ["update/1/0.bias", "sent/0/2.weight"])
def test_a_tensor_that_is_missing_or_too_many(saved, tmp_path, key):
    header, tensors = read(saved)
    fewer = {name: tensor for name, tensor in tensors.items() if name != key}
    more = {**tensors, key + "x": torch.zeros(1)}
    for changed in (fewer, more):
        assert refuses_or_loads(write(tmp_path / "hostile", header, changed)) is None


def test_cut_off_anywhere(saved, tmp_path):
    whole = saved.read_bytes()
    cut = tmp_path / "cut"
    for length in [*range(0, len(whole), 37), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="was it cut off or changed"):
            Transcript.load(cut)


def test_flipped_bits_in_the_header(saved, tmp_path):
    whole = bytearray(saved.read_bytes())
    flipped = tmp_path / "flipped"
    length = int.from_bytes(whole[:8], "little")
    for position in range(0, 8 + length, 11):
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 8)
        flipped.write_bytes(changed)
        refuses_or_loads(flipped)


def test_an_observation_where_a_transcript_was_expected_and_the_other_way(saved, tmp_path):
    one = transcript().observations("bob")[0].save(tmp_path / "one")
    with pytest.raises(ValueError, match=r"expected a saved transcript, but .* holds a saved 'observation'"):
        Transcript.load(one)
    with pytest.raises(ValueError, match=r"expected a saved observation, but .* holds a saved 'transcript'"):
        Observation.load(saved)


def test_other_files(tmp_path):
    torch.save(nn.Linear(2, 1).state_dict(), tmp_path / "pickle.pt")
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("weight = 3\n")
    for name in ("pickle.pt", "empty", "text"):
        with pytest.raises(ValueError, match="is not a whole safetensors file"):
            Transcript.load(tmp_path / name)
    for name in (".", "nothing"):
        with pytest.raises(ValueError, match="does not exist or is not a file"):
            Observation.load(tmp_path / name)
    save_file({"weight": torch.zeros(1)}, str(tmp_path / "model"))
    with pytest.raises(ValueError, match="a safetensors file without a description"):
        Transcript.load(tmp_path / "model")
