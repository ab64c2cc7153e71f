"""12d: batches by tokens, ensembles, and the recipe."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exp.nb11d import PAD, SentencePair, collate_pairs
from exp.nb12 import GRUTranslator
from exp.nb12a import beam_search, load_translator
from exp.nb12b import Transformer
from exp.nb12d import (
    Ensemble,
    TokenBatches,
    collate_even,
    make_recipe_model,
    shared_vocab,
    train_translator,
)

PAIRS = [
    SentencePair(f"{a} {b}", f"{b.upper()} {a.upper()}!")
    for a in ("un", "deux", "trois")
    for b in ("chat", "chien", "lac")
]


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=120),
    tokens=st.integers(1, 400),
    seed=st.integers(0, 100),
    data=st.data(),
)
def test_every_sample_comes_as_often_as_asked_and_batches_cost_alike(lengths, tokens, seed, data):
    copies = data.draw(st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths)))
    batches = TokenBatches(lengths, tokens, copies, torch.Generator().manual_seed(seed))
    for _ in range(2):
        epoch = list(batches)
        assert len(epoch) == len(batches)
        found = [i for batch in epoch for i in batch]
        assert sorted(found) == [i for i, n in enumerate(copies) for _ in range(n)]
    assert sum(len(batch) % 8 != 0 for batch in epoch) <= 1  # the last one is what is left
    for batch in epoch:
        longest = max(lengths[i][0] for i in batch)
        assert len(batch) * longest <= tokens + 4 * longest + 2 * len(batch) + 8 * longest


def test_batches_are_reproducible_and_differ_between_epochs():
    lengths = [(n % 9 + 2, n % 7 + 2) for n in range(300)]
    first, second = (
        TokenBatches(lengths, 90, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert list(first) == list(second) != list(first)


@pytest.mark.parametrize(("tokens", "copies"), [(0, None), (10, [1, 1, 1])])
def test_batches_that_make_no_sense(tokens, copies):
    with pytest.raises(ValueError, match="at least 1"):
        TokenBatches([(3, 4), (5, 6)], tokens, copies)


@given(lengths=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5))
def test_even_shapes_hold_the_same_pairs(lengths):
    samples = [(torch.arange(4, 4 + s), torch.arange(4, 4 + t)) for t, s in lengths]
    for even, plain, step in zip(
        collate_even(samples), collate_pairs(samples), (4, 2, 2), strict=True
    ):
        assert even.shape[1] % step == 0 and even.shape[1] - plain.shape[1] < step
        assert (even[:, : plain.shape[1]] == plain).all()
        assert (even[:, plain.shape[1] :] == PAD).all()


def test_an_ensemble_is_the_mean_of_probabilities_whatever_the_models():
    torch.manual_seed(0)
    models = [
        GRUTranslator(9, 9, 6, 1, 4, 4, "all", "tanh").double().eval(),
        Transformer(9, 9, 8, 2, 1, 1, 16).double().eval(),
    ]
    both, source = Ensemble(models), torch.tensor([[5, 6, 3], [7, 3, 0]])
    token = torch.tensor([2, 2])
    memory = both.encode(source)
    log_p, state, _ = both.step(token, both.start(memory), memory)
    alone = [
        model.step(token, model.start(part), part)[0].softmax(-1)
        for model, part in zip(models, memory, strict=True)
    ]
    torch.testing.assert_close(log_p.exp(), sum(alone) / 2)
    assert len(state) == 2 and math.isclose(log_p[0].exp().sum().item(), 1)
    found = beam_search(both, source, 3)
    assert [h.tokens for h in found[1]] == [
        h.tokens for h in beam_search(both, source[1:, :2], 3)[0]
    ]
    with pytest.raises(ValueError, match="at least one"):
        Ensemble([])


def test_one_table_serves_both_languages_and_survives_a_move():
    model = make_recipe_model(30, 8, 6)
    model = model.to(torch.float64)
    tables = (
        model.encoder.embedding.weight,
        model.decoder.embedding.weight,
        model.decoder.out.weight,
    )
    assert tables[0] is tables[1] is tables[2] and tables[0].std() < 0.2
    assert make_recipe_model(30, 8, 6, spread=1.0).decoder.scale == pytest.approx(0.1)


def test_the_recipe_learns_a_small_language_and_repeats_itself():
    assert len(shared_vocab(PAIRS, 30)) <= 34
    options = {
        "n_epochs": 200,
        "n_pieces": 60,
        "size": 24,
        "hidden_size": 24,
        "dropout": 0.0,
        "tokens": 40,
        "max_lr": 0.02,
        "average": 0.9,
        "half": False,
    }
    first, second = (
        train_translator(PAIRS, seed=1, **options | {"n_epochs": 30}) for _ in range(2)
    )
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    taught = train_translator(PAIRS, seed=1, **options)
    assert taught([pair.source for pair in PAIRS]) == [pair.target for pair in PAIRS]
    assert not taught.model.training


def test_it_is_the_same_after_saving_and_its_tables_are_still_one(tmp_path):
    sizes = {"size": 16, "hidden_size": 12, "dropout": 0.0}
    taught = train_translator(
        PAIRS, n_epochs=30, n_pieces=60, tokens=40, max_lr=0.02, average=0.9, half=False, **sizes
    )
    n_tokens = len(taught.source_vocab)
    path = taught.save(tmp_path / "t.zip", make_recipe_model, {"n_tokens": n_tokens, **sizes})
    again = load_translator(path)
    texts = [pair.source for pair in PAIRS]
    assert again(texts) == taught(texts)
    assert again.model.encoder.embedding.weight is again.model.decoder.out.weight
