"""Convolutions, hooks and a good start

At the end you have a convolutional network that reads handwritten digits, built from a convolution of your own, and you can look inside while it trains and give it weights to start from that suit its depth.
"""

# cell 26e0fc49 a6284e · Convolutions, hooks and a good start
from __future__ import annotations

# generated from nbs/06_cuda_cnn_hooks_init.ipynb: do not edit
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

# cell 26e0fc49 e3a675 · Convolutions, hooks and a good start
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb01 import show_images
from exp.nb02 import kaiming_uniform
from exp.nb03c import modes_kept
from exp.nb03d import random_state, set_random_state
from exp.nb04 import Callback, Learner


# cell db592f00 285aa3 · The data
def show_batch(loaders: Any, n: int = 16, title: str = "A training batch") -> None:
    """Draw the first images of a training batch with their targets; random numbers stay in place.

    Shape: a batch is (images (B, 1, H, W) or (B, H, W), targets (B,)).
    """
    state = random_state([loaders.train])
    try:
        images, targets = next(iter(loaders.train))
    finally:
        set_random_state(state, [loaders.train])
    images = images[:n].squeeze(1) if images.ndim == 4 else images[:n]
    show_images(images, targets[:n].tolist(), suptitle=title)


# cell 32c3e258 f35eaa · Sizes
def conv_output_size(size: int, kernel_size: int, stride: int = 1, padding: int = 0,
                     dilation: int = 1) -> int:
    """Count the places of a window along one axis.

    Units: pixels.
    Raises: ValueError if the window does not fit even once, or a setting makes no sense.
    Source: Dumoulin and Visin 2016, relationships 6 and 12.
    """
    if min(kernel_size, stride, dilation) < 1 or padding < 0:
        raise ValueError("kernel_size, stride and dilation must be at least 1 and padding 0, got "
                         f"{kernel_size}, {stride}, {dilation} and {padding}")
    span = dilation * (kernel_size - 1) + 1
    if size + 2 * padding < span:
        raise ValueError(f"a window of {span} pixels does not fit into {size} + 2 · {padding}; "
                         "use larger images, more padding or a smaller kernel")
    return (size + 2 * padding - span) // stride + 1


# cell faa9ae2a 841752 · All windows at once, without a copy
def _pair(value: int | tuple[int, int], name: str, least: int) -> tuple[int, int]:
    """Read one whole number for both axes, or two, for rows and columns."""
    both = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2 or any(not isinstance(n, int) or n < least for n in both):
        raise ValueError(f"{name} must be a whole number >= {least} or two of them, got {value!r}")
    return both


# cell 11621079 d80ead · All windows at once, without a copy
def windows(x: Tensor, kernel_size: int | tuple[int, int], stride: int | tuple[int, int] = 1,
            padding: int | tuple[int, int] = 0, dilation: int | tuple[int, int] = 1,
            fill: float = 0.0) -> Tensor:
    """View every window of padded images; the border holds `fill`.

    Shape: x (B, C, H, W) -> (B, C, H', W', kh, kw).
    Raises: ValueError if x has not four axes, a setting makes no sense, or no window fits.
    """
    if x.ndim != 4:
        raise ValueError(f"images have axes (B, C, H, W), got shape {tuple(x.shape)}")
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


# cell f564fea9 59490c · One matrix product
def _check_channels(x: Tensor, weight: Tensor, groups: int) -> None:
    """Refuse images, kernels and groups that do not fit together."""
    if x.ndim != 4 or weight.ndim != 4 or groups < 1:
        raise ValueError("a convolution needs x (B, C, H, W), weight (C_out, C / groups, kh, kw), "
                         f"groups >= 1; got {tuple(x.shape)}, {tuple(weight.shape)}, {groups}")
    if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise ValueError(f"x has {x.shape[1]} channels; weight {tuple(weight.shape)} in {groups} "
                         f"groups takes {weight.shape[1] * groups}, and groups must divide its "
                         f"{weight.shape[0]} kernels")


# cell 45569c49 c49c4f · One matrix product
def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None,
           stride: int | tuple[int, int] = 1, padding: int | tuple[int, int] = 0,
           dilation: int | tuple[int, int] = 1, groups: int = 1) -> Tensor:
    """Make each window a row and each kernel a column, and multiply the two matrices.

    Shape: x (B, C, H, W), weight (C_out, C / groups, kh, kw), bias (C_out,)
    -> (B, C_out, H', W').
    Raises: ValueError if channels, groups or sizes do not fit.
    Source: Chellapilla and others 2006, section 2.
    Differs: torch's also takes padding "same" and "valid", and single images.
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


# cell f9262095 cfac1f · A layer
class Conv2d(nn.Module):
    """Lay `out_channels` kernels, which are learned, on every window of the images.

    Shape: x (B, in_channels, H, W) -> (B, out_channels, H', W').
    Raises: ValueError if groups do not divide both channels, or a setting makes no sense.
    Differs: no padding "same" or "valid" and no padding_mode, only zeros; no `device`, use `.to`;
        else as torch's, the first weights included.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int],
                 stride: int | tuple[int, int] = 1, padding: int | tuple[int, int] = 0,
                 dilation: int | tuple[int, int] = 1, groups: int = 1, bias: bool = True,
                 dtype: torch.dtype | None = None):
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"groups must divide both channels, got {groups} for {in_channels} "
                             f"and {out_channels}")
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


# cell 0770f12d 3d77cd · Pooling: forget exactly where
def _pool_windows(x: Tensor, kernel_size: int | tuple[int, int],
                  stride: int | tuple[int, int] | None, padding: int | tuple[int, int],
                  fill: float) -> Tensor:
    """View the windows of a pooling; without `stride`, they lie side by side."""
    k, p = _pair(kernel_size, "kernel_size", 1), _pair(padding, "padding", 0)
    if p[0] > k[0] // 2 or p[1] > k[1] // 2:
        raise ValueError(f"padding may be half a window at most, got {p} for windows of {k}")
    return windows(x, k, k if stride is None else stride, p, fill=fill)


# cell 0b6de410 732052 · Pooling: forget exactly where
def max_pool2d(x: Tensor, kernel_size: int | tuple[int, int],
               stride: int | tuple[int, int] | None = None,
               padding: int | tuple[int, int] = 0) -> Tensor:
    """Take the largest number of each window; without `stride`, windows lie side by side.

    Shape: x (B, C, H, W) -> (B, C, H', W').
    Raises: ValueError for a padding of more than half a window, or as `windows`.
    Differs: no dilation, no ceil_mode, no indices.
    """
    return _pool_windows(x, kernel_size, stride, padding, -math.inf).flatten(-2).max(-1).values


# cell 61bdccb1 3d60b8 · Pooling: forget exactly where
def avg_pool2d(x: Tensor, kernel_size: int | tuple[int, int],
               stride: int | tuple[int, int] | None = None,
               padding: int | tuple[int, int] = 0) -> Tensor:
    """Average each window, zeros of the border included.

    Shape: x (B, C, H, W) -> (B, C, H', W').
    Raises: ValueError for a padding of more than half a window, or as `windows`.
    Differs: no ceil_mode; the border always counts.
    """
    return _pool_windows(x, kernel_size, stride, padding, 0.0).mean((-2, -1))


# cell 7e632081 eea30b · Pooling: forget exactly where
def pooling_matrix(n: int, m: int, dtype: torch.dtype | None = None) -> Tensor:
    """Write the averages of n pixels in m cells, which cover all and may overlap, as a matrix.

    Shape: -> (m, n), each row sums to 1.
    """
    pixel, cell = torch.arange(n), torch.arange(m)[:, None]
    inside = (pixel >= cell * n // m) & (pixel < -(-(cell + 1) * n // m))
    return inside.to(dtype or torch.get_default_dtype()) / inside.sum(1, keepdim=True)


# cell 4c881547 9c6092 · Pooling: forget exactly where
def adaptive_avg_pool2d(x: Tensor, output_size: int | tuple[int, int]) -> Tensor:
    """Average images of any size down, or up, to cells of a fixed number.

    Shape: x (B, C, H, W) -> (B, C, *output_size).
    """
    rows, columns = (pooling_matrix(n, m, x.dtype).to(x.device) for n, m in
                     zip(x.shape[-2:], _pair(output_size, "output_size", 1), strict=True))
    return rows @ x @ columns.mT


# cell b426d97c 120465 · Hooks: look without touching
class ForwardHooks:
    """Call `function(name, module, output)` after each forward pass of the modules, in a `with`.

    Outputs are left as they are. After the block no hook is left, whether it ended by itself or by
    an exception, also one in `function`.
    Raises: ValueError without modules; RuntimeError if entered twice.
    """

    def __init__(self, modules: Mapping[str, nn.Module],
                 function: Callable[[str, nn.Module, Any], None]):
        if not modules:
            raise ValueError("there is no module to watch; are their kinds in this model?")
        self.modules, self.function, self.handles = dict(modules), function, []

    def __enter__(self) -> ForwardHooks:
        if self.handles:
            raise RuntimeError("these hooks are on already: leave their `with` block first")
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


# cell 4f93eb66 db667f · Hooks: look without touching
def modules_of_kind(model: nn.Module, kinds: type | tuple[type, ...]) -> dict[str, nn.Module]:
    """Find the modules of some classes, by name, in the order in which they were added."""
    return {name or "model": m for name, m in model.named_modules() if isinstance(m, kinds)}


# cell 935c3a44 31d859 · The health of a network
def describe_outputs(x: Tensor) -> Tensor:
    """Give mean, standard deviation and share of dead units of a layer's outputs.

    A unit is a channel, on axis 1; it is dead if it exceeds 0 nowhere in the batch, NaN included.
    Shape: x (B, units, …) -> (3,).
    """
    alive = x.transpose(0, 1).flatten(1).amax(1) > 0  # never true of NaN
    return torch.stack([x.mean(), x.std(), 1 - alive.float().mean()])


# cell 86400d06 5e851f · The health of a network
class ActivationStats:
    """Record mean, spread, dead units and a histogram of modules' outputs, batch by batch.

    Use it as `with ActivationStats(model) as stats:`; passes in evaluation mode do not count.
    Shape: outputs (B, units, …); `numbers(name)` (batches, 3); `histogram(name)` (bins, batches).
    Raises: ValueError if the model has no module of these kinds; TypeError if an output is no
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
                raise TypeError(f"{name} gives no tensor (B, units, …); choose other kinds")
            x = output.detach().float()
            self._numbers[name].append(describe_outputs(x))
            self._counts[name].append(torch.histc(x.clamp(*self.limits), self.bins, *self.limits))

    def numbers(self, name: str) -> Tensor:
        """Give mean, standard deviation and share of dead units of each batch."""
        return torch.stack(self._numbers[name]).cpu()

    def histogram(self, name: str) -> Tensor:
        """Count the outputs in each bin, for each batch; what lies beyond is in the outermost."""
        return torch.stack(self._counts[name], 1).cpu()


# cell 42a6b375 c5dfa2 · The health of a network
class ActivationStatsCallback(Callback):
    """Watch a fit with `ActivationStats`, which is in `stats` afterwards; no hook is left.

    `kinds` and `options` are those of `ActivationStats`.
    """

    def __init__(self, kinds: type | tuple[type, ...] = nn.ReLU, **options: Any):
        self.kinds, self.options, self.stats = kinds, options, None

    def before_fit(self, learn: Learner) -> None:
        self.stats = ActivationStats(learn.model, self.kinds, **self.options)
        self.stats.__enter__()

    def cleanup_fit(self, learn: Learner) -> None:
        if self.stats is not None:
            self.stats.__exit__()


# cell 5f706c1c 04cc55 · The health of a network
def plot_activation_stats(stats: ActivationStats, title: str = "Outputs of each layer") -> None:
    """Draw mean, standard deviation and share of dead units over the batches, a line a layer."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), layout="constrained")
    for i, axis in enumerate(axes):
        for name in stats.names:
            axis.plot(stats.numbers(name)[:, i], lw=1, label=name)
        axis.set(title=("mean", "standard deviation", "share of dead units")[i], xlabel="batch")
    axes[2].set_ylim(-0.02, 1.02)
    axes[0].legend(title="layer", fontsize=7)
    figure.suptitle(title)
    plt.show()


# cell 83abd5e6 51fbfa · The health of a network
def plot_activation_histograms(stats: ActivationStats, title: str = "Outputs of each layer"
                               ) -> None:
    """Draw each layer's histogram over the batches as a picture, colour for the log of a count."""
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


# cell 48cf729b 4196b9 · A start that suits the depth
def _unit_variance(run: Callable[[], Any], name: str, layer: nn.Module, seen: Mapping[str, float],
                   tol: float, max_steps: int) -> float:
    """Divide one layer's weights by the standard deviation of its outputs, until that is 1."""
    run()
    first = seen[name]
    for _ in range(max_steps):
        if not (math.isfinite(seen[name]) and seen[name] > 0):
            raise ValueError(f"the outputs of {name!r} have standard deviation {seen[name]}: the "
                             "layer cannot be scaled; start from other weights")
        if abs(seen[name] ** 2 - 1) < tol:
            return first
        layer.weight.div_(seen[name])
        run()
    raise ValueError(f"the outputs of {name!r} do not reach variance 1 in {max_steps} steps; is "
                     "their spread that of its bias?")


# cell 2eb033ae 93b8a6 · A start that suits the depth
def lsuv(model: nn.Module, xb: Tensor, kinds: type | tuple[type, ...] = (nn.Linear, nn.Conv2d),
         tol: float = 0.01, max_steps: int = 10) -> dict[str, float]:
    """Scale each layer's weights, from first to last, until its outputs on a batch have variance 1.

    Changes these weights and nothing else: modes, buffers and random numbers stay as they are.
    Returns: the standard deviation that each layer had when its turn came.
    Raises: ValueError if a layer's outputs do not vary or are not finite, or after `max_steps`;
        then the weights are what they were.
    Source: Mishkin and Matas 2016, algorithm 1.
    Differs: starts from the weights as they are, where the paper starts from orthogonal ones.
    """
    seen: dict[str, float] = {}

    def note(name: str, module: nn.Module, output: Tensor) -> None:
        seen[name] = output.float().std().item()

    layers, state, found = modules_of_kind(model, kinds), random_state(), {}
    weights: dict[str, Tensor] = {}
    try:
        with torch.no_grad(), modes_kept(model), ForwardHooks(layers, note):
            model.eval()(xb)
            for name in list(seen):
                weights[name] = layers[name].weight.clone()
                found[name] = _unit_variance(partial(model, xb), name, layers[name], seen, tol,
                                             max_steps)
    except BaseException:
        for name, weight in weights.items():
            layers[name].weight.data.copy_(weight)
        raise
    finally:
        set_random_state(state)
    return found
