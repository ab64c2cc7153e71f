"""Sentence pairs: from a dictionary learned by counting to batches

By the end you will have a French–English dictionary that was learned by counting, proof that it is not enough, and everything that a network needs to do better: pairs as numbers, a split that leaks nothing, batches with little padding, and a loss that padding cannot change.
"""

# cell 84fda89e a6284e · Sentence pairs: from a dictionary learned by counting to batches
from __future__ import annotations

# generated from nbs/11d_sentence_pairs.ipynb: do not edit · ca62b6
__all__ = [
    "SentencePair",
    "read_pairs",
    "questions",
    "learn_dictionary",
    "align_words",
    "PAD",
    "UNK",
    "BOS",
    "EOS",
    "SPECIAL_TOKENS",
    "TextVocab",
    "hold_out",
    "references",
    "PairDataset",
    "pad_right",
    "collate_pairs",
    "SortSampler",
    "SortishSampler",
    "count_real",
    "masked_loss",
]
__dir__ = __all__.copy  # what completion offers

# cell 84fda89e c3109a · Sentence pairs: from a dictionary learned by counting to batches
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from exp.nb03b import Sampler
from exp.nb03e import divides_by
from exp.nb11c import normalize_text, tokenizer_from_state


# cell 54f353ed 58498f · Pairs
class SentencePair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str


def read_pairs(path: str | Path, change: Callable[[str], str] | None = None) -> list[SentencePair]:
    """Read `fra.txt`: each line is English, a tab, French; `change` is applied to both sides.

    Differs: the source is French, so the sides are swapped.
    Raises: ValueError, with the number of the line, for a line without exactly one tab.
    """
    pairs = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), 1):
        if not line:
            continue
        english, *french = line.split("\t")
        if len(french) != 1:
            raise ValueError(f"line {number} of {path} has {len(french)} tabs, a pair needs one: "
                             f"{line!r:.80}")
        pairs.append(SentencePair(french[0], english))
    return [SentencePair(*map(change, pair)) for pair in pairs] if change else pairs


# cell e311e53d 78cee6 · Pairs
_ENGLISH_QUESTION, _FRENCH_QUESTION = re.compile(r"Wh[^?.!]+\?"), re.compile(r"[^?.!]+\?")


def questions(pairs: Iterable[SentencePair]) -> list[SentencePair]:
    """Keep the pairs whose sides are both one question, in English one that begins with Wh.

    Source: fast.ai 2018, lesson 11.
    Differs: the lesson also takes the question at the beginning of a longer text.
    """
    return [pair for pair in pairs if _ENGLISH_QUESTION.fullmatch(pair.target)
            and _FRENCH_QUESTION.fullmatch(pair.source)]


# cell 7dc91c29 a8ea57 · A dictionary from counting
def learn_dictionary(pairs: Iterable[tuple[Sequence[str], Sequence[str]]], rounds: int = 5
                     ) -> dict[str, dict[str, float]]:
    """Learn t(e | f) from pairs of token lists: French token -> English token -> chance.

    The French token "" stands in every sentence, for what has no translation.
    Source: Brown and others (1993), section 4.1, model 1.
    """
    pairs, chances = [(["", *source], target) for source, target in pairs], {}
    for _ in range(rounds):
        votes: dict[str, Counter[str]] = defaultdict(Counter)
        for source, target in pairs:
            rows = [chances.get(f, {}) for f in source]
            for e in target:
                weights = [row.get(e, 1e-9) for row in rows]
                total = sum(weights)
                for f, weight in zip(source, weights, strict=True):
                    votes[f][e] += weight / total
        chances = {f: {e: n / row.total() for e, n in row.items()} for f, row in votes.items()}
    return chances


# cell bb0263e0 ddb3d9 · A dictionary from counting
def align_words(dictionary: Mapping[str, Mapping[str, float]], source: Sequence[str],
                target: Sequence[str]) -> list[int]:
    """Return for each target token the place of the source token that explains it best."""
    return [max(range(len(source)), key=lambda s: dictionary.get(source[s], {}).get(e, 0.0))
            for e in target]


# cell 5b2156bc 7edacd · Words as numbers
PAD, UNK, BOS, EOS = range(4)
SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>")


class TextVocab:
    """Number the tokens of texts: 0 to 3 are padding, unknown, beginning and end.

    Raises: ValueError unless the tokens begin with SPECIAL_TOKENS and are all different.
    """

    def __init__(self, tokenizer: Callable[[str], list[str]], tokens: Sequence[str]):
        self.tokenizer, self.tokens = tokenizer, list(tokens)
        self.places = {token: number for number, token in enumerate(self.tokens)}
        if tuple(self.tokens[:4]) != SPECIAL_TOKENS or len(self.places) != len(self.tokens):
            raise ValueError(f"the tokens must begin with {SPECIAL_TOKENS} and be all different; "
                             "TextVocab.from_texts makes them so")

    @classmethod
    def from_texts(cls, texts: Iterable[str | Sequence[str]], tokenizer: Callable[[str], list[str]],
                   max_size: int | None = None, min_count: int = 1) -> TextVocab:
        """Number the tokens of texts (or lists of tokens), the most frequent first.

        At most `max_size` numbers are given, the special ones included; tokens that occur less
        often than `min_count` get none, and are unknown.
        """
        if (max_size is not None and max_size < 5) or min_count < 1:
            raise ValueError(f"max_size must be at least 5 and min_count 1, got {max_size}, "
                             f"{min_count}")
        counts = Counter(token for text in texts
                         for token in (tokenizer(text) if isinstance(text, str) else text))
        kept = [token for token, count in sorted(counts.items(), key=lambda x: (-x[1], x[0]))
                if count >= min_count and token not in SPECIAL_TOKENS]
        return cls(tokenizer, [*SPECIAL_TOKENS, *kept][:max_size])

    def encode(self, text: str | Sequence[str]) -> list[int]:
        """Return the numbers of a text (or of its tokens), with EOS at the end."""
        tokens = self.tokenizer(text) if isinstance(text, str) else text
        return [*(self.places.get(token, UNK) for token in tokens), EOS]

    def tokens_of(self, ids: Iterable[int] | Tensor) -> list[str]:
        """Return the tokens up to the first EOS, without padding and the mark of the beginning."""
        found = []
        for number in ids.tolist() if isinstance(ids, Tensor) else ids:
            if number == EOS:
                break
            if number not in (PAD, BOS):
                found.append(self.tokens[number])
        return found

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """Return the text of numbers up to the first EOS."""
        return self.tokenizer.join(self.tokens_of(ids))

    def __len__(self) -> int:
        return len(self.tokens)

    def state(self) -> dict[str, Any]:
        """Describe the vocab and its tokenizer in plain values."""
        return {"tokenizer": self.tokenizer.state(), "tokens": self.tokens}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> TextVocab:
        """Make the vocab whose `state()` this is."""
        return cls(tokenizer_from_state(state["tokenizer"]), state["tokens"])


# cell 6da142c0 2abb19 · A split that does not leak
def hold_out(pairs: Sequence[SentencePair], n: int, key: str = "target"
             ) -> tuple[list[SentencePair], list[SentencePair]]:
    """Split pairs into (train, held): every pair that has one of `n` chosen sentences is held out.

    `key` says by which side. Of the different sentences on that side of `questions(pairs)`, those
    with the `n` smallest sha256 are chosen; neither their order nor other pairs change the choice.
    Raises: ValueError for another key, or unless there are more than `n` such sentences.
    """
    if key not in SentencePair._fields:
        raise ValueError(f"key must be 'source' or 'target', got {key!r}")
    sides = {normalize_text(getattr(pair, key)) for pair in questions(pairs)}
    if not 0 < n < len(sides):
        raise ValueError(f"n must lie in 1..{len(sides) - 1}, with {len(sides)} different "
                         f"questions, got {n}")
    chosen = set(sorted(sides, key=lambda side: sha256(side.encode()).hexdigest())[:n])
    parts: tuple[list[SentencePair], list[SentencePair]] = [], []
    for pair in pairs:
        parts[normalize_text(getattr(pair, key)) in chosen].append(pair)
    return parts


def references(pairs: Iterable[SentencePair]) -> dict[str, list[str]]:
    """Collect all translations of each source sentence, in the order of the pairs."""
    found: dict[str, list[str]] = {}
    for source, target in pairs:
        translations = found.setdefault(source, [])
        if target not in translations:
            translations.append(target)
    return found


# cell 3eea1119 f49ac4 · From pairs to batches
class PairDataset:
    """Pairs as numbers: item i is (source, target), two tensors that end in EOS.

    `pairs` holds texts, or lists of tokens, which saves a second tokenizing. A side longer than
    `max_source` or `max_target` is cut to that, EOS included.
    """

    def __init__(self, pairs: Iterable[Sequence[Any]], source_vocab: TextVocab,
                 target_vocab: TextVocab, max_source: int | None = None,
                 max_target: int | None = None):
        self.source, self.target = [], []
        for source, target in pairs:
            self.source.append(_cut(source_vocab.encode(source), max_source))
            self.target.append(_cut(target_vocab.encode(target), max_target))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.source[i], self.target[i]

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """The length of each target and source, by which samplers sort."""
        return [(len(t), len(s)) for s, t in zip(self.source, self.target, strict=True)]


def _cut(numbers: list[int], longest: int | None) -> Tensor:
    """Return the numbers as a tensor of at most `longest`, the last of which is EOS."""
    if longest is not None:
        if longest < 1:
            raise ValueError(f"a sentence needs room for its end: at least 1, got {longest}")
        numbers = [*numbers[:longest - 1], EOS] if len(numbers) > longest else numbers
    return torch.tensor(numbers)


# cell b2d61381 89c2aa · From pairs to batches
def pad_right(rows: Sequence[Tensor]) -> Tensor:
    """Stack sequences of different lengths, the shorter ones filled with PAD on the right.

    Shape: B tensors (length,) -> (B, longest).
    """
    padded = torch.full((len(rows), max(map(len, rows))), PAD)
    for row, numbers in zip(padded, rows, strict=True):
        row[:len(numbers)] = numbers
    return padded


def collate_pairs(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Make a batch (source, target_in, target_out): read up to a word, and predict the next one.

    Shape: source (B, S); target_in (B, T) begins with BOS; target_out (B, T) ends with EOS.
    Raises: ValueError for no samples.
    """
    if not samples:
        raise ValueError("a batch of no pairs; does the sampler yield an empty list?")
    sources, targets = zip(*samples, strict=True)
    target_out = pad_right(targets)                                       # (B, T)
    beginning = torch.full((len(target_out), 1), BOS)
    target_in = torch.cat([beginning, target_out[:, :-1]], 1)             # (B, T)
    target_in = target_in.masked_fill(target_in == EOS, PAD)
    return pad_right(sources), target_in, target_out


# cell b398e4e6 f321cd · Batches of similar length
class SortSampler(Sampler):
    """Read the longest samples first, so that those of similar length meet in a batch."""

    def __init__(self, lengths: Sequence[Any]):
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def indices(self) -> Tensor:
        """Return all numbers, sorted by length."""
        order = sorted(range(len(self)), key=self.lengths.__getitem__, reverse=True)
        return torch.tensor(order, dtype=torch.int64)


# cell c509c57a 071518 · Batches of similar length
class SortishSampler(Sampler):
    """Shuffle, sort within pieces of many batches, and shuffle the batches, the longest first.

    A batch gets samples of similar length, and every epoch other ones.
    Raises: ValueError for a batch size or a number of batches in a piece below 1.
    Source: fast.ai 2018, lesson 11.
    """

    def __init__(self, lengths: Sequence[Any], batch_size: int, batches: int = 50,
                 generator: torch.Generator | None = None):
        if batch_size < 1 or batches < 1:
            raise ValueError(f"batch_size and batches must be at least 1, got {batch_size}, "
                             f"{batches}")
        self.lengths, self.batch_size, self.batches = lengths, batch_size, batches
        self.generator = generator

    def __len__(self) -> int:
        return len(self.lengths)

    def indices(self) -> Tensor:
        """Return all numbers in a new order."""
        shuffled = torch.randperm(len(self), generator=self.generator)
        if not len(self):
            return shuffled
        pieces = [sorted(piece.tolist(), key=self.lengths.__getitem__, reverse=True)
                  for piece in shuffled.split(self.batch_size * self.batches)]
        groups = [group for piece in pieces for group in torch.tensor(piece).split(self.batch_size)]
        whole = [group for group in groups if len(group) == self.batch_size]
        rest = [group for group in groups if len(group) < self.batch_size]
        order = torch.randperm(len(whole), generator=self.generator).tolist()
        if order:  # the longest first: if it does not fit into memory, that is known at once
            longest = max(order, key=lambda n: self.lengths[whole[n][0]])
            order.remove(longest)
            order.insert(0, longest)
        return torch.cat([*(whole[n] for n in order), *rest])


# cell 661ba3ba 8a2cc5 · A loss that padding cannot change
def count_real(logits: Tensor, target: Tensor) -> Tensor:
    """Count the tokens that are not padding."""
    return (target != PAD).count_nonzero()


@divides_by(count_real)
def masked_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy over all real tokens; padding does not count.

    Shape: logits (B, T, V), target (B, T) -> ().
    Raises: ValueError if the first two axes differ.
    """
    if logits.ndim != 3 or logits.shape[:2] != target.shape:
        raise ValueError(f"logits (B, T, V) need a target (B, T), got {tuple(logits.shape)} and "
                         f"{tuple(target.shape)}")
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD)
