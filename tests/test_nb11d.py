"""Pairs, splits and batches: nothing leaks, and padding changes nothing."""

import json
import pickle
import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from exp.nb03b import DataLoader
from exp.nb11c import BytePairTokenizer, WordTokenizer, normalize_text
from exp.nb11d import (
    BOS,
    EOS,
    PAD,
    SPECIAL_TOKENS,
    UNK,
    PairDataset,
    SentencePair,
    SortishSampler,
    SortSampler,
    TextVocab,
    align_words,
    collate_pairs,
    count_real,
    hold_out,
    learn_dictionary,
    masked_loss,
    pad_right,
    questions,
    read_pairs,
    references,
)

WORDS = "who what where is the cat dog house there ?".split()
sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9)
lengths = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=60)


class Words:
    """Split at spaces: a tokenizer for tests."""

    def __call__(self, text):
        return text.split()

    def join(self, tokens):
        return " ".join(tokens)


VOCAB = TextVocab.from_texts([" ".join(WORDS)], Words())


def made_pairs(n):
    return [SentencePair(f"Qui {i} {j} ?", f"Who {i}?") for i in range(n) for j in range(i % 3 + 1)]


def test_pairs_are_read_with_french_as_the_source(tmp_path):
    path = tmp_path / "fra.txt"
    path.write_text("Go.\tVa !\nWho?\tQui\u202f?\n", encoding="utf-8")
    assert read_pairs(path) == [SentencePair("Va !", "Go."), SentencePair("Qui\u202f?", "Who?")]
    assert read_pairs(path, normalize_text)[1].source == "Qui ?"
    for bad in ("Go.\tVa !\nWho?", "a\tb\tc"):
        path.write_text(bad, encoding="utf-8")
        with pytest.raises(ValueError, match=f"line {1 + bad.count(chr(10))} of"):
            read_pairs(path)
    path.write_text("", encoding="utf-8")
    assert read_pairs(path) == []


@pytest.mark.parametrize(
    "target, source, kept",
    [
        ("Who?", "Qui ?", True),
        ("What's that?", "Qu'est-ce ?", True),
        ("How?", "Comment ?", False),
        ("Who? You?", "Qui ?", False),
        ("Who?", "Qui ? Toi ?", False),
        ("What a day!", "Quelle journée !", False),
        ("who?", "qui ?", False),
        ("", "", False),
    ],
)
def test_only_whole_wh_questions_are_kept(target, source, kept):
    assert questions([SentencePair(source, target)]) == [SentencePair(source, target)] * kept


@given(st.integers(3, 40), st.randoms(use_true_random=False), st.data())
def test_no_held_out_english_is_in_training_whatever_the_order(n, rng, data):
    pairs = made_pairs(n)
    n_held = data.draw(st.integers(1, n - 1))
    train, held = hold_out(pairs, n_held)
    assert not {p.target for p in train} & {p.target for p in held}
    assert len({p.target for p in held}) == n_held
    assert sorted(train + held) == sorted(pairs)
    shuffled = pairs + [SentencePair("Bien.", "Fine.")]
    rng.shuffle(shuffled)
    again = hold_out(shuffled, n_held)[1]
    assert sorted(again) == sorted(held)  # in any order and any company


def test_more_held_out_sentences_contain_the_fewer_ones():
    pairs = made_pairs(30)
    assert set(hold_out(pairs, 5)[1]) < set(hold_out(pairs, 9)[1])


def test_english_that_differs_only_in_typography_is_held_out_together():
    pairs = [*made_pairs(9), SentencePair("Qui 3 ?", "Who\u00a03?")]
    held = [hold_out(pairs, n)[1] for n in range(1, 9)]
    assert all(len({normalize_text(p.target) for p in part}) == n for n, part in enumerate(held, 1))
    for part in held:
        assert (SentencePair("Qui 3 ?", "Who\u00a03?") in part) == any(
            p.target == "Who 3?" for p in part
        )


def test_holding_out_all_or_none_is_refused():
    for n in (0, 5, -1):
        with pytest.raises(ValueError, match="n must lie in"):
            hold_out(made_pairs(5), n)
    with pytest.raises(ValueError, match="'source' or 'target'"):
        hold_out(made_pairs(5), 1, key="english")
    with pytest.raises(ValueError):
        hold_out([], 1)


def test_references_hold_each_translation_once():
    pairs = [SentencePair("a", "x"), SentencePair("a", "y"), SentencePair("a", "x")]
    assert references(pairs) == {"a": ["x", "y"]}


@given(sentences)
def test_encoding_and_decoding_is_the_identity(words):
    ids = VOCAB.encode(" ".join(words))
    assert ids[-1] == EOS and not {PAD, UNK, BOS} & set(ids)
    assert VOCAB.decode(ids) == VOCAB.decode([BOS, *ids, PAD, 7]) == " ".join(words)
    assert VOCAB.decode(torch.tensor(ids)) == " ".join(words)


def test_rare_and_new_tokens_are_unknown():
    vocab = TextVocab.from_texts(["a a b b c", ["a"]], Words(), min_count=2)
    assert vocab.tokens == [*SPECIAL_TOKENS, "a", "b"]
    assert vocab.encode("a c <eos>") == [4, UNK, EOS, EOS][:2] + [EOS, EOS]
    assert vocab.decode([4, UNK, EOS]) == "a <unk>"
    assert vocab.encode("") == [EOS] and vocab.decode([]) == ""
    assert len(TextVocab.from_texts(["a b c"], Words(), max_size=5)) == 5


@pytest.mark.parametrize(
    "tokenizer", [WordTokenizer("en"), BytePairTokenizer.train(["who is it?"], 12)]
)
def test_a_vocab_survives_json_and_pickle(tokenizer):
    vocab = TextVocab.from_texts(["Who is it?", "It is me."], tokenizer)
    state = json.loads(json.dumps(vocab.state()))
    for same in (TextVocab.from_state(state), pickle.loads(pickle.dumps(vocab))):
        assert same.tokens == vocab.tokens
        assert same.encode("Who is me?") == vocab.encode("Who is me?")


@given(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=7))
def test_a_batch_is_padded_right_and_shifted_by_one(pairs):
    dataset = PairDataset(pairs, VOCAB, VOCAB)
    source, target_in, target_out = collate_pairs([dataset[i] for i in range(len(dataset))])
    assert target_in.shape == target_out.shape and target_in.dtype == torch.int64
    for i, (french, english) in enumerate(pairs):
        wanted = VOCAB.encode(english)
        n = len(wanted)
        assert source[i].tolist() == VOCAB.encode(french) + [PAD] * (
            source.shape[1] - len(french) - 1
        )
        assert target_out[i].tolist() == wanted + [PAD] * (target_out.shape[1] - n)
        assert target_in[i].tolist() == [BOS, *wanted[:-1]] + [PAD] * (target_out.shape[1] - n)


def test_long_sentences_are_cut_and_still_end():
    dataset = PairDataset([(["who"] * 20, ["cat"] * 20)], VOCAB, VOCAB, 5, 1)
    source, target = dataset[0]
    assert (len(source), source[-1].item(), target.tolist()) == (5, EOS, [EOS])
    with pytest.raises(ValueError, match="at least 1"):
        PairDataset([("who", "cat")], VOCAB, VOCAB, 0)
    with pytest.raises(ValueError, match="no pairs"):
        collate_pairs([])


@given(lengths, st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
def test_samplers_read_everything_once(lengths, batch_size, batches, seed):
    generator = torch.Generator().manual_seed(seed)
    sortish = SortishSampler(lengths, batch_size, batches, generator)
    for sampler in (SortSampler(lengths), sortish):
        assert sorted(sampler) == list(range(len(lengths))) and len(sampler) == len(lengths)
    order = [lengths[n] for n in SortSampler(lengths)]
    assert order == sorted(lengths, reverse=True)
    for start in range(0, len(lengths) - batch_size + 1, batch_size):
        batch = [lengths[n] for n in list(sortish)[start : start + batch_size]]
        assert len(batch) == batch_size


def test_roughly_sorted_batches_are_full_other_in_each_epoch_and_begin_with_the_longest():
    rng = random.Random(0)
    lengths = [(rng.randint(1, 30), rng.randint(1, 30)) for _ in range(1000)]
    sampler = SortishSampler(lengths, 20, 10, torch.Generator().manual_seed(1))
    first, second = list(sampler), list(sampler)
    assert first != second and max(lengths) in [lengths[n] for n in first[:20]]

    def padding(order):
        batches = [[lengths[n][0] for n in order[i : i + 20]] for i in range(0, 1000, 20)]
        return 1 - sum(map(sum, batches)) / sum(20 * max(batch) for batch in batches)

    shuffled = rng.sample(range(1000), 1000)
    assert padding(list(SortSampler(lengths))) <= padding(first) < 0.4 * padding(shuffled)
    for bad in ((0, 5), (5, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            SortishSampler(lengths, *bad)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 9), st.integers(0, 2**16))
def test_extra_padding_changes_neither_loss_nor_gradient(B, T, extra, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(B, T, 8, generator=generator, dtype=torch.float64)
    target = torch.randint(1, 8, (B, T), generator=generator)
    for row in target[1:]:
        row[int(torch.randint(1, T + 1, (1,), generator=generator)) :] = PAD
    garbage = 50 * torch.randn(B, extra, 8, generator=generator, dtype=torch.float64)
    narrow = logits.clone().requires_grad_()
    wide = torch.cat([logits, garbage], 1).requires_grad_()
    labels = torch.cat([target, torch.full((B, extra), PAD)], 1)
    losses = masked_loss(narrow, target), masked_loss(wide, labels)
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(narrow.grad, wide.grad[:, :T])
    assert not wide.grad[:, T:].any()
    one_by_one = [
        F.cross_entropy(logits[b, t], target[b, t])
        for b in range(B)
        for t in range(T)
        if target[b, t] != PAD
    ]
    torch.testing.assert_close(losses[0], torch.stack(one_by_one).mean())
    assert count_real(wide, labels) == len(one_by_one)


def test_the_loss_of_an_epoch_depends_on_no_batch_size():
    rng = random.Random(3)
    pairs = [(rng.choices(WORDS, k=rng.randint(1, 9)), rng.choices(WORDS, k=rng.randint(1, 9)))
             for _ in range(50)]  # fmt: skip
    dataset, scores = PairDataset(pairs, VOCAB, VOCAB), torch.randn(len(VOCAB))
    figures = []
    for size in (1, 7, 50):
        total = tokens = 0
        for _, _, target in DataLoader(dataset, size, collate_fn=collate_pairs):
            logits = scores.expand(*target.shape, -1)
            n = masked_loss.divisor(logits, target)
            total, tokens = total + n * masked_loss(logits, target), tokens + n
        figures.append(total / tokens)
    torch.testing.assert_close(figures[0], figures[1])
    torch.testing.assert_close(figures[0], figures[2])


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="need a target"):
        masked_loss(torch.zeros(2, 3, 5), torch.zeros(3, 2, dtype=torch.int64))
    assert pad_right([torch.tensor([5]), torch.tensor([6, 7])]).tolist() == [[5, PAD], [6, 7]]


def test_a_dictionary_finds_the_words_of_a_made_language():
    rng = random.Random(0)
    english = [rng.sample(WORDS[:-1], k=4) for _ in range(200)]
    pairs = [([word.upper() for word in reversed(target)], target) for target in english]
    table = learn_dictionary(pairs, 6)
    for word in WORDS[:-1]:
        assert max(table[word.upper()], key=table[word.upper()].get) == word
        assert sum(table[word.upper()].values()) == pytest.approx(1)
    assert align_words(table, ["CAT", "THE"], ["the", "cat"]) == [1, 0]
    assert align_words(table, ["CAT"], ["zebra"]) == [0]
    assert learn_dictionary([]) == {}
