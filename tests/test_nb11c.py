"""Tokenizers: nothing is lost, the fast way is the plain way, and sentencepiece agrees."""

import io
import json
import pickle
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exp import nb11c
from exp.nb11c import (
    BytePairTokenizer,
    WordTokenizer,
    merge_pair,
    normalize_text,
    pairs_in,
    physical_cores,
    split_runs,
    tokenize_in_processes,
    tokenizer_from_state,
)

TEXTS = [
    "Le chat noir mange la pomme rouge.",
    "La chatte noire mangeait les pommes rouges.",
    "Qu'est-ce que vous mangez ?",
    "Mangeons 15 pommes, dit-il !",
]
PIECES = BytePairTokenizer.train(TEXTS, 60)
words = st.text(alphabet="abc", min_size=1, max_size=6)


@given(st.text())
def test_normalising_twice_is_normalising_once(text):
    once = normalize_text(text)
    assert normalize_text(once) == once == once.strip()
    assert "  " not in once and not set(once) & set("\xa0\u202f\u2009\u200b\xad’“")
    assert unicodedata.is_normalized("NFC", once)


@given(st.text())
def test_pieces_restore_every_normalised_text(text):
    wanted = normalize_text(text.replace("▁", "_"))
    assert normalize_text(PIECES.join(PIECES(text))) == wanted


@given(st.text())
def test_runs_restore_the_text_and_never_mix_letters_with_digits_or_signs(text):
    runs = split_runs(text)
    assert "".join(runs).replace("▁", " ").strip() == normalize_text(text.replace("▁", "_"))
    for run in runs:
        bare = run.removeprefix("▁")
        assert "▁" not in bare
        assert len({(c.isalpha(), c.isdecimal()) for c in bare if c.isascii()}) <= 1


@given(st.dictionaries(words, st.integers(1, 5), min_size=1, max_size=8), st.integers(1, 12))
@settings(deadline=None)
def test_updating_the_counts_is_the_same_as_counting_again(counts, n_merges):
    corpus, runs = nb11c._Corpus(Counter(counts)), {word: list(word) for word in counts}
    for _ in range(n_merges):
        fresh = Counter()
        for word, symbols in runs.items():
            for pair in pairs_in(symbols):
                fresh[pair] += counts[word]
        assert +corpus.pairs == fresh
        best = min(
            fresh,
            key=lambda p: (-fresh[p], len("".join(p)), "".join(p), p),
            default=None,
        )
        found = corpus.best()
        assert found == best
        if best is None:
            break
        corpus.merge(best)
        runs = {word: merge_pair(symbols, best) for word, symbols in runs.items()}
        assert corpus.runs == list(runs.values())


@pytest.mark.parametrize(
    "symbols, pairs, merged",
    [
        ("aaa", 1, ["aa", "a"]),
        ("aaaa", 2, ["aa", "aa"]),
        ("abab", 3, ["a", "b", "a", "b"]),
        ("a", 0, ["a"]),
        ("", 0, []),
    ],
)
def test_overlapping_pairs_count_once(symbols, pairs, merged):
    assert len(pairs_in(symbols)) == pairs
    assert merge_pair(symbols, ("a", "a")) == merged


def test_sentencepiece_learns_the_same_pieces():
    sentencepiece = pytest.importorskip("sentencepiece")
    from exp.nb00k import _draw_pairs

    texts = [normalize_text(french.text) for french, _ in _draw_pairs(12_000, 13)[0][::6]]
    ours, model = BytePairTokenizer.train(texts, 300), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=303,
        character_coverage=1.0,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    assert {theirs.id_to_piece(n) for n in range(3, 303)} == set(ours.pieces)
    for text in [*texts[::9], "Une phrase toute neuve, avec des mots inconnus ?"]:
        assert ours(text) == theirs.encode(text, out_type=str)


def test_unseen_letters_stay_pieces_of_their_own():
    assert PIECES("chat猫") == [*PIECES("chat"), "猫"]
    assert PIECES("") == PIECES(" \n") == []


def test_training_twice_gives_the_same_pieces_and_size_is_kept():
    again = BytePairTokenizer.train(iter(TEXTS), 60)
    assert again.pieces == PIECES.pieces and len(again) == 60
    few = BytePairTokenizer.train(["ab"], 100)
    assert few.pieces == ["a", "b", "▁", "ab", "▁ab"]
    with pytest.raises(ValueError, match="size must be at least"):
        BytePairTokenizer.train(TEXTS, 5)
    with pytest.raises(ValueError, match="different"):
        BytePairTokenizer(["a", "a"])


@pytest.mark.parametrize(
    "text",
    [
        "I can't, won't and cannot.",
        'She said "yes" (twice); why not?',
        "It's Tom's $5 book!",
        "The girls' well-known room costs 3.5%.",
        "",
    ],
)
def test_english_words_become_the_same_text_again(text):
    en = WordTokenizer("en")
    assert en.join(en(text)) == text


def test_french_rules_split_what_english_ones_do_not():
    fr, en = WordTokenizer("fr"), WordTokenizer("en")
    assert fr("L'ami d'Anne") == ["L'", "ami", "d'", "Anne"]
    assert en("L'ami d'Anne") == ["L'ami", "d'Anne"]
    assert fr("Viens\u202f?") == ["Viens", "?"]
    assert "\u202f" in WordTokenizer("fr", normalize=False)("Viens\u202f?")
    assert fr.join(fr("Qu'a-t-il dit aujourd'hui ?")) == "Qu'a-t-il dit aujourd'hui ?"


def test_tokenizers_pickle_and_describe_themselves_in_plain_values():
    for tokenizer in (WordTokenizer("fr", normalize=False), PIECES):
        state = json.loads(json.dumps(tokenizer.state()))
        for same in (tokenizer_from_state(state), pickle.loads(pickle.dumps(tokenizer))):
            assert same.state() == tokenizer.state()
            assert same(TEXTS[2]) == tokenizer(TEXTS[2])
    with pytest.raises(ValueError, match="'words' or 'pieces'"):
        tokenizer_from_state({})
    with pytest.raises(TypeError, match="must be a string"):
        PIECES(3)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_processes_give_the_same_tokens_in_the_same_order(context):
    texts = TEXTS * 4
    done = tokenize_in_processes(PIECES, texts, processes=2, chunk=3, context=context)
    assert done == [PIECES(text) for text in texts]
    assert done[0][0] is done[4][0]  # one object for equal tokens


def test_bad_numbers_of_processes_are_refused():
    for bad in ({"processes": 0}, {"chunk": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            tokenize_in_processes(str.split, TEXTS, **bad)
    assert WordTokenizer("en").many([]) == []
    assert physical_cores() >= 1
