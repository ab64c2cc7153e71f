"""Inside a training: activations, gradients, updates

By the end you will be able to look into any network while it trains: at what each layer puts out, at the gradients that come back, and at how far each step moves the weights. You will see why a training fails where its loss shows only that it does, and choose initial weights with which a deep network learns.
"""

# cell fea8e99a a6284e · Inside a training: activations, gradients, updates
from __future__ import annotations

# generated from nbs/06a_inside_training.ipynb: do not edit · af74e6
__all__ = [
    "ForwardHooks",
    "modules_of_kind",
    "describe_outputs",
    "ActivationStats",
    "ActivationStatsCallback",
    "plot_activation_stats",
    "plot_activation_histograms",
    "UpdateStatsCallback",
    "plot_update_stats",
    "plot_gradient_histograms",
    "lsuv",
]
__dir__ = __all__.copy  # what completion offers

# cell fea8e99a aa6d1f · Inside a training: activations, gradients, updates
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb03d import evaluating, random_kept
from exp.nb03f import Callback
from exp.nb04 import Learner
from exp.nb04b import trained_parameters


# cell b426d97c 85e38f · Hooks: look without touching
class ForwardHooks:
    """Inside a `with`, call `function(name, module, output)` after each module's forward pass.

    Outputs are unchanged. After the block no hook is left, whether it ended normally or by an
    exception, including one in `function`.
    Raises: ValueError if there are no modules; RuntimeError if entered twice.
    """

    def __init__(self, modules: Mapping[str, nn.Module],
                 function: Callable[[str, nn.Module, Any], None]):
        if not modules:
            raise ValueError("there is no module to watch; does the model contain modules of these "
                             "kinds?")
        self.modules, self.function, self.handles = dict(modules), function, []

    def __enter__(self) -> ForwardHooks:
        if self.handles:
            raise RuntimeError("these hooks are already registered: leave their `with` block first")
        try:
            for name, module in self.modules.items():
                self.handles.append(module.register_forward_hook(partial(self._call, name)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def _call(self, name: str, module: nn.Module, inputs: tuple, output: Any) -> None:
        self.function(name, module, output)

    def __exit__(self, *error: Any) -> None:
        while self.handles:
            self.handles.pop().remove()


# cell 4f93eb66 02247d · Hooks: look without touching
def modules_of_kind(model: nn.Module, kinds: type | tuple[type, ...]) -> dict[str, nn.Module]:
    """Return the modules of some classes, by name, in the order in which they were added."""
    return {name or "model": m for name, m in model.named_modules() if isinstance(m, kinds)}


# cell 935c3a44 d80ea7 · The health of a network
def describe_outputs(x: Tensor) -> Tensor:
    """Return mean, standard deviation and fraction of dead units of a layer's outputs.

    A unit is a channel, on axis 1; it is dead if no output in the batch exceeds 0, NaN included.
    Shape: x (B, units, …) -> (3,).
    """
    alive = x.transpose(0, 1).flatten(1).amax(1) > 0  # never true of NaN
    return torch.stack([x.mean(), x.std(), 1 - alive.float().mean()])


# cell 86400d06 56548e · The health of a network
class ActivationStats:
    """Record mean, spread, dead units and a histogram of modules' outputs, batch by batch.

    Use it as `with ActivationStats(model) as stats:`. Passes in evaluation mode are ignored.
    Shape: outputs (B, units, …); `numbers(name)` (batches, 3); `histogram(name)` (bins, batches).
    Raises: ValueError if the model has no module of these kinds; TypeError if an output is not a
        tensor (B, units, …).
    """

    def __init__(self, model: nn.Module, kinds: type | tuple[type, ...] = nn.ReLU, bins: int = 40,
                 limits: tuple[float, float] = (0.0, 6.0)):
        self.bins, self.limits = bins, limits
        self.hooks = ForwardHooks(modules_of_kind(model, kinds), self._record)
        self.names = list(self.hooks.modules)
        self._numbers: dict[str, list[Tensor]] = {name: [] for name in self.names}
        self._counts: dict[str, list[Tensor]] = {name: [] for name in self.names}

    def __enter__(self) -> ActivationStats:
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)

    def _record(self, name: str, module: nn.Module, output: Any) -> None:
        if module.training:
            if not isinstance(output, Tensor) or output.ndim < 2:
                raise TypeError(f"the output of {name!r} is not a tensor (B, units, …); choose "
                                "other kinds")
            x = output.detach().float()
            self._numbers[name].append(describe_outputs(x))
            self._counts[name].append(torch.histc(x.clamp(*self.limits), self.bins, *self.limits))

    def numbers(self, name: str) -> Tensor:
        """Return mean, standard deviation and fraction of dead units of each batch."""
        return torch.stack(self._numbers[name]).cpu()

    def histogram(self, name: str) -> Tensor:
        """Return the counts of each bin for each batch; the outermost bins hold all beyond."""
        return torch.stack(self._counts[name], 1).cpu()


# cell 42a6b375 299d42 · The health of a network
class ActivationStatsCallback(Callback):
    """Record `ActivationStats` during a fit, in the attribute `stats`; no hook is left afterwards.

    `kinds` and `options` are passed to `ActivationStats`.
    """

    only_watches = True

    def __init__(self, kinds: type | tuple[type, ...] = nn.ReLU, **options: Any):
        self.kinds, self.options, self.stats = kinds, options, None

    def before_fit(self, learn: Learner) -> None:
        self.stats = ActivationStats(learn.model, self.kinds, **self.options)
        self.stats.__enter__()

    def cleanup_fit(self, learn: Learner) -> None:
        if self.stats is not None:
            self.stats.__exit__()


# cell 5f706c1c 7b646d · The health of a network
def plot_activation_stats(stats: ActivationStats, title: str = "Outputs of each layer") -> None:
    """Plot mean, standard deviation and fraction of dead units of each layer over the batches."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), layout="constrained")
    for i, axis in enumerate(axes):
        for name in stats.names:
            axis.plot(stats.numbers(name)[:, i], lw=1, label=name)
        axis.set(title=("mean", "standard deviation", "fraction of dead units")[i], xlabel="batch")
    axes[2].set_ylim(-0.02, 1.02)
    axes[0].legend(title="layer", fontsize=7)
    figure.suptitle(title)
    plt.show()


# cell 83abd5e6 bdd022 · The health of a network
def _plot_histograms(stats: Any, title: str, ylabel: str) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(stats.names), figsize=(9, 2.6), squeeze=False,
                                layout="constrained")
    for axis, name in zip(axes[0], stats.names, strict=True):
        counts = stats.histogram(name)
        axis.imshow(counts.log1p(), origin="lower", aspect="auto", cmap="turbo",
                    extent=(0, counts.shape[1], *stats.limits))
        axis.set(title=f"layer {name.removesuffix('.weight')}", xlabel="batch")
    axes[0, 0].set_ylabel(ylabel)
    figure.suptitle(title)
    plt.show()


def plot_activation_histograms(stats: ActivationStats, title: str = "Outputs of each layer"
                               ) -> None:
    """Plot each layer's histograms over the batches, coloured by the log of the counts."""
    _plot_histograms(stats, title, "output")


# cell 3fbcc35a 1a16d1 · The way back: gradients and updates
class UpdateStatsCallback(Callback):
    """Record, step by step, the gradients of each weight and how far the step moves it.

    Weights are the trained parameters with two axes or more, by name. The gradients are those that
    the optimizer sees: whole, averaged, clipped.
    Shape: `numbers(name)` (steps, 3): root mean square of the gradient, that of the weight, and the
        norm of the update over that of the weight; `histogram(name)` (bins, steps), of
        log10 |gradient|, the outermost bins with all beyond.
    Raises: ValueError if no such weight is trained.
    """

    order, only_watches = 95, True  # when nothing changes the gradients any more

    def __init__(self, bins: int = 40, limits: tuple[float, float] = (-9.0, 1.0)):
        self.bins, self.limits, self.names = bins, limits, []

    def before_fit(self, learn: Learner) -> None:
        trains = {id(p) for p in trained_parameters(learn)}
        self._weights = {name: p for name, p in learn.model.named_parameters()
                         if p.ndim > 1 and p.requires_grad and id(p) in trains}
        if not self._weights:
            raise ValueError("no weight with two axes or more is trained; is the model frozen?")
        self.names = list(self._weights)
        self._numbers, self._counts = ({name: [] for name in self.names} for _ in range(2))

    def after_backward(self, learn: Learner) -> None:
        self._before = {name: p.detach().clone() for name, p in self._weights.items()}
        self._gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()
                           for name, p in self._weights.items()}

    def after_step(self, learn: Learner) -> None:
        for name, p in self._weights.items():
            before, g = self._before[name].float(), self._gradients[name].float()
            ratio = (p.detach() - before).norm() / before.norm()
            rms = [x.square().mean().sqrt() for x in (g, before)]
            self._numbers[name].append(torch.stack([*rms, ratio]))
            size = g.abs().log10().clamp(*self.limits)
            self._counts[name].append(torch.histc(size, self.bins, *self.limits))

    def cleanup_fit(self, learn: Learner) -> None:
        self._weights, self._before, self._gradients = {}, {}, {}

    def numbers(self, name: str) -> Tensor:
        """Return sizes of gradient and weight, and the ratio of update to weight, of each step."""
        return torch.stack(self._numbers[name]).cpu()

    def histogram(self, name: str) -> Tensor:
        """Return the counts of each bin for each step."""
        return torch.stack(self._counts[name], 1).cpu()


# cell 97e96a69 4f7680 · The way back: gradients and updates
def plot_update_stats(stats: UpdateStatsCallback, title: str = "Updates of each layer") -> None:
    """Plot each layer's gradients, and its ratio of update to weight, over the steps."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 2.6), layout="constrained")
    for column, axis in ((0, axes[0]), (2, axes[1])):
        for name in stats.names:
            axis.semilogy(stats.numbers(name)[:, column].clamp(min=1e-12), lw=1,
                          label=name.removesuffix(".weight"))
        axis.set(title=("size of the gradients (rms)", "", "update over weight")[column],
                 xlabel="step")
    axes[1].axhline(1e-3, color="k", ls=":", lw=1)
    axes[0].legend(title="layer", fontsize=7)
    figure.suptitle(title)
    plt.show()


def plot_gradient_histograms(stats: UpdateStatsCallback, title: str = "Gradients of each layer"
                             ) -> None:
    """Plot each layer's histograms of log10 |gradient| over the steps."""
    _plot_histograms(stats, title, "log10 |gradient|")


# cell 48cf729b ea4144 · A start that suits the depth
def _divide_weight(layer: nn.Module, name: str, number: float) -> None:
    """Divide a layer's weight, also one that a parametrization, such as weight_norm, computes."""
    if "weight" in layer._parameters:
        layer.weight.div_(number)
    elif "weight" in getattr(layer, "parametrizations", ()):
        layer.weight = layer.weight / number  # sets the parameters that it is computed from
    else:
        raise ValueError(f"the weight of {name!r} is not a parameter but computed from others in "
                         "each forward pass, as by the old torch.nn.utils.weight_norm; use that of "
                         "torch.nn.utils.parametrizations, or call lsuv before it")


def _unit_variance(run: Callable[[], Any], name: str, layer: nn.Module, seen: Mapping[str, float],
                   tol: float, max_steps: int) -> float:
    """Divide one layer's weights by the standard deviation of its outputs, until that is 1."""
    run()
    first = seen[name]
    for _ in range(max_steps):
        if not (math.isfinite(seen[name]) and seen[name] > 0):
            raise ValueError(f"the outputs of {name!r} have standard deviation {seen[name]}, which "
                             "no scale can make 1; start from other weights")
        if abs(seen[name] ** 2 - 1) < tol:
            return first
        _divide_weight(layer, name, seen[name])
        run()
    raise ValueError(f"the outputs of {name!r} do not reach variance 1 in {max_steps} steps; does "
                     "their spread come from the bias, or is the weight rescaled in each forward "
                     "pass, as by spectral_norm?")


# cell 2eb033ae 1afec9 · A start that suits the depth
def lsuv(model: nn.Module, xb: Tensor, kinds: type | tuple[type, ...] = (nn.Linear, nn.Conv2d),
         tol: float = 0.01, max_steps: int = 10) -> dict[str, float]:
    """Scale each layer's weights, from first to last, until its outputs on a batch have variance 1.

    Changes these weights and nothing else: modes, buffers and random numbers stay as they are.
    Returns: the standard deviation that each layer had when its turn came.
    Raises: ValueError if a layer's outputs do not vary or are not finite, if its weight cannot be
        scaled, or after `max_steps`; then the weights are what they were.
    Source: Mishkin and Matas 2016, algorithm 1.
    Differs: starts from the weights as they are, where the paper starts from orthogonal ones.
    """
    seen: dict[str, float] = {}

    def note(name: str, module: nn.Module, output: Tensor) -> None:
        seen[name] = output.float().std().item()

    layers, found = modules_of_kind(model, kinds), {}
    weights: list[tuple[Tensor, Tensor]] = []
    try:
        with random_kept(), evaluating(model), ForwardHooks(layers, note):
            model(xb)
            for name in list(seen):
                weights += [(p, p.clone()) for p in layers[name].parameters()]
                found[name] = _unit_variance(partial(model, xb), name, layers[name], seen, tol,
                                             max_steps)
    except BaseException:
        for p, weight in weights:
            p.data.copy_(weight)
        raise
    return found
