"""Text from a transformer's gradient: every sequence while tokens < width, an honest refusal beyond."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn.functional import cross_entropy

from attacks import NotIdentifiable
from attacks.exact.dager import TokenSpanInversion, used_tokens
from attacks.exact.token_labels import next_token_sequences
from attacks.exact.token_model import watch_tokens
from attacks.exact.token_sequences import choose_layers, tokens_in_span
from fedpriv.models import mlp
from fedpriv.transformer import decoder, encoder
from fedpriv.wire import Knowledge, Observation, Update

VOCABULARY = 200


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def random_batch(count, generator, shortest=3, longest=7):
    """Sequences of different lengths for next-token prediction: padded inputs, targets with -100."""
    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    inputs = torch.zeros(count, max(lengths), dtype=torch.int64)
    targets = torch.full_like(inputs, -100)
    for row, length in enumerate(lengths):
        words = torch.randint(1, VOCABULARY, (length + 1,), generator=generator)
        inputs[row, :length], targets[row, :length] = words[:-1], words[1:]
    return inputs, targets


def observe(model, inputs, targets, loss=cross_entropy, knowledge=None):
    trainable = [p for p in model.parameters() if p.requires_grad]
    return Observation(model, torch.autograd.grad(loss(model(inputs), targets), trainable), loss, knowledge)


def rows(inputs, targets):
    return sorted(torch.cat([inputs, targets.reshape(len(targets), -1)], dim=1).tolist())


def assert_exact(found, inputs, targets):
    assert found.inputs.dtype == torch.int64
    assert found.inputs.shape == inputs.shape
    assert rows(found.inputs, found.targets) == rows(inputs, targets)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("count", range(1, 9))
def test_every_sequence_and_label_comes_back(count, dtype):
    for seed in (10 * count, 10 * count + 1):
        model = decoder(VOCABULARY, length=8, generator=seeded(seed)).to(dtype)
        inputs, targets = random_batch(count, seeded(seed + 500))
        assert int((targets >= 0).sum()) < 64
        found = TokenSpanInversion()(observe(model, inputs, targets))
        assert_exact(found, inputs, targets)
        assert not found.residual > 1e-5


def test_all_tokens_are_tested_where_the_embedding_tells_nothing():
    inputs, targets = random_batch(4, seeded(1))
    model = decoder(VOCABULARY, length=8, generator=seeded(2))
    observation = observe(model, inputs, targets)
    assert used_tokens(watch_tokens(observation)).tolist() == inputs.unique()[1:].tolist()  # 0 is padding
    assert_exact(TokenSpanInversion(use_embedding_gradient=False)(observation), inputs, targets)
    model.tokens.requires_grad_(requires_grad=False)
    frozen = observe(model, inputs, targets)
    assert used_tokens(watch_tokens(frozen)) is None
    assert_exact(TokenSpanInversion()(frozen), inputs, targets)


def test_span_test_agrees_with_brute_force_least_squares():
    model = decoder(12, width=16, heads=2, length=4, generator=seeded(3)).double()
    inputs, targets = torch.tensor([[3, 7, 7], [1, 7, 4]]), torch.tensor([[7, 7, 2], [7, 4, 9]])
    observation = observe(model, inputs, targets)
    watched = watch_tokens(observation)
    layer = choose_layers(watched, contextual=False)[0]
    got, _ = tokens_in_span(watched, layer, torch.arange(12))
    gradient = observation.gradient()
    stacked = torch.cat([gradient[f"blocks.0.attention.{n}.weight"] for n in ("query", "key", "value")])
    expected = [[] for _ in range(4)]
    for position, token in itertools.product(range(4), range(12)):
        embedding = model.tokens.weight[token] + model.positions.weight[position]
        vector = model.blocks[0].norm1(embedding).detach()
        combination = torch.linalg.lstsq(stacked.T, vector[:, None], driver="gelsd").solution
        if float((stacked.T @ combination - vector[:, None]).norm()) < 1e-9:
            expected[position].append(token)
    # Token 4 was never second. But (4 at 1) = (7 at 1) + (4 at 2) - (7 at 2): embeddings add token and
    # position, and a layer norm only scales them. The test behind the attention tells.
    assert got == expected[:3] == [[1, 3], [4, 7], [4, 7]]
    assert layer.span.rank == 5  # six tokens, of which one is twice the same at the same position
    assert_exact(TokenSpanInversion()(observation), inputs, targets)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_one_head_cannot_tell_contexts_and_a_later_layer_is_used(dtype):
    model = decoder(VOCABULARY, heads=1, length=8, generator=seeded(40)).to(dtype)
    inputs, targets = random_batch(6, seeded(41))
    observation = observe(model, inputs, targets)
    assert (
        "attention.output" not in choose_layers(watch_tokens(observation), contextual=True)[0].group.names[0]
    )
    assert_exact(TokenSpanInversion()(observation), inputs, targets)


def test_a_first_token_has_no_query_gradient_and_is_found_behind_the_attention():
    model = decoder(VOCABULARY, length=8, generator=seeded(4)).double()
    model.blocks[0].attention.key.requires_grad_(requires_grad=False)
    model.blocks[0].attention.value.requires_grad_(requires_grad=False)
    inputs, targets = random_batch(3, seeded(5))
    observation = observe(model, inputs, targets)
    tokens = int((targets >= 0).sum())
    assert choose_layers(watch_tokens(observation), contextual=False)[0].span.rank == tokens - 3
    assert_exact(TokenSpanInversion()(observation), inputs, targets)


def test_repeats_common_beginnings_and_beginnings_of_others():
    model = decoder(VOCABULARY, length=8, generator=seeded(6))
    inputs = torch.tensor([[5, 6, 7], [5, 6, 7], [5, 6, 0], [5, 8, 9], [5, 0, 0]])
    targets = torch.tensor([[6, 7, 1], [6, 7, 1], [6, 3, -100], [8, 9, 1], [2, -100, -100]])
    assert_exact(TokenSpanInversion()(observe(model, inputs, targets)), inputs, targets)


def test_labels_of_a_tree_of_prefixes():
    labels = {(5,): [6, 6, 2], (5, 6): [7, 3], (5, 6, 7): [1]}
    expected = [((5,), [2]), ((5, 6), [6, 3]), ((5, 6, 7), [6, 7, 1])]
    assert next_token_sequences(labels) == expected


@pytest.mark.parametrize("blocks", [1, 3])
def test_any_depth(blocks):
    model = decoder(VOCABULARY, length=8, blocks=blocks, generator=seeded(7))
    inputs, targets = random_batch(4, seeded(8))
    assert_exact(TokenSpanInversion()(observe(model, inputs, targets)), inputs, targets)


def test_summed_loss_and_masked_targets():
    def summed(outputs, targets):
        return cross_entropy(outputs, targets, reduction="sum")

    model = decoder(VOCABULARY, length=8, generator=seeded(9)).double()
    inputs, targets = random_batch(3, seeded(10), shortest=4)
    targets[:, :2] = -100  # a prompt without loss
    assert_exact(TokenSpanInversion()(observe(model, inputs, targets, summed)), inputs, targets)


def test_tied_embeddings_and_a_frozen_head():
    inputs, targets = random_batch(3, seeded(11))
    tied = decoder(VOCABULARY, length=8, tied=True, generator=seeded(12))
    assert_exact(TokenSpanInversion()(observe(tied, inputs, targets)), inputs, targets)
    frozen = decoder(VOCABULARY, length=8, generator=seeded(12))
    frozen.head.requires_grad_(requires_grad=False)
    assert_exact(TokenSpanInversion()(observe(frozen, inputs, targets)), inputs, targets)


def test_trained_weights():
    generator = seeded(13)
    model = decoder(VOCABULARY, length=8, generator=generator)
    text, following = random_batch(64, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = float(cross_entropy(model(text), following).detach())
    for _ in range(60):
        optimizer.zero_grad()
        loss = cross_entropy(model(text), following)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < first / 2
    inputs, targets = random_batch(6, seeded(14))
    assert_exact(TokenSpanInversion()(observe(model, inputs, targets)), inputs, targets)
    shown = text[:6], following[:6]  # well predicted tokens have weak signals
    found = TokenSpanInversion()(observe(model.double(), *shown))
    wide = found.inputs.shape[1]
    assert_exact(found, shown[0][:, :wide], shown[1][:, :wide])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_encoder_sequences_and_classes(dtype):
    for count in (1, 2, 3):
        model = encoder(VOCABULARY, 3, length=8, generator=seeded(count)).to(dtype)
        inputs, _ = random_batch(count, seeded(count + 20), longest=5)
        classes = torch.randint(3, (count,), generator=seeded(count + 30))
        assert_exact(TokenSpanInversion()(observe(model, inputs, classes)), inputs, classes)


def test_encoder_beyond_the_budget_is_refused():
    model = encoder(VOCABULARY, 3, length=8, generator=seeded(15))
    inputs, _ = random_batch(4, seeded(16), shortest=5)
    with pytest.raises(NotIdentifiable, match=r"form \d+ sequences.*100 are allowed"):
        TokenSpanInversion(max_sequences=100)(observe(model, inputs, torch.tensor([0, 1, 2, 0])))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_collapse_at_the_width(dtype):
    """A layer norm without shift leaves width - 1 dimensions; one token fewer is the most that it tells."""
    model = decoder(VOCABULARY, width=16, heads=2, length=8, generator=seeded(17)).to(dtype)
    words = torch.randint(1, VOCABULARY, (3, 6), generator=seeded(18))
    fewer = words[:, :-1].clone(), words[:, 1:].clone()
    fewer[1][2, -1] = -100  # 14 tokens
    fewer[0][2, -1] = 0
    assert_exact(TokenSpanInversion()(observe(model, *fewer)), *fewer)
    with pytest.raises(
        NotIdentifiable, match=r"full rank \(15 of 16 dimensions\).*as many tokens.*words occur"
    ):
        TokenSpanInversion()(observe(model, words[:, :-1], words[:, 1:]))


def test_parameters_of_one_step_are_as_good_as_a_gradient():
    model = decoder(VOCABULARY, length=8, generator=seeded(19)).double()
    inputs, targets = random_batch(3, seeded(20))
    names = [n for n, _ in model.named_parameters()]
    gradient = torch.autograd.grad(cross_entropy(model(inputs), targets), list(model.parameters()))
    moved = {n: p.detach() - 0.1 * g for n, p, g in zip(names, model.parameters(), gradient, strict=True)}
    update = Update(kind="parameters", tensors=moved)
    observation = Observation(model, update, cross_entropy, Knowledge(learning_rate=0.1))
    assert_exact(TokenSpanInversion()(observation), inputs, targets)
    several = Observation(model, update, cross_entropy, Knowledge(learning_rate=0.1, local_steps=2))
    with pytest.raises(NotIdentifiable, match="2 local step"):
        TokenSpanInversion()(several)


def test_soft_targets_are_named_and_the_text_still_comes_back():
    model = decoder(VOCABULARY, length=8, generator=seeded(21)).double()
    inputs = torch.randint(1, VOCABULARY, (2, 5), generator=seeded(22))
    soft = torch.rand(2, VOCABULARY, 5, generator=seeded(23), dtype=torch.float64).softmax(1)
    found = TokenSpanInversion()(observe(model, inputs, soft))
    assert sorted(found.inputs.tolist()) == sorted(inputs.tolist())
    assert found.targets is None
    assert not found.certified.any()
    assert any("not hard labels" in note for note in found.notes)


def test_bad_input_is_named():
    inputs, targets = random_batch(2, seeded(24))
    picture = mlp([4, 3])
    with pytest.raises(NotIdentifiable, match="no embedding of tokens"):
        TokenSpanInversion()(observe(picture, torch.ones(1, 4), torch.tensor([1])))
    model = decoder(VOCABULARY, length=8, generator=seeded(25))
    for name in ("query", "key", "value"):
        getattr(model.blocks[0].attention, name).requires_grad_(requires_grad=False)
    with pytest.raises(NotIdentifiable, match=r"before any attention is frozen.*attention\.query"):
        TokenSpanInversion()(observe(model, inputs, targets))
    with pytest.raises(ValueError, match="max_sequences must be 1 or more, got 0"):
        TokenSpanInversion(max_sequences=0)
    model = decoder(VOCABULARY, length=8, generator=seeded(26))
    zero = [torch.zeros_like(p) for p in model.parameters()]
    with pytest.raises(NotIdentifiable, match="zero up to rounding"):
        TokenSpanInversion()(Observation(model, zero, cross_entropy))


def test_noise_drowns_the_text_without_a_wrong_claim():
    model = decoder(VOCABULARY, length=8, generator=seeded(27))
    inputs, targets = random_batch(3, seeded(28))
    generator = seeded(29)
    noisy = {
        n: g + 0.01 * torch.randn(g.shape, generator=generator)
        for n, g in observe(model, inputs, targets).gradient().items()
    }
    observation = Observation(model, noisy, cross_entropy, Knowledge(noise_std=0.01))
    with pytest.raises(NotIdentifiable, match=r"span|rank"):
        TokenSpanInversion()(observation)


def test_another_model_is_noticed():
    inputs, targets = random_batch(3, seeded(30))
    gradient = observe(decoder(VOCABULARY, length=8, generator=seeded(31)), inputs, targets).gradient()
    other = Observation(decoder(VOCABULARY, length=8, generator=seeded(32)), gradient, cross_entropy)
    with pytest.raises(NotIdentifiable, match="another model"):
        TokenSpanInversion()(other)


def test_the_same_twice_and_nothing_is_changed():
    model = decoder(VOCABULARY, length=8, generator=seeded(33))
    inputs, targets = random_batch(3, seeded(34))
    observation = observe(model, inputs, targets)
    before = {n: t.clone() for n, t in observation.update.tensors.items()}
    state = torch.random.get_rng_state()
    first, second = TokenSpanInversion()(observation), TokenSpanInversion()(observation)
    assert torch.equal(first.inputs, second.inputs)
    assert torch.equal(first.targets, second.targets)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[n], t) for n, t in observation.update.tensors.items())
