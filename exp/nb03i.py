"""Guards: errors that say what to do

By the end you will have guards around a training: they refuse parts that do not fit, catch silent mistakes in the first batch, and add the batch, the shapes and a hint to an error from deep inside PyTorch.
"""

# cell 64fd36a0 a6284e · Guards: errors that say what to do
from __future__ import annotations

# generated from nbs/03i_guards.ipynb: do not edit · 4aefce
__all__ = [
    "check_parts",
    "check_loader",
    "check_rates",
    "default_callbacks",
    "make_optimizer",
    "set_rates",
    "restore_settings",
    "clear_gradients",
    "is_share",
    "check_fit",
    "split_batch",
    "check_length",
    "check_loss",
    "explain_error",
    "match_batch",
]
__dir__ = __all__.copy  # what completion offers

# cell 64fd36a0 3b8722 · Guards: errors that say what to do
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import signature
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb03b import Dataset, TensorDataset
from exp.nb03d import check_counts, has_joined, loader_length, map_tensors
from exp.nb03f import EVENTS, Callback, MetricsCallback, callback_list
from exp.nb03g import Recorder


# cell a031746d c20c24 · Parts that cannot work together
def check_parts(model: Any, dls: Any, loss_func: Any, opt_func: Any, lr: Any,
                progress: Any = True) -> None:
    """Refuse what a Learner cannot be made of."""
    if not isinstance(model, nn.Module):
        hint = "; write it with ()" if isinstance(model, type) else (
            "; the order is Learner(model, dls, …)" if isinstance(dls, nn.Module) else "")
        raise TypeError(f"model must be a torch.nn.Module, got {model!r:.80}{hint}")
    if isinstance(dls, nn.Module) or not (hasattr(dls, "train") and hasattr(dls, "valid")):
        raise TypeError("dls needs loaders `train` and `valid` (None for none), got a "
                        f"{type(dls).__name__}; put two loaders into DataLoaders(train, valid)")
    if isinstance(loss_func, type):
        raise TypeError(f"loss_func is the class {loss_func.__name__}; write it with (): "
                        f"{loss_func.__name__}()")
    for name, part in (("loss_func", loss_func), ("opt_func", opt_func)):
        if not callable(part):
            raise TypeError(f"{name} must be a function or class, such as torch.optim.AdamW or "
                            "nn.CrossEntropyLoss() (for several labels nn.BCEWithLogitsLoss()), "
                            f"got {type(part).__name__} {part!r:.40}")
    if not isinstance(progress, bool):
        raise TypeError(f"progress must be True or False, got {progress!r}; the style is set by "
                        "ProgressCallback(style=…)")
    options = getattr(loss_func, "keywords", {})  # of a functools.partial
    reduction = options.get("reduction", getattr(loss_func, "reduction", "mean"))
    if reduction in ("none", "sum"):
        raise ValueError(f"loss_func has reduction={reduction!r}: its value, and the step, would "
                         "depend on the batch size; use reduction='mean', or divide in a function "
                         "of your own")
    for name, loader in (("train", dls.train), ("valid", dls.valid)):
        if loader is not None:
            check_loader(loader, f"dls.{name}")
    if lr is not None:
        check_rates(lr)


def check_loader(loader: Any, name: str = "the loader") -> None:
    """Refuse what yields no batches: None, a data set, a function."""
    if loader is None:
        raise ValueError("there is no validation set: pass a loader")
    data_sets = torch.utils.data.Dataset | Dataset | TensorDataset
    if isinstance(loader, data_sets) and not hasattr(loader, "__iter__"):  # that one is a stream
        raise TypeError(f"{name} is a data set, a {type(loader).__name__}, which holds single "
                        "items; DataLoaders.from_datasets(train, valid), or DataLoader(…), makes "
                        "batches")
    if not (hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")):
        call = "; call it" if callable(loader) else ""
        raise TypeError(f"{name} must be iterable, got {loader!r:.80}{call}")


def check_rates(lr: Any) -> list[float]:
    """Return one or several rates as a list.

    Raises: ValueError unless each is a finite number of 0 or more.
    """
    rates = list(lr) if isinstance(lr, list | tuple) else [lr]
    if not rates or not all(
            hasattr(r, "__float__") and not isinstance(r, bool) and not getattr(r, "ndim", 0)
            and 0 <= r < inf for r in rates):
        hint = "; spread_rates makes a list of rates" if isinstance(lr, slice) else ""
        raise ValueError(f"lr must be a number of 0 or more, or one for each parameter group, got "
                         f"{lr!r}{hint}")
    return list(map(float, rates))


# cell 61631acb 283d4b · Parts that cannot work together
def default_callbacks(callbacks: Iterable[Callback] | Callback, metrics: Any) -> list[Callback]:
    """Add MetricsCallback and Recorder to callbacks, unless they are there.

    Raises: ValueError if metrics were given and there is a MetricsCallback already.
    """
    callbacks = callback_list(callbacks)
    if any(isinstance(c, MetricsCallback) for c in callbacks):
        if metrics:
            raise ValueError("metrics were given to the Learner and to a MetricsCallback; choose "
                             "one")
    else:
        callbacks.insert(0, MetricsCallback(metrics))
    return callbacks if any(isinstance(c, Recorder) for c in callbacks) else [
        *callbacks, Recorder()]


# cell 84627f1e c0a289 · An optimizer and its groups
def make_optimizer(learn: Any, opt_func: Callable[..., Any], lr: Any,
                    groups: Callable[[nn.Module], list[Any]] | None) -> Any:
    """Build the optimizer over the model's parameters, or groups of them, and the loss's own.

    `lr` None is the default of `opt_func`, or 0.01 if it has none.
    """
    params = list(groups(learn.model)) if groups else list(learn.model.parameters())
    if not params:
        raise ValueError(f"{'groups returned' if groups else 'the model has'} no parameters")
    if isinstance(learn.loss_func, nn.Module) and (own := list(learn.loss_func.parameters())):
        is_flat = isinstance(params[0], Tensor)
        params = [*params, *own] if is_flat else [*params, {"params": own}]
    if not isinstance(params[0], Tensor):
        params = [part if isinstance(part, Mapping) else {"params": list(part)} for part in params]
    if lr is None and _needs_rate(opt_func):
        lr = 0.01
    opt = opt_func(params) if lr is None else opt_func(params, lr=check_rates(lr)[0])
    if isinstance(lr, list | tuple):
        set_rates(opt.param_groups, lr)
    return opt


def _needs_rate(opt_func: Callable[..., Any]) -> bool:
    """Return whether a function has a parameter `lr` without a default."""
    try:
        rate = signature(opt_func).parameters.get("lr")
    except (TypeError, ValueError):  # it does not say
        return False
    return rate is not None and rate.default is rate.empty


def set_rates(groups: list[dict[str, Any]], lr: float | Sequence[float]) -> None:
    """Set the learning rate of each parameter group. Raises: ValueError for a wrong number."""
    rates = check_rates(lr)
    rates = rates * len(groups) if not isinstance(lr, list | tuple) else rates
    if len(rates) != len(groups):
        raise ValueError(f"lr must be one number, or one for each of the {len(groups)} parameter "
                         f"groups, got {lr!r}")
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate


# cell b059d0b0 45cb96 · An optimizer and its groups
def restore_settings(groups: list[dict[str, Any]], kept: list[dict[str, Any]]) -> None:
    """Give parameter groups the settings they had before a fit, without what schedulers left."""
    for group, before in zip(groups, kept, strict=False):
        for name in group.keys() - before.keys():
            del group[name]
        group.update({name: value for name, value in before.items() if name != "params"})


# cell 670dcab6 fa7188 · An optimizer and its groups
def clear_gradients(groups: Iterable[Mapping[str, Any]]) -> None:
    """Clear the gradients of parameter groups, without the mark that `zero_grad` leaves."""
    for group in groups:
        for p in group["params"]:
            p.grad = None


# cell 1b3b6b9a 5ebaee · Before the first batch
def is_share(loader: Any) -> bool:
    """Return whether a loader gives one process's share of a data set, as its sampler says."""
    samplers = [getattr(loader, "sampler", None),
                getattr(getattr(loader, "batch_sampler", None), "sampler", None)]
    return any(getattr(sampler, name, 1) > 1 for sampler in samplers
               for name in ("world_size", "num_replicas"))


def _trains_alone(learn: Any, callbacks: Iterable[Any]) -> bool:
    """Return whether nothing joins this process's training with that of the others."""
    wrappers = ("DistributedDataParallel", "FSDP", "FullyShardedDataParallel")
    return not any(getattr(callback, "joins_processes", False) for callback in callbacks) and (
        not any(type(part).__name__.startswith(wrappers) for part in learn.model.modules()))


def check_fit(learn: Any, n_epochs: Any, n_steps: Any, callbacks: Iterable[Any] = ()) -> None:
    """Refuse a fit that cannot begin."""
    if learn.dls.train is None:
        raise ValueError("there is no training set: dls.train is None")
    if (n_epochs is None) == (n_steps is None):
        raise ValueError(f"pass n_epochs or n_steps, got n_epochs={n_epochs}, n_steps={n_steps}")
    check_counts(**({"n_epochs": n_epochs} if n_steps is None else {"n_steps": n_steps}))
    if learn._plan:
        raise RuntimeError("fit was called inside fit; evaluate and get_preds may be")
    for name, loader in (("train", learn.dls.train), ("valid", learn.dls.valid)):
        if loader is not None and loader_length(loader) == 0:
            raise ValueError(f"dls.{name} has no batches; is the data set empty, or smaller than a "
                             "batch with drop_last? (dls.valid may be None)")
        if hasattr(loader, "__next__") and n_epochs != 1:
            raise ValueError(f"dls.{name} is an iterator, which is used up after one epoch; pass a "
                             "list of batches, or a loader")
    if has_joined() and is_share(learn.dls.train) and _trains_alone(learn, callbacks):
        raise ValueError("each process has its share of the data, and would train a model of its "
                         "own: add DistributedCallback, or set `joins_processes = True` in the "
                         "class of a callback that averages the gradients")
    stepped = {id(p) for group in learn.opt.param_groups for p in group["params"]}
    own = list(learn.model.parameters())
    if own and not any(id(p) in stepped for p in own):
        raise ValueError("the optimizer holds no parameter of this model; was the model made again "
                         "after the optimizer? Make a new Learner")
    if own and not any(p.requires_grad for p in own if id(p) in stepped):
        raise ValueError("all parameters of the optimizer are frozen (requires_grad is False): "
                         "there is nothing to train; unfreeze some")
    missing = [name for name, p in learn.model.named_parameters()
               if p.requires_grad and id(p) not in stepped]
    if missing:
        warnings.warn(f"{len(missing)} parameters of the model are in no group of the optimizer, "
                      f"and are not trained: {', '.join(missing[:5])}{', …' if missing[5:] else ''}"
                      ". Was a layer replaced, or unfrozen, after the Learner was made? Make a new "
                      "Learner, or freeze them (requires_grad_(False))", UserWarning,
                      stacklevel=3)


# cell 90ccff58 efc543 · A batch
def split_batch(batch: Any, target_key: str | None = None,
                labelled: bool = True) -> tuple[Any, Any]:
    """Split a batch into inputs and target.

    A tuple or list is (inputs …, target), and the inputs become a list. A dict is passed by name:
    with `target_key`, that key is the target and the rest are inputs; else the batch is both.
    If not `labelled`, as for predictions, a batch of one part is an input, and its target None.
    Raises: TypeError or KeyError for a batch that cannot be split.
    """
    if isinstance(batch, Mapping):
        if target_key is None:
            return batch, batch
        if target_key not in batch and labelled:
            raise KeyError(f"a batch has no {target_key!r}, only {list(batch)}")
        return {k: x for k, x in batch.items() if k != target_key}, batch.get(target_key)
    if target_key is not None:
        raise TypeError(f"target={target_key!r} is for batches that are dicts, got a "
                        f"{type(batch).__name__}; there, the last part is the target")
    if isinstance(batch, list | tuple) and len(batch) >= 2:
        return list(batch[:-1]), batch[-1]
    if not labelled and (isinstance(batch, Tensor) or len(batch) == 1):
        return [batch] if isinstance(batch, Tensor) else list(batch), None
    of = f" of {len(batch)}" if isinstance(batch, list | tuple) else ""
    raise TypeError(f"a batch is (inputs …, target) or a dict, got a {type(batch).__name__}{of}; "
                    "let the data set return such pairs, or the loader's collate_fn make them")


# cell a547c7d1 d47e3e · A batch
def check_length(phase: str, said: int | None, found: int) -> None:
    """Warn if a loader does not keep to its length. Raises: ValueError if it gave no batch."""
    if found == 0:
        raise ValueError(f"the {phase} loader yielded no batch; is the data set smaller than a "
                         "batch, with drop_last? Is the loader an iterator, used up?")
    if said is not None and found != said:
        warnings.warn(f"the {phase} loader announced {said} batches but yielded {found}; schedules "
                      "rely on the announced number", RuntimeWarning, stacklevel=2)


# cell 748842d5 2a21d7 · In the first batch
_ELEMENTWISE = {"MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "mse_loss", "l1_loss",
                "smooth_l1_loss", "huber_loss"}


def check_loss(learn: Any) -> None:
    """Refuse a loss that is not one number, or that compares what should not be compared."""
    loss, pred, target = learn.loss, learn.pred, learn.target
    name = getattr(learn.loss_func, "__name__", type(learn.loss_func).__name__)
    if not isinstance(loss, Tensor):
        raise TypeError(f"the loss must be a tensor of one number, got {loss!r:.80}; does "
                        "loss_func return a float, or nothing?")
    if loss.numel() != 1:
        raise ValueError(f"the loss must be one number, got a tensor of shape {tuple(loss.shape)}; "
                         "take its mean")
    if loss.is_complex():
        raise TypeError("the loss is complex; take its absolute value or real part")
    if learn.training and not loss.requires_grad:
        if not any(hasattr(c, "do_backward") for c in learn.callbacks):
            raise ValueError("the loss has no gradient: pred was detached, or no parameter that it "
                             "depends on is trained")
    shapes = [tuple(x.shape) if isinstance(x, Tensor) else None for x in (pred, target)]
    if name in _ELEMENTWISE and None not in shapes and shapes[0] != shapes[1]:
        raise ValueError(f"pred has shape {shapes[0]} and target {shapes[1]}, which {name} would "
                         "broadcast, comparing items with other items; make them equal, for "
                         "example with target[:, None]")
    if None not in shapes and shapes[0] == (*shapes[1], 1) and shapes[1] not in ((), (1,)):
        if target.is_floating_point() and name != "BCEWithLogitsLoss":
            warnings.warn(f"pred has shape {shapes[0]} and target {shapes[1]}; if loss or metrics "
                          "subtract them, they compare each item with every other: take "
                          "pred[:, 0], or target[:, None]", UserWarning, stacklevel=2)


# cell 1b7be7c8 8af6f3 · Any other error
def _form(x: Any) -> str:
    """Describe a batch in words: the dtype and shape of each tensor."""
    if isinstance(x, Tensor):
        return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
    if isinstance(x, Mapping):
        return "{" + ", ".join(f"{key}: {_form(part)}" for key, part in x.items()) + "}"
    if isinstance(x, list | tuple):
        return f"[{', '.join(map(_form, x[:8]))}{', …' if len(x) > 8 else ''}]"
    return type(x).__name__


def explain_error(error: Exception, learn: Any) -> None:
    """Add a note to an exception: where in the training, with which batch, and a hint.

    Raises: torch.OutOfMemoryError that says what helps, if memory ran out.
    """
    text = str(error).lower()
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text:
        n = learn.n_items
        raise torch.OutOfMemoryError(
            f"out of memory with batch_size {n}, inputs {_form(learn.inputs)}: try "
            f"batch_size={max(1, n // 2)} with GradientAccumulation(2), which takes the same "
            "steps, MixedPrecision, or a smaller model") from error
    epoch = f" of epoch {learn.epoch + 1}" if learn._events == EVENTS else ""
    place = "training" if learn.training else "validation" if epoch else "prediction"
    error.add_note(f"in {place} batch {learn.batch_index}{epoch}: inputs {_form(learn.inputs)}, "
                   f"target {_form(learn.target)}, pred {_form(learn.pred)}")
    for hint in _hints(learn, text):
        error.add_note(f"hint: {hint}")


def _hints(learn: Any, text: str) -> Iterator[str]:
    """Look for the usual causes of an exception."""
    arguments = ((), learn.inputs) if isinstance(learn.inputs, Mapping) else (learn.inputs, {})
    weights = next(learn.model.parameters(), torch.zeros(()))
    tensors: list[Tensor] = []
    map_tensors(tensors.append, learn.inputs)
    if learn.pred is None and len(learn.inputs):
        try:
            signature(learn.model.forward).bind(*arguments[0], **arguments[1])
        except TypeError as problem:
            target = "name it with Learner(…, target=…)" if isinstance(
                learn.inputs, Mapping) else "it is the last part of a batch"
            yield (f"the model's forward{signature(learn.model.forward)} got "
                   f"{_form(learn.inputs)} ({problem}); if the target is among them: {target}")
        if tensors and tensors[0].device != weights.device:
            yield (f"the batch is on {tensors[0].device}, the model on {weights.device}; add "
                   "callbacks=DeviceCallback()")
        floats = [t for t in tensors if t.is_floating_point()]
        half = weights.dtype in (torch.float16, torch.bfloat16)
        if "dtype" in text and floats and floats[0].dtype != weights.dtype:
            yield (f"the inputs are {floats[0].dtype}, the model's weights {weights.dtype}; "
                   + ("leave the model in float32 and add callbacks=MixedPrecision()" if half else
                      "convert the data set, for example with x.float()"))
        yield from _input_hints(tensors, text)
    if learn.loss is None and isinstance(learn.pred, Tensor) and isinstance(learn.target, Tensor):
        yield from _target_hints(learn.pred, learn.target)
    if learn.loss is None and isinstance(learn.pred, tuple):
        yield (f"the model returned {len(learn.pred)} parts, {_form(learn.pred)}; choose in the "
               "loss: lambda pred, target: loss(pred[0], target)")
    if learn.loss is None and isinstance(learn.target, list | tuple) and learn.target:
        if isinstance(learn.target[0], str):
            yield "labels are strings; number the classes, and let the data set return numbers"
    if learn.pred is None and "nonetype" in text:
        yield "is the `return` of the model's forward missing?"
    if "found double" in text:
        yield "the loss has float64 in it, such as class weights from NumPy; use weight.float()"
    if "'closure'" in text:
        yield "this optimizer evaluates the loss several times a step; add callbacks=ClosureStep()"


def _input_hints(tensors: Sequence[Tensor], text: str) -> Iterator[str]:
    """Look for the usual mistakes in inputs: bytes, indices out of range, axes, a batch of one."""
    whole = [t for t in tensors if not t.is_floating_point() and t.numel()]
    if "index out of range" in text and whole:
        low, high = int(whole[0].min()), int(whole[0].max())
        yield (f"an embedding got indices in {low}..{high}; it needs num_embeddings of at least "
               f"{high + 1}, and no index below 0")
    if any(t.dtype == torch.uint8 for t in whole) and "type" in text:
        yield "the images are bytes; let the data set return x.float() / 255"
    if "more than 1 value per channel" in text:
        yield "batch normalisation cannot train on a batch of one; use drop_last=True"
    if "expected 3d" in text and "4d" in text or "to have" in text and "channels" in text:
        yield (f"images must be (N, channels, height, width), got {tuple(tensors[0].shape)}; "
               "x[:, None] adds a channel, x.movedim(-1, 1) moves it to its place")


def _target_hints(pred: Tensor, target: Tensor) -> Iterator[str]:
    """Look for the usual mistakes in a target: its device, its dtype, labels out of range."""
    if pred.device != target.device:
        yield f"pred is on {pred.device}, target on {target.device}; add callbacks=DeviceCallback()"
    elif pred.ndim == 3 and pred.shape[:2] == target.shape and pred.shape[1] != pred.shape[2]:
        yield ("cross-entropy wants the classes on axis 1: pred.movedim(-1, 1), or sequence_loss, "
               "which takes them last")
    elif target.is_floating_point() and pred.shape == (*target.shape, 1):
        yield "pred has one number an item; make the shapes equal: target[:, None], or pred[:, 0]"
    elif pred.ndim == target.ndim == 2 and target.shape[1] == 1 and target.dtype == torch.int64:
        yield "labels of classes must be (N,), got (N, 1): target[:, 0]"
    elif pred.ndim == target.ndim + 1 and target.dtype != torch.int64:
        yield (f"labels of classes must be int64, got {target.dtype}: target.long(); a target of "
               "numbers needs a loss for numbers, such as nn.MSELoss(), and pred of its shape")
    elif pred.ndim == target.ndim + 1 and pred.ndim > 1 and target.numel():
        low, high, n = int(target.min()), int(target.max()), pred.shape[1]
        if low < 0 or high >= n:
            remedy = f"give it {high + 1} outputs, or number" if high >= n else "number"
            yield (f"labels are in {low}..{high}, but the model has {n} outputs, for labels "
                   f"0..{n - 1}; {remedy} the labels from 0 (-100 is left out)")
    elif pred.shape == target.shape and not target.is_floating_point():
        yield f"a target of pred's shape must be floating-point, got {target.dtype}: target.float()"


# cell 90195b04 a161c2 · An item, or a batch?
def match_batch(inputs: Any, example: Any) -> tuple[Any, bool]:
    """Turn inputs of a model into a batch, and say whether they were a single item.

    Raises: ValueError if they have neither the axes of a batch nor those of an item.
    """
    pairs = inputs.items() if isinstance(inputs, Mapping) else enumerate(inputs)
    made, alone = {}, []
    for key, value in pairs:
        is_array = not isinstance(value, Tensor) and (
            hasattr(value, "__array__") or isinstance(value, int | float | list))
        value = torch.as_tensor(value) if is_array else value
        known = isinstance(example, Mapping) and key in example or (
            isinstance(example, list | tuple) and isinstance(key, int) and key < len(example) - 1)
        like = example[key] if known else None
        if isinstance(value, Tensor) and isinstance(like, Tensor):
            if value.ndim not in (like.ndim, like.ndim - 1):
                item = tuple(like.shape[1:])
                raise ValueError(f"an input has shape {tuple(value.shape)}; a batch has one more "
                                 f"axis than one item, and one item like {item} is known")
            alone.append(value.ndim == like.ndim - 1)
            value = value[None] if alone[-1] else value
            if like.is_floating_point() == value.is_floating_point():
                value = value.to(like.dtype)  # NumPy's numbers are float64
        made[key] = value
    if len(set(alone)) > 1:
        raise ValueError("some inputs are single items and some batches")
    return made if isinstance(inputs, Mapping) else list(made.values()), any(alone)
