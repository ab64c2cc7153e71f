"""Language models first: translating from few pairs

By the end you will have started both halves of a translator from language models that never saw a translation, measured what that is worth from 500 pairs to all, and let two translators, from the left and from the right, agree on a sentence.
"""

# cell e788ee3e a6284e · Language models first: translating from few pairs
from __future__ import annotations

# generated from nbs/12c_pretraining.ipynb: do not edit · 4dea4e
__all__ = [
    "TargetLanguageModel",
    "collate_text",
    "SourceLanguageModel",
    "collate_both_ways",
    "PretrainedTranslator",
]
__dir__ = __all__.copy  # what completion offers

# cell e788ee3e 5832f7 · Language models first: translating from few pairs
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from exp.nb11d import BOS, EOS, PAD, pad_right
from exp.nb12 import reverse_sentences


# cell 5754262e efd62e · A language model that writes questions
class TargetLanguageModel(nn.Module):
    """Score the next token from those before it, with two GRU layers.

    Shape: tokens (B, T) -> logits (B, T, V).
    """

    def __init__(self, n_tokens: int, size: int, dropout: float = 0.0):
        super().__init__()
        self.n_tokens, self.size, self.dropout = n_tokens, size, nn.Dropout(dropout)
        self.embedding = nn.Embedding(n_tokens, size)
        with torch.no_grad():
            self.embedding.weight.normal_(0, 0.1)
        self.low = nn.GRU(size, size, batch_first=True)
        self.high = nn.GRU(size, size, batch_first=True)
        self.out = nn.Linear(size, n_tokens)
        self.out.weight = self.embedding.weight  # one Parameter with two names

    def forward(self, tokens: Tensor) -> Tensor:
        """Score the next token after each."""
        h, _ = self.low(self.dropout(self.embedding(tokens)))  # (B, T, H)
        h, _ = self.high(self.dropout(h))
        return self.out(self.dropout(h))


# cell 10581ef0 2605ed · A language model that writes questions
def collate_text(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Make a batch (tokens, targets) of sentences: read up to a token, and predict the next.

    Shape: both (B, T); tokens begins with BOS.
    """
    targets = pad_right(rows)
    beginning = torch.full((len(targets), 1), BOS)
    tokens = torch.cat([beginning, targets[:, :-1]], 1)
    return tokens.masked_fill(tokens == EOS, PAD), targets


# cell d72fd8bf 50a433 · Two more that read
class SourceLanguageModel(nn.Module):
    """Score each next token from the left, and each one before it from the right.

    Shape: tokens (B, S) -> logits (2B, S, V), first those from the left, then those from the right.
    """

    def __init__(self, n_tokens: int, size: int, dropout: float = 0.0):
        super().__init__()
        self.n_tokens, self.size, self.dropout = n_tokens, size, nn.Dropout(dropout)
        self.embedding = nn.Embedding(n_tokens, size)
        with torch.no_grad():
            self.embedding.weight.normal_(0, 0.1)
        self.forwards = nn.GRU(size, size, batch_first=True)
        self.backwards = nn.GRU(size, size, batch_first=True)
        self.out = nn.Linear(size, n_tokens)
        self.out.weight = self.embedding.weight

    def read(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the states from the left, those from the right in reading order, and the lengths.

        Shape: (B, S) -> (B, S, H), (B, S, H), (B,).
        """
        lengths = (tokens != PAD).sum(1)
        x = self.dropout(self.embedding(tokens))
        return self.forwards(x)[0], self.backwards(reverse_sentences(x, lengths))[0], lengths

    def forward(self, tokens: Tensor) -> Tensor:
        """Score what follows each token, in either direction."""
        left, right, _ = self.read(tokens)
        return self.out(self.dropout(torch.cat([left, right])))


# cell bd094626 485d3a · Two more that read
def collate_both_ways(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Make a batch (tokens, targets): what comes next from the left, then what from the right.

    Shape: tokens (B, S), targets (2B, S).
    """
    tokens = pad_right(rows)
    lengths = torch.tensor([len(row) for row in rows])
    turned = reverse_sentences(tokens[:, :, None], lengths)[:, :, 0]
    both = torch.cat([tokens, turned])                                   # (2B, S)
    return tokens, torch.cat([both[:, 1:], torch.full((len(both), 1), PAD)], 1)


# cell a534902e 9f8687 · A translator made of two language models
class PretrainedTranslator(nn.Module):
    """A translator of GRUs around two language models, which become its encoder and decoder.

    It starts by writing what the English model would write, whatever the source.
    Shape: source (B, S), target_in (B, T) -> logits (B, T, V).
    Raises: ValueError for language models of different sizes.
    Source: Ramachandran and others 2017.
    Differs: there the attention joins before the last softmax, and the language models' losses
        stay part of the objective.
    """

    def __init__(self, source: SourceLanguageModel, target: TargetLanguageModel):
        super().__init__()
        if source.size != target.size:
            raise ValueError(f"both language models must have one size, got {source.size} and "
                             f"{target.size}")
        self.source, self.target, size = source, target, source.size
        self.key, self.found = (nn.Linear(2 * size, size, bias=False) for _ in range(2))
        with torch.no_grad():
            self.found.weight.zero_()

    def encode(self, source: Tensor) -> dict[str, Tensor]:
        """Read the source from both sides: states, keys (B, S, …), and where the words are."""
        left, right, lengths = self.source.read(source)
        states = self.source.dropout(torch.cat([left, reverse_sentences(right, lengths)], 2))
        return {"states": states, "keys": self.key(states), "real": source != PAD}

    def attend(self, h: Tensor, memory: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Add what each place finds in the source: h (B, T, H) -> (B, T, H), shares (B, T, S)."""
        scores = h @ memory["keys"].transpose(1, 2) / math.sqrt(h.shape[2])      # (B, T, S)
        shares = scores.masked_fill(~memory["real"][:, None], -math.inf).softmax(2)
        return h + self.found(shares @ memory["states"].to(shares.dtype)), shares

    def forward(self, source: Tensor, target_in: Tensor) -> Tensor:
        """Score the next token after every token of the target."""
        model, memory = self.target, self.encode(source)
        h, _ = model.low(model.dropout(model.embedding(target_in)))
        h, _ = self.attend(h, memory)
        h, _ = model.high(model.dropout(h))
        return model.out(model.dropout(h))

    def start(self, memory: dict[str, Tensor]) -> Tensor:
        """Return the states of both layers, zeros: (B, 2, H)."""
        keys = memory["keys"]
        return keys.new_zeros(len(keys), 2, keys.shape[2])

    def step(self, token: Tensor, state: Tensor, memory: dict[str, Tensor]
             ) -> tuple[Tensor, Tensor, Tensor]:
        """Read one token of each row: (B,) -> logits (B, V), state (B, 2, H), shares (B, S)."""
        model, (low, high) = self.target, (state[None, :, n].contiguous() for n in (0, 1))
        h, low = model.low(model.embedding(token)[:, None], low)
        h, shares = self.attend(h, memory)
        h, high = model.high(h, high)
        return model.out(h)[:, 0], torch.cat([low, high]).transpose(0, 1), shares[:, 0]
