"""Convolutions, hooks and a good start

By the end you will have a convolutional network that reads handwritten digits, built from your own convolution, and you will be able to look inside it while it trains, see what is wrong, and choose initial weights that cure it.
"""

# cell 26e0fc49 a6284e · Convolutions, hooks and a good start
from __future__ import annotations

# generated from nbs/06_cuda_cnn_hooks_init.ipynb: do not edit · 43573e
__all__ = [
    "show_batch",
    "conv_output_size",
    "windows",
    "conv2d",
    "Conv2d",
    "max_pool2d",
    "avg_pool2d",
    "pooling_matrix",
    "adaptive_avg_pool2d",
    "ForwardHooks",
    "modules_of_kind",
    "describe_outputs",
    "ActivationStats",
    "ActivationStatsCallback",
    "plot_activation_stats",
    "plot_activation_histograms",
    "lsuv",
]

# cell 26e0fc49 6fa088 · Convolutions, hooks and a good start
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb01 import show_images
from exp.nb02c import kaiming_uniform
from exp.nb03d import evaluating, random_kept
from exp.nb03f import Callback
from exp.nb04 import Learner


# cell db592f00 cccc89 · The data
def show_batch(dls: Any, n: int = 16, title: str = "A training batch") -> None:
    """Draw the first images of a training batch with their targets; no random number moves.

    Shape: a batch is (images (B, 1, H, W) or (B, H, W), targets (B,)).
    """
    with random_kept([dls.train]):
        images, targets = next(iter(dls.train))
    images = images[:n].squeeze(1) if images.ndim == 4 else images[:n]
    show_images(images, targets[:n].tolist(), suptitle=title)


# cell 32c3e258 de4d3f · Sizes
def conv_output_size(size: int, kernel_size: int, stride: int = 1, padding: int = 0,
                     dilation: int = 1) -> int:
    """Return the number of positions of a window along one axis.

    Units: pixels.
    Raises: ValueError if the window does not fit even once, or for an invalid setting.
    Source: Dumoulin and Visin 2016, relationships 6 and 12.
    """
    if min(kernel_size, stride, dilation) < 1 or padding < 0:
        raise ValueError("kernel_size, stride and dilation must be at least 1 and padding at least "
                         f"0, got {kernel_size}, {stride}, {dilation} and {padding}")
    span = dilation * (kernel_size - 1) + 1
    if size + 2 * padding < span:
        raise ValueError(f"a window of {span} pixels does not fit into {size} + 2 * {padding}; "
                         "use larger images, more padding or a smaller kernel")
    return (size + 2 * padding - span) // stride + 1


# cell faa9ae2a 031420 · All windows at once, without a copy
def _pair(value: int | tuple[int, int], name: str, least: int) -> tuple[int, int]:
    """Return a pair from one whole number for both axes, or from two, for rows and columns."""
    both = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2 or any(type(n) is not int or n < least for n in both):
        raise ValueError(f"{name} must be a whole number >= {least}, or two of them, got {value!r}")
    return both


# cell 11621079 e5190d · All windows at once, without a copy
def windows(x: Tensor, kernel_size: int | tuple[int, int], stride: int | tuple[int, int] = 1,
            padding: int | tuple[int, int] = 0, dilation: int | tuple[int, int] = 1,
            fill: float = 0.0) -> Tensor:
    """Return a view of every window of the padded images; the border holds `fill`.

    Shape: x (B, C, H, W) -> (B, C, H', W', kh, kw).
    Raises: ValueError if x does not have four axes, a setting is invalid, or no window fits.
    """
    if x.ndim != 4:
        raise ValueError(f"images must have axes (B, C, H, W), got shape {tuple(x.shape)}")
    given = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
    k, s, p, d = (_pair(value, name, name != "padding") for name, value in given.items())
    B, C, H, W = x.shape
    h, w = (conv_output_size(n, *along) for n, *along in zip((H, W), k, s, p, d, strict=True))
    if any(p):
        padded = x.new_full((B, C, H + 2 * p[0], W + 2 * p[1]), fill)
        padded[:, :, p[0]:p[0] + H, p[1]:p[1] + W] = x
        x = padded
    image, channel, row, column = x.stride()
    return x.as_strided((B, C, h, w, *k), (image, channel, row * s[0], column * s[1],
                                           row * d[0], column * d[1]))


# cell f564fea9 892239 · One matrix product
def _check_channels(x: Tensor, weight: Tensor, groups: int) -> None:
    """Refuse images, kernels and groups that do not match."""
    if x.ndim != 4 or weight.ndim != 4 or groups < 1:
        raise ValueError("a convolution takes x (B, C, H, W), weight (C_out, C / groups, kh, kw), "
                         f"groups >= 1; got {tuple(x.shape)}, {tuple(weight.shape)}, {groups}")
    if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise ValueError(f"x has {x.shape[1]} channels, but weight {tuple(weight.shape)} in "
                         f"{groups} groups takes {weight.shape[1] * groups}; groups must also "
                         f"divide its {weight.shape[0]} kernels")


# cell 45569c49 bd132a · One matrix product
def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None,
           stride: int | tuple[int, int] = 1, padding: int | tuple[int, int] = 0,
           dilation: int | tuple[int, int] = 1, groups: int = 1) -> Tensor:
    """Convolve images: make each window a row, each kernel a column, and multiply the matrices.

    Shape: x (B, C, H, W), weight (C_out, C / groups, kh, kw), bias (C_out,)
    -> (B, C_out, H', W').
    Raises: ValueError if channels, groups or sizes do not match.
    Source: Chellapilla and others 2006, section 2.
    Differs: no padding "same" or "valid", and no single images.
    """
    _check_channels(x, weight, groups)
    C_out, C_group, *kernel_size = weight.shape
    view = windows(x, tuple(kernel_size), stride, padding, dilation)  # (B, C, H', W', kh, kw)
    B, _, h, w = view.shape[:4]
    K = C_group * math.prod(kernel_size)
    rows = view.unflatten(1, (groups, C_group)).permute(0, 1, 3, 4, 2, 5, 6)
    rows = rows.reshape(B, groups, h * w, K)
    columns = weight.reshape(groups, C_out // groups, K).mT  # (G, K, C_out / G)
    y = (rows @ columns).mT.reshape(B, C_out, h, w)
    return y if bias is None else y + bias[:, None, None]


# cell f9262095 9c4861 · A layer
class Conv2d(nn.Module):
    """Apply `out_channels` learned kernels to every window of the images.

    Shape: x (B, in_channels, H, W) -> (B, out_channels, H', W').
    Raises: ValueError if groups do not divide both channels, or for an invalid setting.
    Differs: no padding "same" or "valid" and no padding_mode, only zeros; no `device`, use `.to`;
        otherwise as torch's, initial weights included.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int],
                 stride: int | tuple[int, int] = 1, padding: int | tuple[int, int] = 0,
                 dilation: int | tuple[int, int] = 1, groups: int = 1, bias: bool = True,
                 dtype: torch.dtype | None = None):
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError("groups must divide in_channels and out_channels, got "
                             f"{groups} for {in_channels} and {out_channels}")
        shape = (out_channels, in_channels // groups, *_pair(kernel_size, "kernel_size", 1))
        self.weight = nn.Parameter(kaiming_uniform(shape, a=math.sqrt(5), dtype=dtype))
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        start = bound * (2 * torch.rand(out_channels, dtype=dtype) - 1) if bias else None
        self.bias = nn.Parameter(start) if bias else None
        self.stride, self.padding = _pair(stride, "stride", 1), _pair(padding, "padding", 0)
        self.dilation, self.groups = _pair(dilation, "dilation", 1), groups

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation,
                      self.groups)


# cell 0770f12d f00d08 · Pooling: forget exactly where
def _pool_windows(x: Tensor, kernel_size: int | tuple[int, int],
                  stride: int | tuple[int, int] | None, padding: int | tuple[int, int],
                  fill: float) -> Tensor:
    """Return a view of the windows of a pooling; without `stride`, they do not overlap."""
    k, p = _pair(kernel_size, "kernel_size", 1), _pair(padding, "padding", 0)
    if p[0] > k[0] // 2 or p[1] > k[1] // 2:
        raise ValueError(f"padding must be at most half a window, got {p} for windows of {k}")
    return windows(x, k, k if stride is None else stride, p, fill=fill)


# cell 0b6de410 54ba6e · Pooling: forget exactly where
def max_pool2d(x: Tensor, kernel_size: int | tuple[int, int],
               stride: int | tuple[int, int] | None = None,
               padding: int | tuple[int, int] = 0) -> Tensor:
    """Return the largest number of each window; without `stride`, windows do not overlap.

    Shape: x (B, C, H, W) -> (B, C, H', W').
    Raises: ValueError for padding of more than half a window, or as `windows`.
    Differs: no dilation, no ceil_mode, no indices.
    """
    return _pool_windows(x, kernel_size, stride, padding, -math.inf).flatten(-2).max(-1).values


# cell 61bdccb1 e4543e · Pooling: forget exactly where
def avg_pool2d(x: Tensor, kernel_size: int | tuple[int, int],
               stride: int | tuple[int, int] | None = None,
               padding: int | tuple[int, int] = 0) -> Tensor:
    """Average each window, including the zeros of the border.

    Shape: x (B, C, H, W) -> (B, C, H', W').
    Raises: ValueError for padding of more than half a window, or as `windows`.
    Differs: no ceil_mode; the border always counts.
    """
    return _pool_windows(x, kernel_size, stride, padding, 0.0).mean((-2, -1))


# cell 7e632081 ea19db · Pooling: forget exactly where
def pooling_matrix(n: int, m: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return the matrix that averages n pixels into m cells, which may overlap.

    Shape: -> (m, n), each row sums to 1.
    """
    pixel, cell = torch.arange(n), torch.arange(m)[:, None]
    inside = (pixel >= cell * n // m) & (pixel < -(-(cell + 1) * n // m))
    return inside.to(dtype or torch.get_default_dtype()) / inside.sum(1, keepdim=True)


# cell 4c881547 a62558 · Pooling: forget exactly where
def adaptive_avg_pool2d(x: Tensor, output_size: int | tuple[int, int]) -> Tensor:
    """Average images of any size into a fixed number of cells.

    Shape: x (B, C, H, W) -> (B, C, *output_size).
    """
    rows, columns = (pooling_matrix(n, m, x.dtype).to(x.device) for n, m in
                     zip(x.shape[-2:], _pair(output_size, "output_size", 1), strict=True))
    return rows @ x @ columns.mT


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


# cell 83abd5e6 408ad9 · The health of a network
def plot_activation_histograms(stats: ActivationStats, title: str = "Outputs of each layer"
                               ) -> None:
    """Plot each layer's histograms over the batches, coloured by the log of the counts."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(stats.names), figsize=(9, 2.6), squeeze=False,
                                layout="constrained")
    for axis, name in zip(axes[0], stats.names, strict=True):
        counts = stats.histogram(name)
        axis.imshow(counts.log1p(), origin="lower", aspect="auto", cmap="turbo",
                    extent=(0, counts.shape[1], *stats.limits))
        axis.set(title=f"layer {name}", xlabel="batch")
    axes[0, 0].set_ylabel("output")
    figure.suptitle(title)
    plt.show()


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
