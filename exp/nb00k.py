"""Sample sentences: questions in two languages, and which word translates which

By the end you will have twelve thousand pairs of French and English sentences in the file format of the real ones, the true word alignment of every pair under any tokenizer, and the number of bits that no translator can do without.
"""

# cell 392ba87e a6284e · Sample sentences: questions in two languages, and which word translates which
from __future__ import annotations

# generated from nbs/00k_sample_sentences.ipynb: do not edit · 818a80
__all__ = [
    "make_fra_eng",
    "true_alignment",
]
__dir__ = __all__.copy  # what completion offers

# cell 392ba87e 4f2af7 · Sample sentences: questions in two languages, and which word translates which
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from exp.nb00f import (
    _ELIDED,
    _LETTERS,
    _NAMES,
    _add_ing,
    _add_s,
    _Adjective,
    _Dice,
    _draw_noun_phrase,
    _draw_subject,
    _english_phrase,
    _english_verb,
    _fitting,
    _french_adjective,
    _french_determiner,
    _french_phrase,
    _lexicon,
    _Noted,
    _Phrase,
    _Piece,
    _starts_with_vowel,
    _Verb,
)


# cell 860c21be 87b5af · What a sentence says
class _Clause(NamedTuple):
    """What happens: who does what to whom, when and where."""

    subject: _Phrase
    verb: _Verb
    tense: str  # present or past
    negative: bool
    object: _Phrase | None
    where: tuple[str, str, _Phrase] | None  # English and French preposition, phrase
    when: tuple[str, str] | None


_PLACES = (("in", "dans"), ("near", "près de"), ("in front of", "devant"), ("behind", "derrière"))
_TIMES = {"past": (("yesterday", "hier"), ("last night", "hier soir"),
                   ("this morning", "ce matin"), ("last week", "la semaine dernière")),
          "present": (("today", "aujourd'hui"), ("now", "maintenant"),
                      ("every day", "tous les jours"), ("every morning", "tous les matins"))}


@cache
def _askable(asked: str) -> list[_Verb]:
    """Return the verbs that have an object of the kind that is asked for."""
    return [verb for verb in _lexicon()[2] if {
        "what": set(verb.kinds) - {"p"}, "whom": "p" in verb.kinds, "which": verb.kinds,
    }.get(asked, True)]


def _draw_clause(dice: _Dice, asked: str) -> _Clause:
    """Draw a clause, without the part that is asked for."""
    verb = dice.draw("meaning", _askable(asked), 0.4)
    tense = dice.draw("meaning", ("present", "past"))
    negative = asked in ("why", "yes", "nothing") and dice.chance("meaning", 0.2)
    subject = _Phrase("subject", "he") if asked == "who" else _draw_subject(dice)
    thing = where = when = None
    if verb.kinds and asked not in ("what", "whom", "which"):
        thing = _draw_noun_phrase(dice, "object", verb.kinds, without="a" if negative else "")
    if asked != "where" and (verb.settles or not verb.moves and dice.chance("meaning", 0.12)):
        prepositions = dice.draw("meaning", _PLACES, 0.7)
        where = (*prepositions, _draw_noun_phrase(dice, "place", "l", without="two three a"))
    if asked != "when" and dice.chance("meaning", 0.15):
        when = dice.draw("meaning", _TIMES[tense])
    return _Clause(subject, verb, tense, negative, thing, where, when)


# cell 406bcfa7 7ced4b · A clause in English
_BE = {"I": ("am", "was"), "he": ("is", "was"), "she": ("is", "was"), "it": ("is", "was")}


def _be(person: str, tense: str) -> str:
    """Return the form of "to be"."""
    forms = _BE["he"] if person in _NAMES else _BE.get(person, ("are", "were"))
    return forms[tense == "past"]


def _english_rest(dice: _Dice, clause: _Clause) -> list[_Piece]:
    """Put what follows the verb into English: object, place, time."""
    words = _english_phrase(dice, clause.object) if clause.object else []
    if clause.where:
        english, _, place = clause.where
        words += [(english, "where"), *_english_phrase(dice, place)]
    return words + ([(clause.when[0], "when")] if clause.when else [])


def _english_clause(dice: _Dice, clause: _Clause, order: str) -> list[_Piece]:
    """Put a clause into English, as a statement, a question or a question about its subject."""
    verb, person = clause.verb, clause.subject.person
    base, past = dice.draw("english", verb.english)
    subject = [] if order == "who" else _english_phrase(dice, clause.subject)
    progressive = clause.tense == "present" and not verb.state and dice.chance("english", 0.4)
    third = person in ("he", "she", "it", *_NAMES)
    no = [("n't", "not")] if clause.negative else []
    if progressive and no and person == "I":
        no = [("not", "not")]
    if progressive:
        helper, main = (_be(person, "present"), ""), _english_verb(base, "verb", _add_ing)
    elif clause.tense == "past":
        helper, main = ("did", "past"), _english_verb(base, "verb")
    else:
        helper, main = ("does" if third else "do", ""), _english_verb(base, "verb")
    if order == "question":
        head = [helper, *no, *subject] if no != [("not", "not")] else [helper, *subject, *no]
    elif progressive or no:
        head = [*subject, helper, *no]
    else:
        main = (_english_verb(past, "verb past") if clause.tense == "past" else
                _english_verb(base, "verb", _add_s if third else None))
        head = subject
    return [*head, *main, *_english_rest(dice, clause)]


# cell 22636592 343b0d · A clause in French
_HAVE = "ai as a avons avez ont".split()
_ARE = {"present": "suis es est sommes êtes sont".split(),
        "past": "étais étais était étions étiez étaient".split()}
_IL = ("je", "tu", "il", "nous", "vous", "ils")


def _inverted(subject: _Noted, is_pronoun: bool, verb: _Piece) -> tuple[list[_Piece], list[_Piece]]:
    """Return what stands before the verb, and the verb with its pronoun behind a hyphen."""
    pronoun = subject.pieces[0][0] if is_pronoun else (
        ("elles" if subject.plural else "elle") if subject.feminine else _IL[subject.person])
    link = [("-t", "")] if subject.person == 2 and verb[0][-1] not in "td" else []
    tail = (f"-{pronoun}", subject.pieces[0][1] if is_pronoun else "")
    return [] if is_pronoun else subject.pieces, [verb, *link, tail]


def _french_rest(dice: _Dice, clause: _Clause, formal: bool) -> list[_Piece]:
    """Put what follows the verb into French: object, place, time."""
    words = _french_phrase(dice, clause.object, formal).pieces if clause.object else []
    if clause.where:
        _, french, place = clause.where
        words = words + [(word, "where") for word in french.split()]
        words += _french_phrase(dice, place, formal).pieces
    return words + ([(clause.when[1], "when")] if clause.when else [])


def _participle(verb: _Verb, subject: _Noted, asked: _Noted | None) -> str:
    """Return the participle: it agrees with the subject of "être", or with an object before it."""
    owner = subject if verb.moves else asked
    if owner is None:
        return verb.participle
    word = verb.participle + "e" * owner.feminine
    return word + "s" * (owner.plural and word[-1] != "s")


def _french_clause(dice: _Dice, clause: _Clause, order: str, formal: bool,
                   asked: _Noted | None = None) -> list[_Piece]:
    """Put a clause into French: a statement, or a question in one of the orders of words."""
    subject, verb = _french_phrase(dice, clause.subject, formal), clause.verb
    if clause.tense == "past":
        helper = _ARE["present"] if verb.moves else _HAVE
        one_word = order in ("statement", "who") and not clause.negative  # in English: ate
        first = (helper[subject.person], "past verb" if one_word else "past")
        last = [(_participle(verb, subject, asked), "past verb" if one_word else "verb")]
    else:
        first, last = (verb.present[subject.person], "verb"), []
    no, no_more = ([("ne", "not")], [("pas", "not")]) if clause.negative else ([], [])
    rest = _french_rest(dice, clause, formal)
    if order == "turned":
        before, turned = _inverted(subject, clause.subject.is_pronoun, first)
        return [*before, *no, *turned, *no_more, *last, *rest]
    if order == "who":
        return [first, *last, *rest]
    if order == "behind":  # the subject, a noun, comes after the verb
        return [first, *last, *subject.pieces, *rest]
    head = [("est-ce", ""), ("que", "")] if order == "est-ce que" else []
    return [*head, *subject.pieces, *no, first, *no_more, *last, *rest]


def _orders(clause: _Clause, plain: bool = False) -> list[str]:
    """List the orders of words that French may use for a question."""
    turned = [] if clause.subject.person == "I" else ["turned"]
    return ["est-ce que", *turned, *["plain"] * plain]


# cell 12296a26 35d14c · Sixteen kinds of sentence
class _Meaning(NamedTuple):
    """What a pair of sentences says: the kind of sentence, and its parts."""

    kind: str
    clause: _Clause | None = None
    phrase: _Phrase | None = None
    adjective: _Adjective | None = None
    tense: str = "present"


_KINDS = ("where", "what", "why", "when", "who", "statement", "yes", "which", "where is", "whom",
          "why is", "how many", "how", "color", "whose", "is")
_ADVERBS = {"where": "où", "why": "pourquoi", "when": "quand", "how": "comment"}


def _draw_meaning(dice: _Dice) -> _Meaning:
    """Draw what a sentence says, in no language yet."""
    kind, others = dice.draw("meaning", _KINDS, 0.3), "the a your their my owner our two three his"
    if kind in ("where is", "why is", "is"):
        tense = dice.draw("meaning", ("present", "past"), 1.0)
        subject = _draw_subject(dice) if dice.chance("meaning", 0.4) else _draw_noun_phrase(
            dice, "subject", "paotlf" if kind == "where is" else "paotf", without="a")
        letters = {name: letter for letter, name in _LETTERS.items()}
        before, behind = _fitting(letters[subject.noun.kind] if subject.noun else "p")
        adjective = None if kind == "where is" else dice.draw("meaning", behind + before, 0.5)
        return _Meaning(kind, None, subject, adjective, tense)
    if kind == "color":
        return _Meaning(kind, None, _draw_noun_phrase(dice, "subject", "ao", without="a"))
    if kind == "whose":
        return _Meaning(kind, None, _draw_noun_phrase(dice, "subject", "aot", without=others))
    clause = _draw_clause(dice, {"how many": "which", "statement": "nothing"}.get(kind, kind))
    if kind not in ("which", "how many"):
        return _Meaning(kind, clause)
    asked = _draw_noun_phrase(dice, "object", clause.verb.kinds, without=others)
    asked.plural = asked.plural or kind == "how many"
    asked.determiner = ""
    return _Meaning(kind, clause, asked)


# cell eba652ff dd7e88 · Sixteen kinds of sentence
def _in_english(dice: _Dice, meaning: _Meaning) -> list[_Piece]:
    """Write the meaning in English: pieces of text with their labels."""
    kind, clause, phrase = meaning.kind, meaning.clause, meaning.phrase
    end = [("." if kind in ("statement", "is said") else "?", "end")]
    if kind in ("where is", "why is", "is"):
        be = (_be(phrase.person, meaning.tense), "be")
        ask = [] if kind == "is" else [(kind[:-3], "ask")]
        more = ([(dice.draw("english", meaning.adjective.english), "adjective")]
                if meaning.adjective else [])
        return [*ask, be, *_english_phrase(dice, phrase), *more, *end]
    if kind == "color":
        be = (_be(phrase.person, "present"), "be")
        return [("what", "ask"), ("color", "color"), be, *_english_phrase(dice, phrase), *end]
    if kind == "whose":
        (this, label), *bare = _english_phrase(dice, phrase)
        return [("whose", "ask"), *bare, (_be(phrase.person, "present"), "be"), (this, label), *end]
    if kind in ("statement", "who"):
        ask = [("who", "ask")] if kind == "who" else []
        return [*ask, *_english_clause(dice, clause, kind), *end]
    ask = {"yes": [], "how many": [("how", "ask"), ("many", "ask")], "whom": [("who", "ask")]}.get(
        kind, [(kind, "ask")])
    asked = _english_phrase(dice, phrase) if phrase else []
    return [*ask, *asked, *_english_clause(dice, clause, "question"), *end]


# cell 06177465 538317 · Sixteen kinds of sentence
def _in_french(dice: _Dice, meaning: _Meaning) -> list[_Piece]:
    """Write the meaning in French: pieces of text with their labels."""
    kind, clause, phrase = meaning.kind, meaning.clause, meaning.phrase
    formal, end = dice.chance("french", 0.5), [("." if kind == "statement" else "?", "end")]
    if phrase and not clause:
        return [*_french_being(dice, meaning, formal), *end]
    if kind == "statement":
        return [*_french_clause(dice, clause, "statement", formal), *end]
    if kind == "who":
        ask = [("qui", "ask"), *dice.draw("french", ([], [("est-ce", ""), ("qui", "")]), 0.8)]
        return [*ask, *_french_clause(dice, clause, "who", formal), *end]
    orders = _orders(clause, plain=kind in ("yes", "where", "when"))
    if kind == "what" and not clause.subject.is_pronoun:
        orders = ["est-ce que", "behind"]
    order, noted = dice.draw("french", orders), None
    if kind == "yes":
        return [*_french_clause(dice, clause, order, formal), *end]
    if kind in _ADVERBS:
        ask = [(_ADVERBS[kind], "ask")]
        words = _french_clause(dice, clause, order, formal)
        return [*words, *ask, *end] if order == "plain" else [*ask, *words, *end]
    if phrase:
        noted = _french_phrase(dice, phrase, formal)
        which = _french_determiner("which", noted.feminine, noted.plural, "a", formal)
        ask = ([("combien", "ask"), ("de", "ask")] if kind == "how many" else [(which, "ask")])
        ask += noted.pieces
    else:
        ask = [("que" if kind == "what" else "qui", "ask")]
    return [*ask, *_french_clause(dice, clause, order, formal, noted), *end]


def _french_being(dice: _Dice, meaning: _Meaning, formal: bool) -> list[_Piece]:
    """Write a question with "to be" in French, without its end."""
    kind, phrase = meaning.kind, meaning.phrase
    subject = _french_phrase(dice, phrase, formal)
    be = (_ARE[meaning.tense][subject.person], "be")
    if kind == "whose":
        (this, label), *bare = subject.pieces
        return [("à", "ask"), ("qui", "ask"), be, (this, label), *bare]
    if kind == "color":
        return [("de", "ask"), ("quelle", "ask"), ("couleur", "color"), be, *subject.pieces]
    ask = [(_ADVERBS[kind[:-3]], "ask")] if kind != "is" else []
    orders = ["est-ce que"] if phrase.person == "I" else ["est-ce que", "turned"]
    adjective = meaning.adjective and _french_adjective(meaning.adjective, subject.feminine,
                                                        subject.plural, "")
    more = [(adjective, "adjective")] if adjective else []
    if dice.draw("french", orders) == "est-ce que":
        return [*ask, ("est-ce", ""), ("que", ""), *subject.pieces, be, *more]
    if kind == "where is" and not phrase.is_pronoun:
        return [*ask, be, *subject.pieces]
    before, turned = _inverted(subject, phrase.is_pronoun, be)
    return [*ask, *before, *turned, *more]


# cell aeed11af 7ae59b · From pieces to text
def _elided(pieces: list[_Piece]) -> list[_Piece]:
    """Elide le, la, je, ne, de, que before vowels, and contract de + le to du, de + les to des."""
    done: list[_Piece] = []
    for n, (text, label) in enumerate(pieces):
        after = pieces[n + 1][0] if n + 1 < len(pieces) else "."
        if text in _ELIDED and _starts_with_vowel(after):
            text = text[:-1] + "'"
        if done and done[-1][0] == "de" and text in ("le", "les"):
            text, label = {"le": "du", "les": "des"}[text], f"{done.pop()[1]} {label}"
        done.append((text, label))
    return done


class _Side(NamedTuple):
    """A sentence, and the pieces that it was joined from."""

    text: str
    pieces: list[_Piece]

    @property
    def labels(self) -> list[str]:
        """What each character stands for, spaces left out."""
        return [label for word, label in self.pieces for letter in word if letter != " "]


def _joined(pieces: list[_Piece], space: str = " ") -> _Side:
    """Join pieces to a sentence; French has a `space` before its question mark."""
    text = ""
    for word, _ in pieces:
        glued = not text or text[-1] == "'" or word[0] in "-'." or word == "n't"
        text += ("" if glued else space if word == "?" else " ") + word
    return _Side(text[0].upper() + text[1:], pieces)


# cell a7719787 b13275 · The file
def _folded(text: str) -> str:
    """Return a text in small letters, with straight quotes, without spaces and piece marks."""
    text = text.replace("’", "'").replace("▁", "").lower()
    return "".join(text.split())


@cache
def _draw_pairs(n_pairs: int, seed: int) -> tuple[tuple[tuple[_Side, _Side], ...], Counter]:
    """Draw distinct pairs (French, English), ordered by the length of the English sentence."""
    dice, pairs = _Dice(seed), {}
    while len(pairs) < n_pairs:
        meaning = _draw_meaning(dice)
        for _ in range(dice.draw("again", (1, 1, 2, 3))):
            dice.bits["draws"] += 1
            space = dice.draw("space", (" ", " ", "\u202f", "\xa0"))
            french = _joined(_elided(_in_french(dice, meaning)), space)
            english = _joined(_in_english(dice, meaning), "")
            if dice.chance("space", 0.1):
                french = french._replace(text=french.text.replace("'", "’"))
            pairs.setdefault((_folded(french.text), english.text), (french, english))
    in_order = sorted(pairs.values(), key=lambda pair: (len(pair[1].text), pair[1].text))
    return tuple(in_order[:n_pairs]), dice.bits


def make_fra_eng(folder: Path, n_pairs: int = 12_000, seed: int = 13) -> None:
    """Write pairs as `fra.txt`: an English and a French sentence in each line, a tab between."""
    lines = (f"{english.text}\t{french.text}\n"
             for french, english in _draw_pairs(n_pairs, seed)[0])
    (folder / "fra.txt").write_bytes("".join(lines).encode())


# cell 57e7abf5 8d04fe · Which word translates which
@cache
def _alignments() -> dict[tuple[str, str], tuple[_Side, _Side]]:
    """Return both sides of every pair of the sample, by their folded texts."""
    return {(_folded(french.text), _folded(english.text)): (french, english)
            for french, english in _draw_pairs(12_000, 13)[0]}


def _token_labels(side: _Side, tokens: Sequence[str]) -> list[set[str]]:
    """Return what each token stands for: all that its characters stand for."""
    known, labels, place = side.labels, [], 0
    for token in tokens:
        length = len(_folded(token))
        labels.append(set(" ".join(known[place:place + length]).split()))
        place += length
    if place != len(known) or _folded("".join(tokens)) != _folded(side.text):
        raise ValueError(f"the tokens {list(tokens)!r} do not spell {side.text!r}; pass tokens "
                         "before rare ones become unknown, without marks of beginning and end")
    return labels


def true_alignment(source_tokens: Sequence[str], target_tokens: Sequence[str]
                   ) -> set[tuple[int, int]]:
    """Return which tokens of a pair of the sample belong together: pairs (source, target).

    The tokens may come from any tokenizer: of words, pieces or characters. Words that only serve
    grammar in one language ("est-ce que", "do", the -t- of "a-t-il") belong to nothing.
    Raises: KeyError for a pair that is not in the sample; ValueError if the tokens spell another.
    """
    key = (_folded("".join(source_tokens)), _folded("".join(target_tokens)))
    if key not in _alignments():
        raise KeyError(f"no pair {''.join(source_tokens)!r}, {''.join(target_tokens)!r} in the "
                       "sample of fra_eng: its truth is known for its own pairs only")
    source, target = (_token_labels(side, tokens) for side, tokens in
                      zip(_alignments()[key], (source_tokens, target_tokens), strict=True))
    return {(s, t) for s, a in enumerate(source) for t, b in enumerate(target) if a & b}
