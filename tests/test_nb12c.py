"""Translators that start from language models: directions, padding, the start, what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from exp.nb00 import test_eq, test_near
from exp.nb11d import BOS, EOS, PAD, SentencePair, hold_out, masked_loss
from exp.nb12c import (
    PretrainedTranslator,
    SourceLanguageModel,
    TargetLanguageModel,
    collate_both_ways,
    collate_text,
)


def translator(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    model = PretrainedTranslator(SourceLanguageModel(20, 8, dropout), TargetLanguageModel(15, 8))
    return model.eval()


def trained(seed=0):
    """A translator whose attention has an effect."""
    model = translator(seed)
    with torch.no_grad():
        model.found.weight.normal_(0, 1)
    return model


rows = st.lists(st.lists(st.integers(4, 19), min_size=1, max_size=6), min_size=1, max_size=4)


@settings(max_examples=20, deadline=None)
@given(sentences=rows)
def test_targets_are_the_neighbours(sentences):
    ends = [torch.tensor([*row, EOS]) for row in sentences]
    tokens, targets = collate_both_ways(ends)
    B = len(ends)
    for n, row in enumerate(ends):
        k = len(row)
        test_eq(targets[n, : k - 1], row[1:])
        test_eq(targets[B + n, : k - 1], row.flip(0)[1:])
        assert (targets[[n, B + n], k - 1 :] == PAD).all()
    read, write = collate_text(ends)
    assert (read[:, 0] == BOS).all()
    for n, row in enumerate(ends):
        test_eq(write[n, : len(row)], row)
        test_eq(read[n, 1 : len(row)], row[:-1])
    assert not (read == EOS).any()


def test_a_language_model_sees_nothing_of_what_it_predicts():
    torch.manual_seed(0)
    model = SourceLanguageModel(20, 8).eval()
    x = torch.randint(4, 20, (1, 6))
    other = x.clone()
    other[0, 3] = (x[0, 3] - 3) % 16 + 4
    left, right = model(x)
    left_other, right_other = model(other)
    test_near(left[:3], left_other[:3])  # places before the change
    test_near(right[:2], right_other[:2])  # read from the right: places 5 and 4
    assert not torch.allclose(left[3:], left_other[3:])
    assert not torch.allclose(right[2:], right_other[2:])


@settings(max_examples=20, deadline=None)
@given(B=st.integers(1, 3), S=st.integers(1, 5), T=st.integers(1, 5), more=st.integers(0, 4),
       seed=st.integers(0, 50))  # fmt: skip
def test_padding_changes_nothing_and_steps_agree(B, S, T, more, seed):
    model = trained(seed)
    source, target = torch.randint(4, 20, (B, S)), torch.randint(4, 15, (B, T))
    scores = model(source, target)
    wide = F.pad(source, (0, more))
    test_near(model(wide, F.pad(target, (0, more)))[:, :T], scores, tol=1e-4)
    memory = model.encode(wide)
    state = model.start(memory)
    for t in range(T):
        logits, state, shares = model.step(target[:, t], state, memory)
        test_near(logits, scores[:, t], tol=1e-4)
        test_near(shares.sum(1), torch.ones(B))
        assert (shares[:, S:] == 0).all()


def test_it_starts_as_the_language_model_and_learns_the_source():
    model = translator()
    source, target = torch.randint(4, 20, (8, 5)), torch.randint(4, 15, (8, 6))
    test_near(model(source, target), model.target(target))
    loss = masked_loss(model(source, target), target)
    loss.backward()
    assert model.found.weight.grad.abs().max() > 0  # the zero is no dead end
    assert not torch.allclose(trained()(source, target), trained().target(target))


def test_one_table_stays_one_through_copies_and_moves():
    for model in (translator(), copy.deepcopy(translator()), translator().double().float()):
        for part in (model.source, model.target):
            assert part.out.weight is part.embedding.weight
        torch.optim.SGD(model.parameters(), lr=0.1)


def test_different_sizes_are_refused():
    with pytest.raises(ValueError, match="one size, got 8 and 16"):
        PretrainedTranslator(SourceLanguageModel(9, 8), TargetLanguageModel(9, 16))


def test_held_out_answers_are_in_no_text():
    """Whatever else is said about a held-out question, its pairs are gone from the rest."""
    pairs = [
        SentencePair(f"Qui est le numéro {n // 2}{'' if n % 2 else ' donc'} ?", f"Who is {n // 2}?")
        for n in range(60)
    ]
    rest, held = hold_out(pairs, 7)
    assert not {p.target for p in rest} & {p.target for p in held}
    assert len({p.target for p in held}) == 7
