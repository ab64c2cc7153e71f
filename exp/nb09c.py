"""What a network knows about shops, states and weekdays

By the end you will have a map of Germany that a network drew from the sample's sales figures alone, and likely reasons why it draws none from the real ones; its embeddings as tables that a colleague joins in SQL; and nearest neighbours, forests and boosting that predict better with them.
"""

# cell abbfb1ea a6284e · What a network knows about shops, states and weekdays
from __future__ import annotations

# generated from nbs/09c_entities.ipynb: do not edit · b29810
__all__ = [
    "align_points",
    "pair_distances",
    "distance_agreement",
    "embedding_tables",
    "join_embeddings",
    "swap_noise",
    "TableAutoencoder",
]
__dir__ = __all__.copy  # what completion offers

# cell abbfb1ea f0705c · What a network knows about shops, states and weekdays
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from exp.nb03d import check_counts
from exp.nb08c import check_columns
from exp.nb09b import TablePreprocessor, TabularModel, _Frame


# cell 3c21d79e 352061 · A map
def align_points(points: Tensor, onto: Tensor) -> Tensor:
    """Turn, mirror, scale and move points so that they lie as near as possible to others.

    Shape: points (N, D), onto (N, D) -> (N, D).
    Source: Schönemann 1966.
    """
    if points.shape != onto.shape:
        raise ValueError(f"the points must be as many and in as many dimensions, got "
                         f"{tuple(points.shape)} and {tuple(onto.shape)}")
    a, b = points - points.mean(0), onto - onto.mean(0)
    u, s, v = torch.linalg.svd(a.T @ b)
    return a @ u @ v * (s.sum() / (a ** 2).sum()) + onto.mean(0)


def pair_distances(points: Tensor) -> Tensor:
    """Return the distance of each pair of points, each pair once. Shape: (N, D) -> (N(N-1)/2,)."""
    first, second = torch.combinations(torch.arange(len(points))).T
    return ((points[first] - points[second]) ** 2).sum(1).sqrt()


def distance_agreement(points: Tensor, others: Tensor) -> float:
    """Return the correlation of the distances of all pairs: 1 for the same map at any scale."""
    a, b = (pair_distances(x.double()) for x in (points, others))
    a, b = a - a.mean(), b - b.mean()
    return ((a * b).sum() / ((a ** 2).sum() * (b ** 2).sum()).sqrt()).item()


# cell 7713844c ea9006 · Tables for everybody
def embedding_tables(model: TabularModel, preprocessor: TablePreprocessor) -> dict[str, _Frame]:
    """Return each category's embedding as a table: its levels, and columns NAME_0, NAME_1 ….

    The first row, whose level is missing, is for levels never seen, and the second, if there is
    one, for missing values.
    Raises: ValueError if model and preprocessor do not belong together.
    """
    from pandas import DataFrame

    if model.levels != preprocessor.levels:
        raise ValueError(f"the model has categories of {model.levels} levels, the preprocessor of "
                         f"{preprocessor.levels}: pass the one that it was trained with")
    tables = {}
    for name, embedding in zip(preprocessor.categories, model.embeddings, strict=True):
        weight = embedding.weight.detach().cpu().numpy()
        level = preprocessor.categorify.decode(name, range(len(weight)))
        kind = "object" if isinstance(level[-1], str) else (
            "Int64" if isinstance(level[-1], int) else "Float64")
        table = DataFrame(weight, columns=[f"{name}_{i}" for i in range(weight.shape[1])])
        table.insert(0, name, level)
        tables[name] = table.astype({name: kind})
    return tables


def join_embeddings(frame: _Frame, tables: Mapping[str, _Frame]) -> _Frame:
    """Put the embeddings of each row's levels side by side; levels never seen get row 0.

    Shape: N rows -> N rows, with the columns of all tables but the levels.
    Raises: ValueError for a column that the frame does not have.
    """
    from pandas import concat

    check_columns(frame, tables, "join_embeddings")
    parts = []
    for name, table in tables.items():
        known = table.dropna(subset=[name]).set_index(name)
        found = known.reindex(frame[name].astype(known.index.dtype)).set_index(frame.index)
        parts.append(found.fillna(table.iloc[0, 1:].astype("float32").to_dict()))
    return concat(parts, axis=1)


# cell c9dee4a1 ed4ec6 · An invented task
def swap_noise(columns: Tensor, share: float, generator: torch.Generator | None = None) -> Tensor:
    """Replace this share of the entries by the same column's entry of another row.

    Shape: columns (B, C) -> (B, C).
    Raises: ValueError for a share outside 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in 0..1, got {share}")
    others = torch.rand(columns.shape, generator=generator).argsort(0).to(columns.device)
    swapped = torch.rand(columns.shape, generator=generator).to(columns.device) < share
    return torch.where(swapped, columns.gather(0, others), columns)


class TableAutoencoder(nn.Module):
    """Squeeze a row into `n_codes` numbers, and restore the row from them.

    In training, swap noise damages the share `noise` of the entries. `encode` returns the codes,
    `forward` a score for each level of each category and a value for each number, and `loss`
    compares these with the true row.
    Shape: codes (B, C) int64, numbers (B, M) -> (B, sum of levels + M); encode -> (B, n_codes);
        the row for the loss (B, C + M).
    """

    def __init__(self, levels: Sequence[int], n_numbers: int, n_codes: int = 20,
                 hidden: int = 200, noise: float = 0.2):
        super().__init__()
        check_counts(n_codes=n_codes, hidden=hidden)
        self.levels, self.n_numbers, self.n_codes = list(levels), n_numbers, n_codes
        self.hidden, self.noise = hidden, noise
        self.encoder = TabularModel(levels, n_numbers, n_codes, (hidden,))
        self.decoder = nn.Sequential(nn.BatchNorm1d(n_codes), nn.ReLU(), nn.Linear(n_codes, hidden),
                                     nn.ReLU(), nn.Linear(hidden, sum(levels) + n_numbers))

    def encode(self, codes: Tensor, numbers: Tensor) -> Tensor:
        return self.encoder(codes, numbers).reshape(len(codes), self.n_codes)

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        if self.training:
            codes, numbers = swap_noise(codes, self.noise), swap_noise(numbers, self.noise)
        return self.decoder(self.encode(codes, numbers))

    def loss(self, pred: Tensor, row: Tensor) -> Tensor:
        """Add the cross-entropy of each category and the mean squared error of the numbers."""
        codes, numbers = row.split([len(self.levels), self.n_numbers], 1)
        *scores, values = pred.split([*self.levels, self.n_numbers], 1)
        loss = sum(nn.functional.cross_entropy(score, codes[:, i].long())
                   for i, score in enumerate(scores))
        return loss + ((values - numbers) ** 2).mean() if self.n_numbers else loss
