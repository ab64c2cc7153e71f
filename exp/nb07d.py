"""Word vectors: meaning from the company that words keep

By the end you will have word vectors that a network of one layer learned from a guessing game, the theory that says what it must learn, and a reader for the vector files that others publish, which names every damaged line.
"""

# cell bb887bf9 a6284e · Word vectors: meaning from the company that words keep
from __future__ import annotations

# generated from nbs/07d_word_vectors.ipynb: do not edit · b8b5d9
__all__ = [
    "normalize_rows",
    "cosine_similarity",
    "skip_gram_pairs",
    "NearestWords",
    "WordVectors",
    "SkipGram",
    "negative_sampling_loss",
    "train_skip_gram",
    "read_word_vectors",
]
__dir__ = __all__.copy  # what completion offers

# cell bb887bf9 cd0856 · Word vectors: meaning from the company that words keep
import difflib
import gzip
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


# cell d9cbe50c c8ce29 · Normalise and compare, properly
def normalize_rows(x: Tensor, eps: float = 1e-12) -> Tensor:
    """Divide vectors by their length, along the last axis; zeros stay zeros.

    Shape: (…, D) -> the same.
    """
    return x / torch.linalg.norm(x, dim=-1, keepdim=True).clamp_min(eps)


def cosine_similarity(a: Tensor, b: Tensor, eps: float = 1e-8) -> Tensor:
    """Compute the cosine of the angle between vectors, along the last axis, broadcast.

    Shape: (…, D), (…, D) -> (…).
    """
    return (normalize_rows(a, eps) * normalize_rows(b, eps)).sum(-1)


# cell f2b03ea2 ff9a6b · The game: a true neighbour or a false one?
def skip_gram_pairs(sentences: Iterable[Sequence[str]], place: dict[str, int],
                    window: int = 4) -> Tensor:
    """List all pairs of a word and a neighbour at most `window` words away, as numbers.

    Words that `place` does not know are left out first. Shape: -> (N, 2) of int64.
    """
    if window < 1:
        raise ValueError(f"window must be 1 or more words to each side, got {window}")
    rows = [[place[word] for word in sentence if word in place] for sentence in sentences]
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    text = torch.tensor([word for row in rows for word in row], dtype=torch.int64)  # (T,)
    end = lengths.cumsum(0).repeat_interleave(lengths)[:, None]  # of each word's sentence: (T, 1)
    begin = end - lengths.repeat_interleave(lengths)[:, None]
    steps = torch.tensor([*range(-window, 0), *range(1, window + 1)])
    near = torch.arange(len(text))[:, None] + steps  # (T, 2 window), where each neighbour stands
    is_there = (begin <= near) & (near < end)
    return torch.stack([text[:, None].expand_as(near)[is_there], text[near[is_there]]], 1)


# cell b62e0e79 98daa8 · A table that can be asked
@dataclass(frozen=True)
class NearestWords:
    """Words with their cosines, the nearest first; prints itself as a line."""

    words: tuple[str, ...]
    cosines: tuple[float, ...]

    def __repr__(self) -> str:
        return ", ".join(f"{w} {s:.2f}" for w, s in zip(self.words, self.cosines, strict=True))


# cell c69da8e5 dc656f · A table that can be asked
@dataclass(frozen=True, eq=False)
class WordVectors:
    """Words with a vector each, usually the most frequent first; `skipped` says what was left out.

    Shape: vectors (V, D), float.
    Raises: ValueError unless there is one finite vector for each word, and each word once.
    """

    words: tuple[str, ...]
    vectors: Tensor
    skipped: tuple[str, ...] = ()
    _place: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self):
        place = {word: i for i, word in enumerate(self.words)}
        shape = tuple(self.vectors.shape)
        if self.vectors.ndim != 2 or len(shape) != 2 or shape[0] != len(self.words):
            raise ValueError(f"{len(self.words)} words need a tensor of as many rows, got {shape}")
        if len(place) < len(self.words):
            twice = [word for word, n in Counter(self.words).items() if n > 1]
            raise ValueError(f"each word may occur once, but these occur again: {twice[:5]}")
        if not torch.isfinite(self.vectors).all():
            row = int((~torch.isfinite(self.vectors)).any(1).nonzero()[0, 0])
            raise ValueError(f"the vector of {self.words[row]!r} is not finite")
        object.__setattr__(self, "_place", place)

    def __repr__(self) -> str:
        return f"WordVectors({len(self):,} words, {self.vectors.shape[1]} dimensions)"

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._place

    def __getitem__(self, word: str) -> Tensor:
        if word not in self._place:
            near = difflib.get_close_matches(str(word), self._place, n=3)
            hint = f"; near in spelling: {', '.join(near)}" if near else ""
            raise KeyError(f"no vector for {word!r} among {len(self):,} words{hint}")
        return self.vectors[self._place[word]]

    def phrase(self, text: str) -> Tensor | None:
        """Return the direction of a word, or the mean direction of a phrase's words; None if none.

        Parts are separated by blanks, hyphens or underscores and looked up in small letters,
        without a final 's; a part that has no vector leaves the phrase without one.
        """
        words = text.lower().replace("_", " ").replace("-", " ").split()
        parts = [text] if text in self else [word.removesuffix("'s") for word in words]
        if not parts or not all(part in self for part in parts):
            return None
        each = torch.stack([F.normalize(self[part], dim=-1) for part in parts])
        return F.normalize(each.mean(0), dim=-1)

    def nearest(self, target: str | Tensor, n: int = 5,
                without: Iterable[str] = ()) -> NearestWords:
        """Find the words whose vectors point most nearly the way of a word or a vector."""
        if isinstance(target, str):
            target, without = self[target], (*without, target)
        cosines = F.normalize(self.vectors, dim=-1) @ F.normalize(target, dim=-1)
        cosines[[self._place[word] for word in without if word in self]] = -math.inf
        best = cosines.topk(min(n, len(self) - len(set(without) & self._place.keys())))
        return NearestWords(tuple(self.words[i] for i in best.indices), tuple(best.values.tolist()))

    def analogy(self, a: str, b: str, c: str, n: int = 1) -> NearestWords:
        """Answer: a is to b as c is to what? The nearest words to b − a + c, except these three."""
        a_, b_, c_ = (F.normalize(self[word], dim=-1) for word in (a, b, c))
        return self.nearest(b_ - a_ + c_, n, without=(a, b, c))


# cell a5733667 07f09d · A table that can be asked
class SkipGram(nn.Module):
    """Two vectors for each word, `words` and `contexts`; a pair's score is their product.

    Shape: words (B,), others (B, K), both int64 -> (B, K).
    Source: Mikolov and others 2013, section 2.2.
    """

    def __init__(self, n_words: int, dimensions: int):
        super().__init__()
        self.words = nn.Parameter((torch.rand(n_words, dimensions) - 0.5) / dimensions)
        self.contexts = nn.Parameter(torch.randn(n_words, dimensions) * 0.1)

    def forward(self, words: Tensor, others: Tensor) -> Tensor:
        theirs = self.contexts.index_select(0, others.flatten()).reshape(*others.shape, -1)
        return (self.words.index_select(0, words)[:, None] * theirs).sum(-1)  # quick backwards, too


def negative_sampling_loss(scores: Tensor) -> Tensor:
    """Compute the price of a batch of scores, the true neighbour's first, then the false ones'.

    Shape: (B, 1 + k) -> (). Source: Mikolov and others 2013, equation 4.
    """
    wrong = torch.cat([-scores[:, :1], scores[:, 1:]], 1)  # positive where it errs
    return (wrong.clamp_min(0) + torch.log1p(torch.exp(-wrong.abs()))).sum(1).mean()


# cell b0724ca0 a55e36 · A table that can be asked
def train_skip_gram(sentences: Sequence[Sequence[str]], dimensions: int = 30, window: int = 4,
                    negatives: int = 5, n_epochs: int = 3, lr: float = 0.02, batch_size: int = 1024,
                    min_count: int = 1, seed: int = 0) -> tuple[WordVectors, SkipGram]:
    """Learn word vectors by telling true neighbours from drawn ones; return them and the model.

    Words are ordered by how often they occur; those below `min_count` are left out.
    Source: Mikolov and others 2013, without the thinning of frequent words.
    """
    counts = Counter(word for sentence in sentences for word in sentence)
    words = [word for word, n in counts.most_common() if n >= min_count]
    pairs = skip_gram_pairs(sentences, {word: i for i, word in enumerate(words)}, window)
    if not len(pairs):
        raise ValueError(f"no pairs: {len(counts)} different words, {len(words)} of them at least "
                         f"{min_count} times; give longer sentences or a smaller min_count")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SkipGram(len(words), dimensions)
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        noise = torch.tensor([counts[word] ** 0.75 for word in words])
        order = [batch for _ in range(n_epochs)
                 for batch in torch.randperm(len(pairs)).split(batch_size)]
        for step, batch in enumerate(order):
            word, true = pairs[batch].T  # (B,) each
            shape = len(batch), negatives
            false = torch.multinomial(noise, math.prod(shape) or 1, replacement=True)
            others = torch.cat([true[:, None], false[: math.prod(shape)].reshape(shape)], 1)
            optimizer.param_groups[0]["lr"] = lr * (1 - step / len(order))
            negative_sampling_loss(model(word, others)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return WordVectors(tuple(words), model.words.detach().clone()), model


# cell 74c1bc90 de5816 · Files of others
def _numbers(parts: list[str], width: int, seen: set[str]) -> tuple[str, list[float]]:
    """Split the parts of a line into its word and its numbers.

    Raises: ValueError that says what is wrong with the line.
    """
    word, extra = " ".join(parts[: max(1, len(parts) - width)]), parts[1 : len(parts) - width]
    if len(parts) - 1 < width or any(_is_number(part) for part in extra):
        raise ValueError(f"{len(parts) - 1} numbers instead of {width}")
    try:
        numbers = [float(part) for part in parts[-width:]]
    except ValueError:
        bad = next(part for part in parts[-width:] if not _is_number(part))
        raise ValueError(f"{bad[:20]!r} is not a number") from None
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number is not finite")
    if not word or word in seen:
        raise ValueError(f"the word {word!r} occurs again" if word else "the word is empty")
    return word, numbers


def _is_number(text: str) -> bool:
    """Return whether a text can be read as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


# cell 7900295d 4b69a4 · Files of others
def read_word_vectors(path: str | Path, words: Iterable[str] | None = None,
                      limit: int | None = None, damaged: str = "raise") -> WordVectors:
    """Read word vectors from a text file of fastText (with a header) or GloVe (without), or a .gz.

    `words`: keep only these. `limit`: read only so many lines. `damaged`: "raise" refuses a file
    with damaged lines, "skip" leaves them out and lists them in `skipped`.
    Raises: ValueError that names the damaged lines by number, or says where the file breaks off.
    """
    if damaged not in ("raise", "skip"):
        raise ValueError(f'damaged must be "raise" or "skip", got {damaged!r}')
    path, wanted = Path(path), None if words is None else set(words)
    found, numbers, problems, width, announced, line = {}, array("f"), [], None, None, 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as lines:
            for line, raw in enumerate(lines, 1):  # bytes end at \n alone, as the files mean it
                parts = raw.decode("utf-8", "replace").rstrip("\r\n ").split(" ")
                if line == 1 and len(parts) == 2 and all(part.isdigit() for part in parts):
                    announced, width = map(int, parts)
                    continue
                width = width or len(parts) - 1
                read = line - (announced is not None)
                if limit is not None and read > limit:
                    break
                if wanted is None or parts[0] in wanted:
                    try:
                        word, row = _numbers(parts, width, found.keys())
                    except ValueError as error:
                        problems.append(f"line {line:,}: {error}")
                    else:
                        found[word] = None
                        numbers.extend(row)
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path.name} breaks off after line {line:,} ({error}): "
                         "get it again") from None
    if announced is not None and limit is None and line - 1 != announced:
        raise ValueError(f"{path.name} announces {announced:,} words but has {line - 1:,} lines: "
                         "it is incomplete; get it again, or set limit")
    if problems and damaged == "raise":
        first = "; ".join(problems[:5]) + (" …" if len(problems) > 5 else "")
        raise ValueError(f"{path.name} has {len(problems):,} damaged lines: {first}. "
                         'damaged="skip" leaves them out')
    if not found:
        raise ValueError(f"{path.name} holds no vectors{' of these words' if wanted else ''}")
    vectors = torch.tensor(numbers, dtype=torch.float32).reshape(len(found), width)
    return WordVectors(tuple(found), vectors, tuple(problems))
