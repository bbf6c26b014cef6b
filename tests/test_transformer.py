"""The transformer victims: causality, padding, seeds; and the text they are trained on."""

from __future__ import annotations

import pytest
import torch

from fedpriv.data.text import Tokenizer, sentences
from fedpriv.transformer import PADDING, decoder, encoder


def test_a_decoder_does_not_look_ahead_and_an_encoder_does():
    ids = torch.tensor([[3, 4, 5, 6]])
    other = torch.tensor([[3, 4, 5, 7]])
    causal = decoder(10, width=8, heads=2).double()
    torch.testing.assert_close(causal(ids)[:, :, :3], causal(other)[:, :, :3], rtol=0, atol=1e-14)
    assert not torch.allclose(causal(ids)[:, :, 3], causal(other)[:, :, 3])
    both_ways = encoder(10, 2, width=8, heads=2).double()
    assert not torch.allclose(both_ways(ids), both_ways(other))


def test_positions_matter():
    model = decoder(10, width=8, heads=2)
    same = model(torch.tensor([[3, 3, 3]]))
    assert not torch.allclose(same[:, :, 0], same[:, :, 1])


def test_padding_is_invisible():
    short, long = torch.tensor([[3, 4, 5]]), torch.tensor([[3, 4, 5, PADDING, PADDING]])
    for model in (encoder(10, 2, width=8, heads=2).double(), decoder(10, width=8, heads=2).double()):
        first, second = model(short), model(long)
        torch.testing.assert_close(first, second[..., : first.shape[-1]], rtol=0, atol=1e-14)


def test_attention_agrees_with_pytorch():
    model = decoder(10, width=8, heads=2, blocks=1)
    attention = model.blocks[0].attention
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    theirs = torch.nn.functional.multi_head_attention_forward(
        x.transpose(0, 1), x.transpose(0, 1), x.transpose(0, 1), 8, 2,
        torch.cat([attention.query.weight, attention.key.weight, attention.value.weight]),
        torch.cat([attention.query.bias, attention.key.bias, attention.value.bias]),
        None, None, False, 0.0, attention.output.weight, attention.output.bias,
        attn_mask=torch.ones(5, 5, dtype=torch.bool).triu(1),
    )[0].transpose(0, 1)  # fmt: skip
    torch.testing.assert_close(attention(x, torch.zeros(2, 5, dtype=torch.bool)), theirs)


def test_a_seed_gives_the_same_weights_and_tying_shares_them():
    one, two, three = (
        decoder(10, generator=torch.Generator().manual_seed(s)).state_dict() for s in (1, 1, 2)
    )
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert not torch.equal(one["tokens.weight"], three["tokens.weight"])
    tied = decoder(10, tied=True)
    assert tied.head.weight is tied.tokens.weight


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match=r"width divisible by heads.*width=10, heads=4"):
        decoder(10, width=10)
    with pytest.raises(ValueError, match="at most 4 tokens, got 5"):
        decoder(10, length=4)(torch.zeros(1, 5, dtype=torch.int64))


def test_sentences_are_prose_and_survive_the_tokenizer():
    text = sentences()
    assert len(text) > 60
    assert len(set(text)) == len(text)
    tokenizer = Tokenizer(text)
    assert [tokenizer.decode(tokenizer.encode(s)) for s in text] == text
    assert 300 < len(tokenizer) < 1000
    with pytest.raises(ValueError, match="1 <= shortest <= longest, got shortest=5, longest=4"):
        sentences(shortest=5, longest=4)


def test_tokenizer_batches_and_unknown_words():
    tokenizer = Tokenizer(["a b c"])
    assert tokenizer.words == ("<pad>", "<end>", "<unknown>", "a", "b", "c")
    assert tokenizer.encode("C z") == [5, 2]
    assert tokenizer.decode([3, 1, 4]) == "a"
    inputs, targets = tokenizer.batch(["a b c", "b"])
    assert inputs.tolist() == [[3, 4, 5], [4, 0, 0]]
    assert targets.tolist() == [[4, 5, 1], [1, -100, -100]]
    for wrong in ([], ["a", ""]):
        with pytest.raises(ValueError, match="at least one word"):
            tokenizer.batch(wrong)
    with pytest.raises(ValueError, match="ids from 0 to 5, got 6"):
        tokenizer.decode([6])
    with pytest.raises(ValueError, match="at least one word"):
        Tokenizer([])
