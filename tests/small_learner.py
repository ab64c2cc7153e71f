"""A Learner that trains in milliseconds, for the tests of callbacks."""

import random

import torch
import torch.nn.functional as F
from torch import nn

from exp.nb03b import DataLoaders, TensorDataset
from exp.nb03c import accuracy
from exp.nb04 import Callback, Learner


def plain(hidden=8):
    return nn.Sequential(nn.Linear(6, hidden), nn.Tanh(), nn.Linear(hidden, 3))


def noisy(hidden=8):
    """A model whose next step depends on more than its weights: on statistics and on dropout."""
    norm, dropout = nn.BatchNorm1d(hidden), nn.Dropout(0.2)
    return nn.Sequential(nn.Linear(6, hidden), norm, dropout, nn.Linear(hidden, 3))


def learner(
    callbacks=(),
    n=40,
    batch_size=4,
    lr=0.1,
    batches=None,
    make_model=plain,
    seed=1,
    workers=0,
    **options,
):
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(n + 10, 6, generator=draw)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    sets = TensorDataset(x[:n], y[:n]), TensorDataset(x[n:], y[n:])
    dls = DataLoaders.from_datasets(*sets, batch_size=batch_size, num_workers=workers)
    if batches is not None:
        parts = torch.arange(n).split(batches)
        dls = DataLoaders([(x[rows], y[rows]) for rows in parts], dls.valid)
    torch.manual_seed(seed)
    random.seed(seed)
    model = make_model()
    options = {"metrics": [accuracy], "callbacks": callbacks, **options}
    return Learner(model, dls, F.cross_entropy, lr, **options)


class Course(Callback):
    """Replace the results by a prepared course."""

    order = 50

    def __init__(self, values):
        self.values = values

    def after_epoch(self, learn):
        learn.results["valid_loss"] = self.values[learn.epoch]
