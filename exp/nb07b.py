"""What a network gets wrong, and why

By the end you will have the worst mistakes of any trained network as pictures, with what it looked at; a table of which classes it confuses; and the items whose label is probably wrong. One pass finds them all, and it needs no more memory for a million items than for a thousand.
"""

# cell d21cb69e a6284e · What a network gets wrong, and why
from __future__ import annotations

# generated from nbs/07b_interpretation.ipynb: do not edit · 72c97a
__all__ = [
    "item_losses",
    "Mistake",
    "Confusion",
    "is_classes",
    "Interpretation",
    "show_picture",
    "class_activation_map",
]
__dir__ = __all__.copy  # what completion offers

# cell d21cb69e 968d8b · What a network gets wrong, and why
import heapq
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from exp.nb03b import RandomSampler
from exp.nb03c import modes_kept
from exp.nb03d import map_tensors, random_kept
from exp.nb03f import Callback
from exp.nb03j import ConfusionMatrix, show_confusion
from exp.nb06a import ForwardHooks
from exp.nb07 import describe_value


# cell 13293ea4 c5d94c · The loss of each item
def item_losses(loss_func: Callable[[Any, Any], Tensor], pred: Any, target: Any) -> Tensor:
    """Return the loss of each item of a batch; where an item has several, their mean.

    Shape: pred and target of B items -> (B,).
    Raises: ValueError if the loss function cannot tell the items apart.
    """
    B = len(target)
    inner = loss_func.func if isinstance(loss_func, partial) else loss_func
    if isinstance(loss_func, nn.Module) and hasattr(loss_func, "reduction"):
        kept, loss_func.reduction = loss_func.reduction, "none"
        try:
            losses = loss_func(pred, target)
        finally:
            loss_func.reduction = kept
    elif not isinstance(inner, nn.Module) and "reduction" in _parameters(inner):
        losses = loss_func(pred, target, reduction="none")
    else:
        items = (map_tensors(lambda t, i=i: t[i:i + 1], (pred, target)) for i in range(B))
        losses = torch.stack([loss_func(*item).reshape(-1).mean() for item in items])
    if losses.ndim == 0 or len(losses) != B:
        raise ValueError(f"the loss of {B} items one by one has shape {tuple(losses.shape)}: pass "
                         "per_item, a function (pred, target) -> (B,)")
    return losses.detach().reshape(B, -1).mean(1)


def _parameters(function: Any) -> Mapping[str, Any]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # it does not say
        return {}


# cell 407e43af 1d1447 · Keep only the worst
@dataclass(frozen=True)
class Mistake:
    """An item that a model is wrong about, or unsure of.

    `doubt` is how much more probable another class is than the label: 1 is certain, below 0 the
    label is the best. None if the target is not a class.
    """

    index: int
    loss: float
    target: Any
    pred: Any
    inputs: list[Any]
    doubt: float | None = None
    probability: float | None = None  # of the class that is predicted


class Confusion(NamedTuple):
    """How often items of one class are taken for another."""

    target: Any
    predicted: Any
    count: int
    share: float


class _Worst:
    """The k entries with the largest numbers, in a heap."""

    def __init__(self, k: int):
        self.k, self.heap = k, []

    def offer(self, numbers: Sequence[float], make: Callable[[int], Mistake]) -> None:
        """Take in the largest of a batch; `make(i)` is called for those that stay."""
        for i in sorted(range(len(numbers)), key=lambda i: -numbers[i])[:self.k]:
            if len(self.heap) < self.k:
                mistake = make(i)
                heapq.heappush(self.heap, (numbers[i], -mistake.index, mistake))
            elif numbers[i] > self.heap[0][0]:
                mistake = make(i)
                heapq.heapreplace(self.heap, (numbers[i], -mistake.index, mistake))

    def sorted(self) -> list[Mistake]:
        return [mistake for *_, mistake in sorted(self.heap, reverse=True, key=lambda e: e[:2])]


# cell 52b7f74e ca8e9a · One pass
class _Collect(Callback):
    """Look at each batch of an evaluation, and keep what `Interpretation` needs."""

    order = 10_000

    def __init__(self, k: int, per_item: Callable[[Any, Any], Tensor] | None):
        self.by_loss, self.by_doubt = _Worst(k), _Worst(k)
        self.per_item, self.matrix, self.n, self.total = per_item, None, 0, 0.0

    def after_loss(self, learn: Any) -> None:
        pred, target = map_tensors(lambda t: t.detach(), (learn.pred, learn.target))
        losses = (self.per_item or partial(item_losses, learn.loss_func))(pred, target)
        if losses.shape != (learn.n_items,):
            raise ValueError(f"per_item must return a loss for each of the {learn.n_items} items, "
                             f"got shape {tuple(losses.shape)}")
        if bad := (~losses.isfinite()).nonzero()[:, 0].tolist():
            raise ValueError(f"the loss of item {self.n + bad[0]} is {losses[bad[0]].item()}: is "
                             "there a nan in its inputs?")
        probs = doubts = None
        if is_classes(pred, target):
            shares = pred.double() - pred.double().logsumexp(1, keepdim=True)
            probs = shares.exp()
            own = probs.gather(1, target[:, None])
            others = probs.scatter(1, target[:, None], -1)
            doubts = (others.amax(1) - own[:, 0]).tolist()
            self.matrix = self.matrix or ConfusionMatrix(pred.shape[1])
            self.matrix.update(pred, target)

        def make(i: int) -> Mistake:
            def take(x: Any) -> Any:  # a copy: a slice would keep the whole batch
                return map_tensors(lambda t: t[i].detach().cpu().clone(), x)
            return Mistake(self.n + i, float(losses[i]), take(target), take(pred),
                           take(learn.inputs), doubts and doubts[i],
                           None if probs is None else probs[i].max().item())

        losses = losses.tolist()
        self.by_loss.offer(losses, make)
        if doubts:
            self.by_doubt.offer(doubts, make)
        self.total, self.n = self.total + sum(losses), self.n + learn.n_items


def is_classes(pred: Any, target: Any) -> bool:
    """Return whether a batch is scores of classes (B, C) and class numbers (B,)."""
    return (isinstance(pred, Tensor) and isinstance(target, Tensor) and pred.ndim == 2
            and pred.shape[1] > 1 and target.shape == pred.shape[:1]
            and not target.is_floating_point())


# cell 7dd9c174 2dfe41 · One pass
class Interpretation:
    """What a model gets wrong on a loader, found in one pass that keeps the k worst items.

    By default the validation set. `vocab` names the classes, by default that of the loaders.
    `per_item(pred, target)` -> (B,) is for losses whose items cannot be told apart.
    Raises: ValueError for a loader that shuffles, since an item's place would mean nothing.
    """

    def __init__(self, learn: Any, loader: Any = None, k: int = 9,
                 vocab: Sequence[Any] | None = None,
                 per_item: Callable[[Any, Any], Tensor] | None = None):
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"k must be a whole number of at least 1, got {k!r}")
        loader = learn.dls.valid if loader is None else loader
        if isinstance(getattr(loader, "sampler", None), RandomSampler):
            raise ValueError("the loader shuffles, so that the place of an item means nothing: "
                             "pass one that keeps the order, such as DataLoader(dataset, 64)")
        found = learn._look(_Collect(k, per_item), loader)
        if found.n == 0:
            raise ValueError("the loader yielded no batch")
        self.learn, self.loader, self.n_items = learn, loader, found.n
        self.loss = found.total / found.n
        self.worst, self.suspects = found.by_loss.sorted(), found.by_doubt.sorted()
        self._matrix = found.matrix
        self.vocab = getattr(learn.dls, "vocab", None) if vocab is None else vocab

    def __repr__(self) -> str:
        of = f", {self.n_right} right" if self._matrix else ""
        return (f"Interpretation({self.n_items} items{of}; mean loss {self.loss:.3f}, the largest "
                f"{self.worst[0].loss:.3f})")

    @property
    def confusion(self) -> Tensor:
        """The counts of each class predicted for each target. Shape: (C, C), rows: targets.

        Raises: ValueError if the targets are not classes.
        """
        if self._matrix is None:
            raise ValueError("a confusion matrix is for scores of classes (B, C) and class numbers "
                             "(B,); for other targets look at `worst`")
        return self._matrix.compute()

    @property
    def n_right(self) -> int:
        return int(self.confusion.trace())

    def name(self, number: int) -> Any:
        """Return the name of a class."""
        return number if self.vocab is None else self.vocab[number]

    def plot_confusion(self) -> None:
        """Draw the confusion matrix."""
        show_confusion(self.confusion, [self.name(i) for i in range(len(self.confusion))])

    def most_confused(self, min_count: int = 1) -> list[Confusion]:
        """List which classes are taken for which, the most frequent first."""
        matrix = self.confusion
        found = [Confusion(self.name(t), self.name(p), n, n / int(matrix[t].sum()))
                 for t, row in enumerate(matrix.tolist()) for p, n in enumerate(row)
                 if t != p and n >= min_count]
        return sorted(found, key=lambda one: -one.count)

    def source(self, mistake: Mistake) -> str:
        """Say where an item comes from: its file or row if the loader knows it, else its place."""
        dataset = getattr(self.loader, "dataset", None)
        item = getattr(dataset, "item", None)
        return describe_value(item(mistake.index)) if item else f"item {mistake.index}"

    def probable_mislabels(self, k: int | None = None, doubt: float = 0.0) -> list[Mistake]:
        """List the items whose label the model doubts most: another class is likelier by `doubt`.

        It can only judge labels that it was not trained on.
        """
        if self._matrix is None:
            raise ValueError("only labels that are classes can be doubted; see `worst`")
        return [one for one in self.suspects if one.doubt > doubt][:k]

    def title(self, mistake: Mistake) -> str:
        """Describe a mistake in two short lines."""
        if mistake.probability is None:
            target, pred = (describe_value(x) if getattr(x, "numel", lambda: 9)() > 4 else
                            str([round(n, 2) for n in torch.as_tensor(x).flatten().tolist()])
                            for x in (mistake.target, mistake.pred))
            return f"{target}, loss {mistake.loss:.2f}\nsays {pred}"
        return (f"{self.name(int(mistake.target))}, loss {mistake.loss:.1f}\n"
                f"says {self.name(int(mistake.pred.argmax()))} ({mistake.probability:.0%})")

    def show(self, mistakes: Sequence[Mistake] | None = None, maps: bool = False,
             title: str = "The worst mistakes") -> None:
        """Draw items, by default the worst; with `maps`, over each what the network looked at."""
        import matplotlib.pyplot as plt

        mistakes = self.worst if mistakes is None else list(mistakes)
        if not mistakes:
            print("there is nothing to show")
            return
        columns = min(len(mistakes), 4)
        rows = -(-len(mistakes) // columns)
        figure, axes = plt.subplots(rows, columns, figsize=(2 * columns, 2.4 * rows),
                                    squeeze=False, layout="constrained")
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, mistake in zip(axes.flat, mistakes, strict=False):
            show_picture(axis, self._picture(mistake))
            if maps:
                x = mistake.inputs[0][None].to(next(self.learn.model.parameters()).device)
                heat = class_activation_map(self.learn.model, x, mistake.pred.argmax()[None])[0]
                axis.imshow(heat.cpu().numpy(), cmap="magma", alpha=0.5, extent=(-1, 1, 1, -1),
                            interpolation="bilinear", aspect=axis.get_aspect())
            axis.set_title(self.title(mistake), fontsize=9)
        figure.suptitle(title)
        plt.show()

    def _picture(self, mistake: Mistake) -> Tensor:
        """Return an item's first input as pixels in 0..1. Shape: (C, H, W)."""
        x, pipeline = mistake.inputs[0], getattr(self.learn.dls, "pipeline", None)
        if not isinstance(x, Tensor) or x.ndim not in (2, 3):
            raise ValueError(f"only pictures can be drawn, the input is {describe_value(x)}; "
                             "print `title` and `source` of each mistake")
        if pipeline is not None and pipeline.blocks[0].kind == "image":
            return pipeline.decode([x[None]])[0][0]
        x = x[None] if x.ndim == 2 else x
        return (x - x.min()) / (x.max() - x.min()).clamp(min=1e-6)


# cell 5b61fc99 d15db2 · One pass
def show_picture(axis: Any, pixels: Tensor) -> None:
    """Draw pixels in 0..1, with -1 and 1 at the edges. Shape: (C, H, W)."""
    C, H, W = pixels.shape
    drawn = pixels.movedim(0, -1) if C in (3, 4) else pixels[0]
    axis.imshow(drawn.numpy(), cmap="gray", vmin=0, vmax=1, extent=(-1, 1, 1, -1), aspect=H / W)


# cell 838f262e 6e7e9c · What did it look at?
def class_activation_map(model: nn.Module, x: Tensor, classes: Tensor,
                         layer: str | None = None) -> Tensor:
    """Compute how much each place of a picture speaks for a class: above 0 for it, below against.

    The maps of `layer`, by default the last with several places, are added up with the mean
    gradient of the class's score. Nothing of the model changes, its gradients included.
    Shape: x (B, …), classes (B,) -> (B, h, w); the mean over places is, for a network that ends in
        an average and a linear layer, the score without its bias.
    Raises: ValueError if there is no such layer.
    Source: Zhou and others 2016, equation 2; Selvaraju and others 2017, equation 1.
    Differs: no ReLU at the end; scaled by the number of places, as in Zhou and others.
    """
    modules = dict(model.named_modules())
    if layer is not None and layer not in modules:
        raise ValueError(f"no layer {layer!r}; the model has {list(modules)[1:12]} …")
    found: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, output: Any) -> None:
        if layer is not None or (isinstance(output, Tensor) and output.ndim == 4
                                 and output.shape[2] * output.shape[3] > 1):
            found.clear()
            found[name] = output

    with random_kept(), modes_kept(model), torch.enable_grad(), ForwardHooks(
            {layer: modules[layer]} if layer else modules, keep):
        model.eval()
        scores = model(x.detach().requires_grad_(x.is_floating_point()))
        if not found or next(iter(found.values())).ndim != 4:
            raise ValueError("no layer has an output (B, channels, height, width) with more than "
                             "one place: a class activation map needs a convolutional network")
        (f,) = found.values()
        if scores.ndim != 2 or not f.requires_grad:
            raise ValueError(f"scores of classes (B, C) that depend on the layer are needed, got "
                             f"{tuple(scores.shape)}")
        chosen = scores.gather(1, classes.to(scores.device)[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, [f])
    weights = gradient.mean((2, 3), keepdim=True) * f.shape[2] * f.shape[3]
    return (weights * f).sum(1).detach()  # (B, h, w)
