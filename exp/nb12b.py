"""The Transformer: attention and little else

By the end you will have a Transformer that equals PyTorch's in every value and every gradient, that translates, that you can watch while it looks from one language to the other, and that writes the last word of a long sentence as fast as the first.
"""

# cell 93d4c97a a6284e · The Transformer: attention and little else
from __future__ import annotations

# generated from nbs/12b_transformer.ipynb: do not edit · d4c25e
__all__ = [
    "attention_weights",
    "scaled_dot_product_attention",
    "MultiheadAttention",
    "allowed",
    "sinusoidal_positions",
    "TransformerEncoderLayer",
    "TransformerDecoderLayer",
    "Transformer",
    "smoothed_sequence_loss",
]
__dir__ = __all__.copy  # what completion offers

# cell 93d4c97a 942c74 · The Transformer: attention and little else
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exp.nb03e import divides_by
from exp.nb11d import PAD, count_real


# cell b88b8c6a a33ccc · One formula
def attention_weights(query: Tensor, key: Tensor, attn_mask: Tensor | None = None,
                      is_causal: bool = False) -> Tensor:
    """Return how much each query takes from each key: the softmax of their scaled products.

    `attn_mask` is True where a query may look, or is added to the scores; a query that may look
    nowhere gets zeros. With `is_causal`, query i sees keys 0..i.
    Shape: query (…, T, d), key (…, S, d), attn_mask broadcast to (…, T, S) -> (…, T, S).
    Source: Vaswani and others 2017, equation 1.
    """
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (…, T, S)
    if is_causal:
        ones = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(~ones.tril(), -math.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    nowhere = (scores == -math.inf).all(-1, keepdim=True)  # (…, T, 1)
    return scores.masked_fill(nowhere, 0).softmax(-1).masked_fill(nowhere, 0)


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor,
                                 attn_mask: Tensor | None = None, dropout_p: float = 0.0,
                                 is_causal: bool = False) -> Tensor:
    """Mix the values, with the weights that queries and keys give.

    Shape: query (…, T, d), key (…, S, d), value (…, S, e) -> (…, T, e).
    Source: Vaswani and others 2017, equation 1; torch.nn.functional.scaled_dot_product_attention.
    """
    return F.dropout(attention_weights(query, key, attn_mask, is_causal), dropout_p) @ value


# cell 511ccf25 1de51c · Several looks at once
class MultiheadAttention(nn.Module):
    """Several attentions side by side, each in its own slice of the numbers.

    Shape: query (B, T, E), key and value (B, S, E) -> (B, T, E), and weights (B, T, S).
    Raises: ValueError if the heads do not divide embed_dim.
    Source: Vaswani and others 2017, section 3.2.2; torch.nn.MultiheadAttention, B first.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True):
        super().__init__()
        if min(embed_dim, num_heads) < 1 or embed_dim % num_heads:
            raise ValueError(f"embed_dim must be a multiple of num_heads, got {embed_dim} and "
                             f"{num_heads}")
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        a = math.sqrt(6 / (4 * embed_dim))  # Glorot's range for a matrix (3E, E)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim).uniform_(-a, a))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim)) if bias else None
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias)
        if bias:
            with torch.no_grad():
                self.out_proj.bias.zero_()

    def project(self, x: Tensor, first: int = 0, last: int = 3) -> tuple[Tensor, ...]:
        """Multiply by blocks first..last-1 of W_q, W_k, W_v, and split each product into heads.

        Shape: (B, T, E) -> (B, h, T, E/h) for each block.
        """
        rows = slice(first * self.embed_dim, last * self.embed_dim)
        bias = None if self.in_proj_bias is None else self.in_proj_bias[rows]
        y = F.linear(x, self.in_proj_weight[rows], bias)                  # (B, T, n·E)
        y = y.unflatten(-1, (last - first, self.num_heads, -1))           # (B, T, n, h, E/h)
        return y.permute(2, 0, 3, 1, 4).unbind(0)

    def mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None,
            is_causal: bool = False) -> Tensor:
        """Attend in each head, and join the heads: (B, h, T, E/h) -> (B, T, E)."""
        mixed = F.scaled_dot_product_attention(query, key, value, mask,
                                               self.dropout if self.training else 0.0, is_causal)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    def forward(self, query: Tensor, key: Tensor, value: Tensor,
                key_padding_mask: Tensor | None = None, need_weights: bool = True,
                attn_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Attend; masks are True where a query must *not* look, as in torch.nn."""
        q, = self.project(query, 0, 1)
        (k,), (v,) = self.project(key, 1, 2), self.project(value, 2, 3)
        mask = allowed(key_padding_mask, attn_mask)
        weights = attention_weights(q, k, mask).mean(1) if need_weights else None
        return self.mix(q, k, v, mask), weights


def allowed(key_padding_mask: Tensor | None, attn_mask: Tensor | None) -> Tensor | None:
    """Combine masks that are True where one must not look into one that is True where one may.

    Shape: (B, S) and (T, S) -> (B, 1, T, S), or what broadcasts to it.
    """
    may = None if key_padding_mask is None else ~key_padding_mask[:, None, None]  # (B, 1, 1, S)
    if attn_mask is None:
        return may
    if attn_mask.dtype != torch.bool:
        return attn_mask if may is None else attn_mask.masked_fill(~may, -math.inf)
    return ~attn_mask if may is None else may & ~attn_mask


# cell 4b1d434a 98aac0 · A sentence without order is a bag
def sinusoidal_positions(n: int, size: int) -> Tensor:
    """Describe each place by sines and cosines, from fast ones to slow ones.

    Shape: (n, size).
    Source: Vaswani and others 2017, section 3.5.
    """
    if size % 2:
        raise ValueError(f"size must be even, one sine and one cosine each, got {size}")
    rate = torch.exp(torch.arange(0, size, 2) * (-math.log(10_000) / size))  # (size/2,)
    angle = torch.arange(n)[:, None] * rate                                  # (n, size/2)
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)             # taking turns


# cell 30456df6 8a02e8 · Layers
class _Layer(nn.Module):
    """What the two kinds of layers share: attention, a feed-forward net, norms and shortcuts."""

    def __init__(self, d_model: int, nhead: int, dim_feedforward: int = 2048,
                 dropout: float = 0.1, norm_first: bool = False):
        super().__init__()
        self.d_model, self.nhead, self.dim_feedforward = d_model, nhead, dim_feedforward
        self.norm_first = norm_first
        self.self_attn = MultiheadAttention(d_model, nhead, dropout)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.dropout1, self.dropout2 = nn.Dropout(dropout), nn.Dropout(dropout)

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(self.linear1(x).relu()))

    def add(self, x: Tensor, change: Callable[[Tensor], Tensor], norm: nn.Module,
            dropout: nn.Module) -> Tensor:
        """Add what a part computes to what goes past it; the norm stands before it or after."""
        if self.norm_first:
            return x + dropout(change(norm(x)))
        return norm(x + dropout(change(x)))


class TransformerEncoderLayer(_Layer):
    """Each place looks at all places, and then thinks for itself.

    Shape: (B, S, D) -> (B, S, D).
    Source: Vaswani and others 2017, section 3.1; torch.nn.TransformerEncoderLayer, B first.
    """

    def forward(self, src: Tensor, src_mask: Tensor | None = None,
                src_key_padding_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Masks are True where a place must not look; `is_causal` hides what comes later."""
        mask = allowed(src_key_padding_mask, src_mask)

        def look(h: Tensor) -> Tensor:
            return self.self_attn.mix(*self.self_attn.project(h), mask, is_causal)

        x = self.add(src, look, self.norm1, self.dropout1)
        return self.add(x, self.feed_forward, self.norm2, self.dropout2)


class TransformerDecoderLayer(_Layer):
    """Each place looks at the places before it, then at the source, and then thinks for itself.

    Shape: tgt (B, T, D), memory (B, S, D) -> (B, T, D).
    Source: Vaswani and others 2017, section 3.1; torch.nn.TransformerDecoderLayer, B first.
    """

    def __init__(self, d_model: int, nhead: int, dim_feedforward: int = 2048,
                 dropout: float = 0.1, norm_first: bool = False):
        super().__init__(d_model, nhead, dim_feedforward, dropout, norm_first)
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout)
        self.norm3, self.dropout3 = nn.LayerNorm(d_model), nn.Dropout(dropout)

    def forward(self, tgt: Tensor, memory: Tensor, tgt_mask: Tensor | None = None,
                memory_mask: Tensor | None = None, tgt_key_padding_mask: Tensor | None = None,
                memory_key_padding_mask: Tensor | None = None, tgt_is_causal: bool = False
                ) -> Tensor:
        """Masks are True where a place must not look; `tgt_is_causal` hides what comes later."""
        mask = allowed(tgt_key_padding_mask, tgt_mask)

        def look(h: Tensor) -> Tensor:
            return self.self_attn.mix(*self.self_attn.project(h), mask, tgt_is_causal)

        return self.rest(tgt, look, self.multihead_attn.project(memory, 1, 3),
                         allowed(memory_key_padding_mask, memory_mask))

    def rest(self, x: Tensor, look: Callable[[Tensor], Tensor], source: Sequence[Tensor],
             mask: Tensor | None, seen: list[Tensor] | None = None) -> Tensor:
        """Run the layer, given how to look back and the keys and values of the source.

        The weights with which it looks at the source, (B, h, T, S), are appended to `seen`.
        """
        attend = self.multihead_attn

        def look_at_source(h: Tensor) -> Tensor:
            query, = attend.project(h, 0, 1)
            if seen is not None:
                seen.append(attention_weights(query, source[0], mask))
            return attend.mix(query, *source, mask)

        x = self.add(x, look, self.norm1, self.dropout1)
        x = self.add(x, look_at_source, self.norm2, self.dropout2)
        return self.add(x, self.feed_forward, self.norm3, self.dropout3)


# cell 46a1e826 58d4a1 · The whole Transformer
class Transformer(nn.Module):
    """Translate sequences of numbers: encoder, decoder, and what turns numbers into vectors.

    With `tie_weights` the table of target vectors also scores the output; with `share_vocab` the
    source uses that table, too. Sequences are padded on the right with `padding_idx`.
    Shape: source (B, S), target_in (B, T) -> logits (B, T, n_target).
    Raises: ValueError for sizes that do not fit each other.
    Source: Vaswani and others 2017; Press and Wolf 2017 for the shared tables.
    """

    def __init__(self, n_source: int, n_target: int, d_model: int = 256, nhead: int = 4,
                 num_encoder_layers: int = 3, num_decoder_layers: int = 3,
                 dim_feedforward: int = 1024, dropout: float = 0.1, norm_first: bool = True,
                 tie_weights: bool = True, share_vocab: bool = False, padding_idx: int = PAD):
        super().__init__()
        if share_vocab and n_source != n_target:
            raise ValueError(f"one table for both languages needs one vocabulary, got {n_source} "
                             f"and {n_target} tokens")
        self.n_source, self.n_target, self.d_model, self.nhead = n_source, n_target, d_model, nhead
        self.num_encoder_layers, self.num_decoder_layers = num_encoder_layers, num_decoder_layers
        self.dim_feedforward, self.norm_first = dim_feedforward, norm_first
        self.tie_weights, self.share_vocab, self.padding_idx = tie_weights, share_vocab, padding_idx
        options = d_model, nhead, dim_feedforward, dropout, norm_first
        self.encoder = nn.ModuleList(TransformerEncoderLayer(*options)
                                     for _ in range(num_encoder_layers))
        self.decoder = nn.ModuleList(TransformerDecoderLayer(*options)
                                     for _ in range(num_decoder_layers))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.target_embedding = nn.Embedding(n_target, d_model)
        self.source_embedding = (self.target_embedding if share_vocab
                                 else nn.Embedding(n_source, d_model))
        self.out, self.dropout = nn.Linear(d_model, n_target), dropout
        with torch.no_grad():
            for table in (self.source_embedding, self.target_embedding, self.out):
                table.weight.normal_(0, d_model ** -0.5)
            self.out.bias.zero_()
        if tie_weights:
            self.out.weight = self.target_embedding.weight  # one Parameter with two names

    def embed(self, table: nn.Embedding, tokens: Tensor, start: int = 0) -> Tensor:
        """Look the tokens up, and add their places, which begin at `start`: (B, T) -> (B, T, D)."""
        places = sinusoidal_positions(start + tokens.shape[1], self.d_model)[start:]
        x = table(tokens) * math.sqrt(self.d_model)
        return F.dropout(x + places.to(x), self.dropout, self.training)

    def encode(self, source: Tensor) -> dict[str, Any]:
        """Read the source; return its mask and, for each decoder layer, its keys and values."""
        padding = source == self.padding_idx  # (B, S)
        x = self.embed(self.source_embedding, source)
        for layer in self.encoder:
            x = layer(x, src_key_padding_mask=padding)
        x = self.encoder_norm(x)
        return {"padding": padding, "source": tuple(layer.multihead_attn.project(x, 1, 3)
                                                    for layer in self.decoder)}

    def decode(self, target_in: Tensor, memory: dict[str, Any], seen: list[Tensor] | None = None
               ) -> Tensor:
        """Score the next token after every token of the target; see `encode` for `memory`."""
        x, mask = self.embed(self.target_embedding, target_in), ~memory["padding"][:, None, None]
        for layer, source in zip(self.decoder, memory["source"], strict=True):
            def look(h: Tensor, attend: MultiheadAttention = layer.self_attn) -> Tensor:
                return attend.mix(*attend.project(h), is_causal=True)

            x = layer.rest(x, look, source, mask, seen)
        return self.out(self.decoder_norm(x))

    def forward(self, source: Tensor, target_in: Tensor) -> Tensor:
        """Score the next token after every token of the target, all at once."""
        return self.decode(target_in, self.encode(source))

    def cross_attention(self, source: Tensor, target_in: Tensor) -> Tensor:
        """Return how each decoder layer and head looks at the source: (B, L, h, T, S)."""
        seen: list[Tensor] = []
        self.decode(target_in, self.encode(source), seen)
        return torch.stack(seen, 1)

    def start(self, memory: dict[str, Any]) -> tuple[tuple[Tensor, Tensor], ...]:
        """Return the empty cache: no keys and values yet, (B, h, 0, D/h) in each layer."""
        return tuple((key[:, :, :0], value[:, :, :0]) for key, value in memory["source"])

    def step(self, token: Tensor, state: tuple[tuple[Tensor, Tensor], ...], memory: dict[str, Any]
             ) -> tuple[Tensor, tuple[tuple[Tensor, Tensor], ...], Tensor]:
        """Read one token of each row, with the keys and values of those before it in the cache.

        Shape: token (B,) -> logits (B, n_target), the longer cache, and the mean attention of all
            layers and heads to the source, (B, S).
        """
        x = self.embed(self.target_embedding, token[:, None], state[0][0].shape[2])  # (B, 1, D)
        mask, cache, seen = ~memory["padding"][:, None, None], [], []
        for layer, before, source in zip(self.decoder, state, memory["source"], strict=True):
            def look(h: Tensor, attend: MultiheadAttention = layer.self_attn,
                     before: tuple[Tensor, Tensor] = before) -> Tensor:
                query, *new = attend.project(h)
                cache.append(tuple(torch.cat(pair, 2) for pair in zip(before, new, strict=True)))
                return attend.mix(query, *cache[-1])

            x = layer.rest(x, look, source, mask, seen)
        attention = torch.stack(seen, 1).mean((1, 2))[:, 0]  # (B, L, h, 1, S) -> (B, S)
        return self.out(self.decoder_norm(x))[:, 0], tuple(cache), attention


# cell 1d73ba85 ebc327 · A loss that does not ask for certainty
@divides_by(count_real)
def smoothed_sequence_loss(logits: Tensor, target: Tensor, smoothing: float = 0.1) -> Tensor:
    """Return the mean cross-entropy with a share of each target spread evenly over all tokens.

    Shape: logits (B, T, V), target (B, T), where padding does not count -> ().
    Source: Szegedy and others 2016, section 7; torch.nn.functional.cross_entropy.
    """
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD,
                           label_smoothing=smoothing)
