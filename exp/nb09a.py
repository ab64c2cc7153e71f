"""A recommender for daily use

By the end you will have one object that learns from a table of ratings, recommends, meets new people without training again, says when it is guessing, and saves itself to a file; and you will know how good its lists really are.
"""

# cell c0910002 a6284e · A recommender for daily use
from __future__ import annotations

# generated from nbs/09a_recommender.ipynb: do not edit · 1d819f
__all__ = [
    "Recommendations",
    "Recommender",
    "recall_at",
]
__dir__ = __all__.copy  # what completion offers

# cell c0910002 17e6ed · A recommender for daily use
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exp.nb03d import check_counts, format_html, format_table, seed_everything
from exp.nb03h import read_state, write_state
from exp.nb05 import fit_one_cycle
from exp.nb09 import CollabModel, FoldedFactors, Ratings, ratings_learner, squeeze


# cell c0110086 1e78a9 · The object
@dataclass(frozen=True)
class Recommendations:
    """The best items for one user, best first; its repr is a table. `note` is a caveat."""

    items: tuple
    ratings: tuple[float, ...]
    titles: tuple[str, ...] = ()
    note: str = ""

    def rows(self) -> list[dict[str, str]]:
        """Return one row for each item, as text."""
        titles = self.titles or [""] * len(self.items)
        rows = zip(self.items, self.ratings, titles, strict=True)
        return [{"item": str(item), "predicted": f"{rating:.2f}", "title": title}
                for item, rating, title in rows]

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return "\n".join(filter(None, [format_table(self.rows()) if self.items else "", self.note]))

    def _repr_html_(self) -> str:
        return (format_html(self.rows()) if self.items else "") + self.note


# cell c0110087 67a7fb · The object
class Recommender:
    """Learn from ratings; then predict, recommend, find similar items, and meet new users.

    `fit` trains a CollabModel. `y_range`: by default an eighth of the ratings' spread beyond both
    ends. `audience`: let items know who rated them. Ids are those of the `Ratings`.
    Units: predictions in those of the ratings.
    """

    def __init__(self, n_factors: int = 40, y_range: tuple[float, float] | None = None,
                 weight_decay: float = 3.0, bias_decay: float = 0.3, lr: float = 0.05,
                 n_epochs: int = 20, batch_size: int | None = None, audience: bool = True,
                 seed: int = 42):
        check_counts(n_factors=n_factors, n_epochs=n_epochs)
        self.settings = dict(n_factors=n_factors, y_range=y_range, weight_decay=weight_decay,
                             bias_decay=bias_decay, lr=lr, n_epochs=n_epochs, batch_size=batch_size,
                             audience=audience, seed=seed)
        self.folded: FoldedFactors | None = None
        self.epochs: list[dict[str, Any]] = []
        self._users, self._items = {}, {}

    def fit(self, ratings: Ratings, valid: Ratings | None = None,
            titles: Mapping[Any, str] | None = None) -> Recommender:
        """Train on ratings, validate on others with the same ids, and keep what predicting needs.

        Raises: ValueError for ratings outside `y_range`.
        """
        s = self.settings
        self.y_range = _range_around(ratings.ratings, s["y_range"])
        self.user_ids, self.item_ids = ratings.user_ids, ratings.item_ids
        self.titles = {x: titles[x] for x in self.item_ids if x in titles} if titles else {}
        self.seen = seen = ratings.users, ratings.items
        self._index()
        seed_everything(s["seed"])
        model = CollabModel(len(self.user_ids), len(self.item_ids), s["n_factors"], self.y_range,
                            seen if s["audience"] else None)
        learn = ratings_learner(model, ratings, valid, s["lr"], s["weight_decay"], s["bias_decay"],
                                s["batch_size"])
        fit_one_cycle(learn, s["n_epochs"])
        self.epochs, self.folded = learn.recorder.epochs, FoldedFactors.of(model, ratings)
        scores = self._scores(*seen)
        self.noise = ((squeeze(scores, self.y_range) - ratings.ratings) ** 2).mean()
        return self

    def predict(self, users: Sequence[Any], items: Sequence[Any]) -> Tensor:
        """Predict the ratings of some pairs of ids; warns where it knows only one side's bias.

        Shape: users, items of length B -> (B,).
        """
        u, i = (self._places(ids, known) for ids, known in ((users, self._users),
                                                            (items, self._items)))
        if len(u) != len(i):
            raise ValueError(f"one item for each user, got {len(u)} users and {len(i)} items")
        if n := int(((u < 0) | (i < 0)).sum()):
            warnings.warn(f"{n} of {len(u)} pairs have a user or item that was never seen: their "
                          "predictions are made from the biases alone", stacklevel=2)
        return squeeze(self._scores(u, i), self.y_range)

    def predict_all(self, user: Any) -> Tensor:
        """Predict one user's rating of every item, in the order of `item_ids`.

        `user` is an id, or for a newcomer a dict of their ratings: item -> rating.
        """
        f = self._fitted()
        bias, p = self.new_user(user) if isinstance(user, Mapping) else self._known_user(user)
        return squeeze(f.item_factors @ p + f.item_bias + bias + f.mean, self.y_range)

    def recommend(self, user: Any, n: int = 10) -> Recommendations:
        """Return the `n` items with the highest predictions, without those that the user has rated.

        `user` is an id, or for a newcomer a dict of their ratings. For an unknown id the
        predictions come from the items' biases alone, and `note` says so.
        """
        check_counts(n=n)
        newcomer = isinstance(user, Mapping)
        predicted, note = self.predict_all(user), ""
        if newcomer:
            predicted[self._places(list(user), self._items)] = -math.inf
        elif user in self._users:
            predicted[self.seen[1][self.seen[0] == self._users[user]]] = -math.inf
        else:
            note = f"user {user!r} was never seen: these are the items with the highest biases"
        order = predicted.argsort(descending=True)[:n]
        order = order[predicted[order] > -math.inf]
        items = tuple(self.item_ids[k] for k in order)
        return Recommendations(items, tuple(predicted[order].tolist()), self._titles(items), note)

    def new_user(self, ratings: Mapping[Any, float]) -> tuple[Tensor, Tensor]:
        """Return bias () and factors (D,) of a newcomer, by one ridge regression on their ratings.

        Raises: KeyError for an unknown item, ValueError for no ratings, or some outside `y_range`.
        """
        f, places = self._fitted(), self._places(list(ratings), self._items)
        if (places < 0).any():
            unknown = [item for item in ratings if item not in self._items]
            raise KeyError(f"items {unknown[:5]} were never seen: leave them out")
        r = torch.tensor(list(ratings.values()), dtype=f.mean.dtype)
        if not len(r):
            raise ValueError("a newcomer needs at least one rating")
        _range_around(r, self.y_range)
        people = torch.cat([f.user_bias[:, None], f.user_factors], 1)  # (users, 1 + D)
        prior = people.T @ people / len(self._users)  # the means are zero
        s = f.mean + f.item_bias[places]
        low, high = self.y_range
        slope = (high - low) / 4 * (1 - (s / 2).tanh() ** 2)
        G = slope[:, None] * torch.cat([torch.ones(len(r), 1), f.item_factors[places]], 1)
        ridge = self.noise.clamp(min=1e-6) * torch.eye(len(prior))
        error = r - squeeze(s, self.y_range)
        w = torch.linalg.solve(prior @ (G.T @ G) + ridge, prior @ (G.T @ error))
        return w[0], w[1:]

    def similar(self, item: Any, n: int = 5) -> Recommendations:
        """Return the items whose factors are closest in direction (`ratings`: cosines).
        """
        q = self._fitted().item_factors
        if item not in self._items:
            raise KeyError(f"item {item!r} was never seen")
        q = q / (q**2).sum(1, keepdim=True).sqrt().clamp(min=1e-12)
        cosines = q @ q[self._items[item]]
        order = cosines.argsort(descending=True)
        order = order[order != self._items[item]][:n].tolist()
        items = tuple(self.item_ids[k] for k in order)
        return Recommendations(items, tuple(cosines[order].tolist()), self._titles(items),
                               "predicted: the cosine of the angle between the factors")

    def save(self, path: str | Path) -> Path:
        """Write everything that predicting needs into a file, without pickle."""
        return write_state(path, {"recommender": self.settings, "folded": vars(self._fitted()),
                                  "y_range": list(self.y_range), "user_ids": list(self.user_ids),
                                  "item_ids": list(self.item_ids), "seen": list(self.seen),
                                  "titles": [list(pair) for pair in self.titles.items()],
                                  "noise": self.noise})

    @classmethod
    def load(cls, path: str | Path) -> Recommender:
        """Read what `save` wrote. Raises: ValueError for another file."""
        state = read_state(path, needs=("recommender", "folded", "seen"))
        found = cls(**state["recommender"])
        found.folded, found.noise = FoldedFactors(**state["folded"]), state["noise"]
        found.y_range, found.seen = tuple(state["y_range"]), tuple(state["seen"])
        found.user_ids, found.item_ids = tuple(state["user_ids"]), tuple(state["item_ids"])
        found.titles = dict(state["titles"])
        found._index()
        return found

    def _index(self) -> None:
        """Note the place of each id that has a rating."""
        self._users, self._items = (
            {ids[k]: k for k in places.unique().tolist()}
            for ids, places in zip((self.user_ids, self.item_ids), self.seen, strict=True))

    def _fitted(self) -> FoldedFactors:
        if self.folded is None:
            raise RuntimeError("this recommender has learned nothing yet: call fit first")
        return self.folded

    def _places(self, ids: Iterable, known: Mapping[Any, int]) -> Tensor:
        """Return the place of each id, -1 for those that are unknown."""
        self._fitted()
        ids = ids.tolist() if hasattr(ids, "tolist") else ids
        return torch.tensor([known.get(x, -1) for x in ids], dtype=torch.int64)

    def _known_user(self, user: Any) -> tuple[Tensor, Tensor]:
        f, u = self.folded, self._users.get(user)
        if u is None:
            return torch.zeros(()), torch.zeros(f.user_factors.shape[1])
        return f.user_bias[u], f.user_factors[u]

    def _scores(self, u: Tensor, i: Tensor) -> Tensor:
        """Return the scores of pairs of places; what is unknown contributes nothing."""
        f, k, m = self.folded, (u >= 0).float(), (i >= 0).float()
        u, i = u.clamp(min=0), i.clamp(min=0)
        match = k * m * (f.user_factors[u] * f.item_factors[i]).sum(1)
        return f.mean + k * f.user_bias[u] + m * f.item_bias[i] + match

    def _titles(self, items: Sequence[Any]) -> tuple[str, ...]:
        return tuple(self.titles.get(item, "") for item in items) if self.titles else ()


# cell c0110088 b98b18 · The object
def _range_around(ratings: Tensor, y_range: Sequence[float] | None) -> tuple[float, float]:
    """Return the range, by default an eighth of the spread wider; refuse ratings outside it."""
    low, high = ratings.min().item(), ratings.max().item()
    if y_range is None:
        margin = (high - low) / 8 or 0.5
        return low - margin, high + margin
    if not (len(y_range) == 2 and y_range[0] < y_range[1]):
        raise ValueError(f"y_range must be (low, high) with low < high, got {y_range}")
    if low < y_range[0] or high > y_range[1]:
        raise ValueError(f"ratings lie in {low:g}..{high:g}, outside the y_range {tuple(y_range)}: "
                         f"widen it, best a little beyond both ends")
    return tuple(y_range)


# cell c0110132 e7e31c · An honest look
def recall_at(scores: Tensor, seen: Tensor, relevant: Tensor, k: int = 10) -> float:
    """Return the mean share of each user's relevant items among the `k` best that are not seen.

    A user with more than `k` relevant items can reach 1, too; users without any do not count.
    Shape: scores (users, items), seen and relevant the same, bool.
    Raises: ValueError for other shapes, or if nothing is relevant.
    """
    check_counts(k=k)
    if not scores.shape == seen.shape == relevant.shape or not relevant.any():
        raise ValueError("scores, seen and relevant need one shape, and some relevant item, got "
                         f"{[tuple(x.shape) for x in (scores, seen, relevant)]}")
    k = min(k, scores.shape[1])
    top = scores.masked_fill(seen, -math.inf).topk(k).indices  # (users, k)
    hits = (relevant & ~seen).gather(1, top).sum(1)
    possible = relevant.sum(1).clamp(max=k)
    return (hits[possible > 0] / possible[possible > 0]).mean().item()
