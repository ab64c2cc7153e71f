"""Longer contexts: depth, norm, and a tree

By the end you will have networks that look back eight letters and more, know why a single layer makes little of them, and have the best model of names in this book.
"""

# cell 9b6caa2b a6284e · Longer contexts: depth, norm, and a tree
from __future__ import annotations

# generated from nbs/10b_longer_contexts.ipynb: do not edit · f17239
__all__ = [
    "DeepContextMLP",
    "ContextTree",
]
__dir__ = __all__.copy  # what completion offers

# cell 9b6caa2b 775361 · Longer contexts: depth, norm, and a tree
from itertools import pairwise

import torch
from torch import Tensor, nn

from exp.nb10 import even_scores


# cell 2c008a9c b14b1f · Deeper
class DeepContextMLP(nn.Module):
    """Embed the characters of a context; then layers of linear, batch norm, ReLU and dropout.

    Shape: contexts (B, K) -> logits (B, n).
    Source: Ioffe and Szegedy 2015 for the order, batch norm before the nonlinearity.
    Differs: without `norm`, the linear layers have biases.
    """

    def __init__(self, n: int, context_length: int, embedding_size: int = 16,
                 hidden_size: int = 256, n_layers: int = 2, dropout: float = 0.1,
                 norm: bool = True):
        super().__init__()
        self.embedding = nn.Embedding(n, embedding_size)
        sizes = [context_length * embedding_size, *[hidden_size] * n_layers]
        layers = []
        for size, next_size in pairwise(sizes):
            layers.append(nn.Linear(size, next_size, bias=not norm))  # batch norm has a bias
            layers += [nn.BatchNorm1d(next_size)] if norm else []
            layers += [nn.ReLU(), nn.Dropout(dropout)]
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(sizes[-1], n)
        even_scores(self.output)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.hidden(self.embedding(x).flatten(1)))


# cell 1b8de445 1dd7c6 · A tree
class ContextTree(nn.Module):
    """Embed the characters of a context and join neighbours in pairs until one vector is left.

    Shape: contexts (B, 2**n_levels) -> logits (B, n).
    Source: van den Oord and others 2016, figure 3: dilated convolutions, seen from one output.
    Differs: batch norm and ReLU in place of gates; no residual connections.
    """

    def __init__(self, n: int, n_levels: int = 3, embedding_size: int = 16,
                 hidden_size: int = 64, dropout: float = 0.1):
        super().__init__()
        self.embedding = nn.Embedding(n, embedding_size)
        sizes = [embedding_size, *[hidden_size] * n_levels]
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * size, next_size, bias=False), nn.BatchNorm1d(next_size),
                          nn.ReLU(), nn.Dropout(dropout))
            for size, next_size in pairwise(sizes))
        self.output = nn.Linear(sizes[-1], n)
        even_scores(self.output)

    def forward(self, x: Tensor) -> Tensor:
        B, K = x.shape
        if K != 2 ** len(self.levels):
            raise ValueError(f"a tree of {len(self.levels)} levels joins {2 ** len(self.levels)} "
                             f"characters, got contexts of {K}")
        h = self.embedding(x)  # (B, K, D)
        for level in self.levels:
            pairs = h.reshape(-1, 2 * h.shape[2])  # (B · K/2, 2 D): neighbours side by side
            h = level(pairs).reshape(B, -1, level[0].out_features)  # (B, K/2, H)
        return self.output(h[:, 0])
