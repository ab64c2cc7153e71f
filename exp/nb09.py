"""Collaborative filtering: films for you, from what others liked

By the end you will have a model that learns from ratings alone: it predicts every missing rating, better than any average, and shows what it has found out about the films, of which it knows no more than a number.
"""

# cell c0110002 a6284e · Collaborative filtering: films for you, from what others liked
from __future__ import annotations

# generated from nbs/09_collab.ipynb: do not edit · c8b05e
__all__ = [
    "Ratings",
    "read_movielens",
    "sum_by_place",
    "least_squares_biases",
    "biases_apart",
    "ratings_learner",
    "squeeze",
    "CollabModel",
    "FoldedFactors",
    "PrincipalComponents",
    "principal_components",
]
__dir__ = __all__.copy  # what completion offers

# cell c0110002 c9b7d9 · Collaborative filtering: films for you, from what others liked
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exp.nb03b import DataLoaders, TensorDataset
from exp.nb03d import check_counts
from exp.nb04 import Learner


# cell c0110015 181975 · Ratings
@dataclass(frozen=True)
class Ratings:
    """Who rated what: the places of users and items among their sorted ids, and the ratings.

    Shape: users, items (N,) int64; ratings (N,) float32; times (N,) int64, or None.
    """

    users: Tensor
    items: Tensor
    ratings: Tensor
    user_ids: tuple
    item_ids: tuple
    times: Tensor | None = None

    @classmethod
    def from_columns(cls, users: Iterable, items: Iterable, ratings: Iterable,
                     times: Iterable | None = None, duplicates: str = "error") -> Ratings:
        """Number the ids of three or four columns: lists, arrays, tensors or a frame's columns.

        `duplicates` "last" keeps the last of several ratings of one item by one user.
        Raises: ValueError for columns that are empty or of different lengths, missing ids or
            ratings, and duplicates; TypeError for ids or ratings of another type.
        """
        columns = {"users": _listed(users), "items": _listed(items), "ratings": _listed(ratings)}
        if times is not None:
            columns["times"] = _listed(times)
        _check_columns(columns, duplicates)
        user_ids, u = _number_ids("users", columns["users"])
        item_ids, i = _number_ids("items", columns["items"])
        r = torch.tensor(columns["ratings"], dtype=torch.float32)
        t = None if times is None else torch.tensor(columns["times"], dtype=torch.int64)
        found = cls(u, i, r, user_ids, item_ids, t)
        return found.take(_last_of_each(found, duplicates))

    def __len__(self) -> int:
        return len(self.ratings)

    def __repr__(self) -> str:
        return (f"{len(self):,} ratings of {len(self.item_ids):,} items by "
                f"{len(self.user_ids):,} users")

    def take(self, rows: Tensor) -> Ratings:
        """Return some of the ratings, under the same ids."""
        times = None if self.times is None else self.times[rows]
        return Ratings(self.users[rows], self.items[rows], self.ratings[rows], self.user_ids,
                       self.item_ids, times)

    def split_random(self, share: float = 0.2, seed: int = 42) -> tuple[Ratings, Ratings]:
        """Shuffle, and return a training part and the `share` to validate on."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return _cut_ratings(self, order, 1 - share)

    def split_by_time(self, share: float = 0.2) -> tuple[Ratings, Ratings]:
        """Return the earlier ratings and the last `share`. Raises: ValueError without times."""
        if self.times is None:
            raise ValueError("these ratings have no times; pass them to Ratings.from_columns")
        return _cut_ratings(self, self.times.argsort(stable=True), 1 - share)


# cell c0110016 dcac70 · Ratings
def _listed(column: Iterable) -> list:
    return column.tolist() if hasattr(column, "tolist") else list(column)


def _check_columns(columns: Mapping[str, list], duplicates: str) -> None:
    """Refuse columns that cannot be ratings."""
    if duplicates not in ("error", "last"):
        raise ValueError(f'duplicates must be "error" or "last", got {duplicates!r}')
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1 or not lengths["users"]:
        raise ValueError(f"the columns need one length and at least one rating, got {lengths}")
    for row, rating in enumerate(columns["ratings"]):
        if not isinstance(rating, Real):
            raise TypeError(f"ratings must be numbers, got {rating!r} in row {row}")
        if not math.isfinite(rating):
            raise ValueError(f"the rating in row {row} is {rating}: drop the row first")


def _number_ids(name: str, column: list) -> tuple[tuple, Tensor]:
    """Return the sorted ids, and the place of each row's id among them."""
    if None in column or any(x != x for x in set(column)):
        row = next(row for row, x in enumerate(column) if x is None or x != x)
        raise ValueError(f"{name} has no id in row {row}: drop the row, or give it an id")
    if any(isinstance(x, float) and x.is_integer() for x in set(column)):
        column = [int(x) if isinstance(x, float) and x.is_integer() else x for x in column]
    kinds = {type(x) for x in set(column)}
    if kinds not in ({int}, {str}):
        raise TypeError(f"the ids in {name} must all be whole numbers or all be strings, got "
                        f"{sorted(kind.__name__ for kind in kinds)}: convert them first")
    ids = sorted(set(column))
    place = {x: n for n, x in enumerate(ids)}
    return tuple(ids), torch.tensor([place[x] for x in column])


def _last_of_each(ratings: Ratings, duplicates: str) -> Tensor:
    """Return the rows to keep: the last rating of each item by each user, in order."""
    pair = ratings.users * len(ratings.item_ids) + ratings.items
    order = pair.argsort(stable=True)
    again = pair[order][1:] == pair[order][:-1]
    if again.any() and duplicates == "error":
        row = order[1:][again][0]
        raise ValueError(f"user {ratings.user_ids[ratings.users[row]]!r} rated item "
                         f"{ratings.item_ids[ratings.items[row]]!r} more than once (row {row}, and "
                         f'{int(again.sum())} in all); duplicates="last" keeps the last of each')
    return order[torch.cat([~again, torch.tensor([True])])].sort().values


def _cut_ratings(ratings: Ratings, order: Tensor, share: float) -> tuple[Ratings, Ratings]:
    cut = round(share * len(order))
    if not 0 < cut < len(order):
        raise ValueError(f"both parts need a rating, got {cut} and {len(order) - cut}: choose "
                         "another share, strictly between 0 and 1")
    return ratings.take(order[:cut]), ratings.take(order[cut:])


# cell c0110017 23aa8e · Ratings
def read_movielens(folder: str | Path) -> tuple[Ratings, dict[int, str]]:
    """Read `u.data` and `u.item` of MovieLens 100K: the ratings, and the titles by film id."""
    lines = (Path(folder) / "u.data").read_text().splitlines()
    columns = zip(*(map(int, line.split("\t")) for line in lines), strict=True)
    films = (Path(folder) / "u.item").read_text("latin-1").splitlines()
    titles = {int(number): title for number, title, *_ in (film.split("|") for film in films)}
    return Ratings.from_columns(*columns), titles


# cell c0110024 b7d81c · Ratings
def sum_by_place(place: Tensor, values: Tensor, n: int) -> Tensor:
    """Add up the values that belong to each place 0..n-1: (N,) -> (n,)."""
    return torch.zeros(n, dtype=values.dtype).index_add(0, place, values)


def least_squares_biases(data: Ratings, ridge: float = 4.0, rounds: int = 1000
                         ) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean and the biases of users and items, by least squares with a ridge.

    Shape: mean (), biases (users,) and (items,), float64.
    """
    u, i, r = data.users, data.items, data.ratings.double()
    n_users, n_items = len(data.user_ids), len(data.item_ids)
    mean, b, c = r.mean(), r.new_zeros(n_users), r.new_zeros(n_items)
    for _ in range(rounds):
        before = b
        b = sum_by_place(u, r - mean - c[i], n_users) / (ridge + u.bincount(minlength=n_users))
        c = sum_by_place(i, r - mean - b[u], n_items) / (ridge + i.bincount(minlength=n_items))
        if (b - before).abs().max() < 1e-9:
            break
    return mean, b, c


# cell c0110049 7688e4 · The model, step by step
def biases_apart(model: nn.Module, bias_decay: float = 0.0) -> list[dict[str, Any]]:
    """Make two parameter groups: the factors, and the biases with a weight decay of their own."""
    named = list(model.named_parameters())
    biases = [p for name, p in named if "bias" in name]
    others = [p for name, p in named if "bias" not in name]
    groups = [{"params": others}, {"params": biases, "weight_decay": bias_decay}]
    return [group for group in groups if group["params"]]


def ratings_learner(model: nn.Module, train: Ratings, valid: Ratings | None = None,
                    lr: float = 0.05, weight_decay: float = 0.0, bias_decay: float | None = None,
                    batch_size: int | None = None) -> Learner:
    """Return a Learner for a model of (users, items) -> ratings, with AdamW and squared errors.

    `bias_decay`: by default that of the factors. `batch_size`: by default a tenth of the ratings,
    at most 131,072.
    """
    sets = [None if part is None else TensorDataset(part.users, part.items, part.ratings)
            for part in (train, valid)]
    size = batch_size or min(max(math.ceil(len(train) / 10), 1), 2**17)
    apart = partial(biases_apart, bias_decay=weight_decay if bias_decay is None else bias_decay)
    adam = partial(torch.optim.AdamW, weight_decay=weight_decay, betas=(0.9, 0.99))
    return Learner(model, DataLoaders.from_datasets(*sets, batch_size=size), F.mse_loss, lr, adam,
                   groups=apart, progress=False)


# cell c0110052 afffc5 · The model, step by step
def squeeze(score: Tensor, y_range: tuple[float, float] | None) -> Tensor:
    """Map scores into a range by a sigmoid; None leaves them as they are."""
    if y_range is None:
        return score
    low, high = y_range
    return low + (high - low) * (1 + (score / 2).tanh()) / 2


# cell c0110069 d63bb8 · Who has rated it?
class CollabModel(nn.Module):
    """Predict ratings from factors and biases of users and items, inside a range.

    `audience`: the users and items (N,) of the training ratings. With it, an item's factors contain
    a sum over its raters. Training mode leaves out the rater whose rating is predicted, so in
    training mode call it on these very ratings only. A batch then costs a pass over all N: make
    batches large.
    Shape: users (B,), items (B,) int64 -> (B,).
    Source: Koren and others 2009, equation 4; the audience as in Koren 2008, equation 15.
    Differs: the sum is on the item's side; a sigmoid keeps predictions inside `y_range`.
    """

    def __init__(self, n_users: int, n_items: int, n_factors: int = 40,
                 y_range: tuple[float, float] | None = (0.5, 5.5),
                 audience: tuple[Tensor, Tensor] | None = None):
        super().__init__()
        check_counts(n_users=n_users, n_items=n_items, n_factors=n_factors)
        self.y_range = y_range
        self.user_factors, self.item_factors, self.user_bias, self.item_bias = (
            nn.Embedding(n, size) for n, size in ((n_users, n_factors), (n_items, n_factors),
                                                  (n_users, 1), (n_items, 1)))
        for table in (self.user_factors, self.item_factors):
            table.weight.data = 0.05 * torch.randn(table.weight.shape)
        for table in (self.user_bias, self.item_bias):
            table.weight.data.zero_()
        self.mean_bias = nn.Parameter(torch.zeros(()))
        self.rater_factors = None
        if audience is not None:
            users, items = audience
            self.rater_factors = nn.Embedding(n_users, n_factors)
            self.rater_factors.weight.data.zero_()
            self.register_buffer("raters", users[items.argsort(stable=True)])
            self.register_buffer("n_raters", items.bincount(minlength=n_items))
            self.register_buffer("starts", self.n_raters.cumsum(0) - self.n_raters)

    def item_vectors(self) -> Tensor:
        """Return the factors of all items, their audience included: (n_items, D)."""
        if self.rater_factors is None:
            return self.item_factors.weight
        return self.item_factors.weight + self._audience() * _inverse_root(self.n_raters)

    def _audience(self) -> Tensor:
        return F.embedding_bag(self.raters, self.rater_factors.weight, self.starts, mode="sum")

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        q = self.item_factors(items)
        if self.rater_factors is not None:
            audience, count = self._audience()[items], self.n_raters[items]
            if self.training:
                audience, count = audience - self.rater_factors(users), count - 1
            q = q + audience * _inverse_root(count)
        score = (self.user_factors(users) * q).sum(1) + self.mean_bias
        return squeeze(score + self.user_bias(users)[:, 0] + self.item_bias(items)[:, 0],
                       self.y_range)


def _inverse_root(count: Tensor) -> Tensor:
    return count.clamp(min=1)[:, None] ** -0.5


# cell c0110081 502f7d · The whole table by one product
@dataclass(frozen=True)
class FoldedFactors:
    """A trained model as plain tables: centred factors and biases, and the mean score.

    Shape: factors (users, D) and (items, D); biases (users,) and (items,); mean ().
    """

    user_factors: Tensor
    item_factors: Tensor
    user_bias: Tensor
    item_bias: Tensor
    mean: Tensor

    @classmethod
    def of(cls, model: CollabModel, ratings: Ratings) -> FoldedFactors:
        """Fold a model that was trained on `ratings`; its scores stay the same.

        Users and items without any of these ratings get zeros: nothing was learned about them.
        """
        with torch.no_grad():
            p, q = model.user_factors.weight, model.item_vectors()
            b, c = model.user_bias.weight[:, 0], model.item_bias.weight[:, 0]
            users, items = ratings.users.unique(), ratings.items.unique()
            p_mean, q_mean = p[users].mean(0), q[items].mean(0)
            p, q = p - p_mean, q - q_mean
            b, c = b + p @ q_mean, c + q @ p_mean
            mean = model.mean_bias + p_mean @ q_mean + b[users].mean() + c[items].mean()
            b, c = b - b[users].mean(), c - c[items].mean()
            return cls(_only(p, users), _only(q, items), _only(b, users), _only(c, items), mean)

    def scores(self) -> Tensor:
        """Return the scores of the whole cross-table, by one product: (users, items)."""
        return (self.user_factors @ self.item_factors.T + self.user_bias[:, None]
                + self.item_bias + self.mean)


def _only(x: Tensor, rows: Tensor) -> Tensor:
    """Set all rows but these to 0."""
    return torch.zeros_like(x).index_copy(0, rows, x[rows])


# cell c0110109 aa98bf · Principal components, from scratch
@dataclass(frozen=True)
class PrincipalComponents:
    """The directions along which the rows of a table differ most, largest first.

    Shape: mean (D,), directions (k, D), variances (k,); `share` (k,) of the whole variance.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor
    share: Tensor

    def transform(self, x: Tensor) -> Tensor:
        """Return the place of each row along each component: (N, D) -> (N, k)."""
        return (x - self.mean) @ self.directions.T

    def inverse(self, scores: Tensor) -> Tensor:
        """Return the rows that lie at these places: (N, k) -> (N, D)."""
        return scores @ self.directions + self.mean


def principal_components(x: Tensor, k: int) -> PrincipalComponents:
    """Find the first `k` principal components of the rows of x (N, D).

    The largest entry of each direction is positive. Variances divide by N - 1.
    Raises: ValueError unless x is a table of at least two rows and 1 <= k <= min(N, D).
    """
    if x.ndim != 2 or len(x) < 2 or not 1 <= k <= min(x.shape):
        raise ValueError(f"x must be a table of two or more rows, and k in 1..{min(x.shape)}, got "
                         f"shape {tuple(x.shape)} and k={k}")
    mean = x.mean(0)
    _, s, v = torch.linalg.svd(x - mean, full_matrices=False)
    v = v * v.gather(1, v.abs().argmax(1, keepdim=True)).sign()
    variances = s**2 / (len(x) - 1)
    return PrincipalComponents(mean, v[:k], variances[:k], (variances / variances.sum())[:k])
