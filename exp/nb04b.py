"""Everyday callbacks: devices, gradients, stopping

In the end you can run a training on a GPU by one word, keep its gradients in bounds, take large steps with little memory, and have it stop by itself.
"""

# cell ae6c2ed0 a6284e · Imports
from __future__ import annotations

# generated from nbs/04b_everyday_callbacks.ipynb: do not edit · ceda4e
__all__ = [
    "default_device",
    "to_device",
    "model_device",
    "DeviceCallback",
    "clip_gradients",
    "trained_parameters",
    "GradientClip",
    "GradientAccumulation",
    "StopOnNaN",
    "Monitor",
    "EarlyStopping",
]

# cell ae6c2ed0 e9b5d0 · Imports
import os
import warnings
from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb03d import check_counts, map_tensors
from exp.nb03f import Callback, CancelFit, CancelStep
from exp.nb04 import Learner


# cell 02018ca4 7f6dd8 · Devices
def default_device() -> torch.device:
    """Give the device to train on: EXP_DEVICE if that is set, else a GPU if there is one.

    Raises: ValueError for another device than cpu or cuda; RuntimeError if there is no GPU.
    """
    wanted = os.environ.get("EXP_DEVICE", "")
    there = torch.cuda.is_available()
    if wanted not in ("", "cpu", "cuda"):
        raise ValueError(f"EXP_DEVICE must be cpu or cuda, got {wanted!r}")
    if wanted == "cuda" and not there:
        raise RuntimeError("EXP_DEVICE is cuda, but PyTorch finds no GPU; unset it or set it to "
                           "cpu, or install a PyTorch with CUDA, and a driver")
    return torch.device(wanted or ("cuda" if there else "cpu"))


# cell 9f603a74 be3b6f · Devices
def to_device(x: Any, device: torch.device | str) -> Any:
    """Move a tensor, or all tensors in lists, tuples and dicts; leave the rest as it is."""
    to_gpu = torch.device(device).type == "cuda"  # the other way, nobody may read too early
    return map_tensors(lambda t: t.to(device, non_blocking=to_gpu), x)


# cell 0a7369b9 88ee25 · Devices
def model_device(model: Any) -> torch.device:
    """Tell where the tensors of a model are; the CPU for one that has none, such as a function."""
    tensors = getattr(model, "state_dict", dict)().values()
    return next((t.device for t in tensors), torch.device("cpu"))


# cell 019cedcc 44a849 · Devices
class DeviceCallback(Callback):
    """Move the model before the fit, and each batch before it is used, to a device."""

    order = -100
    evaluates = True

    def __init__(self, device: torch.device | str | None = None):
        self.device = torch.device(device) if device is not None else default_device()

    def before_fit(self, learn: Learner) -> None:
        learn.model.to(self.device)
        if isinstance(learn.loss_func, nn.Module):
            learn.loss_func.to(self.device)  # the weights of its classes, if it has any
        if any(_is_elsewhere(state, p) for p, state in learn.opt.state.items()):
            learn.opt.load_state_dict(learn.opt.state_dict())  # moves the state to its parameters

    def before_batch(self, learn: Learner) -> None:
        learn.inputs = to_device(learn.inputs, self.device)
        learn.target = to_device(learn.target, self.device)


# cell b841e4ba 4c2c03 · Devices
def _is_elsewhere(state: Mapping[str, Any], p: Tensor) -> bool:
    """Whether a part of an optimizer's state of the size of its parameter is on another device."""
    return any(isinstance(t, Tensor) and t.shape == p.shape and t.device != p.device
               for t in state.values())


# cell fd8c1463 b84f9c · Gradients in bounds
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients together such that the norm of all of them is at most `max_norm`.

    Shape: -> (), the norm before.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = sum((g.square().sum() for g in gradients), start=torch.zeros(())).sqrt()
    for gradient in gradients:
        gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1))
    return norm


# cell 0dbbb27f 33699c · Gradients in bounds
def trained_parameters(learn: Learner) -> list[Tensor]:
    """List the parameters that the optimizer steps, of all its groups."""
    return [p for group in learn.opt.param_groups for p in group["params"]]


# cell c0c7cd47 962185 · Gradients in bounds
class GradientClip(Callback):
    """Limit the norm of all gradients together, and keep the last norm before that, in `norm`.

    Raises: ValueError unless max_norm is above 0.
    """

    order = 60

    def __init__(self, max_norm: float):
        if not max_norm > 0:
            raise ValueError(f"max_norm must be above 0, got {max_norm}")
        self.max_norm, self.norm = max_norm, None

    def after_backward(self, learn: Learner) -> None:
        self.norm = nn.utils.clip_grad_norm_(trained_parameters(learn), self.max_norm)

    def cleanup_fit(self, learn: Learner) -> None:
        self.norm = None


# cell 40f234ac 4f6ca4 · Large batches in little memory
class GradientAccumulation(Callback):
    """Step once in `n_batches` batches, with the mean gradient of all their items.

    The last batch of an epoch steps with what there is, if the loader knows its length.
    """

    order = 50  # before a callback that looks at the whole gradient

    def __init__(self, n_batches: int):
        check_counts(n_batches=n_batches)
        self.n_batches, self.batches, self.items, self.unit = n_batches, 0, 0, 1

    def after_loss(self, learn: Learner) -> None:
        if learn.training:
            if all(p.grad is None for p in trained_parameters(learn)):  # or a batch was cancelled
                self.batches, self.items, self.unit = 0, 0, learn.n_items
            self._loss = learn.loss
            learn.loss = learn.loss * (learn.n_items / self.unit)  # a batch weighs what it holds

    def after_backward(self, learn: Learner) -> None:
        learn.loss, self._loss = self._loss, None
        self.batches, self.items = self.batches + 1, self.items + learn.n_items
        is_last = learn.n_batches is not None and learn.batch_index == learn.n_batches - 1
        if self.batches < self.n_batches and not is_last:
            raise CancelStep
        for p in trained_parameters(learn):
            if p.grad is not None:
                p.grad.mul_(self.unit / self.items)

    def cleanup_fit(self, learn: Learner) -> None:
        self._loss = None

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches, "items": self.items, "unit": self.unit}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.batches, self.items, self.unit = state["batches"], state["items"], state["unit"]


# cell 9432d953 b2f3cc · Stopping by itself
class StopOnNaN(Callback):
    """End the fit with a warning, and before the step, when the loss is no longer a finite number.

    `every`: look only at every so manieth batch, since each look waits for a GPU; the weights may
    be spoilt by then.
    """

    def __init__(self, every: int = 1):
        check_counts(every=every)
        self.every = every

    def after_loss(self, learn: Learner) -> None:
        looks = learn.training and learn.batch_index % self.every == 0
        if looks and not learn.loss.isfinite().all():
            lrs = [group["lr"] for group in learn.opt.param_groups]
            warnings.warn(f"stopped: the loss is {learn.loss.item()} in epoch {learn.epoch + 1}, "
                          f"batch {learn.batch_index + 1}, with lr {lrs}; try a tenth of it, or "
                          "GradientClip", RuntimeWarning, stacklevel=2)
            raise CancelFit


# cell 44eb4106 fe577a · Stopping by itself
class Monitor(Callback):
    """Watch one result of each epoch; the base of callbacks that act on the best one.

    `mode` says whether "min" or "max" is best; for a loss it need not be said.
    Raises: ValueError for an unknown mode, or none where it is needed.
    """

    order = 80

    def __init__(self, monitor: str = "valid_loss", mode: str | None = None,
                 min_delta: float = 0.0):
        if mode is None and not monitor.endswith("loss"):
            raise ValueError(f'say what is good for {monitor!r}: mode="max" or mode="min"')
        if mode not in (None, "min", "max") or min_delta < 0:
            raise ValueError(f'mode must be "min" or "max", min_delta 0 or more, got {mode!r} '
                             f"and {min_delta}")
        self.monitor, self.min_delta, self.sign = monitor, min_delta, -1 if mode == "max" else 1
        self.best, self.best_epoch = None, None

    def is_better(self, learn: Learner) -> bool:
        """Look at this epoch's result, and take it as the best so far if it is better.

        Raises: KeyError if there is no such result.
        """
        if self.monitor not in learn.results:
            raise KeyError(f"no result {self.monitor!r}; there are {list(learn.results)}")
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


# cell 0606c469 545c9f · Stopping by itself
class EarlyStopping(Monitor):
    """End the fit when the monitored result has not been better for `patience` epochs."""

    def __init__(self, monitor: str = "valid_loss", patience: int = 3, mode: str | None = None,
                 min_delta: float = 0.0):
        super().__init__(monitor, mode, min_delta)
        check_counts(patience=patience)
        self.patience, self.waited = patience, 0

    def before_fit(self, learn: Learner) -> None:
        self.best, self.best_epoch, self.waited = None, None, 0

    def after_epoch(self, learn: Learner) -> None:
        self.waited = 0 if self.is_better(learn) else self.waited + 1

    def before_epoch(self, learn: Learner) -> None:
        if self.waited >= self.patience:  # here, when everyone has dealt with the last epoch
            raise CancelFit

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.waited = state["waited"]
