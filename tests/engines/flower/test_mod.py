"""Defenses as mods, Flower's own mods beside them, and where Flower's go wrong and ours do not."""

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp.mod import LocalDpMod
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.defenses import (
    DPSGD,
    AdaptiveClip,
    Averaging,
    Clip,
    GaussianNoise,
    MixUp,
    RandomPruning,
    SignSGD,
    StochasticQuantization,
    TopK,
)
from fedpriv.engines.flower import CuriousStrategy, defense_mod, from_record, to_record
from fedpriv.engines.flower.memory import read_memory, write_memory
from fedpriv.losses import squared_error
from tests.engines.flower.scenes import client_app, fedavg, model, run

SENT = {"w": torch.tensor([1.0, 2.0]), "scale": torch.tensor(0.5), "count": torch.tensor(3)}
MOVED = {"w": torch.tensor([4.0, 6.0]), "scale": torch.tensor(12.5), "count": torch.tensor(4)}  # norm 13


def ask(mod, answer=MOVED, *, sent=SENT, context=None, message_type="train"):
    """One message through `mod`; `answer` is what the app inside gives, or an error."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    context = context or fresh()
    message = Message(RecordDict({"arrays": to_record(sent)}), dst_node_id=2, message_type=message_type)

    def app(message, context):  # noqa: ARG001
        if isinstance(answer, Error):
            return Message(answer, reply_to=message)
        return Message(RecordDict({"arrays": to_record(answer)}), reply_to=message)

    return mod(message, context, app)


def fresh():
    return Context(run_id=1, node_id=2, node_config={"partition-id": 0}, state=RecordDict(), run_config={})


def arrays(reply):
    return from_record(reply.content.array_records["arrays"])


def test_clipping_counts_scalars_and_keeps_whole_numbers_as_they_were_sent():
    got = arrays(ask(defense_mod(Clip(clip_norm=1.3))))
    assert torch.allclose(got["w"], torch.tensor([1.3, 2.4]))
    assert torch.allclose(got["scale"], torch.tensor(1.7))
    assert got["count"] == 3
    assert got["scale"].shape == ()


def test_flowers_own_clipping_leaves_scalars_as_they_are_which_is_why_ours_does_it_itself():
    reply = ask(LocalDpMod(1.3, 0.0, 1.0, 1e-5), sent=_real(SENT), answer=_real(MOVED))
    got = arrays(reply)
    assert torch.allclose(got["w"], torch.tensor([1.3, 2.4]))
    assert got["scale"] == 12.5  # clipped it would be 1.7
    noised = arrays(ask(LocalDpMod(1e6, 1.0, 1.0, 1e-5), sent=_real(SENT), answer=_real(MOVED)))
    assert noised["scale"] == 12.5  # no noise either
    assert noised["w"].tolist() != [4.0, 6.0]
    ours = arrays(ask(defense_mod(GaussianNoise(clip_norm=1.0)), sent=_real(SENT), answer=_real(MOVED)))
    assert ours["scale"] != 12.5


def _real(tensors):
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


def test_an_update_of_zero_passes_ours_and_crashes_flowers():
    sent = {"w": torch.tensor([1.0, 2.0])}
    assert torch.equal(arrays(ask(defense_mod(Clip(clip_norm=1.0)), sent, sent=sent))["w"], sent["w"])
    with pytest.raises(ZeroDivisionError):
        ask(LocalDpMod(1.0, 0.0, 1.0, 1e-5), sent, sent=sent)


def test_flower_accepts_an_epsilon_of_zero_and_its_infinite_noise_is_refused_by_the_server():
    mod = LocalDpMod(clipping_norm=1.0, sensitivity=1.0, epsilon=0, delta=1e-5)
    strategy = CuriousStrategy(fedavg(), model=model(), loss_fn=squared_error)
    with np.errstate(all="ignore"):
        final = run(strategy, client_app(mod))
    assert len(strategy.faults) == 2
    assert not final  # Flower's word for: no round gave a new model
    with pytest.raises(ValueError, match="noise_multiplier must be a positive finite number"):
        GaussianNoise(noise_multiplier=float("inf"))


DEFENSES = [
    Clip(clip_norm=1.0),
    GaussianNoise(clip_norm=1.0, noise_multiplier=0.5),
    TopK(kept_fraction=0.4),
    RandomPruning(kept_fraction=0.4),
    SignSGD(),
    StochasticQuantization(),
    AdaptiveClip(),
]


@pytest.mark.parametrize("defense", DEFENSES, ids=lambda d: type(d).__name__)
def test_the_mod_does_what_the_defense_does_to_the_difference(defense):
    mod = defense_mod(defense, seed=5)
    got = arrays(ask(mod))
    from fedpriv.defenses import Context as Where

    vector = {name: MOVED[name] - SENT[name] for name in ("w", "scale")}
    memory = {}
    wanted, _ = defense(
        vector, Where(client="partition-0", generator=mod._generator("partition-0", 0), memory=memory)
    )
    for name, tensor in wanted.items():
        assert torch.allclose(got[name], SENT[name] + tensor)


def test_error_feedback_survives_messages_that_fresh_objects_answer():
    """Like a deployment: nothing but ``context.state`` lives on. All that was left out comes in the end."""
    context, total = fresh(), torch.zeros(2)
    for _ in range(2):
        mod = defense_mod(TopK(kept_fraction=0.5))
        total += arrays(
            ask(mod, {"w": torch.tensor([3.0, 1.0])}, sent={"w": torch.zeros(2)}, context=context)
        )["w"]
    count, memory = read_memory(context.state)
    assert count == 2
    assert torch.allclose(total + memory[0]["partition-0"].float(), torch.tensor([6.0, 2.0]))


def test_a_learned_bound_goes_on_from_message_to_message():
    context, bounds = fresh(), []
    for _ in range(3):
        mod = defense_mod(AdaptiveClip(initial_clip_norm=1.0, learning_rate=1.0))
        ask(mod, {"w": torch.tensor([8.0])}, sent={"w": torch.zeros(1)}, context=context)
        bounds.append(round(mod.reports[0].values["clip_norm"], 4))
    assert bounds == [1.0, 1.6487, 2.7183]


@settings(max_examples=25, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.integers() | st.text(), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_what_defenses_remember_comes_back_as_it_was(value):
    state = RecordDict()
    memory = {0: value, 1: {"bob": torch.tensor([1.0, 2.0], dtype=torch.float64), 7: torch.tensor(3.0)}}
    write_memory(state, 4, memory)
    count, back = read_memory(state)
    assert count == 4
    assert back[0] == value
    assert torch.equal(back[1]["bob"], memory[1]["bob"])
    assert back[1][7].shape == ()


def test_seeded_noise_repeats_between_runs_and_never_between_messages_or_clients():
    def answers(partition):
        context = fresh()
        context.node_config["partition-id"] = partition
        mod = defense_mod(GaussianNoise(), seed=3)
        return [arrays(ask(mod, context=context))["w"] for _ in range(2)]

    first, again, other = answers(0), answers(0), answers(1)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({**MOVED, "w": MOVED["w"] * torch.nan}, "the answer must be finite, but 'w'"),
        ({**MOVED, "w": torch.ones(3)}, r"must have shape \(2,\), got \(3,\)"),
        ({"other": torch.ones(2)}, "are missing"),
        ({}, "are missing"),
    ],
)
def test_what_cannot_be_defended_does_not_leave(answer, sentence):
    reply = ask(defense_mod(Clip(clip_norm=1.0)), answer)
    assert reply.has_error()
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(reply.error.reason)


def test_errors_and_evaluations_pass_untouched():
    mod = defense_mod(Clip(clip_norm=1.0))
    assert ask(mod, Error(7, "no")).error.code == 7
    assert torch.equal(arrays(ask(mod, message_type="evaluate"))["w"], MOVED["w"])
    assert mod.reports == []


def test_a_gradient_is_defended_as_it_is():
    got = arrays(ask(defense_mod(Clip(clip_norm=1.0), kind="gradient"), {"w": torch.tensor([3.0, 4.0])}))
    assert torch.allclose(got["w"], torch.tensor([0.6, 0.8]))


def test_several_records_need_a_name():
    two = RecordDict({"arrays": to_record(SENT), "more": to_record(SENT)})
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    message = Message(two, dst_node_id=2, message_type="train")
    answer = Message(RecordDict({"arrays": to_record(MOVED)}), reply_to=message)
    reply = defense_mod(Clip(clip_norm=1.0))(message, fresh(), lambda m, c: answer)  # noqa: ARG005
    assert "arrays_key" in reply.error.reason
    named = defense_mod(Clip(clip_norm=1.3), arrays_key="arrays")
    assert torch.allclose(arrays(named(message, fresh(), lambda m, c: answer))["scale"], torch.tensor(1.7))  # noqa: ARG005


@pytest.mark.parametrize(
    ("defenses", "sentence"),
    [
        ([], "at least one defense"),
        ([MixUp(num_classes=10)], "inside the local training"),
        ([DPSGD(clip_norm=1.0, noise_multiplier=1.0, denominator=2)], "inside the local training"),
        ([Averaging()], "SecAgg"),
        ([GaussianNoise(generator=torch.Generator())], "seed="),
        (["clip"], "defenses must be objects"),
    ],
)
def test_what_cannot_be_a_mod_says_so(defenses, sentence):
    with pytest.raises(ValueError, match=sentence):
        defense_mod(*defenses)


def test_the_first_mod_of_flowers_list_acts_last():
    strategy = CuriousStrategy(fedavg(), model=model(), loss_fn=squared_error)
    run(strategy, client_app(defense_mod(Clip(clip_norm=0.01)), defense_mod(SignSGD())))
    for exchange in strategy.exchanges:
        step = torch.cat([(exchange.update.tensors[n] - exchange.sent[n]).flatten() for n in exchange.sent])
        assert float(step.norm()) == pytest.approx(0.01, rel=1e-3)


def test_a_config_record_beside_the_arrays_is_no_trouble():
    content = RecordDict({"arrays": ArrayRecord(SENT), "config": ConfigRecord({"server-round": 1})})
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    message = Message(content, dst_node_id=2, message_type="train.fast")
    answer = Message(RecordDict({"model": to_record(MOVED)}), reply_to=message)
    reply = defense_mod(Clip(clip_norm=1.3))(message, fresh(), lambda m, c: answer)  # noqa: ARG005
    assert torch.allclose(from_record(reply.content.array_records["model"])["scale"], torch.tensor(1.7))
