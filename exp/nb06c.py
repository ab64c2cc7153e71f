"""Scale: half precision and many processes

By the end you will be able to run a training in half precision, with another memory layout, compiled, or on several processes at once, each by changing one line, and you will have measured, in three rounds on your machine, what half precision and the layout cost or save, and how far the results of half precision may differ.
"""

# cell 852a8a91 a6284e · Scale: half precision and many processes
from __future__ import annotations

# generated from nbs/06c_scale.ipynb: do not edit · ab4be5
__all__ = [
    "MixedPrecision",
    "ChannelsLast",
    "ShareSampler",
    "process_device",
    "process_group",
    "shared_loaders",
    "AverageGradients",
    "DistributedCallback",
]
__dir__ = __all__.copy  # what completion offers

# cell 852a8a91 50bc9e · Scale: half precision and many processes
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb03b import DataLoader, DataLoaders, RandomSampler, Sampler, SequentialSampler
from exp.nb03d import first_batch, gather_objects, loader_length, map_tensors, process_rank
from exp.nb03f import Callback, CancelStep, MetricsCallback
from exp.nb03g import Recorder
from exp.nb03i import is_share
from exp.nb03k import fingerprint
from exp.nb04 import Learner
from exp.nb04b import (
    DeviceCallback,
    GradientAccumulation,
    default_device,
    model_device,
    trained_parameters,
)


# cell 2f6b928b ed4822 · Numbers of sixteen bits
_HALVES = (torch.bfloat16, torch.float16)


def _to_float32(x: Any) -> Any:
    """Return predictions in 32 bits, including those in lists, tuples and dicts."""
    return map_tensors(lambda t: t.float() if t.dtype in _HALVES else t, x)


# cell 6423de78 84b7d0 · Numbers of sixteen bits
class MixedPrecision(Callback):
    """Run the forward pass in 16 bits; weights, loss, gradients and steps stay in 32.

    With float16 the loss is scaled; a step whose gradients overflow is skipped, and does not count.
    Raises: ValueError if dtype is neither bfloat16 nor float16.
    Source: Micikevicius and others 2018, section 3.
    """

    order = GradientAccumulation.order + 5  # gradients are whole, and not clipped yet
    evaluates = True

    def __init__(self, dtype: torch.dtype = torch.bfloat16):
        if dtype not in _HALVES:
            raise ValueError(f"dtype must be torch.bfloat16 or torch.float16, got {dtype}")
        self.dtype, self.scaler, self._saved = dtype, None, {}

    def before_fit(self, learn: Learner) -> None:
        self.device = model_device(learn.model).type
        self.load_state_dict(self.state_dict())  # a new scaler: the last may be in mid-step

    def do_predict(self, learn: Learner) -> None:
        with torch.amp.autocast(self.device, self.dtype):
            learn.do_predict()
            learn.pred = _to_float32(learn.pred)

    def do_backward(self, learn: Learner) -> None:
        if self.scaler is None:
            self.scaler = torch.amp.GradScaler(self.device, enabled=self.dtype == torch.float16)
            self.scaler.load_state_dict(self._saved or self.scaler.state_dict())
        self.scaler.scale(learn.loss).backward()

    def after_backward(self, learn: Learner) -> None:
        self.scaler.unscale_(learn.opt)

    def do_step(self, learn: Learner) -> None:
        before = self.scaler.get_scale()
        self.scaler.step(learn.opt)
        self.scaler.update()
        if self.scaler.get_scale() < before:  # an overflow: the optimizer has not stepped
            learn.opt.zero_grad()
            learn.step_batches, learn.step_weight = 0, 0
            raise CancelStep

    def state_dict(self) -> dict[str, Any]:
        return dict(self.scaler.state_dict() if self.scaler else self._saved)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.scaler, self._saved = None, dict(state)


# cell 9b1ac8ab 737fea · The layout of an image
class ChannelsLast(Callback):
    """Store images and kernels pixel by pixel during a fit; afterwards the layout is as before."""

    order = DeviceCallback.order + 10  # when the batch is on its device
    evaluates = True

    def before_fit(self, learn: Learner) -> None:
        self._layouts = {part: _layout_of(part) for part in learn.model.modules()}
        learn.model.to(memory_format=torch.channels_last)

    def before_batch(self, learn: Learner) -> None:
        learn.inputs = map_tensors(_by_pixel, learn.inputs)

    def cleanup_fit(self, learn: Learner) -> None:
        for part, layout in self._layouts.items():  # the whole before its parts
            part.to(memory_format=layout)
        self._layouts = {}


def _layout_of(part: nn.Module) -> Any:
    """Return the layout of the kernels that a module itself holds."""
    by_channel = all(t.is_contiguous() for t in part.parameters(recurse=False) if t.ndim == 4)
    return torch.contiguous_format if by_channel else torch.channels_last


def _by_pixel(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


# cell 90275cef ae8149 · The machinery
class ShareSampler(Sampler):
    """Sample one process's share of each global batch of an order.

    Shape: indices (n,), where n differs by at most one between processes.
    Raises: ValueError if world_size does not divide batch_size, or the last batch has fewer items
        than there are processes.
    """

    def __init__(self, sampler: Sampler, batch_size: int, rank: int, world_size: int):
        if not 0 <= rank < world_size or batch_size < 1 or batch_size % world_size:
            raise ValueError(f"batch_size must be a multiple of the {world_size} processes, and "
                             f"rank one of 0..{world_size - 1}; got {batch_size} and {rank}")
        if 0 < len(sampler) % batch_size < world_size:
            raise ValueError(f"the last batch has {len(sampler) % batch_size} items for "
                             f"{world_size} processes: choose another batch_size, or remove "
                             "these items")
        self.sampler, self.batch_size = sampler, batch_size
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full * (self.batch_size // self.world_size) + len(
            range(self.rank, rest, self.world_size))

    def indices(self) -> Tensor:
        batches = torch.cat(list(self.sampler.blocks(self.batch_size))).split(self.batch_size)
        return torch.cat([batch[self.rank::self.world_size] for batch in batches])


# cell 0a004626 6d18b2 · The machinery
def _all_sum(tensor: Tensor) -> Tensor:
    """Return the sum over all processes, on the device where they exchange it."""
    if process_rank()[1] > 1:
        tensor = tensor.to(process_device())  # NCCL cannot send tensors that are on the CPU
        torch.distributed.all_reduce(tensor)
    return tensor


# cell 15f5c7e4 09649a · The machinery
def process_device() -> torch.device:
    """Return the device of this process: as `default_device`, but a GPU for each process.

    Raises: RuntimeError if there are more processes than GPUs.
    """
    device, local = default_device(), int(os.environ.get("LOCAL_RANK", 0))
    if device.type != "cuda":
        return device
    if local >= torch.cuda.device_count():
        raise RuntimeError(f"process {local} of this machine needs a GPU of its own, and there are "
                           f"{torch.cuda.device_count()}: start as many processes as GPUs, or set "
                           "EXP_DEVICE=cpu")
    return torch.device("cuda", local)


# cell 4d19cf96 b91130 · The machinery
@contextmanager
def process_group(**options: Any) -> Iterator[tuple[int, int]]:
    """Join the processes that torchrun started, and leave them at the end.

    Yields rank and number of processes: (0, 1) if torchrun did not start this one and there are no
    `options` for torch's `init_process_group`. Uses NCCL with a GPU for each process, else gloo.
    """
    if not options and "RANK" not in os.environ:
        yield 0, 1
        return
    # Optimizers import this module, which keeps the group that exists then as a default argument.
    # The group's threads would outlive it and crash at exit, so import it before there is a group.
    import_module("torch.distributed.nn.functional")
    device = process_device()
    gpu = dict(device_id=device) if device.type == "cuda" else {}
    if gpu:
        torch.cuda.set_device(device)  # where objects are exchanged
    torch.distributed.init_process_group("nccl" if gpu else "gloo", **gpu, **options)
    try:
        yield process_rank()
    finally:
        torch.distributed.destroy_process_group()


# cell ffe42b64 6f7d3f · The machinery
def shared_loaders(train: Any, valid: Any, batch_size: int = 64, seed: int = 42,
                   **options: Any) -> DataLoaders:
    """Return loaders of this process's share; `batch_size` counts the items of all processes.

    The order is that of one `DataLoader` with `shuffle` and a generator with this seed.
    Raises: ValueError as `ShareSampler`, or if there are more processes than validation items.
    """
    rank, world_size = process_rank()
    generator = torch.Generator().manual_seed(seed)
    order = ShareSampler(RandomSampler(train, generator), batch_size, rank, world_size)
    checked = ShareSampler(SequentialSampler(valid), world_size * len(valid), rank, world_size)
    local = batch_size // world_size
    return DataLoaders(DataLoader(train, local, sampler=order, generator=generator, **options),
                       DataLoader(valid, 2 * local, sampler=checked, **options))


# cell d3fbfc1f bec93c · The machinery
def _meet(numbers: Sequence[float], leaving: bool = False) -> list[float]:
    """Return the sums of these numbers over all processes.

    Raises: RuntimeError if a process is leaving the fit instead.
    """
    rank, world_size = process_rank()
    left = [float(leaving and r == rank) for r in range(world_size)]
    sums = _all_sum(torch.tensor([*numbers, *left], dtype=torch.float64)).tolist()
    gone = [r for r, n in enumerate(sums[len(numbers):]) if n]
    if gone and not leaving:
        raise RuntimeError(f"process {gone[0]} has left the fit: a callback has ended it by what "
                           "only that process sees. Let all decide together, by what "
                           "gather_objects of 03d returns")
    return sums[:len(numbers)]


# cell 7d025d16 672caf · The machinery
class AverageGradients(Callback):
    """Average the gradients of all processes before the step, weighted by what each divided by.

    A process without a gradient for a parameter counts as zero; if no process has one, there is
    none.
    Source: Goyal and others 2017, section 3.
    """

    order = GradientAccumulation.order + 2  # before MixedPrecision and GradientClip
    joins_processes = True  # or the Learner refuses loaders of one process's share

    def after_backward(self, learn: Learner) -> None:
        if process_rank()[1] == 1:
            return
        params, own = trained_parameters(learn), float(learn.step_weight)
        *users, weight = _meet([*(float(p.grad is not None) for p in params), own])
        used = [p for p, n in zip(params, users, strict=True) if n]
        for p in used:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        wide = [p.grad.flatten().to(torch.promote_types(p.dtype, torch.float32)) for p in used]
        if wide:
            whole = torch.cat(wide).mul_(own / weight) if own else torch.zeros_like(torch.cat(wide))
            torch.distributed.all_reduce(whole)
            for p, part in zip(used, whole.split([p.numel() for p in used]), strict=True):
                p.grad.copy_(part.view_as(p))


# cell fd77697a 8d89db · The machinery
def _check_joined() -> None:
    if not torch.distributed.is_initialized():
        raise RuntimeError(f"torchrun has started {process_rank()[1]} processes, which have not "
                           "joined: train inside `with process_group():`")


def _is_fit(learn: Learner) -> bool:
    """Return whether this is a fit, which is recorded, and not an evaluation inside it."""
    return any(isinstance(callback, Recorder) for callback in learn.callbacks)


def _layout(learn: Learner) -> dict[str, list[Any]]:
    """List what must be the same on every process: batches, epochs, parameters, buffers."""
    modules = [part for part in (learn.model, learn.loss_func) if isinstance(part, nn.Module)]
    names = {id(p): name for part in modules for name, p in part.named_parameters()}
    optimized = [(names.get(id(p), "(not in the model)"), tuple(p.shape), str(p.dtype))
                 for p in trained_parameters(learn)]
    tensors = [(name, tuple(t.shape), str(t.dtype)) for part in modules
               for name, t in [*part.named_parameters(), *part.named_buffers()]]
    return {"number of training batches": [loader_length(learn.dls.train)],
            "number of epochs": [learn.n_epochs],
            "parameter of the optimizer": optimized, "parameter or buffer": tensors}


def _check_layouts(layouts: Sequence[Mapping[str, list[Any]]]) -> None:
    """Refuse processes that cannot train together. Raises: ValueError, on all of them."""
    for rank, layout in enumerate(layouts):
        for what, first in layouts[0].items():
            for ours, theirs in zip_longest(first, layout[what]):
                if ours != theirs:
                    raise ValueError(f"all processes must train the same model in the same order: "
                                     f"the {what} is {ours} on process 0 and {theirs} on process "
                                     f"{rank}; build model, optimizer and loaders alike on each")


def _check_shares(learn: Learner) -> None:
    """Refuse loaders that give all processes the same items. Raises: ValueError, on all of them."""
    for name in ("train", "valid"):
        loader = getattr(learn.dls, name)
        alike = loader is None or is_share(loader) or fingerprint(first_batch([loader]))
        found = gather_objects(alike)  # True, or what tells the first batch from another
        if None not in found and True not in found and all(one == found[0] for one in found):
            raise ValueError(f"the first batch of dls.{name} is the same on all {len(found)} "
                             "processes, so that each would see all items: build the loaders with "
                             "shared_loaders(train, valid), or with a DistributedSampler")


# cell 24ac2390 0a03e4 · The machinery
class DistributedCallback(Callback):
    """Train one model on several processes: equal copies, averaged gradients, metrics over all.

    Every process needs its share of the data, from `shared_loaders`, and calls `fit` and `evaluate`
    as the others do; `predict` may be called by one alone, and so may `get_preds`, which returns
    the predictions for this process's share only. A callback of your own must end a fit
    everywhere at once: by results, which are the same everywhere, or by what `gather_objects`
    returns. The record's losses are those of this process.
    Raises: ValueError if the processes have different parameters, batches or epochs, or loaders of
        the same data; RuntimeError without a `process_group`, and if a callback ends the fit of
        another process alone.
    Differs: batch norms see their own share only, as in PyTorch's DistributedDataParallel; after
        the training batches of an epoch all take over the statistics of process 0.
    """

    order = MetricsCallback.order - 5  # before it computes the results
    requires = (AverageGradients,)
    evaluates = True

    def before_fit(self, learn: Learner) -> None:
        self._trains = False

    def before_epoch(self, learn: Learner) -> None:
        if learn.training and not self._trains and process_rank()[1] > 1:
            _check_joined()
            _check_layouts(gather_objects(_layout(learn)))
            _check_shares(learn)
            self._take_over(learn, "parameters", "buffers")
            self._trains = True

    def after_batch(self, learn: Learner) -> None:
        if self._trains and learn.training and learn.batch_index + 1 == learn.n_batches:
            self._take_over(learn, "buffers")  # so that all validate the same model

    def after_epoch(self, learn: Learner) -> None:
        if self._trains and _is_fit(learn):
            _meet([0.0] * (len(trained_parameters(learn)) + 1))
            self._take_over(learn, "buffers")
        for callback in learn.callbacks:
            if isinstance(callback, MetricsCallback):
                callback.pool(_all_sum)
                callback.merge(gather_objects)

    def after_fit(self, learn: Learner) -> None:
        self._trains = self._trains and not _is_fit(learn)

    def cleanup_fit(self, learn: Learner) -> None:
        if self._trains and sys.exception() is None:  # cancelled; an exception ends the process
            _meet([0.0] * (len(trained_parameters(learn)) + 1), leaving=True)

    def _take_over(self, learn: Learner, *kinds: str) -> None:
        for part in (learn.model, learn.loss_func):
            for kind in kinds if isinstance(part, nn.Module) else ():
                for tensor in getattr(part, kind)():
                    torch.distributed.broadcast(tensor.data, src=0)
