"""12a: beam search and the translator, on random models whose best sentence is known."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exp.nb11d import BOS, EOS, PAD, SPECIAL_TOKENS, UNK, TextVocab, pad_right
from exp.nb12 import GRUTranslator, greedy_decode
from exp.nb12a import Translator, beam_search, take_rows

NOTHING = torch.tensor([[EOS]])


class TableModel:
    """The next word depends on the one before, and, with `keyed`, on the first source token."""

    def __init__(self, n_words, seed, spread=1.5):
        generator = torch.Generator().manual_seed(seed)
        scores = spread * torch.randn(4 + n_words, 4 + n_words, generator=generator).double()
        scores[:, [PAD, UNK, BOS]] = -math.inf
        self.table = scores.log_softmax(1)

    def encode(self, source):
        return {"source": source}

    def start(self, memory):
        return [torch.zeros(len(memory["source"]), 1)]

    def step(self, token, state, memory):
        return self.table[token].clone(), [state[0] + 1], None


def scores_of_all(model, limit, length_penalty):
    for n in range(1, limit + 1):
        for middle in product(range(4, len(model.table)), repeat=n - 1):
            for last in [EOS] if n < limit else [EOS, *range(4, len(model.table))]:
                path = [BOS, *middle, last]
                total = sum(model.table[a, b].item() for a, b in zip(path, path[1:], strict=False))
                yield total / n**length_penalty


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_words=st.integers(1, 3),
    length_penalty=st.sampled_from([0.0, 0.6, 1.0]),
)
def test_a_wide_beam_finds_the_best_sentence(seed, n_words, length_penalty):
    model = TableModel(n_words, seed)
    found = beam_search(model, NOTHING, 40, length_penalty, max_length=4)[0]
    assert found[0].score == pytest.approx(max(scores_of_all(model, 4, length_penalty)))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_words=st.integers(1, 25),
    width=st.integers(2, 5),
    length_penalty=st.sampled_from([0.0, 1.0]),
)
def test_no_beam_scores_below_greedy(seed, n_words, width, length_penalty):
    model = TableModel(n_words, seed)
    beam, greedy = (
        beam_search(model, NOTHING, n, length_penalty, max_length=9)[0] for n in (width, 1)
    )
    assert beam[0].score >= greedy[0].score
    assert [h.score for h in beam] == sorted((h.score for h in beam), reverse=True)
    assert len({tuple(h.tokens) for h in beam}) == len(beam)
    for h in beam:
        path = [BOS, *h.tokens]
        total = sum(model.table[a, b].item() for a, b in zip(path, path[1:], strict=False))
        assert h.log_prob == pytest.approx(total)
        assert EOS not in h.tokens[:-1]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    width=st.integers(1, 4),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    padding=st.integers(0, 5),
)
def test_batches_and_padding_change_nothing(seed, width, lengths, padding):
    torch.manual_seed(seed)
    model = GRUTranslator(12, 11, 6, 2, 4, 5, "all", "tanh").double()
    rows = [torch.cat([torch.randint(4, 12, (n,)), torch.tensor([EOS])]) for n in lengths]
    source = torch.nn.functional.pad(pad_right(rows), (0, padding), value=PAD)
    together = beam_search(model, source, width)
    for row, found in zip(rows, together, strict=True):
        alone = beam_search(model, row[None], width)[0]
        assert [h.tokens for h in found] == [h.tokens for h in alone]
        assert max(len(h.tokens) for h in found) <= 2 * len(row) + 5
    if width == 1:
        for row, (one,) in zip(greedy_decode(model, source).tolist(), together, strict=True):
            assert row[: len(one.tokens)] == one.tokens


def test_the_search_leaves_the_model_in_its_mode_and_moves_every_tensor():
    model = GRUTranslator(12, 11, 6, 1, 4, 5, "all", "tanh", dropout_in=0.5).train()
    source = torch.tensor([[5, 6, EOS]])
    first, second = (beam_search(model, source, 3) for _ in range(2))
    assert first == second and model.training  # no dropout in the search
    state = {"a": torch.arange(3), "b": (torch.arange(6).view(3, 2), [torch.arange(3)])}
    moved = take_rows(state, torch.tensor([2, 2]))
    assert moved["a"].tolist() == [2, 2] and moved["b"][0].tolist() == [[4, 5], [4, 5]]


def test_a_beginning_that_nothing_follows_ends_there_and_broken_scores_are_refused():
    model = TableModel(2, 0)
    model.table[:] = -math.inf
    model.table[BOS, [4, 5]] = torch.tensor([0.6, 0.4], dtype=torch.float64).log()
    model.table[4, EOS] = 0.0  # after word 5 nothing can come
    [found] = beam_search(model, NOTHING, 4, 0.0)
    assert [hypothesis.tokens for hypothesis in found] == [[4, EOS]]
    assert math.isclose(found[0].log_prob, math.log(0.6))
    for broken in (math.nan, math.inf):
        model.table[4, EOS] = broken
        with pytest.raises(ValueError, match="finite or -inf"):
            beam_search(model, NOTHING, 4, 0.0)


def test_bad_widths_and_limits():
    model = TableModel(3, 0)
    for width, limit in ((0, 5), (2, 0), (2, torch.tensor([0]))):
        with pytest.raises(ValueError, match="at least 1"):
            beam_search(model, NOTHING, width, max_length=limit)
    assert beam_search(model, NOTHING[:0]) == []


class Letters:
    """A tokenizer of letters."""

    def __call__(self, text):
        return list(text)

    def join(self, tokens):
        return "".join(tokens)


@settings(max_examples=20, deadline=None)
@given(
    texts=st.lists(st.text("abc", min_size=1, max_size=5), max_size=6), batch_size=st.integers(1, 4)
)
def test_the_order_of_the_answers_is_that_of_the_questions(texts, batch_size):
    torch.manual_seed(1)
    vocab = TextVocab(Letters(), [*SPECIAL_TOKENS, *"abc"])
    model = GRUTranslator(7, 7, 6, 1, 4, 4, "all", "tanh").double()
    translator = Translator(model, vocab, vocab, width=2, batch_size=batch_size)
    assert translator(texts) == [translator(text) for text in texts]
    for text in texts[:1]:
        scores, candidates = zip(*translator.n_best(text), strict=True)
        assert list(scores) == sorted(scores, reverse=True)
        assert len(set(candidates)) == len(candidates) and candidates[0] == translator(text)
