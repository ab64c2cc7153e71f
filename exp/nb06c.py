"""Scale: half precision and many processes

At the end the training that you have runs in half precision, with another memory layout, compiled, or on many processes at once: each by one line, and with the same result.
"""

# cell 852a8a91 a6284e · Scale: half precision and many processes
from __future__ import annotations

# generated from nbs/06c_scale.ipynb: do not edit · 19bf6f
__all__ = [
    "HALVES",
    "MixedPrecision",
    "ChannelsLast",
    "ShareSampler",
    "process_rank",
    "process_device",
    "process_group",
    "shared_loaders",
    "AverageGradients",
    "DistributedCallback",
]

# cell 852a8a91 cfb057 · Scale: half precision and many processes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from exp.nb03b import DataLoader, DataLoaders, RandomSampler, Sampler, SequentialSampler
from exp.nb03d import map_tensors
from exp.nb03f import Callback, MetricsCallback
from exp.nb04 import Learner
from exp.nb04b import default_device, trained_parameters


# cell 2f6b928b 0462df · Numbers of sixteen bits
HALVES = (torch.bfloat16, torch.float16)


def _to_float32(x: Any) -> Any:
    """Bring predictions back to 32 bits, also those in lists, tuples and dicts."""
    return map_tensors(lambda t: t.float() if t.dtype in HALVES else t, x)


# cell 6423de78 bc6ed4 · Numbers of sixteen bits
class MixedPrecision(Callback):
    """Run the forward pass in 16 bits; weights, loss, gradients and steps stay in 32.

    For float16 the loss is scaled, and a step that overflows is skipped.
    Raises: ValueError for another dtype.
    Source: Micikevicius and others 2018, section 3.
    """

    order, evaluates = 55, True  # gradients are whole (accumulation: 50), not yet clipped (60)

    def __init__(self, dtype: torch.dtype = torch.bfloat16):
        if dtype not in HALVES:
            raise ValueError(f"dtype must be torch.bfloat16 or torch.float16, got {dtype}")
        self.dtype, self.scaler, self._saved = dtype, None, {}

    def before_fit(self, learn: Learner) -> None:  # with a new scaler: the last may be mid-step
        saved, self.device = self.state_dict(), next(learn.model.parameters()).device.type
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.dtype == torch.float16)
        self.scaler.load_state_dict(saved or self.scaler.state_dict())

    def do_predict(self, learn: Learner) -> None:
        with torch.amp.autocast(self.device, self.dtype):
            learn.pred = _to_float32(learn.model(*learn.inputs))

    def do_backward(self, learn: Learner) -> None:
        self.scaler.scale(learn.loss).backward()

    def after_backward(self, learn: Learner) -> None:
        self.scaler.unscale_(learn.opt)

    def do_step(self, learn: Learner) -> None:
        self.scaler.step(learn.opt)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return dict(self.scaler.state_dict() if self.scaler else self._saved)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.scaler, self._saved = None, dict(state)


# cell 9b1ac8ab e5b4dd · The layout of an image
class ChannelsLast(Callback):
    """Let images and kernels lie pixel by pixel in memory during a fit; after it, contiguous."""

    order = -90  # after the batch is on its device
    evaluates = True

    def before_fit(self, learn: Learner) -> None:
        learn.model.to(memory_format=torch.channels_last)

    def before_batch(self, learn: Learner) -> None:
        learn.inputs = [x.contiguous(memory_format=torch.channels_last)
                        if isinstance(x, Tensor) and x.ndim == 4 else x for x in learn.inputs]

    def cleanup_fit(self, learn: Learner) -> None:
        learn.model.to(memory_format=torch.contiguous_format)


# cell 90275cef 370296 · Many processes, one model
class ShareSampler(Sampler):
    """Keep one process's share of each global batch of an order.

    Shape: indices (n,), where n differs by at most one between processes.
    Raises: ValueError if the processes do not divide batch_size, or the last batch has fewer
        items than there are processes.
    """

    def __init__(self, sampler: Sampler, batch_size: int, rank: int, world_size: int):
        if not 0 <= rank < world_size or batch_size < 1 or batch_size % world_size:
            raise ValueError(f"batch_size must be a multiple of the {world_size} processes, and "
                             f"the rank one of 0..{world_size - 1}; got {batch_size} and {rank}")
        if 0 < len(sampler) % batch_size < world_size:
            raise ValueError(f"the last batch has {len(sampler) % batch_size} items for "
                             f"{world_size} processes: choose another batch_size, or leave out "
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


# cell 0a004626 7bce1d · Many processes, one model
def process_rank() -> tuple[int, int]:
    """Give the rank of this process and the number of processes; (0, 1) if it is alone."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def _all_sum(tensor: Tensor) -> Tensor:
    """Give every process the sum over all processes, on the device where they exchange it."""
    if process_rank()[1] > 1:
        tensor = tensor.to(process_device())  # NCCL takes nothing that lies on the CPU
        torch.distributed.all_reduce(tensor)
    return tensor


# cell 15f5c7e4 cd7fec · Many processes, one model
def process_device() -> torch.device:
    """Give the device of this process: as `default_device`, but a GPU for each process.

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


# cell 4d19cf96 5a03aa · Many processes, one model
@contextmanager
def process_group(**options: Any) -> Iterator[tuple[int, int]]:
    """Join the processes that torchrun has started, and leave them at the end.

    Gives rank and number of processes; (0, 1) if torchrun did not start this one and no `options`
    for torch's `init_process_group` are given. NCCL with a GPU each, else gloo.
    """
    if not options and "RANK" not in os.environ:
        yield 0, 1
        return
    # This module keeps the group that exists when it is first imported, for good, as a default
    # argument; optimizers import it. The group's threads would outlive it and crash at the exit.
    import_module("torch.distributed.nn.functional")
    device = process_device()
    gpu = dict(device_id=device) if device.type == "cuda" else {}
    torch.distributed.init_process_group("nccl" if gpu else "gloo", **gpu, **options)
    try:
        yield process_rank()
    finally:
        torch.distributed.destroy_process_group()


# cell ffe42b64 268acb · Many processes, one model
def shared_loaders(train: Any, valid: Any, batch_size: int = 64, seed: int = 42,
                   **options: Any) -> DataLoaders:
    """Build loaders that give this process its share; batch_size is that of all together.

    The order is that of one `DataLoader` with `shuffle` and a generator of this seed.
    Raises: ValueError as `ShareSampler`, or if there are more processes than validation items.
    """
    rank, world_size = process_rank()
    generator = torch.Generator().manual_seed(seed)
    order = ShareSampler(RandomSampler(train, generator), batch_size, rank, world_size)
    checked = ShareSampler(SequentialSampler(valid), world_size * len(valid), rank, world_size)
    local = batch_size // world_size
    return DataLoaders(DataLoader(train, local, sampler=order, generator=generator, **options),
                       DataLoader(valid, 2 * local, sampler=checked, **options))


# cell d3fbfc1f 551e2f · Many processes, one model
class AverageGradients(Callback):
    """Average the gradients of all processes, each weighted by its items, before the step.

    Every process must use the same parameters in a step: the messages have to match.
    Source: Goyal and others 2017, section 3.
    """

    order = 52  # after GradientAccumulation, before MixedPrecision and GradientClip
    evaluates = True  # comes along with DistributedCallback, has nothing to do there

    def before_fit(self, learn: Learner) -> None:
        self._items = 0

    def after_loss(self, learn: Learner) -> None:
        if learn.training:
            fresh = all(p.grad is None for p in trained_parameters(learn))
            self._items = learn.n_items if fresh else self._items + learn.n_items

    def after_backward(self, learn: Learner) -> None:
        if process_rank()[1] == 1:
            return
        grads = [p.grad for p in trained_parameters(learn) if p.grad is not None]
        wide = torch.promote_types(grads[0].dtype, torch.float32)  # 16 bits cannot count items
        items = torch.full((1,), self._items, dtype=wide, device=grads[0].device)
        whole = torch.cat([*(g.flatten().to(wide) * items for g in grads), items])
        torch.distributed.all_reduce(whole)
        parts = (whole[:-1] / whole[-1]).split([g.numel() for g in grads])
        for g, part in zip(grads, parts, strict=True):
            g.copy_(part.view_as(g))


# cell fd77697a 13a46f · Many processes, one model
class DistributedCallback(Callback):
    """Train one model on several processes: equal copies, and metrics over all items.

    Every process needs its share of the data, from `shared_loaders`. Let only rank 0 write files.
    A callback that ends a fit must do so by results, which are the same everywhere: by a loss of
    its own (StopOnNaN) one process would leave, and the others wait for it.
    Differs: batch norms see their own share only, as in PyTorch's DistributedDataParallel; after
        each epoch all take over the statistics of rank 0.
    """

    order = 5  # before MetricsCallback reads its sums
    requires = (AverageGradients,)
    evaluates = True

    def before_fit(self, learn: Learner) -> None:
        self._take_over([*learn.model.parameters(), *learn.model.buffers()])

    def after_epoch(self, learn: Learner) -> None:
        self._take_over(learn.model.buffers())
        for callback in learn.callbacks:
            if isinstance(callback, MetricsCallback):
                callback.pool(_all_sum)

    def _take_over(self, tensors: Any) -> None:
        if process_rank()[1] > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor.data, src=0)
