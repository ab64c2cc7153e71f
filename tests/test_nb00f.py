"""The sample languages: agreement, elision, the truth of an alignment, and dates."""

import re
from datetime import date
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exp import nb00f, nb00k
from exp.nb00f import date_wordings, draw_dates
from exp.nb00k import make_fra_eng, true_alignment

VOWELS = "aeiouâéèêîôœ"


@cache
def read_lines():
    with TemporaryDirectory() as folder:
        make_fra_eng(Path(folder), 12_000)  # the pairs whose alignment is known
        text = (Path(folder) / "fra.txt").read_text(encoding="utf-8")
    assert text.endswith("\n") and "\r" not in text
    return [line.split("\t") for line in text.splitlines()]


@pytest.fixture
def lines():
    return read_lines()


def test_the_file_has_the_real_form(lines):
    assert len(lines) == 12_000 and all(len(line) == 2 for line in lines)
    assert [len(english) for english, _ in lines] == sorted(len(english) for english, _ in lines)
    assert all(english[0].isupper() and english[-1] in ".?" for english, _ in lines)
    assert {french[-2] for english, french in lines if english[-1] == "?"} == {
        " ",
        "\xa0",
        "\u202f",
    }
    assert len({english for english, _ in lines}) < len(lines)  # several versions of one sentence


def test_nothing_is_left_to_elide_or_to_contract(lines):
    bad = re.compile(rf"\b(le|la|je|ne|de|que) [{VOWELS}]|\bde les?\b (?!\w+[- ])", re.IGNORECASE)
    assert not [french for _, french in lines if bad.search(french)]
    assert not [french for _, french in lines if re.search(r"\b(ma|ta|sa|ce) [aeiouéœ]", french)]
    assert any("l'" in french for _, french in lines)


def test_determiners_and_adjectives_agree(lines):
    text = "\n".join(french for _, french in lines)
    for wrong in ("le voiture", "la livre", "un maison", "cette garçon", "quel maison"):
        assert not re.search(rf"\b{wrong}\b", text, re.IGNORECASE)
    for right in ("vieil ", "bel ", "nouvel ", "cet ", "du ", "quelles "):
        assert right in text.lower()


def test_a_vowel_never_meets_il_or_elle_without_t(lines):
    assert not [f for _, f in lines if re.search(rf"[{VOWELS}]-(il|elle)\b", f)]
    assert any("-t-elle" in french for _, french in lines)


@settings(deadline=None)
@given(st.integers(0, 11_999))
def test_alignments_link_words_of_one_meaning_and_follow_the_tokens(n):
    english, french = read_lines()[n]
    coarse = true_alignment(french.split(), english.split())
    fine = true_alignment(list("".join(french.split())), list("".join(english.split())))
    assert coarse and fine

    def owner(text):
        return [n for n, word in enumerate(text.split()) for _ in word]

    source, target = owner(french), owner(english)
    assert {(source[s], target[t]) for s, t in fine} == coarse


def test_an_alignment_knows_its_pairs_only(lines):
    english, french = lines[0]
    assert true_alignment([french.upper()], ["▁" + english]) == {(0, 0)}
    with pytest.raises(KeyError, match="known for its own pairs"):
        true_alignment(["Bonjour"], ["Hello"])


def test_a_fixed_pair_is_aligned_as_a_person_would():
    pairs = {
        pair: sides for pair, sides in nb00k._alignments().items() if pair[1].startswith("whose")
    }
    french, english = next(iter(pairs.values()))
    links = true_alignment(
        french.text.replace("?", " ?").split(), english.text[:-1].split() + ["?"]
    )
    assert {(0, 0), (1, 0)} <= links  # "à qui" is "whose"


@given(st.dates(date(1100, 1, 1), date(2099, 12, 31)))
def test_each_wording_of_a_date_is_another_and_names_its_month(day):
    ways = date_wordings(day)
    assert len(ways) == len(set(ways)) >= 12
    month = nb00f._MONTHS[day.month - 1]
    assert all(month[:3] in way for way in ways)
    assert sum(str(day.year) in way for way in ways) >= 6


def test_dates_are_drawn_the_same_each_time():
    assert draw_dates(5, seed=3) == draw_dates(5, seed=3) != draw_dates(5, seed=4)
    assert all(words in date_wordings(date.fromisoformat(iso)) for words, iso in draw_dates(200))


@pytest.mark.parametrize(
    "number, words", [(1, "first"), (12, "twelfth"), (20, "twentieth"), (31, "thirty-first")]
)
def test_ordinals(number, words):
    assert nb00f._ordinal_in_words(number) == words


def test_the_bits_of_a_fair_choice_are_its_logarithm():
    dice = nb00f._Dice(1)
    for _ in range(7):
        dice.draw("letter", "abcd")
    assert dice.bits["letter"] == pytest.approx(14)
    dice.draw("nothing", ["only"], zipf=1.0)
    assert dice.bits["nothing"] == 0
