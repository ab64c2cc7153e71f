"""Makemore: names, letter by letter

By the end you will have a table of counts and a network that invent names, you will have found out, one knob at a time, what held the network back, and you will know whether it beats the table.
"""

# cell 45d081c2 a6284e · Makemore: names, letter by letter
from __future__ import annotations

# generated from nbs/10_makemore.ipynb: do not edit · 62095e
__all__ = [
    "read_names",
    "CharacterVocab",
    "NameSplit",
    "split_lines",
    "split_by_name",
    "make_contexts",
    "count_targets",
    "count_loss",
    "draw_characters",
    "generate_names",
    "even_scores",
    "ContextMLP",
    "counted_loaders",
]
__dir__ = __all__.copy  # what completion offers

# cell 45d081c2 1002a2 · Makemore: names, letter by letter
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby, pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exp.nb03b import DataLoaders
from exp.nb03d import evaluating
from exp.nb03e import divides_by
from exp.nb04b import model_device


# cell 05918266 355498 · Data
def read_names(folder: Path) -> list[str]:
    """Return the names of `names.txt`, one per line, in the order of the file.

    Raises: ValueError for an empty line.
    """
    names = (Path(folder) / "names.txt").read_text("utf-8").splitlines()
    if not all(names):
        raise ValueError(f"names.txt has an empty line, number {names.index('') + 1}; remove it")
    return names


# cell 2697f39a ab0568 · Characters as numbers
class CharacterVocab:
    """Number the characters of texts in sorted order, after `end`, which is number 0 if given.

    Raises: ValueError if there is no character, or if `end` is one of them.
    """

    def __init__(self, texts: Iterable[str], end: str | None = "."):
        characters = sorted(set("".join(texts)))
        if not characters or end in characters:
            raise ValueError(f"{end!r} marks the end of a text and cannot occur inside one; choose "
                             "another end" if characters else "the texts have no characters")
        self.end = end
        self.characters = "".join([*filter(None, [end]), *characters])
        self.numbers = {character: i for i, character in enumerate(self.characters)}

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str, unknown: str | None = None) -> list[int]:
        """Convert text to numbers; the known character `unknown` replaces those that have none.

        Raises: ValueError, with the characters, if some are unknown and there is no replacement.
        """
        fallback = self.numbers.get(unknown)
        found = [self.numbers.get(character, fallback) for character in text]
        if None in found or (unknown is not None and fallback is None):
            odd = sorted(set(text) - set(self.numbers))
            raise ValueError(f"characters {odd} were never seen; known are {self.characters!r}. "
                             f"Leave them out, or set unknown, now {unknown!r}, to a known one")
        return found

    def decode(self, numbers: Iterable[int] | Tensor) -> str:
        """Convert numbers to text. Raises: IndexError for a number without a character."""
        numbers = [*map(int, numbers.tolist() if isinstance(numbers, Tensor) else numbers)]
        if wrong := [number for number in numbers if not 0 <= number < len(self)]:
            raise IndexError(f"numbers of characters are 0..{len(self) - 1}, got {wrong[:5]}")
        return "".join(self.characters[number] for number in numbers)


# cell dde65631 eb6490 · Three sets
@dataclass(frozen=True)
class NameSplit:
    """The names of the training, dev and test sets."""

    train: list[str]
    dev: list[str]
    test: list[str]

    @property
    def sha256(self) -> str:
        """A hash of all three, including their order."""
        parts = ("\n".join(part) for part in (self.train, self.dev, self.test))
        return sha256("\n\n".join(parts).encode()).hexdigest()


# cell f92da61b b4723b · Three sets
def split_lines(names: Sequence[str], seed: int = 42) -> NameSplit:
    """Shuffle the lines and split them at 80 and 90 %; a repeated name may be in several parts.

    Raises: ValueError if there are too few lines for three parts.
    """
    return _cut([[name] for name in names], seed)


def split_by_name(names: Sequence[str], seed: int = 42) -> NameSplit:
    """Shuffle the distinct names and split them at 80 and 90 %; equal lines stay together.

    Raises: ValueError if there are too few names for three parts.
    """
    return _cut([list(lines) for _, lines in groupby(sorted(names))], seed)


def _cut(groups: list[list[str]], seed: int) -> NameSplit:
    """Shuffle groups of lines and split them at 80 and 90 %."""
    random.Random(seed).shuffle(groups)
    cuts = (0, int(0.8 * len(groups)), int(0.9 * len(groups)), len(groups))
    if len(set(cuts)) < 4:
        raise ValueError(f"three parts need at least 6 names, got {len(groups)}")
    parts = ([line for group in groups[a:b] for line in group] for a, b in pairwise(cuts))
    return NameSplit(*parts)


# cell 40814fc0 16242b · Notation
def make_contexts(names: Iterable[str], vocab: CharacterVocab, context_length: int
                  ) -> tuple[Tensor, Tensor]:
    """Return the context of each character of each name, the end included, and the character.

    Shape: contexts (N, K), next characters (N,); names are preceded by character 0, the end.
    Raises: ValueError for a context length below 1, or if the vocabulary has no end or a name
        contains it.
    """
    encoded = [vocab.encode(name) for name in names]
    if context_length < 1:
        raise ValueError(f"context_length must be at least 1, got {context_length}")
    if vocab.end is None or any(0 in numbers for numbers in encoded):
        raise ValueError("the vocabulary needs an end that occurs in no name, got end="
                         f"{vocab.end!r}")
    start = [0] * context_length
    text = torch.tensor([n for numbers in encoded for n in (*start, *numbers, 0)]).long()
    lengths = torch.tensor([len(numbers) + 1 for numbers in encoded]).long()
    number = torch.arange(len(lengths)).repeat_interleave(lengths)  # (N,): which name
    places = torch.arange(len(number)) + context_length * (number + 1)  # in the padded text
    return text[places[:, None] + torch.arange(-context_length, 0)], text[places]


# cell bf2def79 d1ddd2 · The same questions, again and again
def count_targets(contexts: Tensor, targets: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Gather equal contexts, and count how often each target followed each of them.

    Shape: contexts (N, K), targets (N,), all in 0..n-1 -> distinct contexts (U, K), counts (U, n).
    Raises: ValueError for numbers outside 0..n-1, and if there is no example.
    """
    numbers = torch.cat([contexts.flatten(), targets])
    if not len(targets) or numbers.min() < 0 or numbers.max() >= n:
        raise ValueError(f"at least one example is needed, and all numbers in 0..{n - 1}, got "
                         f"{len(targets)} examples" + (f" with numbers in {int(numbers.min())}.."
                         f"{int(numbers.max())}" if len(numbers) else ""))
    place = torch.zeros_like(targets)  # equal for equal contexts, as far as they were looked at
    for column in contexts.unbind(1):
        _, place = (place * n + column).unique(return_inverse=True)
    n_distinct = int(place.max()) + 1
    example = place.new_empty(n_distinct).scatter_(
        0, place, torch.arange(len(place), device=place.device))
    counts = (place * n + targets).bincount(minlength=n_distinct * n)
    return contexts[example], counts.reshape(-1, n).float()


# cell bf32f6dc fef259 · The same questions, again and again
@divides_by(lambda logits, counts: counts.sum())
def count_loss(logits: Tensor, counts: Tensor) -> Tensor:
    """Return the mean cross-entropy over all examples that were counted.

    Shape: logits (U, n), counts (U, n) -> ().
    Units: nats per example.
    Raises: ValueError if the shapes differ.
    """
    if logits.shape != counts.shape:
        raise ValueError("logits and counts must have the same shape (U, n), got "
                         f"{tuple(logits.shape)} and {tuple(counts.shape)}")
    return -(counts * F.log_softmax(logits, 1)).sum() / counts.sum()


# cell 073855b0 8f7073 · Making more
def draw_characters(logits: Tensor, temperature: float = 1.0,
                    generator: torch.Generator | None = None) -> Tensor:
    """Draw one class from each row of logits; at temperature 0, take the likeliest.

    Shape: logits (B, V) -> (B, 1).
    Raises: ValueError for a negative or infinite temperature.
    """
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"temperature must be at least 0 and finite, got {temperature}")
    if temperature == 0:
        return logits.argmax(1, keepdim=True)
    scaled = (logits - logits.amax(1, keepdim=True)) / temperature  # the largest is 0: no overflow
    return torch.multinomial(F.softmax(scaled, 1), 1, generator=generator)


# cell fd5012da 849e28 · Making more
@torch.no_grad()
def generate_names(model: Callable[[Tensor], Tensor], vocab: CharacterVocab, context_length: int,
                   n: int = 10, prompt: str = "", temperature: float = 1.0, max_length: int = 50,
                   unknown: str | None = None,
                   generator: torch.Generator | None = None) -> list[str]:
    """Draw names that begin with `prompt`, until each has ended or has `max_length` characters.

    At `temperature` 0 the likeliest character is taken; a `generator` on the CPU makes the names
    repeatable; `unknown` replaces characters of the prompt that the vocabulary lacks.
    Raises: ValueError for a negative or infinite temperature, an unknown character without a
        replacement, and a prompt that contains the end.
    """
    begun = vocab.encode(prompt, unknown)
    if vocab.end is None or 0 in begun:
        raise ValueError(f"the vocabulary needs an end, and the prompt must not contain it, got "
                         f"end={vocab.end!r} and prompt={prompt!r}")
    texts = torch.tensor([0] * context_length + begun).repeat(n, 1)
    going, device = torch.ones(n, dtype=torch.bool), model_device(model)
    with evaluating(model):
        while going.any() and texts.shape[1] < context_length + max_length:
            logits = model(texts[going][:, -context_length:].to(device)).cpu()
            following = torch.zeros(n, 1, dtype=texts.dtype)  # what has ended gets more ends
            following[going] = draw_characters(logits, temperature, generator)
            texts = torch.cat([texts, following], 1)
            going &= following[:, 0] != 0
    return [vocab.decode(text).split(vocab.end)[0] for text in texts[:, context_length:]]


# cell a0f48319 54445e · The same, as a module, with a Learner
@torch.no_grad()
def even_scores(layer: nn.Linear) -> None:
    """Make the scores of a last layer nearly equal at the start: the loss begins at ln n."""
    layer.weight.mul_(0.1)
    layer.bias.zero_()


# cell 01343650 400dd1 · The same, as a module, with a Learner
class ContextMLP(nn.Module):
    """Embed the characters of a context, concatenate them, and apply one hidden layer.

    Shape: contexts (B, K) -> logits (B, n).
    Source: Bengio and others 2003, equation 1, without the direct connections (W = 0).
    """

    def __init__(self, n: int, context_length: int, embedding_size: int = 24,
                 hidden_size: int = 300, dropout: float = 0.0):
        super().__init__()
        self.embedding = nn.Embedding(n, embedding_size)
        self.hidden = nn.Linear(context_length * embedding_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, n)
        even_scores(self.output)

    def forward(self, x: Tensor) -> Tensor:
        e = self.embedding(x).flatten(1)  # (B, K) -> (B, K, D) -> (B, K D)
        return self.output(self.dropout(self.hidden(e).tanh()))


# cell 0c5349b4 5209c8 · The same, as a module, with a Learner
def counted_loaders(train: tuple[Tensor, Tensor], dev: tuple[Tensor, Tensor], n: int,
                    steps: int = 100) -> DataLoaders:
    """Make loaders with epochs of `steps` steps, each over all distinct training contexts.

    Shape: train and dev are (contexts (N, K), targets (N,)); the batches (contexts, counts).
    Differs: the gradient is that of all examples together, not an estimate from a batch.
    """
    return DataLoaders([count_targets(*train, n)] * steps, [count_targets(*dev, n)])
