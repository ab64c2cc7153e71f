"""Transfer: a network trained elsewhere learns your pictures

By the end you will have fine-tuned a real ImageNet network on a few hundred pictures in ten lines, and you will have measured what each step of fine-tuning is worth, why the plain recipe loses to a linear model when pictures are few, and what reverses this.
"""

# cell fd0bb9ee a6284e · Transfer: a network trained elsewhere learns your pictures
from __future__ import annotations

# generated from nbs/08_vision.ipynb: do not edit · e5068f
__all__ = [
    "ConcatPool",
    "VisionModel",
    "count_features",
    "cut_head",
    "vision_model",
    "pooled_features",
    "fit_head",
    "inherit_head",
    "depth_groups",
    "fine_tune",
    "fixed_statistics",
]
__dir__ = __all__.copy  # what completion offers

# cell fd0bb9ee 0ed228 · Transfer: a network trained elsewhere learns your pictures
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb03b import DataLoader, DataLoaders, TensorDataset
from exp.nb03d import check_counts, evaluating, random_kept
from exp.nb03f import Callback
from exp.nb04 import Learner
from exp.nb04e import by_parts, freeze, spread_rates, unfreeze
from exp.nb05 import fit_one_cycle


# cell ba1238d3 31cab2 · Cut the head, keep the body
class ConcatPool(nn.Module):
    """Put the mean and the maximum over all positions side by side.

    Shape: x (B, C, H, W) -> (B, 2 C).
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)


class VisionModel(nn.Module):
    """A body that makes maps of features, `pool`, and a new linear `head`.

    `concat_pool`: mean and maximum of each map, not only the mean. `dropout`: before the head.
    Shape: x (B, channels, H, W) -> (B, n_out).
    """

    def __init__(self, body: nn.Module, n_out: int, concat_pool: bool = False,
                 dropout: float = 0.0):
        super().__init__()
        check_counts(n_out=n_out)
        self.body, self.n_out = body, n_out
        self.concat_pool, self.dropout = concat_pool, dropout
        mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.pool = nn.Sequential(ConcatPool() if concat_pool else mean, nn.Dropout(dropout))
        self.head = nn.Linear(count_features(body) * (1 + concat_pool), n_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.body(x)))


# cell 96c5884f 416dd6 · Cut the head, keep the body
def count_features(body: nn.Module) -> int:
    """Return the number of channels that a body makes; weights and statistics stay as they are.

    Raises: ValueError if the body makes no maps (B, C, H, W) of features.
    """
    first = next(p for p in body.parameters() if p.ndim == 4)  # of a convolution in one group
    with random_kept(), evaluating(body), torch.no_grad():
        made = body(torch.zeros(1, first.shape[1], 64, 64, dtype=first.dtype, device=first.device))
    if not torch.is_tensor(made) or made.ndim != 4:
        raise ValueError("a body makes maps of features, (B, C, H, W); this one returns "
                         f"{getattr(made, 'shape', type(made).__name__)}: cut its head off, pool "
                         "included")
    return made.shape[1]


def cut_head(network: nn.Module) -> nn.Sequential:
    """Return all of a network but its pool and head: of ours, of a ResNet, or one with a `body`.

    Raises: TypeError for a network whose parts have other names.
    """
    if isinstance(network, nn.Sequential):
        return network
    if isinstance(getattr(network, "body", None), nn.Sequential):
        return network.body
    parts = dict(network.named_children())
    if {"avgpool", "fc"} <= parts.keys():  # torchvision's names
        return nn.Sequential(*(parts[name] for name in parts if name not in ("avgpool", "fc")))
    raise TypeError(f"where does {type(network).__name__} end, and its head begin? Its parts are "
                    f"[{', '.join(parts)}]: pass nn.Sequential of those that make the features")


def vision_model(network: nn.Module, n_out: int, concat_pool: bool = False,
                 dropout: float = 0.0) -> VisionModel:
    """Cut a network's head off and put a new one for `n_out` numbers in its place.

    The model is in training mode: a body left in evaluation mode would keep its statistics.
    """
    return VisionModel(cut_head(network), n_out, concat_pool, dropout).train()


# cell 44ffbb4e 0b5907 · Cut the head, keep the body
def pooled_features(model: nn.Module, loader: Iterable[Any],
                    passes: int = 1) -> tuple[Tensor, Tensor]:
    """Return what body and pool make of a loader's pictures, and the targets, in evaluation mode.

    `passes`: how often to go through the loader, whose augmentation differs each time.
    Shape: -> (passes · N, features), (passes · N, …).
    """
    check_counts(passes=passes)
    found = []
    with evaluating(model), torch.no_grad():
        for _ in range(passes):
            found += [(model.pool(model.body(xb)), yb) for xb, yb in loader]
    features, targets = zip(*found, strict=True)
    return torch.cat(features), torch.cat(targets)


# cell 08e965e2 bdadfd · Cut the head, keep the body
class _Correction(nn.Module):
    """The scores of a head that stays as it is, plus those of one that learns."""

    def __init__(self, head: nn.Linear):
        super().__init__()
        self.change = nn.Linear(head.in_features, head.out_features).to(head.weight)
        for p in self.change.parameters():
            p.data.zero_()

    def forward(self, features: Tensor, scores: Tensor) -> Tensor:
        return scores + self.change(features)


def _one_cycle(learn: Learner, n_epochs: int, rates: Any, callbacks: Any = ()) -> Any:
    """Train with one cycle, or, for fewer steps than a cycle needs, at a constant rate."""
    few = n_epochs * len(learn.dls.train) < 4
    return (Learner.fit if few else fit_one_cycle)(learn, n_epochs, rates, callbacks)


def fit_head(head: nn.Linear, features: Tensor, targets: Tensor, loss_func: Any,
             n_epochs: int = 20, lr: float = 3e-3, weight_decay: float = 1e-3,
             batch_size: int = 128) -> Any:
    """Train a linear head on features that were computed before; returns the record.

    Weight decay pulls it towards where it began, not towards zero: what is learned is a correction.
    """
    with torch.no_grad():
        scores = head(features)
    data = DataLoaders(DataLoader(TensorDataset(features, scores, targets), batch_size,
                                  shuffle=True), None)
    adam = partial(torch.optim.Adam, weight_decay=weight_decay)
    learn = Learner(_Correction(head), data, loss_func, lr, adam, progress=False)
    record = _one_cycle(learn, n_epochs, lr)
    with torch.no_grad():
        head.weight += learn.model.change.weight
        head.bias += learn.model.change.bias
    return record


# cell 31391e5b a75aa7 · Cut the head, keep the body
def inherit_head(head: nn.Linear, old_head: nn.Linear, features: Tensor, targets: Tensor) -> None:
    """Begin each class of a head as the mixture of old classes that the old head sees in it.

    Shape: features (N, C), which both heads take; targets (N,).
    Raises: ValueError if a class has no picture, or the heads take other features.
    """
    if head.in_features != old_head.in_features:
        raise ValueError(f"the old head takes {old_head.in_features} features and the new one "
                         f"{head.in_features}: inherit without concat_pool, from the same body")
    if missing := sorted(set(range(head.out_features)) - set(targets.tolist())):
        raise ValueError(f"no picture of the classes {missing[:10]}: what they should inherit is "
                         "unknown; leave them out of the vocab, or add pictures")
    with torch.no_grad():
        answers = old_head(features).softmax(1)  # (N, old classes)
        mixture = torch.stack([answers[targets == k].mean(0) for k in range(head.out_features)])
        head.weight.copy_(mixture @ old_head.weight)
        head.bias.copy_(mixture @ old_head.bias)


# cell 3472e63b 8d6e07 · A classifier in ten lines
def depth_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Make one parameter group of each block of the body, in order, and one of the head.

    For `Learner(…, groups=depth_groups)`, so that each depth can have its own rate.
    """
    parts = model.body.named_children()  # a slice of a Sequential keeps its numbers
    blocks = [f"body.{name}" for name, part in parts if list(part.parameters())]
    return by_parts(*blocks, "head")(model)


def fine_tune(learn: Learner, n_epochs: int, lr: float = 1e-3, freeze_epochs: int = 1,
              spread: float = 100, fixed_norms: bool = False,
              callbacks: Iterable[Callback] | Callback = ()) -> Any:
    """Train the head for some epochs, then everything, the first layers `spread` times slower.

    The model has a `body` and a `head`. The head learns at `lr`, and then at half of it; with
    `groups=depth_groups` the rates fall by equal factors from the head down to the first block.
    `fixed_norms`: the running statistics of the body's norms stay as they are. `callbacks`: for
    the second part.
    Returns the record of the second part.
    Source: Howard and Ruder 2018, sections 3.2 and 3.3.
    """
    check_counts(n_epochs=n_epochs)
    if freeze_epochs:
        freeze(learn.model, "body")
        try:
            _one_cycle(learn, freeze_epochs, lr)
        finally:
            unfreeze(learn.model, "body")
    rates = spread_rates(lr / 2 / spread, lr / 2, len(learn.opt.param_groups))
    with fixed_statistics(learn.model.body if fixed_norms else nn.Sequential()):
        return _one_cycle(learn, n_epochs, rates if len(rates) > 1 else lr / 2, callbacks)


# cell ca226d85 3e6ac1 · A classifier in ten lines
@contextmanager
def fixed_statistics(body: nn.Module) -> Iterator[None]:
    """Keep the layers that have running statistics in evaluation mode, in this block.

    Their scale and offset still learn. The Learner leaves a layer alone that is in this mode.
    """
    norms = [part for part in body.modules() if getattr(part, "running_mean", None) is not None]
    modes = [part.training for part in norms]
    for part in norms:
        part.eval()
    try:
        yield
    finally:
        for part, mode in zip(norms, modes, strict=True):
            part.training = mode
