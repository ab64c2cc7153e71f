"""DeViSE: pictures in the space of words

By the end you will have a network that answers with a point in the space of words and so finds pictures by words that no picture was labelled with. And you will know what that is worth: how wrong its wrong answers are, and what it finds of classes that it never saw.
"""

# cell da52b10c a6284e · DeViSE: pictures in the space of words
from __future__ import annotations

# generated from nbs/08b_devise.ipynb: do not edit · a01048
__all__ = [
    "read_class_names",
    "cached_features",
    "class_vectors",
    "NounTree",
    "read_nouns",
    "cosine_loss",
    "devise_head",
    "NeighbourIndex",
    "FoundItems",
    "PictureSearch",
]
__dir__ = __all__.copy  # what completion offers

# cell da52b10c ff9c57 · DeViSE: pictures in the space of words
import csv
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exp.nb03d import evaluating
from exp.nb03h import read_state, write_state
from exp.nb03k import digest, fingerprint_model
from exp.nb07d import NearestWords, WordVectors


# cell e4ed284f b99158 · Find a picture by a word
def read_class_names(path: str | Path) -> dict[str, str]:
    """Read ImageNet's list of classes, imagenet_class_index.json: id -> name, in its order."""
    with open(path, encoding="utf-8") as file:
        return dict(json.load(file).values())


# cell 666ce8b6 54c724 · Find a picture by a word
def cached_features(body: nn.Module, batches: Iterable[Tensor], path: str | Path,
                    about: Any = "", pool: str = "mean") -> Tensor:
    """Run a body over batches of pictures and pool over places; keep the result in a file.

    `pool` is "mean" or "max"; kept are 16 bits of each number. If the file holds the features of
    the same body (by its weights) and of pictures described by the same `about`, it is read, and
    the batches are not touched.
    Shape: batches (B, 3, H, W), the body's output (B, F, h, w) -> (N, F).
    """
    if pool not in ("mean", "max"):
        raise ValueError(f'pool must be "mean" or "max", got {pool!r}')
    key, path = digest(f"{fingerprint_model(body)}, {about}, {pool}".encode()), Path(path)
    if path.exists():
        kept = read_state(path)
        if kept.get("key") == key:
            return kept["features"].float()
    with evaluating(body), torch.no_grad():
        features = torch.cat([getattr(body(x), f"a{pool}" if pool == "max" else pool)((2, 3))
                              for x in batches])
    write_state(path, {"key": key, "features": features.half()})
    return features.half().float()  # as they will be read the next time


# cell 7e38b49f c465d8 · The target: a point for each class
def class_vectors(names: Mapping[str, Sequence[str]],
                  vectors: WordVectors) -> tuple[Tensor, list[str]]:
    """Return the direction of each class's first name that has one, and the classes without any.

    Shape: -> (C, D), rows of length 1; zeros where there is none.
    """
    rows, missing = [], []
    for kind, spellings in names.items():
        known = [v for v in map(vectors.phrase, spellings) if v is not None]
        if not known:
            missing.append(kind)
        rows.append(known[0] if known else torch.zeros(vectors.vectors.shape[1]))
    return torch.stack(rows), missing


# cell 91d6bc2d d9b5aa · How far apart are two classes?
class NounTree:
    """Nouns by their synsets, and the steps between them over common parents.

    `lemmas` maps a synset to its words, `parents` to the synsets that it is a kind of.
    """

    def __init__(self, lemmas: Mapping[str, Sequence[str]], parents: Mapping[str, Sequence[str]]):
        self.lemmas, self.parents = dict(lemmas), dict(parents)
        self._synsets, self._above = {}, {}
        for synset, words in self.lemmas.items():
            for word in words:
                self._synsets.setdefault(word.lower(), []).append(synset)

    def __repr__(self) -> str:
        return f"NounTree({len(self.lemmas):,} synsets, {len(self._synsets):,} nouns)"

    def find(self, noun: str, also: Iterable[str] = (), below: str | None = None) -> str:
        """Return the synset of a noun; of several, the one that shares most words with `also`.

        Of equals, one that is a kind of the synset `below` is taken, and then the first.
        Raises: KeyError for an unknown noun.
        """
        found = self._synsets.get(noun.replace("_", " ").lower())
        if not found:
            raise KeyError(f"no synset of {noun!r} among {self!r}")
        hints = {word.replace("_", " ").lower() for word in also}
        return max(found, key=lambda s: (len(hints & {word.lower() for word in self.lemmas[s]}),
                                         below in self.above(s)))

    def above(self, synset: str) -> dict[str, int]:
        """Return all that a synset is a kind of, itself included, with the fewest steps up."""
        if synset not in self._above:
            steps, level = {synset: 0}, [synset]
            while level:
                level = [p for s in level for p in self.parents.get(s, ()) if p not in steps
                         and not steps.update({p: steps[s] + 1})]
            self._above[synset] = steps
        return self._above[synset]

    def distance(self, a: str, b: str) -> int:
        """Count the steps between two synsets over their nearest common parent.

        Raises: ValueError if they have none.
        """
        up_a, up_b = self.above(a), self.above(b)
        shared = up_a.keys() & up_b.keys()
        if not shared:
            raise ValueError(f"{a} and {b} have no common parent")
        return min(up_a[s] + up_b[s] for s in shared)


def read_nouns(path: str | Path) -> NounTree:
    """Read a table of nouns with columns synset, lemmas and hypernyms, tabs between; .gz or not."""
    with (gzip.open if str(path).endswith(".gz") else open)(path, "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    lemmas, parents = ({row["synset"]: tuple(filter(None, row[column].split("|"))) for row in rows}
                       for column in ("lemmas", "hypernyms"))
    return NounTree(lemmas, parents)


# cell 1e71c396 fa7dc8 · Which loss?
def cosine_loss(pred: Tensor, target: Tensor) -> Tensor:
    """Compute the mean of one minus the cosine between predictions and targets.

    Shape: (B, D), (B, D) -> (). Source: the lecture; Frome and others rank instead.
    """
    if pred.shape != target.shape:
        raise ValueError(f"a vector is needed for each target: got {tuple(pred.shape)} for "
                         f"{tuple(target.shape)}")
    return 1 - F.cosine_similarity(pred, target, dim=-1).mean()


def devise_head(in_features: int, out_features: int, hidden_size: int = 512,
                dropout: float = 0.2) -> nn.Sequential:
    """Return a head of one hidden layer, from a body's features to points, or to classes."""
    return nn.Sequential(nn.Linear(in_features, hidden_size), nn.ReLU(), nn.Dropout(dropout),
                         nn.Linear(hidden_size, out_features))


# cell 0471f4b1 a84112 · Which is the nearest? Quickly
class NeighbourIndex:
    """Find the nearest of many vectors by cosine: "exact" by a product, "nmslib" by a graph.

    `links` and `effort` are HNSW's M and efConstruction: more of each finds more of the true
    neighbours, more slowly. Shape: vectors (N, D).
    Raises: ImportError if nmslib is asked for and not installed; ValueError for another method.
    Source: Malkov and Yashunin 2016, algorithms 1 to 5.
    """

    def __init__(self, vectors: Tensor, method: str = "exact", links: int = 16,
                 effort: int = 100):
        if method not in ("exact", "nmslib"):
            raise ValueError(f'method must be "exact" or "nmslib", got {method!r}')
        if vectors.ndim != 2 or not len(vectors):
            raise ValueError(f"vectors must be (N, D), at least one, got {tuple(vectors.shape)}")
        self.vectors, self.method = F.normalize(vectors.detach(), dim=-1), method
        self.settings = {"M": links, "efConstruction": effort}
        self._graph = self._build() if method == "nmslib" else None

    def _build(self) -> Any:
        """Build nmslib's graph of all vectors, on one thread, so that it is always the same."""
        try:
            import nmslib
        except ImportError:
            raise ImportError('the quick index needs nmslib: pip install "ground-up[neighbours]", '
                              'or use method="exact"') from None
        graph = nmslib.init(method="hnsw", space="cosinesimil")
        graph.addDataPointBatch(self.vectors.cpu().numpy())
        graph.createIndex({**self.settings, "post": 0, "indexThreadQty": 1})
        return graph

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_graph": None}  # the graph is built again where it is unpickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._graph = self._build() if self.method == "nmslib" else None

    def __len__(self) -> int:
        return len(self.vectors)

    def query(self, targets: Tensor, k: int = 10, search_effort: int = 50) -> tuple[Tensor, Tensor]:
        """Return the cosines and the rows of the k nearest vectors, the nearest first.

        `search_effort` is HNSW's efSearch. The graph may find fewer than k; the rest is filled
        with cosine -inf and row -1.
        Shape: targets (B, D) -> (B, k), (B, k); or (D,) -> (k,), (k,).
        """
        if targets.shape[-1] != self.vectors.shape[1] or not 1 <= k <= len(self):
            raise ValueError(f"targets must end in {self.vectors.shape[1]} and k lie in "
                             f"1..{len(self)}, got {tuple(targets.shape)} and {k}")
        unit = F.normalize(targets.detach(), dim=-1)
        if self.method == "exact":
            best = (unit @ self.vectors.T).topk(k)
            return best.values, best.indices
        self._graph.setQueryTimeParams({"efSearch": max(search_effort, k)})
        found = self._graph.knnQueryBatch(unit.reshape(-1, unit.shape[-1]).cpu().numpy(), k, 1)
        rows = torch.full((len(found), k), -1)
        cosines = torch.full((len(found), k), -torch.inf)
        for i, (places, distances) in enumerate(found):
            rows[i, : len(places)] = torch.as_tensor(places).long()
            cosines[i, : len(places)] = 1 - torch.as_tensor(distances)
        return cosines.reshape(*unit.shape[:-1], k), rows.reshape(*unit.shape[:-1], k)


# cell 74993259 ad1bf1 · A picture search
@dataclass(frozen=True)
class FoundItems:
    """Numbers of the items found, with their cosines, the nearest first."""

    items: tuple[int, ...]
    cosines: tuple[float, ...]


class PictureSearch:
    """Search pictures by words or by pictures, through their predicted points in a space of words.

    Shape: points (N, D), one for each picture; `nouns` are the words that may name a picture.
    """

    def __init__(self, points: Tensor, vectors: WordVectors, nouns: Iterable[str] = (),
                 method: str = "exact"):
        self.vectors, self.index = vectors, NeighbourIndex(points, method)
        known = {noun: vectors.phrase(noun) for noun in nouns}
        self.nouns = tuple(noun for noun, vector in known.items() if vector is not None)
        self.named = (NeighbourIndex(torch.stack([known[noun] for noun in self.nouns]), method)
                      if self.nouns else None)

    def find(self, text: str, n: int = 5) -> FoundItems:
        """Find the pictures nearest to a word, or to the mean direction of several.

        Raises: KeyError if a word has no vector.
        """
        target = self.vectors.phrase(text)
        if target is None:
            raise KeyError(f"no vector for {text!r}, or for one of its words")
        return self._found(*self.index.query(target, n), n)

    def like(self, item: int, n: int = 5) -> FoundItems:
        """Find the pictures nearest to a picture, itself left out."""
        point = self.index.vectors[item]
        return self._found(*self.index.query(point, min(n + 1, len(self.index))), n, item)

    def _found(self, cosines: Tensor, items: Tensor, n: int, without: int = -1) -> FoundItems:
        """Keep n items, without one of them, and without the places that the graph left empty."""
        kept = ((items != without) & (items >= 0)).nonzero()[:n, 0]
        return FoundItems(tuple(items[kept].tolist()), tuple(cosines[kept].tolist()))

    def name(self, item: int, n: int = 5) -> NearestWords:
        """Name a picture: the nearest of all nouns."""
        if self.named is None:
            raise ValueError("to name pictures, give the search its nouns")
        cosines, rows = self.named.query(self.index.vectors[item], n)
        return NearestWords(tuple(self.nouns[i] for i in rows), tuple(cosines.tolist()))
