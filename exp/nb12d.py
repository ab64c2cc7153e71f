"""The best translator: a recipe, and what was tried

By the end you will have one function that trains a translator of French questions to more than 53 BLEU in minutes on one processor core, the same function for all short sentences, and a record of what helped and what did not.
"""

# cell 12db0002 a6284e · The best translator: a recipe, and what was tried
from __future__ import annotations

# generated from nbs/12d_best_translator.ipynb: do not edit · 8e1b5e
__all__ = [
    "TokenBatches",
    "collate_even",
    "shared_vocab",
    "make_recipe_model",
    "train_translator",
    "Ensemble",
]
__dir__ = __all__.copy  # what completion offers

# cell 12db0002 59f269 · The best translator: a recipe, and what was tried
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exp.nb03b import DataLoader, DataLoaders
from exp.nb03f import Callback
from exp.nb04 import Learner
from exp.nb04b import GradientClip
from exp.nb04e import WeightAverage
from exp.nb05 import fit_one_cycle
from exp.nb06c import MixedPrecision
from exp.nb11c import BytePairTokenizer
from exp.nb11d import PAD, PairDataset, SentencePair, TextVocab, collate_pairs
from exp.nb12 import GRUTranslator
from exp.nb12a import Translator
from exp.nb12b import smoothed_sequence_loss


# cell 12db0011 9a80a2 · The recipe, live
class TokenBatches:
    """Batches of pairs of similar length, each of about `tokens` target tokens.

    `lengths` are (target, source) pairs, as `PairDataset.lengths`; sample i comes `copies[i]` times
    an epoch. Sizes of batches are multiples of 8, as far as the samples reach.
    Raises: ValueError if tokens is below 1, or copies does not fit the lengths.
    """

    def __init__(self, lengths: Sequence[tuple[int, int]], tokens: int,
                 copies: Sequence[int] | None = None, generator: torch.Generator | None = None):
        copies = [1] * len(lengths) if copies is None else copies
        if tokens < 1 or len(copies) != len(lengths):
            raise ValueError(f"tokens must be at least 1, and copies one number for each of "
                             f"{len(lengths)} samples; got {tokens} and {len(copies)} numbers")
        self.lengths, self.generator = lengths, generator
        self.rows = [i for i, times in enumerate(copies) for _ in range(times)]
        longest = sorted((lengths[i][0] for i in self.rows), reverse=True)
        self.sizes: list[int] = []
        while longest:  # the sizes stay the same in all epochs
            self.sizes.append(8 * max(1, round(tokens / longest[0] / 8)))
            longest = longest[self.sizes[-1]:]

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[list[int]]:
        noise = torch.rand(len(self.rows), 2, generator=self.generator).tolist()
        keyed = [(math.ceil(self.lengths[i][0] / 2 + a), self.lengths[i][1] + 2 * b, i)
                 for i, (a, b) in zip(self.rows, noise, strict=True)]
        order = iter([i for _, _, i in sorted(keyed, reverse=True)])
        batches = [list(islice(order, size)) for size in self.sizes]
        for n in torch.randperm(len(batches), generator=self.generator).tolist():
            yield batches[n]


# cell 12db0051 b6bf30 · The recipe, live
def collate_even(samples: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Make a batch as `collate_pairs` does, with T a multiple of 2 and S of 4."""
    source, target_in, target_out = collate_pairs(samples)
    more = (0, target_in.shape[1] % 2)
    return (F.pad(source, (0, -source.shape[1] % 4), value=PAD),
            F.pad(target_in, more, value=PAD), F.pad(target_out, more, value=PAD))


# cell 12db0014 f9067d · The recipe, live
def shared_vocab(pairs: Iterable[SentencePair], n_pieces: int) -> TextVocab:
    """Learn byte pairs from both sides, and number them in one vocabulary for both languages."""
    texts = [text for pair in pairs for text in pair]
    return TextVocab.from_texts(texts, BytePairTokenizer.train(texts, n_pieces))


# cell 12db0054 a6f589 · The recipe, live
def make_recipe_model(n_tokens: int, size: int = 256, hidden_size: int = 320,
                      dropout: float = 0.3, spread: float = 0.1, attention: str = "tanh"
                      ) -> GRUTranslator:
    """Make a GRU with attention, and one table of vectors for source, target and output.

    At the start the numbers of the vectors have the standard deviation `spread`.
    """
    model = GRUTranslator(n_tokens, n_tokens, hidden_size, source_size=size, target_size=size,
                          bidirectional="all", attention=attention, tie_weights=True,
                          dropout_in=dropout, dropout_out=dropout)
    model.decoder.scale = min(1.0, 0.1 / spread)  # so that the first scores are small, too
    with torch.no_grad():
        model.decoder.embedding.weight.normal_(0, spread)
    model.encoder.embedding.weight = model.decoder.embedding.weight  # one Parameter, three names
    return model


# cell 12db0056 9c0a23 · The recipe, live
def train_translator(pairs: Sequence[SentencePair], n_epochs: int = 12, n_pieces: int = 3000,
                     tokens: int = 800, max_lr: float = 3e-3, smoothing: float = 0.1,
                     average: float | None = 0.99, copies: Sequence[int] | None = None,
                     half: bool = True, seed: int = 0, callbacks: Iterable[Callback] = (),
                     make_model: Callable[..., nn.Module] = make_recipe_model, **sizes: Any
                     ) -> Translator:
    """Train a model on pairs with the recipe of this page, and return its translator.

    `tokens`: target tokens in a batch; `average`: decay of the moving average of the weights, None
    for no average; `copies[i]`: how often pair i comes in an epoch; `half`: the forward pass in
    bfloat16; `sizes` are passed to `make_model`, after the number of pieces.
    """
    torch.manual_seed(seed)
    vocab = shared_vocab(pairs, n_pieces)
    dataset = PairDataset(pairs, vocab, vocab)
    order = TokenBatches(dataset.lengths, tokens, copies, torch.Generator().manual_seed(seed))
    batches = DataLoader(dataset, batch_sampler=order, collate_fn=collate_even)
    extras = [WeightAverage(average)] if average else []
    extras += [MixedPrecision(torch.bfloat16)] if half else []
    learn = Learner(make_model(len(vocab), **sizes), DataLoaders(batches, None),
                    partial(smoothed_sequence_loss, smoothing=smoothing), max_lr,
                    partial(torch.optim.AdamW, betas=(0.9, 0.98), fused=True), progress=False,
                    callbacks=[GradientClip(1.0), *extras, *callbacks])
    fit_one_cycle(learn, n_epochs, pct_start=0.1, base_momentum=0.9, max_momentum=0.9)
    return Translator(learn.model.eval(), vocab, vocab)


# cell 12db0018 50f28a · The recipe, live
class Ensemble(nn.Module):
    """Let several models with one vocabulary write together: the mean of their probabilities.

    Like them it has encode, start and step.
    Raises: ValueError for no models.
    """

    def __init__(self, models: Iterable[nn.Module]):
        super().__init__()
        self.models = nn.ModuleList(models)
        if not len(self.models):
            raise ValueError("an ensemble needs at least one model")

    def encode(self, source: Tensor) -> tuple[Any, ...]:
        """Let each model read the sentences."""
        return tuple(model.encode(source) for model in self.models)

    def start(self, memory: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return each model's state before the first word."""
        return tuple(model.start(part) for model, part in zip(self.models, memory, strict=True))

    def step(self, token: Tensor, state: tuple[Any, ...], memory: tuple[Any, ...]
             ) -> tuple[Tensor, tuple[Any, ...], None]:
        """Read one word; return the logarithm of the mean probability of each next one."""
        steps = [model.step(token, *parts)
                 for model, *parts in zip(self.models, state, memory, strict=True)]
        log_p = torch.stack([logits.log_softmax(-1) for logits, *_ in steps])  # (models, B, V)
        return log_p.logsumexp(0) - math.log(len(steps)), tuple(part for _, part, _ in steps), None
