"""From text to tokens: words, and pieces of words

By the end you will have tokenizers for two languages, and you will have built one that knows no unknown word: byte-pair encoding, which splits a word that it has never seen into parts that it knows, and which agrees piece by piece with Google's sentencepiece.
"""

# cell 906179f5 a6284e · From text to tokens: words, and pieces of words
from __future__ import annotations

# generated from nbs/11c_subwords.ipynb: do not edit · e2fd1b
__all__ = [
    "normalize_text",
    "WordTokenizer",
    "physical_cores",
    "tokenize_in_processes",
    "split_runs",
    "pairs_in",
    "merge_pair",
    "BytePairTokenizer",
    "tokenizer_from_state",
]
__dir__ = __all__.copy  # what completion offers

# cell 906179f5 a171f2 · From text to tokens: words, and pieces of words
import os
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from heapq import heappop, heappush
from multiprocessing import get_context
from pathlib import Path
from typing import Any


# cell 6f3d050b 6a8e41 · Text is never clean
_SPACES = dict.fromkeys(map(ord, "\u00a0\u2007\u2009\u200a\u202f\u3000\ufeff"), " ")
_QUOTES = {ord(c): "'" for c in "‘’‛′"} | {ord(c): '"' for c in "“”„"}
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060"), "")
_FOLDS = _SPACES | _QUOTES | _INVISIBLE | {ord("…"): "..."}


def normalize_text(text: str) -> str:
    """Write a text with plain spaces and straight quotes, composed letters, and no double spaces.

    Twice is the same as once. Raises: TypeError for anything but a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"a text must be a string, got a {type(text).__name__}: {text!r:.80}")
    return " ".join(unicodedata.normalize("NFC", text.translate(_FOLDS)).split())


# cell a4d09e28 1c6193 · Words, by the rules of a language
_JOINED_LEFT = re.compile(r"[.,;:!?…%)\]]+|'(s|re|ve|ll|d|m|t)|n't|-\w+", re.IGNORECASE)
_JOINED_RIGHT = re.compile(r"[(\[£€]+|\w+'|-|\$")
_TWO_IN_ONE = {("can", "not"), ("gon", "na"), ("got", "ta"), ("wan", "na")}


class WordTokenizer:
    """Split texts into words with the rules of a language, as spaCy knows them: "en", "fr", …

    Texts are normalised first, by `normalize_text`, unless `normalize` is False.
    Raises: ImportError if spaCy is missing, or has no rules for the language.
    """

    def __init__(self, language: str, normalize: bool = True):
        self.language, self.normalize = language, normalize
        self._split = _spacy_tokenizer(language)

    def __call__(self, text: str) -> list[str]:
        text = normalize_text(text) if self.normalize else text
        return [token.text for token in self._split(text)]

    def join(self, tokens: Iterable[str]) -> str:
        """Write tokens as a text again: no space before a comma, inside `don't` or after `l'`."""
        return _join_words(list(tokens), french=self.language == "fr")

    def many(self, texts: Iterable[str], processes: int | None = None) -> list[list[str]]:
        """Tokenize many texts, in processes on the physical cores; a few are done right here."""
        return tokenize_in_processes(self, texts, processes)

    def state(self) -> dict[str, Any]:
        """Describe the tokenizer in plain values."""
        return {"kind": "words", "language": self.language, "normalize": self.normalize}

    def __reduce__(self):
        return type(self), (self.language, self.normalize)


@cache
def _spacy_tokenizer(language: str) -> Any:
    """Return spaCy's tokenizer for a language; it has rules only, nothing trained."""
    try:
        import spacy
    except ModuleNotFoundError:
        raise ImportError("the rules for words are spaCy's, which is not installed: "
                          "pip install 'ground-up[translation]'") from None
    return spacy.blank(language).tokenizer


def _join_words(tokens: list[str], french: bool) -> str:
    """Put tokens next to each other, with a space between two words."""
    text, quoted, glue = "", False, True
    for n, token in enumerate(tokens):
        before = tokens[n - 1] if n else ""
        if token == '"':  # opening and closing quotes take turns
            left, right, quoted = quoted, not quoted, not quoted
        else:
            left = bool(_JOINED_LEFT.fullmatch(token)) and not (french and token[0] in "?!:;")
            right = bool(_JOINED_RIGHT.fullmatch(token)) and (french or token[-1] != "'")
        left |= token == "-" or (token == "'" and before.endswith("s"))
        left |= (before.lower(), token.lower()) in _TWO_IN_ONE
        text += token if glue or left else f" {token}"
        glue = right
    return text


# cell 89ba073c d00ebc · In processes, with an eye on memory
def physical_cores() -> int:
    """Count the cores that this process may use, two hyperthreads of one core counted once."""
    try:
        allowed = os.sched_getaffinity(0)
        files = (Path(f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list")
                 for n in allowed)
        return max(1, len({file.read_text() for file in files}))
    except (AttributeError, OSError):  # not Linux
        return max(1, (os.cpu_count() or 2) // 2)


def tokenize_in_processes(tokenizer: Callable[[str], list[str]], texts: Iterable[str],
                          processes: int | None = None, chunk: int = 5_000,
                          context: str | None = None) -> list[list[str]]:
    """Tokenize texts in `processes` (None: one for each physical core, if there are many texts).

    Equal tokens become one object in memory, so that a large text costs little more than its
    different words; only a few chunks are on their way at any time. `context` is how processes
    start, as in multiprocessing.
    Raises: ValueError for fewer than one process or one text in a chunk.
    """
    texts = list(texts)
    if (processes is not None and processes < 1) or chunk < 1:
        raise ValueError(f"processes and chunk must be at least 1, got {processes} and {chunk}")
    if processes is None:
        processes = min(physical_cores(), len(texts) // (4 * chunk))
    if processes <= 1:
        return [[sys.intern(token) for token in tokenizer(text)] for text in texts]
    chunks, done = [texts[i:i + chunk] for i in range(0, len(texts), chunk)], []
    with get_context(context).Pool(processes) as pool:
        for part in pool.imap(partial(_tokenize_chunk, tokenizer), chunks):
            done += [[sys.intern(token) for token in tokens] for tokens in part]
    return done


def _tokenize_chunk(tokenizer: Callable[[str], list[str]], texts: list[str]) -> list[list[str]]:
    return [tokenizer(text) for text in texts]


# cell c803718e b32268 · Byte-pair encoding, fit for use
_RUNS = re.compile(r"▁?(?:[^\W\d_]+|\d+|[^\w▁]+|_+)|▁")


def split_runs(text: str) -> list[str]:
    """Split a text into runs of letters, of digits and of signs; ▁ stands for the space before."""
    clean = normalize_text(text).replace("▁", "_").replace(" ", "▁")
    return _RUNS.findall(f"▁{clean}") if clean else []


# cell 6fc861d3 47793b · Byte-pair encoding, fit for use
def pairs_in(symbols: Sequence[str]) -> list[tuple[str, str]]:
    """List the neighbours in a run; of `aaa` only one pair, as only one can be joined."""
    found, last = [], -2
    for n, pair in enumerate(zip(symbols, symbols[1:], strict=False)):
        if n == last + 1 and found and found[-1] == pair and pair[0] == pair[1]:
            continue
        found.append(pair)
        last = n
    return found


def merge_pair(symbols: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """Join each occurrence of a pair of neighbours, from the left."""
    merged, n = [], 0
    while n < len(symbols):
        joins = tuple(symbols[n:n + 2]) == pair
        merged.append("".join(pair) if joins else symbols[n])
        n += 1 + joins
    return merged


# cell 8452fdf8 1128b6 · Byte-pair encoding, fit for use
class _Corpus:
    """The different runs of a text as lists of symbols, and where each pair of symbols occurs."""

    def __init__(self, counts: Counter[str]):
        self.runs, self.counts = [list(run) for run in counts], list(counts.values())
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.places: dict[tuple[str, str], set[int]] = defaultdict(set)
        self.heap: list[tuple[int, int, str, tuple[str, str]]] = []
        self.changed: set[tuple[str, str]] = set()
        for number in range(len(self.runs)):
            self._count(number, 1)

    def _count(self, number: int, sign: int) -> None:
        """Add the pairs of one run to the counts, or take them away."""
        run, count = self.runs[number], self.counts[number]
        for pair in pairs_in(run):
            self.pairs[pair] += sign * count
            self.places[pair].add(number)
            self.changed.add(pair)

    def best(self) -> tuple[str, str] | None:
        """Return the most frequent pair; of equals the shortest, then the first in the alphabet."""
        for pair in self.changed:
            if self.pairs[pair] > 0:
                joined = "".join(pair)
                heappush(self.heap, (-self.pairs[pair], len(joined), joined, pair))
        self.changed.clear()
        while self.heap:
            count, _, _, pair = heappop(self.heap)
            if self.pairs[pair] == -count:  # else it has changed since it was pushed
                return pair
        return None

    def merge(self, pair: tuple[str, str]) -> None:
        """Join the two symbols wherever they stand next to each other; only those runs change."""
        for number in self.places.pop(pair):
            self._count(number, -1)
            self.runs[number] = merge_pair(self.runs[number], pair)
            self._count(number, 1)
        self.pairs.pop(pair, None)
        self.changed.discard(pair)


# cell 3ebd444d f0604f · Byte-pair encoding, fit for use
class BytePairTokenizer:
    """Split texts into pieces that were learned by joining the most frequent pair, again and again.

    `pieces` are the characters, then the joined pieces in the order in which they were found.
    ▁ is the space before a word. A character that training has not seen stays a piece of its own.
    Raises: ValueError if a piece is empty or comes twice.
    Source: Sennrich, Haddow and Birch (2016), section 3.2; Gage (1994).
    Differs: two neighbours are joined if they *spell* a known piece, as in sentencepiece, whatever
        pair it was learned from.
    """

    def __init__(self, pieces: Sequence[str]):
        self.pieces = list(pieces)
        self.ranks = {piece: rank for rank, piece in enumerate(self.pieces)}
        if "" in self.ranks or len(self.ranks) != len(self.pieces):
            raise ValueError("the pieces of a tokenizer must be different, and none of them empty")
        self._cache: dict[str, list[str]] = {}

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> BytePairTokenizer:
        """Learn `size` pieces from texts: their characters, then the most frequent pairs.

        Raises: ValueError if the texts have more characters than `size`.
        """
        counts = Counter(run for text in texts for run in split_runs(text))
        letters = Counter()
        for run, count in counts.items():
            for letter in run:
                letters[letter] += count
        pieces = [letter for letter, _ in sorted(letters.items(), key=lambda x: (-x[1], x[0]))]
        if size < len(pieces):
            raise ValueError(f"the texts have {len(pieces)} different characters: size must be at "
                             f"least that, got {size}")
        corpus, known = _Corpus(counts), set(pieces)
        while len(pieces) < size and (pair := corpus.best()):
            corpus.merge(pair)
            if (piece := "".join(pair)) not in known:  # else two ways lead to one piece
                pieces.append(piece)
                known.add(piece)
        return cls(pieces)

    def __call__(self, text: str) -> list[str]:
        return [piece for run in split_runs(text) for piece in self._split_run(run)]

    def _split_run(self, run: str) -> list[str]:
        """Join neighbours in the order in which training found their pieces."""
        if run not in self._cache:
            symbols = list(run)
            while len(symbols) > 1:
                joined = [a + b for a, b in zip(symbols, symbols[1:], strict=False)]
                ranks = [self.ranks.get(piece, len(self.ranks)) for piece in joined]
                n = min(range(len(ranks)), key=ranks.__getitem__)
                if ranks[n] == len(self.ranks):
                    break
                symbols[n:n + 2] = [joined[n]]
            if len(self._cache) > 200_000:
                self._cache.clear()
            self._cache[run] = symbols
        return self._cache[run]

    def __len__(self) -> int:
        return len(self.pieces)

    def join(self, tokens: Iterable[str]) -> str:
        """Write pieces as a text again."""
        return " ".join("".join(tokens).replace("▁", " ").split())

    def many(self, texts: Iterable[str], processes: int | None = None) -> list[list[str]]:
        """Tokenize many texts; most words are remembered, so one process is usually enough."""
        return tokenize_in_processes(self, texts, processes or 1)

    def state(self) -> dict[str, Any]:
        """Describe the tokenizer in plain values."""
        return {"kind": "pieces", "pieces": self.pieces}

    def __reduce__(self):
        return type(self), (self.pieces,)


def tokenizer_from_state(state: Mapping[str, Any]) -> WordTokenizer | BytePairTokenizer:
    """Make a tokenizer from what its `state()` returned.

    Raises: ValueError for a description of another kind.
    """
    if state.get("kind") == "words":
        return WordTokenizer(state["language"], state["normalize"])
    if state.get("kind") == "pieces":
        return BytePairTokenizer(state["pieces"])
    raise ValueError(f"a tokenizer's kind is 'words' or 'pieces', got {state.get('kind')!r}")
