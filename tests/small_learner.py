"""A Learner that trains in milliseconds, for the tests of callbacks."""

import torch
import torch.nn.functional as F
from torch import nn

from exp.nb03b import DataLoaders, TensorDataset
from exp.nb03c import accuracy
from exp.nb04 import Learner


def learner(callbacks=(), n=40, batch_size=4, lr=0.1, batches=None, **options):
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(n + 10, 6, generator=draw)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    sets = TensorDataset(x[:n], y[:n]), TensorDataset(x[n:], y[n:])
    dls = DataLoaders.from_datasets(*sets, batch_size=batch_size)
    if batches is not None:
        parts = torch.arange(n).split(batches)
        dls = DataLoaders([(x[rows], y[rows]) for rows in parts], dls.valid)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    options = {"metrics": [accuracy], "callbacks": callbacks, **options}
    return Learner(model, dls, F.cross_entropy, lr, **options)
