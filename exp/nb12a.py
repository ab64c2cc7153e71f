"""Decoding: the sentence that a model means

By the end you will have a beam search that never scores below greedy decoding, for any of this book's translators, and a `Translator`: call it with French, and it answers in English, whatever people type; it travels to another machine in one file; and the same code turns dates in words into `1776-07-04`.
"""

# cell 12ab0002 a6284e · Decoding: the sentence that a model means
from __future__ import annotations

# generated from nbs/12a_decoding.ipynb: do not edit · a1ebc2
__all__ = [
    "Hypothesis",
    "take_rows",
    "beam_search",
    "Translator",
    "load_translator",
]
__dir__ = __all__.copy  # what completion offers

# cell 12ab0002 901d7d · Decoding: the sentence that a model means
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from exp.nb03d import evaluating, map_tensors
from exp.nb04b import model_device
from exp.nb04c import export_model, load_exported
from exp.nb11d import BOS, EOS, PAD, UNK, TextVocab, pad_right
from exp.nb12 import length_limits


# cell 12ab0017 276865 · All sentences at once
class Hypothesis(NamedTuple):
    """A candidate: its score, the sum of its tokens' log-probabilities, and its tokens.

    The last token is EOS, unless the limit on the length came first.
    """

    score: float
    log_prob: float
    tokens: list[int]


def take_rows(nest: Any, rows: Tensor) -> Any:
    """Pick rows of all tensors in a nest of dicts, tuples and lists: (B, …) -> (len(rows), …)."""
    return map_tensors(lambda tensor: tensor[rows], nest)


# cell 12ab0020 9b8590 · All sentences at once
def _extend(logits: Tensor, scores: Tensor, greedy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rank all continuations: the best 2·width as (log-probability, row they continue, token).

    `greedy` says for which sentences row 0 is still the greedy beginning: its likeliest word comes
    first. Padding, "unknown" and the beginning are never written. Where all scores of a row are
    -inf, nothing continues it.
    Shape: logits (A·width, V), scores (A, width), greedy (A,) -> three times (A, 2·width).
    """
    A, width = scores.shape
    if not (logits < math.inf).all():
        raise ValueError("a model's scores must be finite or -inf, got NaN or inf from its step()")
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    log_p = log_p.nan_to_num(-math.inf, neginf=-math.inf)
    log_p[:, [PAD, UNK, BOS]] = -math.inf
    V = log_p.shape[1]
    total = (scores[:, :, None] + log_p.view(A, width, V)).view(A, -1)     # (A, width·V)
    likeliest = log_p.view(A, width, V)[:, 0].argmax(1, keepdim=True)       # (A, 1)
    reserved = torch.where(greedy[:, None], math.inf, total.gather(1, likeliest))
    place = total.scatter(1, likeliest, reserved).topk(2 * width).indices   # (A, 2·width)
    return total.gather(1, place), place // V, place % V


# cell 12ab0048 a3423f · All sentences at once
def _limits(source: Tensor, width: int, max_length: int | Tensor | None) -> Tensor:
    """Return the limit of each sentence (B,), and refuse widths and limits below 1."""
    limits = length_limits(source) if max_length is None else max_length
    limits = torch.as_tensor(limits, device=source.device).expand(len(source))
    if width < 1 or len(source) and limits.min() < 1:
        raise ValueError(f"width and max_length must be at least 1, got {width} and {max_length}")
    return limits


# cell 12ab0022 0db90c · All sentences at once
@torch.no_grad()
def beam_search(model: Any, source: Tensor, width: int = 5, length_penalty: float = 1.0,
                max_length: int | Tensor | None = None) -> list[list[Hypothesis]]:
    """Keep the `width` likeliest beginnings; return each sentence's complete ones, best first.

    `model` has encode, start and step. The score of a hypothesis is its log-probability divided by
    (number of tokens) ** length_penalty. The greedy translation is always among the candidates.
    `max_length` is one limit, or one for each sentence (B,); None: `length_limits`.
    Shape: source (B, S) -> B lists.
    Raises: ValueError for a width or a limit below 1.
    Differs: the textbook's beam may lose the greedy beginning, and then end below it.
    """
    limits = _limits(source, width, max_length)
    found: list[list[Hypothesis]] = [[] for _ in source]
    active = torch.arange(len(source), device=source.device)           # (A,): sentences still open
    with evaluating(model):
        memory = take_rows(model.encode(source), active.repeat_interleave(width)) if found else None
        state = model.start(memory) if found else None
        written = source.new_full((len(source) * width, 1), BOS)
        scores = torch.full((len(source), width), -math.inf, device=source.device)
        scores[:, 0], greedy = 0.0, torch.ones_like(active, dtype=torch.bool)
        while len(active):
            logits, state, _ = model.step(written[:, -1], state, memory)
            log_p, row, token = _extend(logits, scores.to(logits), greedy)
            row = row + torch.arange(len(active), device=source.device)[:, None] * width
            end, n = token == EOS, written.shape[1]
            order = end.long().argsort(dim=1, stable=True)[:, :width]  # what goes on, in order
            last = (n >= limits[active])[:, None]
            ready = (log_p > -math.inf) & (end | last)
            for a, c in ready[:, :width].nonzero().tolist():
                tokens = [*written[row[a, c], 1:].tolist(), token[a, c].item()]
                p = log_p[a, c].item()
                found[active[a]].append(Hypothesis(p / n ** length_penalty, p, tokens))
            greedy = greedy & (token[:, 0] != EOS)
            done = [len(found[b]) >= width for b in active.tolist()]
            stay = ~last[:, 0] & (greedy | ~torch.tensor(done, device=source.device))
            scores, rows = log_p.gather(1, order)[stay], row.gather(1, order)[stay].flatten()
            written = torch.cat([written[rows], token.gather(1, order)[stay].view(-1, 1)], 1)
            state, memory = take_rows(state, rows), take_rows(memory, rows)
            active, greedy = active[stay], greedy[stay]
    return [sorted(hypotheses, reverse=True) for hypotheses in found]


# cell 12ab0032 38a380 · The translator
def _has_word(text: str) -> bool:
    """Return whether there is a letter or a digit in a text."""
    return any(letter.isalnum() for letter in text)


class Translator:
    """Translate texts: a model, the vocabularies of its two languages, and a beam search.

    `translator("…")` returns one translation, `translator([…])` a list, in the same order.
    `width` 1 is greedy; see `beam_search` for `length_penalty`. A line has at most `max_tokens`.
    Raises: ValueError for a text that cannot be translated, see `why_not`; TypeError for no text.
    """

    def __init__(self, model: Any, source_vocab: TextVocab, target_vocab: TextVocab,
                 width: int = 5, length_penalty: float = 1.0, batch_size: int = 64,
                 max_tokens: int = 100):
        self.model, self.source_vocab, self.target_vocab = model, source_vocab, target_vocab
        self.width, self.length_penalty, self.batch_size = width, length_penalty, batch_size
        self.max_tokens = max_tokens

    def __call__(self, text: str | Iterable[str]) -> str | list[str]:
        return self.translate([text])[0] if isinstance(text, str) else self.translate(text)

    def translate(self, texts: Iterable[str]) -> list[str]:
        """Translate each text line by line; lines without a word stay as they are."""
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise TypeError(f"translate needs a list of texts, got a {type(texts).__name__}; for "
                            "one text call the translator itself")
        texts = list(texts)
        for n, text in enumerate(texts, 1):
            if reason := self.why_not(text):
                raise ValueError(f"text {n} of {len(texts)}, {text!r:.60}: {reason}")
        lines = [text.replace("\r\n", "\n").split("\n") for text in texts]
        asked = list(dict.fromkeys(line for part in lines for line in part if _has_word(line)))
        found = (self._text(best) for best, *_ in self.search(asked))
        known = dict(zip(asked, found, strict=True))
        return ["\n".join(known.get(line, line.strip()) for line in part) for part in lines]

    def why_not(self, text: str) -> str:
        """Say why a text cannot be translated, or return "" if it can."""
        if not isinstance(text, str):
            raise TypeError(f"a text must be a string, got a {type(text).__name__}: {text!r:.80}")
        for line in text.splitlines():
            tokens = self.source_vocab.tokenizer(line)
            if len(tokens) > self.max_tokens:
                return (f"a line of {len(tokens)} tokens is longer than max_tokens="
                        f"{self.max_tokens}; split it into sentences")
            words = [token for token in tokens if _has_word(token)]
            if words and not any(word in self.source_vocab.places for word in words):
                return (f"none of its {len(words)} tokens ({', '.join(words[:3])} …) is known: is "
                        "it in the language and the script that the translator reads?")
        return ""

    def save(self, path: str | Path, factory: str | Callable[..., nn.Module],
             arguments: Mapping[str, Any]) -> Path:
        """Write everything into one file; `factory(**arguments)` builds the model, untrained."""
        settings = {name: getattr(self, name) for name in
                    ("width", "length_penalty", "batch_size", "max_tokens")}
        return export_model(self.model, path, factory, arguments, {
            "source": self.source_vocab.state(), "target": self.target_vocab.state(),
            "settings": settings})

    def n_best(self, text: str, n: int | None = None) -> list[tuple[float, str]]:
        """Return the best candidates with their scores: different texts, best first."""
        unique: dict[str, float] = {}
        for hypothesis in self.search([text])[0]:
            unique.setdefault(self._text(hypothesis), hypothesis.score)
        return [(score, text) for text, score in unique.items()][:n]

    def search(self, texts: Iterable[str]) -> list[list[Hypothesis]]:
        """Return the candidates for each text, best first."""
        sources = [torch.tensor(self.source_vocab.encode(text)) for text in texts]
        order = sorted(range(len(sources)), key=lambda n: len(sources[n]))
        found: list[list[Hypothesis]] = [[] for _ in sources]
        for start in range(0, len(order), self.batch_size):
            chosen = order[start:start + self.batch_size]
            batch = pad_right([sources[n] for n in chosen]).to(model_device(self.model))
            results = beam_search(self.model, batch, self.width, self.length_penalty)
            for n, hypotheses in zip(chosen, results, strict=True):
                found[n] = hypotheses
        return found

    def _text(self, hypothesis: Hypothesis) -> str:
        return self.target_vocab.decode(hypothesis.tokens)


# cell 5b67ef2e 6f8b29 · To another machine
def load_translator(path: str | Path, device: torch.device | str = "cpu",
                    trusted: Sequence[str] = ("exp", "torch.nn")) -> Translator:
    """Read what `Translator.save` wrote.

    Only functions from `trusted` packages are called, since a file could name any.
    Raises: ValueError for a file that holds no translator, and for another package.
    """
    model, extra = load_exported(path, device, trusted)
    if not isinstance(extra, dict) or set(extra) != {"source", "target", "settings"}:
        raise ValueError(f"{path} holds a model, but no vocabularies: Translator.save writes both")
    return Translator(model, TextVocab.from_state(extra["source"]),
                      TextVocab.from_state(extra["target"]), **extra["settings"])
