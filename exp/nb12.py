"""Neural translation: from a sentence to a sentence

By the end you will have a translator from French to English: a network that reads a question, and writes another one while it looks back at the words that it read; and a table that says what each of its parts is worth.
"""

# cell 12aa0002 a6284e · Neural translation: from a sentence to a sentence
from __future__ import annotations

# generated from nbs/12_translation.ipynb: do not edit · cacdd2
__all__ = [
    "reverse_sentences",
    "last_words",
    "GRUEncoder",
    "Attention",
    "GRUDecoder",
    "weights_thinned",
    "GRUTranslator",
    "TeacherForcing",
    "length_limits",
    "greedy_decode",
    "bleu",
    "forced_attention",
    "draw_attention",
    "fill_embedding",
    "DecoderPenalty",
]
__dir__ = __all__.copy  # what completion offers

# cell 12aa0002 1730cc · Neural translation: from a sentence to a sentence
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exp.nb03d import evaluating
from exp.nb03f import Callback
from exp.nb04 import Learner
from exp.nb05 import LinearSchedule
from exp.nb07d import WordVectors
from exp.nb11b import LockedDropout
from exp.nb11d import BOS, EOS, PAD, UNK
from exp.nb11e import ActivationPenalty


# cell 12bb0013 ec0cb2 · Padding, and a trap
def reverse_sentences(x: Tensor, lengths: Tensor) -> Tensor:
    """Turn each sentence round within its own length; the padding stays behind it.

    Shape: x (B, S, E), lengths (B,) -> (B, S, E).
    """
    place = torch.arange(x.shape[1], device=x.device)
    turned = lengths[:, None] - 1 - place                  # (B, S); negative: padding
    turned = torch.where(turned < 0, place, turned)
    return x.gather(1, turned[:, :, None].expand_as(x))


def last_words(x: Tensor, lengths: Tensor) -> Tensor:
    """Pick what stands at the last real word: x (B, S, H), lengths (B,) -> (B, H)."""
    return x[torch.arange(len(x), device=x.device), lengths - 1]


# cell 12bb0022 a82b80 · Both directions
def _locked_dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Drop the same units at all words of a sentence; (B, S, E) -> the same."""
    return LockedDropout(p).train(training)(x.transpose(0, 1)).transpose(0, 1)


class GRUEncoder(nn.Module):
    """Read each sentence up to its last real word, in one direction or in both.

    `bidirectional` is "none", "first" (only the first layer) or "all".
    Shape: source (B, S) -> outputs (B, S, `out_size`), states and word vectors side by side;
        state (B, L, hidden_size); real (B, S).
    Raises: ValueError for another `bidirectional`, or a sentence without a token.
    """

    def __init__(self, n_tokens: int, embedding_size: int, hidden_size: int, num_layers: int = 1,
                 bidirectional: str = "none", dropout_in: float = 0.0,
                 dropout_between: float = 0.0):
        super().__init__()
        if bidirectional not in ("none", "first", "all"):
            raise ValueError(f"bidirectional must be none, first or all, got {bidirectional!r}")
        self.embedding = nn.Embedding(n_tokens, embedding_size)
        self.dropout_in, self.dropout_between = dropout_in, dropout_between
        self.forwards, self.backwards, self.bridges = (nn.ModuleList() for _ in range(3))
        self.out_size = embedding_size
        for layer in range(num_layers):
            self.forwards.append(nn.GRU(self.out_size, hidden_size, batch_first=True))
            if bidirectional == "all" or bidirectional == "first" and layer == 0:
                self.backwards.append(nn.GRU(self.out_size, hidden_size, batch_first=True))
            self.out_size = hidden_size * (1 + (len(self.backwards) > layer))
            self.bridges.append(nn.Linear(self.out_size, hidden_size))
        self.out_size += embedding_size

    def forward(self, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs of the last layer, the state for a decoder, and what is no padding."""
        lengths = (real := source != PAD).sum(1)
        if lengths.min() < 1:
            raise ValueError("every sentence needs at least one token, EOS; got an empty one")
        words = _locked_dropout(self.embedding(source), self.dropout_in, self.training)
        x, states = words, []
        for layer, bridge in enumerate(self.bridges):
            x = _locked_dropout(x, self.dropout_between, self.training and layer > 0)
            outputs, _ = self.forwards[layer](x)                               # (B, S, H)
            ends = last_words(outputs, lengths)
            if layer < len(self.backwards):
                back, _ = self.backwards[layer](reverse_sentences(x, lengths))
                ends = torch.cat([ends, last_words(back, lengths)], 1)         # (B, 2·H)
                outputs = torch.cat([outputs, reverse_sentences(back, lengths)], 2)
            states.append(bridge(ends).tanh())
            x = outputs
        return torch.cat([x, words], 2), torch.stack(states, 1), real


# cell 12bb0029 6cc28e · Attention: look back at the words
class Attention(nn.Module):
    """Take the mean of values, weighted by how well each key fits the query.

    `kind` is how a fit is scored: "tanh" or "relu", by a small network with that nonlinearity, or
    "product" of the projected query and the value. `project` makes the keys, once for a sentence.
    Shape: query (B, T, Q), keys (B, S, A), values (B, S, D), real (B, S) of bool -> context
        (B, T, D), weights (B, T, S), 0 in the padding.
    Source: Bahdanau and others 2015, appendix A.1.2; Luong and others 2015, section 3.1.
    """

    def __init__(self, query_size: int, value_size: int, size: int, kind: str = "tanh"):
        super().__init__()
        if kind not in ("tanh", "relu", "product"):
            raise ValueError(f"kind must be tanh, relu or product, got {kind!r}")
        self.kind, product = kind, kind == "product"
        self.ask = nn.Linear(query_size, value_size if product else size)
        self.project = nn.Sequential() if product else nn.Linear(value_size, size, bias=False)
        self.score = nn.Sequential() if product else nn.Linear(size, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, real: Tensor
                ) -> tuple[Tensor, Tensor]:
        """Score, normalise over the real words, and average."""
        if self.kind == "product":
            scores = self.ask(query) @ keys.transpose(1, 2)            # (B, T, S)
        else:
            both = self.ask(query)[:, :, None] + keys[:, None]         # (B, T, S, A)
            scores = self.score(both.tanh() if self.kind == "tanh" else both.relu())[..., 0]
        weights = torch.softmax(scores.masked_fill(~real[:, None], -math.inf), -1)
        return weights @ values, weights


# cell 12cc0002 318eb8 · The decoder writes
class GRUDecoder(nn.Module):
    """Score the next word after each word read, from a state and, with attention, a memory.

    `attention` is "none" or a `kind` of `Attention`.
    Shape: words (B, T) -> logits (B, T, V), the next state, weights (B, T, S) or None.
    """

    def __init__(self, n_tokens: int, embedding_size: int, hidden_size: int, memory_size: int,
                 num_layers: int = 1, attention: str = "none", tie_weights: bool = False,
                 dropout_in: float = 0.0, dropout_between: float = 0.0, dropout_out: float = 0.0):
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, embedding_size)
        self.layers = nn.ModuleList(
            nn.GRU(hidden_size if layer else embedding_size, hidden_size, batch_first=True)
            for layer in range(num_layers))
        self.attention, joined = None, hidden_size
        if attention != "none":
            self.attention = Attention(hidden_size, memory_size, hidden_size, attention)
            joined += memory_size
        self.join, self.out = nn.Linear(joined, embedding_size), nn.Linear(embedding_size, n_tokens)
        self.scale = 1.0
        if tie_weights:
            self.out.weight = self.embedding.weight  # one Parameter with two names
            self.scale = embedding_size ** -0.5      # else its spread of 1 makes huge scores
        self.dropouts = dropout_in, dropout_between, dropout_out
        self.kept: list[tuple[Tensor, Tensor]] | None = None  # see DecoderPenalty

    def first_state(self, hidden: Tensor) -> dict[str, Tensor]:
        """Begin a sentence: (B, L, H) -> its state, in training with its own dropout masks."""
        state, H = {"hidden": hidden}, hidden.shape[2]
        if self.training and any(self.dropouts):
            sizes = {"mask_in": self.embedding.embedding_dim, "mask_between": H, "mask_out": H}
            for (name, size), p in zip(sizes.items(), self.dropouts, strict=True):
                state[name] = _locked_dropout(hidden.new_ones(len(hidden), 1, size), p, True)
        return state

    def forward(self, words: Tensor, state: dict[str, Tensor], memory: dict[str, Tensor]
                ) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """Read words, continuing from a state, and score what follows each of them."""
        x, ends, weights = self.embedding(words) * state.get("mask_in", 1.0), [], None
        for layer, gru in enumerate(self.layers):
            x = x * state["mask_between"] if layer and "mask_between" in state else x
            x, end = gru(x, state["hidden"][:, layer][None].contiguous())     # (B, T, H)
            ends.append(end[0])
        raw, x = x, x * state.get("mask_out", 1.0)
        if self.kept is not None:
            self.kept.append((raw, x))
        if self.attention is not None:
            context, weights = self.attention(x, memory["keys"], memory["outputs"], memory["real"])
            x = torch.cat([x, context], 2)
        logits = self.out(self.join(x).tanh() * self.scale)
        return logits, {**state, "hidden": torch.stack(ends, 1)}, weights


# cell 12cc0004 0798b6 · Which word does it read?
@contextmanager
def weights_thinned(model: nn.Module, p: float) -> Iterator[None]:
    """Set a share of all GRUs' hidden-to-hidden weights to 0, as `WeightDropLSTM` does."""
    own = {layer: layer._flat_weights for layer in model.modules() if isinstance(layer, nn.GRU)}
    try:
        for layer, weights in own.items():
            named = zip(layer._flat_weights_names, weights, strict=True)
            layer._flat_weights = [F.dropout(w, p, model.training) if p and "weight_hh" in name
                                   else w for name, w in named]
        yield
    finally:
        for layer, weights in own.items():
            layer._flat_weights = weights


# cell 12cc0005 8738bb · Which word does it read?
class GRUTranslator(nn.Module):
    """Read a sentence with an encoder, and write another one with a decoder, word by word.

    `forcing` is the probability that in training the decoder reads the true previous word, and not
    its own; in evaluation it reads the true one. The other options are those of the two parts.
    Shape: source (B, S), target_in (B, T) -> logits (B, T, V).
    """

    def __init__(self, n_source: int, n_target: int, hidden_size: int = 128, num_layers: int = 1,
                 source_size: int = 100, target_size: int = 100, bidirectional: str = "none",
                 attention: str = "none", tie_weights: bool = False, dropout_in: float = 0.0,
                 dropout_between: float = 0.0, dropout_out: float = 0.0, weight_drop: float = 0.0,
                 forcing: float = 1.0):
        super().__init__()
        self.encoder = GRUEncoder(n_source, source_size, hidden_size, num_layers, bidirectional,
                                  dropout_in, dropout_between)
        self.decoder = GRUDecoder(n_target, target_size, hidden_size, self.encoder.out_size,
                                  num_layers, attention, tie_weights, dropout_in, dropout_between,
                                  dropout_out)
        self.weight_drop, self.forcing = weight_drop, forcing

    def encode(self, source: Tensor) -> dict[str, Tensor]:
        """Read the sentences: a memory of tensors whose first axis is B."""
        outputs, hidden, real = self.encoder(source)
        memory = {"hidden": hidden, "outputs": outputs, "real": real}
        if self.decoder.attention is not None:
            memory["keys"] = self.decoder.attention.project(outputs)
        return memory

    def start(self, memory: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the decoder's state before the first word."""
        return self.decoder.first_state(memory["hidden"])

    def step(self, token: Tensor, state: dict[str, Tensor], memory: dict[str, Tensor]
             ) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """Read one word of each sentence: (B,) -> scores (B, V), next state, weights (B, S)."""
        logits, state, weights = self.decoder(token[:, None], state, memory)
        return logits[:, 0], state, None if weights is None else weights[:, 0]

    def forward(self, source: Tensor, target_in: Tensor) -> Tensor:
        """Score the next word after each word of the target."""
        with weights_thinned(self, self.weight_drop):
            state = self.start(memory := self.encode(source))
            if not self.training or self.forcing >= 1:
                return self.decoder(target_in, state, memory)[0]
            token, scores = target_in[:, 0], []
            for true_next in (*target_in.unbind(1)[1:], None):
                logits, state, _ = self.step(token, state, memory)
                scores.append(logits)
                if true_next is not None:
                    forced = torch.rand(len(token), device=token.device) < self.forcing
                    token = torch.where(forced, true_next, logits.detach().argmax(1))
            return torch.stack(scores, 1)


# cell 12cc0009 3b7d09 · Which word does it read?
class TeacherForcing(Callback):
    """Set the model's `forcing` before each training batch, as a schedule of the position says.

    By default it falls from 1 to 0; after the fit it is what it was before.
    Raises: TypeError for a model without `forcing`.
    Source: Bengio and others 2015, section 2.4.
    """

    def __init__(self, schedule: Callable[[float], float] | None = None):
        self.schedule = schedule or LinearSchedule(1.0, 0.0)

    def before_fit(self, learn: Learner) -> None:
        self._own = getattr(learn.model, "forcing", None)
        if self._own is None:
            raise TypeError(f"{type(learn.model).__name__} has no attribute `forcing`")

    def before_batch(self, learn: Learner) -> None:
        if learn.training:
            learn.model.forcing = float(self.schedule(learn.position))

    def cleanup_fit(self, learn: Learner) -> None:
        if self._own is not None:
            learn.model.forcing = self._own


# cell 12cc0012 58998e · Greedy translation, and where it ends
def length_limits(source: Tensor) -> Tensor:
    """Return the most tokens for each translation, twice the source's + 5; (B, S) -> (B,)."""
    return 2 * (source != PAD).sum(1) + 5


@torch.no_grad()
def greedy_decode(model: Any, source: Tensor, max_length: int | Tensor | None = None) -> Tensor:
    """Write the likeliest word after each other, until the end of each sentence or its limit.

    `max_length` is one limit or one for each sentence, by default `length_limits`. Padding,
    "unknown" and the beginning are never written.
    Shape: source (B, S) -> (B, T), each row with EOS and padding after its last word.
    Raises: ValueError for a limit below 1.
    """
    limits = length_limits(source) if max_length is None else max_length
    limits = torch.as_tensor(limits, device=source.device).expand(len(source))
    if not len(source):
        return source.new_empty(0, 0)
    if limits.min() < 1:
        raise ValueError(f"max_length must be at least 1, got {limits.min()}")
    token, written, going = torch.full_like(limits, BOS), [], limits > 0
    with evaluating(model):
        state = model.start(memory := model.encode(source))
        while going.any():
            logits, state, _ = model.step(token, state, memory)
            logits[:, [PAD, UNK, BOS]] = -math.inf
            token = logits.argmax(1).where(going, torch.full_like(token, PAD))
            written.append(token)
            going = going & (token != EOS) & (len(written) < limits)
    return torch.stack(written, 1)


# cell 12cc0019 5cd386 · A loss that sees no padding, and a score
def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the BLEU, 0 to 100, of translations as plain texts with one or more references each.

    Raises: ValueError for no translations, or one without a list of references.
    Source: Papineni and others 2002; Post 2018 (sacrebleu, its tokenizer 13a).
    """
    from sacrebleu import corpus_bleu

    hypotheses, references = list(hypotheses), list(references)
    if not hypotheses or len(hypotheses) != len(references) or not all(
            texts and not isinstance(texts, str) for texts in references):
        raise ValueError("bleu needs at least one translation, and for each a list of at least one "
                         f"reference, got {len(hypotheses)} and {len(references)}")
    most = max(map(len, references))
    streams = [[texts[n] if n < len(texts) else None for texts in references] for n in range(most)]
    return corpus_bleu(hypotheses, streams).score


# cell 12dd0003 a19acf · Does it look at the right word?
@torch.no_grad()
def forced_attention(model: Any, source: Tensor, target_in: Tensor) -> Tensor:
    """Return the weights with which a model looks at the source while it reads a given target.

    Shape: source (B, S), target_in (B, T) -> (B, T, S), row t for the word after target_in[t].
    Raises: TypeError for a model without attention.
    """
    rows = []
    with evaluating(model):
        state = model.start(memory := model.encode(source))
        for token in target_in.unbind(1):
            _, state, weights = model.step(token, state, memory)
            if weights is None:
                raise TypeError(f"this {type(model).__name__} has no attention to look at")
            rows.append(weights)
    return torch.stack(rows, 1)


# cell 12dd0004 211b59 · Does it look at the right word?
def draw_attention(axis: Any, source: Sequence[str], target: Sequence[str], weights: Tensor,
                   truth: Sequence[tuple[int, int]] | None = None) -> None:
    """Draw the source above the target, joined by lines whose depth of colour is the weight.

    Shape: weights (T, S); `truth`, pairs of places (source, target), is dashed.
    """
    above, below = ([(n + 0.5) / len(words) for n in range(len(words))]
                    for words in (source, target))
    for t, row in zip(below, weights.tolist(), strict=False):
        for s, weight in zip(above, row, strict=False):
            axis.plot([s, t], [0.86, 0.14], color="C0", lw=3, alpha=min(1.0, weight))
    for s, t in truth or ():
        axis.plot([above[s], below[t]], [0.86, 0.14], "k--", lw=0.8)
    for words, places, height in ((source, above, 0.93), (target, below, 0.07)):
        for word, x in zip(words, places, strict=True):
            axis.text(x, height, word, ha="center", va="center", fontsize=9)
    axis.set(xlim=(0, 1), ylim=(0, 1))
    axis.axis("off")


# cell 12ee0002 e17078 · Word vectors on both sides
@torch.no_grad()
def fill_embedding(embedding: nn.Embedding, tokens: Sequence[str], vectors: WordVectors
                   ) -> list[str]:
    """Start the rows of an embedding from word vectors; return the tokens that have none.

    A token is looked up as it is, then in small letters. The vectors get the mean and the standard
    deviation that the embedding has; rows of tokens without a vector stay as they are.
    Raises: ValueError if the number of tokens or the size of the vectors does not fit.
    """
    needed = len(tokens), vectors.vectors.shape[1]
    if embedding.weight.shape != needed:
        raise ValueError(f"tokens and their vectors need an embedding of {needed}, got "
                         f"{tuple(embedding.weight.shape)}")
    own, given, missing = embedding.weight.clone(), vectors.vectors, []
    for row, token in enumerate(tokens):
        if (form := token if token in vectors else token.lower()) in vectors:
            standard = (vectors[form] - given.mean()) / given.std()
            embedding.weight[row] = standard * own.std() + own.mean()
        else:
            missing.append(token)
    return missing


# cell 12ee0007 e1791e · Regularisation
class DecoderPenalty(ActivationPenalty):
    """Add alpha · mean(h²) after dropout and beta · mean((h_t - h_{t-1})²) before it to the loss.

    h is what the decoder's last layer returns; padding does not count.
    Source: Merity and others 2018, section 4.6 (AR and TAR).
    """

    requires: ClassVar[tuple[type[Callback], ...]] = ()

    def before_batch(self, learn: Learner) -> None:
        learn.model.decoder.kept = [] if learn.training else None

    def after_loss(self, learn: Learner) -> None:
        if learn.training:
            raw, dropped = (torch.cat(parts, 1) for parts in zip(*learn.model.decoder.kept,
                                                                 strict=True))  # (B, T, H)
            real = learn.target != PAD
            learn.loss = learn.loss + self.alpha * dropped[real].square().mean()
            if (both := real[:, 1:]).any():
                learn.loss = learn.loss + self.beta * raw.diff(dim=1)[both].square().mean()

    def cleanup_fit(self, learn: Learner) -> None:
        learn.model.decoder.kept = None
