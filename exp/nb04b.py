"""Everyday callbacks: devices, gradients, stopping

By the end you will be able to keep gradients in bounds, let a training stop by itself, train with batches larger than the memory holds, and move all of it to a GPU by adding one word.
"""

# cell ae6c2ed0 a6284e · Everyday callbacks: devices, gradients, stopping
from __future__ import annotations

# generated from nbs/04b_everyday_callbacks.ipynb: do not edit · 940cfb
__all__ = [
    "clip_gradients",
    "trained_parameters",
    "GradientClip",
    "StopOnNaN",
    "Monitor",
    "known_mode",
    "check_best_files",
    "EarlyStopping",
    "GradientAccumulation",
    "default_device",
    "to_device",
    "model_device",
    "DeviceCallback",
]
__dir__ = __all__.copy  # what completion offers

# cell ae6c2ed0 3a185b · Everyday callbacks: devices, gradients, stopping
import os
import warnings
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import partial
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb03d import check_counts, gather_objects, map_tensors
from exp.nb03f import Callback, CancelFit, PostponeStep
from exp.nb03h import check_file_place
from exp.nb04 import Learner


# cell fd8c1463 839e97 · Gradients in bounds
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients by one number so that their common norm is at most `max_norm`.

    Shape: -> (), the norm before scaling.
    """
    gradients = [_numbers(p) for p in parameters if p.grad is not None]
    norm = sum((g.square().sum() for g in gradients), start=torch.zeros(())).sqrt()
    for gradient in gradients:
        gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1))
    return norm


# cell 93a232f6 c6300c · Gradients in bounds
def _numbers(p: Tensor) -> Tensor:
    """Return the numbers of a parameter's gradient; of a sparse one, those that it stores."""
    if p.grad.is_sparse:
        p.grad = p.grad.coalesce()  # a row that occurs twice counts once, with its sum
        return p.grad.values()
    return p.grad


# cell 0dbbb27f 4f7401 · Gradients in bounds
def trained_parameters(learn: Learner) -> list[Tensor]:
    """List the parameters of all the optimizer's groups."""
    return [p for group in learn.opt.param_groups for p in group["params"]]


# cell c0c7cd47 decbf7 · Gradients in bounds
class GradientClip(Callback):
    """Limit the norm of all gradients together; `norm` is the last one before it was limited.

    Raises: TypeError or ValueError unless max_norm is a number above 0.
    """

    order = 60

    def __init__(self, max_norm: float):
        if not isinstance(max_norm, int | float):
            raise TypeError(f"max_norm must be a number, the largest norm allowed, got "
                            f"{max_norm!r}")
        if not max_norm > 0:
            raise ValueError(f"max_norm must be above 0, got {max_norm}")
        self.max_norm, self.norm = max_norm, None

    def after_backward(self, learn: Learner) -> None:
        parameters = trained_parameters(learn)
        sparse = any(p.grad is not None and p.grad.is_sparse for p in parameters)
        clip = clip_gradients if sparse else nn.utils.clip_grad_norm_
        self.norm = clip(parameters, self.max_norm)

    def cleanup_fit(self, learn: Learner) -> None:
        self.norm = None


# cell 9432d953 3da31a · Stopping by itself
class StopOnNaN(Callback):
    """End the fit with a warning, before the step, when the loss is no longer a finite number.

    `every`: look at every `every`-th batch only, since each look waits for a GPU; by then the
    weights may already be NaN. Several processes stop together, when one of them must.
    """

    def __init__(self, every: int = 1):
        check_counts(every=every)
        self.every = every

    def after_loss(self, learn: Learner) -> None:
        looks = learn.training and learn.batch_index % self.every == 0
        losses = gather_objects(learn.loss.item()) if looks else []
        if not all(map(isfinite, losses)):
            lrs = [group["lr"] for group in learn.opt.param_groups]
            found = losses[0] if len(losses) == 1 else f"{losses} on {len(losses)} processes"
            parts = {"inputs": learn.inputs, "target": learn.target}
            broken = gather_objects([name for name, x in parts.items() if not _is_finite(x)])
            cause = (f"the {' and '.join(max(broken, key=len))} of this batch held NaN or infinity:"
                     " look at the data" if any(broken) else
                     f"with lr {lrs}; try a tenth of it, or GradientClip")
            warnings.warn(f"stopped: the loss is {found} in epoch {learn.epoch + 1}, batch "
                          f"{learn.batch_index + 1}, {cause}", RuntimeWarning, stacklevel=2)
            raise CancelFit


def _is_finite(x: Any) -> bool:
    """Return whether all numbers of a batch are finite."""
    found: list[bool] = []
    map_tensors(lambda t: found.append(bool(t.to_dense().isfinite().all())) or t, x)
    return all(found)


# cell 44eb4106 eebb66 · Stopping by itself
class Monitor(Callback):
    """Watch one result of each epoch; the base of callbacks that act on the best one.

    `mode`: whether "min" or "max" is best. A loss and a metric with `higher_is_better` do not
    need it.
    Raises: ValueError for an invalid mode, and as the fit begins if the mode is needed; KeyError
        as the fit begins if there will be no such result.
    """

    order, repeatable = 80, True

    def __init__(self, monitor: str = "valid_loss", mode: str | None = None,
                 min_delta: float = 0.0):
        if mode not in (None, "min", "max") or not min_delta >= 0:
            raise ValueError(f'mode must be "min" or "max", min_delta 0 or more, got {mode!r} '
                             f"and {min_delta}")
        self.monitor, self.mode, self.min_delta = monitor, mode, min_delta
        self.best, self.best_epoch, self.sign = None, None, 1

    def before_fit(self, learn: Learner) -> None:
        self.best, self.best_epoch = None, None
        known = known_mode(learn, self.monitor)
        if not (mode := self.mode or known):
            raise ValueError(f'say what is best for {self.monitor!r}: mode="max" or mode="min"')
        self.sign = -1 if mode == "max" else 1

    def is_better(self, learn: Learner) -> bool:
        """Return whether this epoch's result is the best so far; if it is, keep it as the best."""
        if self.monitor not in learn.results:
            raise KeyError(f"no result {self.monitor!r}; there are {list(learn.results)} (a metric "
                           "that computes a table gives no result)")
        value = learn.results[self.monitor]
        limit = inf if self.best is None else self.sign * self.best - self.min_delta
        if self.sign * value < limit:  # never true for NaN
            self.best, self.best_epoch = value, learn.epoch + 1
            return True
        return False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_epoch = state["best"], state["best_epoch"]


# cell 4028d4af 4f138e · Stopping by itself
def known_mode(learn: Learner, monitor: str) -> str | None:
    """Return whether "min" or "max" of a result is best, or None if its metric does not say.

    Raises: KeyError if there will be no such result.
    """
    names = list(learn.result_names())
    if monitor not in names:
        close = get_close_matches(monitor, names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        if getattr(learn.metrics.get(monitor.partition("_")[2]), "is_table", False):
            hint = "that metric computes a table, not a number. "
        raise KeyError(f"no result {monitor!r}; {hint}There will be {names}, and what a callback "
                       "adds if its class names it in `writes`")
    if monitor.endswith("loss"):
        return "min"
    name = monitor.partition("_")[2]
    several = [metric for metric in learn.metrics.values() if hasattr(metric, "keys")]
    metric = learn.metrics.get(name) or next((m[name] for m in several if name in m.keys()), None)
    higher = _higher_is_better(metric)
    return None if higher is None else "max" if higher else "min"


def _higher_is_better(metric: Any) -> bool | None:
    """Return what a metric says of itself, or its function; of losses it is known."""
    inner = metric
    while inner is not None:
        metric = inner
        if (said := getattr(metric, "higher_is_better", None)) is not None:
            return said
        inner = metric.func if isinstance(metric, partial) else getattr(metric, "function", None)
    name = getattr(metric, "__name__", type(metric).__name__).lower()  # mse_loss, MSELoss
    is_loss = name.endswith("loss") or "cross_entropy" in name
    return False if is_loss or name in ("mse", "rmse", "mae", "kl_div") else None


# cell 0606c469 d02311 · Stopping by itself
def check_best_files(learn: Learner, saver: Any) -> None:
    """Refuse the path of a callback that writes the best weights, if it cannot be meant."""
    name, path = type(saver).__name__, str(saver.path)
    if path in learn.result_names():
        raise ValueError(f"{path!r} is a result, and the first argument is the path of a file: "
                         f"{name}(path, {path!r})")
    check_file_place(saver.path)
    alike = [c for c in learn.callbacks if isinstance(c, type(saver)) and c is not saver]
    if any(c.path == saver.path for c in alike):
        raise ValueError(f"two {name} write to {path}; give each a path of its own")
    if saver.restore and any(c.restore for c in alike):
        raise ValueError(f"two {name} would restore their best weights when the fit ends; give all "
                         "but one of them restore=False")


# cell f7380725 b6095c · Stopping by itself
class EarlyStopping(Monitor):
    """End the fit when the monitored result has not improved for `patience` epochs in a row.

    There may be several, for several results; the first one to lose patience ends the fit.
    """

    def __init__(self, monitor: str = "valid_loss", patience: int = 3, mode: str | None = None,
                 min_delta: float = 0.0):
        super().__init__(monitor, mode, min_delta)
        check_counts(patience=patience)
        self.patience, self.waited = patience, 0

    def before_fit(self, learn: Learner) -> None:
        super().before_fit(learn)
        self.waited = 0

    def after_epoch(self, learn: Learner) -> None:
        self.waited = 0 if self.is_better(learn) else self.waited + 1

    def before_epoch(self, learn: Learner) -> None:
        if self.waited >= self.patience:  # here, when all callbacks have dealt with the last epoch
            raise CancelFit

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.waited = state["waited"]


# cell 40f234ac 7c9229 · Large batches in little memory
class GradientAccumulation(Callback):
    """Step once every `n_batches` batches, with the mean gradient of all their items.

    At the end of an epoch it steps with what there is.
    """

    order = 50  # before a callback that looks at the whole gradient

    def __init__(self, n_batches: int):
        check_counts(n_batches=n_batches)
        self.n_batches, self.unit, self._loss = n_batches, 1, None

    def after_loss(self, learn: Learner) -> None:
        if learn.training:
            if not learn.step_batches:
                self.unit = learn.loss_weight  # so that the numbers keep their usual size
            self._loss = learn.loss
            learn.loss = learn.loss * _ratio(learn.loss_weight, self.unit)

    def after_backward(self, learn: Learner) -> None:
        if self._loss is not None:
            learn.loss, self._loss = self._loss, None
        is_last = learn.exhausted or learn.batch_index + 1 == learn.n_batches
        if learn.step_batches < self.n_batches and not is_last:
            raise PostponeStep
        for p in trained_parameters(learn):
            if p.grad is not None:
                p.grad.mul_(_ratio(self.unit, learn.step_weight))

    def cleanup_fit(self, learn: Learner) -> None:
        self._loss = None

    def state_dict(self) -> dict[str, Any]:
        return {"unit": self.unit}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.unit = state["unit"]


# cell 96c21aeb 5e6808 · Large batches in little memory
def _ratio(a: Tensor | float, b: Tensor | float) -> Tensor | float:
    """Divide in double precision, so that the ratio of two counts is exact in any model."""
    return (a.double() if isinstance(a, Tensor) else a) / b


# cell 02018ca4 ec8717 · Devices
def default_device() -> torch.device:
    """Return the device to train on: EXP_DEVICE if that is set, else a GPU if there is one.

    Raises: ValueError unless EXP_DEVICE is cpu or cuda; RuntimeError if it asks for a GPU that is
        not there.
    """
    wanted = os.environ.get("EXP_DEVICE", "")
    there = torch.cuda.is_available()
    if wanted not in ("", "cpu", "cuda"):
        raise ValueError(f"EXP_DEVICE must be cpu or cuda, got {wanted!r}")
    if wanted == "cuda" and not there:
        raise RuntimeError("EXP_DEVICE is cuda, but PyTorch finds no GPU; unset it or set it to "
                           "cpu, or install a PyTorch with CUDA, and a driver")
    return torch.device(wanted or ("cuda" if there else "cpu"))


# cell 9f603a74 f85de8 · Devices
def to_device(x: Any, device: torch.device | str) -> Any:
    """Move a tensor, or all tensors in lists, tuples and dicts; leave everything else as it is."""
    to_gpu = torch.device(device).type == "cuda"  # the other way, a copy could be read too early
    return map_tensors(lambda t: t.to(device, non_blocking=to_gpu), x)


# cell 0a7369b9 71eb8a · Devices
def model_device(model: Any) -> torch.device:
    """Return the device of a model's tensors; the CPU if it has none, such as a function."""
    tensors = getattr(model, "state_dict", dict)().values()
    return next((t.device for t in tensors), torch.device("cpu"))


# cell 019cedcc b5443b · Devices
class DeviceCallback(Callback):
    """Move the model before the fit, and each batch before it is used, to a device."""

    order = -100
    evaluates = True

    def __init__(self, device: torch.device | str | None = None):
        self.device = torch.device(device) if device is not None else default_device()

    def before_fit(self, learn: Learner) -> None:
        learn.model.to(self.device)
        if isinstance(learn.loss_func, nn.Module):
            learn.loss_func.to(self.device)  # its class weights, if it has any
        if any(_is_elsewhere(state, p) for p, state in learn.opt.state.items()):
            learn.opt.load_state_dict(learn.opt.state_dict())  # moves the state to its parameters

    def before_batch(self, learn: Learner) -> None:
        learn.inputs = to_device(learn.inputs, self.device)
        learn.target = to_device(learn.target, self.device)


# cell b841e4ba 5e266f · Devices
def _is_elsewhere(state: Mapping[str, Any], p: Tensor) -> bool:
    """Whether the optimizer keeps something of a parameter's shape on another device."""
    return any(isinstance(t, Tensor) and t.shape == p.shape and t.device != p.device
               for t in state.values())
