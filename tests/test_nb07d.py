"""Word vectors: made by a game, and read from files that may be damaged."""

import gzip
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from exp.nb07d import (
    SkipGram,
    WordVectors,
    cosine_similarity,
    negative_sampling_loss,
    normalize_rows,
    read_word_vectors,
    skip_gram_pairs,
    train_skip_gram,
)

# --- normalise and compare ----------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_cosines_and_gradients_are_torchs(n, d):
    torch.manual_seed(n * 10 + d)
    a, b = (torch.randn(n, d, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(n, dtype=torch.float64)
    for ours, theirs in (
        (cosine_similarity(a, b), F.cosine_similarity(a, b)),
        (normalize_rows(a) @ weight.new_ones(d), F.normalize(a) @ weight.new_ones(d)),
    ):
        torch.testing.assert_close(ours, theirs)
        gradients = [
            torch.autograd.grad((y * weight).sum(), a, retain_graph=True)[0] for y in (ours, theirs)
        ]
        torch.testing.assert_close(*gradients)


def test_zeros_have_no_direction_and_no_nan():
    x = torch.zeros(2, 3, requires_grad=True)
    normalize_rows(x).sum().backward()
    assert torch.isfinite(x.grad).all() and cosine_similarity(x, torch.ones(3)).abs().sum() == 0


# --- the game -----------------------------------------------------------------------------------


@given(st.lists(st.lists(st.sampled_from("abcdx"), max_size=7), max_size=4), st.integers(1, 3))
def test_pairs_are_all_neighbours_within_the_window_and_symmetric(sentences, window):
    place = {letter: i for i, letter in enumerate("abcd")}
    pairs = skip_gram_pairs(sentences, place, window).tolist()
    assert sorted(pairs) == sorted([b, a] for a, b in pairs)
    rows = [[place[x] for x in sentence if x in place] for sentence in sentences]
    expected = [
        [row[i], row[j]]
        for row in rows
        for i in range(len(row))
        for j in range(len(row))
        if 0 < abs(i - j) <= window
    ]
    assert sorted(pairs) == sorted(expected)


def test_the_loss_is_minus_log_sigmoid_without_overflow():
    scores = torch.randn(7, 4, dtype=torch.float64)
    expected = -F.logsigmoid(scores[:, 0]) - F.logsigmoid(-scores[:, 1:]).sum(1)
    torch.testing.assert_close(negative_sampling_loss(scores), expected.mean())
    assert negative_sampling_loss(torch.tensor([[1e4, -1e4]])) == 0
    assert math.isfinite(negative_sampling_loss(torch.tensor([[-1e30, 1e30]])))


def test_a_model_scores_by_products():
    model = SkipGram(5, 3)
    words, others = torch.tensor([0, 4]), torch.tensor([[1, 2], [3, 3]])
    expected = (model.words[words][:, None] * model.contexts[others]).sum(-1)
    torch.testing.assert_close(model(words, others), expected)


TEXT = [("salt", "and", "pepper"), ("cup", "of", "tea"), ("salt", "or", "pepper")] * 40


def test_words_that_can_replace_each_other_come_near_and_a_seed_repeats():
    vectors, model = train_skip_gram(TEXT, dimensions=8, n_epochs=40, batch_size=64)
    assert vectors.words[:2] == ("salt", "pepper") and len(vectors) == 7
    assert vectors.nearest("and", 1).words == ("or",)
    again, _ = train_skip_gram(TEXT, dimensions=8, n_epochs=40, batch_size=64)
    assert torch.equal(vectors.vectors, again.vectors)
    assert torch.equal(vectors.vectors, model.words.detach())


def test_training_leaves_the_random_state_alone_and_says_when_there_is_nothing_to_learn():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train_skip_gram(TEXT, dimensions=2, n_epochs=1)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(ValueError, match="0 of them at least 99"):
        train_skip_gram([("a", "b")], min_count=99)


# --- the table ----------------------------------------------------------------------------------


def table():
    return WordVectors(
        ("king", "queen", "man", "woman"),
        torch.tensor([[1.0, 1, 0.1], [1, -1, 0.1], [0, 1, 0], [0, -1, 0]]),
    )


def test_questions_to_a_table():
    vectors = table()
    assert "king" in vectors and "prince" not in vectors and len(vectors) == 4
    assert vectors.analogy("man", "king", "woman").words == ("queen",)
    assert vectors.nearest("king", 10).words[0] in ("queen", "man")
    assert len(vectors.nearest("king", 10).words) == 3
    assert vectors.phrase("no one") is None and vectors.phrase("") is None
    expected = F.normalize(F.normalize(vectors["king"], dim=0) + vectors["man"], dim=0)
    for text in ("King_man", "king-man", "king's man", " KING  MAN "):
        torch.testing.assert_close(vectors.phrase(text), expected)
    again = pickle.loads(pickle.dumps(vectors))
    assert again.words == vectors.words and torch.equal(again["king"], vectors["king"])


def test_wrong_tables_and_words_are_refused():
    with pytest.raises(KeyError, match="near in spelling: king"):
        table()["kink"]
    with pytest.raises(ValueError, match="as many rows"):
        WordVectors(("a",), torch.ones(2, 3))
    with pytest.raises(ValueError, match="occur again"):
        WordVectors(("a", "a"), torch.ones(2, 3))
    with pytest.raises(ValueError, match="vector of 'b' is not finite"):
        WordVectors(("a", "b"), torch.tensor([[1.0], [math.nan]]))


# --- files --------------------------------------------------------------------------------------

ODD_WORDS = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\n\r "),
    min_size=1,
    max_size=6,
)


@given(
    st.lists(ODD_WORDS, min_size=1, max_size=8, unique=True),
    st.integers(2, 4),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(tmp_path_factory, words, d, header, packed):
    folder = tmp_path_factory.mktemp("vectors")
    rows = [[(i + 1) * (j - 0.5) for j in range(d)] for i in range(len(words))]
    text = f"{len(words)} {d}\n" * header + "".join(
        f"{word} {' '.join(map(str, row))}\n" for word, row in zip(words, rows, strict=True)
    )
    path = folder / ("v.vec.gz" if packed else "v.vec")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    found = read_word_vectors(path)
    assert found.words == tuple(words) and found.skipped == ()
    torch.testing.assert_close(found.vectors, torch.tensor(rows))


def written(tmp_path, text, name="v.txt"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    "line, says",
    [
        ("b 1", "1 numbers instead of 2"),
        ("b 1 2 3", "3 numbers instead of 2"),
        ("b", "0 numbers instead of 2"),
        ("", "0 numbers instead of 2"),
        ("b 1 x", "'x' is not a number"),
        ("b 1 inf", "not finite"),
        ("a 5 6", "'a' occurs again"),
        (" 5 6", "the word is empty"),
    ],
)
@pytest.mark.parametrize("header", ["", "4 2\n"])
def test_damaged_lines_are_named_by_number_and_skipped_if_asked(tmp_path, line, says, header):
    path = written(tmp_path, f"{header}a 1 2\nc 3 4\n{line}\nd 5 6\n")
    number = 3 + bool(header)
    with pytest.raises(ValueError, match=f"1 damaged lines: line {number}: .*{says}"):
        read_word_vectors(path)
    found = read_word_vectors(path, damaged="skip")
    assert found.words == ("a", "c", "d") and len(found.skipped) == 1 and says in found.skipped[0]


def test_only_the_first_five_of_many_are_named(tmp_path):
    path = written(tmp_path, "a 1 2\n" + "b x y\n" * 9)
    with pytest.raises(ValueError, match="9 damaged lines: line 2.*line 6.* …"):
        read_word_vectors(path)


def test_a_wish_list_and_a_limit(tmp_path):
    path = written(tmp_path, "3 1\na 1\nb 2\nc 3\n")
    assert read_word_vectors(path, words=["c", "a", "z"]).words == ("a", "c")
    assert read_word_vectors(path, limit=2).words == ("a", "b")
    with pytest.raises(ValueError, match="no vectors of these words"):
        read_word_vectors(path, words=["z"])
    with pytest.raises(ValueError, match='"raise" or "skip"'):
        read_word_vectors(path, damaged="ignore")


def test_files_that_break_off(tmp_path):
    whole = "".join(f"w{i} {i} {i}\n" for i in range(5000))
    packed = written(tmp_path, gzip.compress(whole.encode())[:-300], "v.txt.gz")
    with pytest.raises(ValueError, match="breaks off after line"):
        read_word_vectors(packed)
    short = written(tmp_path, "9 2\na 1 2\n", "v.vec")
    with pytest.raises(ValueError, match="announces 9 words but has 1 lines"):
        read_word_vectors(short)
    for text in ("", "0 3\n"):
        with pytest.raises(ValueError, match="holds no vectors"):
            read_word_vectors(written(tmp_path, text))
    with pytest.raises(ValueError, match="breaks off after line 0"):
        read_word_vectors(written(tmp_path, b"no gzip", "v.gz"))
