"""Minibatch training

By the end you will have trained a reader of handwritten digits in ten lines, and rebuilt the parts that every training is made of: a gradient step, momentum, a loss for classes, a model that knows its parameters, and an optimizer that takes the same steps as PyTorch's.
"""

# cell 01c0e185 a6284e · Minibatch training
from __future__ import annotations

# generated from nbs/03_minibatch_training.ipynb: do not edit · a2aeaf
__all__ = [
    "logsumexp",
    "log_softmax",
    "nll_loss",
    "cross_entropy",
    "Parameter",
    "Container",
    "Sequential",
    "Optimizer",
    "SGD",
]
__dir__ = __all__.copy  # what completion offers

# cell 01c0e185 1d4c67 · Minibatch training
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


# cell 1b591edd 7c7851 · The numbers that break it
def logsumexp(x: Tensor, dim: int = -1, keepdim: bool = False) -> Tensor:
    """Factor out the largest exponential, sum what remains, and take the logarithm.

    Shape: x (…, n, …) -> (…, …), or with a 1 at `dim` if `keepdim`.
    """
    largest = x.detach().amax(dim, keepdim=True)
    largest = torch.where(largest.isfinite(), largest, 0)  # inf - inf would be nan
    total = (x - largest).exp().sum(dim, keepdim=True).log() + largest
    return total if keepdim else total.squeeze(dim)


# cell 7bc3d9bf e3403d · The numbers that break it
def log_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """Subtract the log-sum-exp of all logits from each: the logarithm of its probability.

    Shape: the same in and out; `dim` is the axis of the classes.
    """
    x = x - x.detach().amax(dim, keepdim=True)  # first, or digits are lost
    return x - logsumexp(x, dim, keepdim=True)


# cell 9b241017 a49840 · Cross-entropy
def nll_loss(log_probs: Tensor, target: Tensor, reduction: str = "mean",
             ignore_index: int = -100) -> Tensor:
    """Pick the log-probability of each right class and negate it.

    Shape: log_probs (B, C, …), target (B, …) -> (), or (B, …) for reduction "none".
    Raises: ValueError for shapes that do not match, a class outside 0..C-1, or an unsupported
        reduction.
    Differs: takes no class weights.
    """
    counted = _check_classes(log_probs, target, ignore_index)
    picked = log_probs.gather(1, target.where(counted, 0).long().unsqueeze(1)).squeeze(1)  # (B, …)
    return _reduce(-picked, counted, reduction)


# cell decd253e 5820fd · Cross-entropy
def cross_entropy(logits: Tensor, target: Tensor, reduction: str = "mean",
                  ignore_index: int = -100, label_smoothing: float = 0.0) -> Tensor:
    """Turn logits into log-probabilities and take the negative log likelihood of the right class.

    Shape: logits (B, C, …), target (B, …) -> (), or (B, …) for reduction "none".
    Units: nats.
    Raises: ValueError as `nll_loss` does, and for a label_smoothing outside 0..1.
    Source: label smoothing from Szegedy and others 2016, section 7.
    Differs: takes class numbers only, where PyTorch also takes probabilities and class weights.
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in 0..1, got {label_smoothing}")
    counted = _check_classes(logits, target, ignore_index)
    log_probs = log_softmax(logits, 1)
    losses = nll_loss(log_probs, target, "none", ignore_index)
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * log_probs.mean(1)
    return _reduce(losses, counted, reduction)


# cell 217d96bd ce21af · Cross-entropy
def _check_classes(scores: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Refuse targets that do not match the scores; return which ones count."""
    if scores.ndim < 2 or scores.shape[:1] + scores.shape[2:] != target.shape:
        raise ValueError(f"scores (B, C, …) need a target (B, …), got {tuple(scores.shape)} and "
                         f"{tuple(target.shape)}")
    if target.is_floating_point():
        raise ValueError("target must hold class numbers of an integer dtype, got "
                         f"{target.dtype}")
    counted = target != ignore_index
    wrong = counted & ((target < 0) | (target >= scores.shape[1]))
    if wrong.any():
        raise ValueError(f"a class must lie in 0..{scores.shape[1] - 1} or be ignore_index "
                         f"({ignore_index}), got {target[wrong][0].item()}")
    return counted


# cell 40814b3d 0ca014 · Cross-entropy
def _reduce(losses: Tensor, counted: Tensor, reduction: str) -> Tensor:
    """Sum or average the losses that count, or return each, with 0 for those that do not."""
    losses = torch.where(counted, losses, 0)
    if reduction == "none":
        return losses
    if reduction in ("sum", "mean"):
        return losses.sum() / (counted.sum() if reduction == "mean" else 1)
    raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


# cell 111a5d5e 49f194 · Models that know their parameters
class Parameter(Tensor):
    """A tensor that training changes, distinguished from all others by its class.

    Shape: that of the data, whose memory it shares.
    Differs: slower to compute with than torch's, which does in C what `__torch_function__` does.
    """

    def __new__(cls, data: Tensor, requires_grad: bool = True) -> Parameter:
        return torch.Tensor._make_subclass(cls, data.detach(), requires_grad)

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        """Compute as with a plain tensor, and return a plain tensor."""
        return Tensor.__torch_function__(function, (), args, kwargs)

    def __deepcopy__(self, memo: dict) -> Parameter:
        return memo.setdefault(id(self), type(self)(self.detach().clone(), self.requires_grad))


# cell f75100bb 4f60c5 · What the library's model adds
class Container:
    """Register each parameter and each part when it is assigned; name, save and load them all.

    Raises: TypeError for a leaf that requires gradients, or for a part with a state, if it is
        neither a Parameter nor a Container.
    Differs: torch.nn.Module also has buffers, hooks and a training mode, and moves between devices.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        registered = vars(self).setdefault("_registered", {})
        if isinstance(value, Parameter | Container):
            registered[name] = value
        else:
            _refuse_unseen(name, value)
            registered.pop(name, None)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self._registered.pop(name, None)

    def __call__(self, *inputs: Any) -> Any:
        return self.forward(*inputs)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield each parameter once, under the first of its names."""
        first = {p: name for name, p in reversed([*_walk(self)])}
        return ((name, p) for name, p in _walk(self) if first[p] == name)

    def parameters(self) -> Iterator[Parameter]:
        return (p for _, p in self.named_parameters())

    def state_dict(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in _walk(self)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy saved values into the parameters of the same names: all, or none on a mismatch."""
        for own, saved in _matched(self.state_dict(), state):
            own.copy_(saved)


# cell 733ee8e3 af9527 · What the library's model adds
def _walk(model: Container, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
    """Name each parameter by the path to it: the model's own first, then those of its parts."""
    registered = vars(model).get("_registered", {}).items()
    yield from ((prefix + name, p) for name, p in registered if isinstance(p, Parameter))
    for name, part in registered:
        if isinstance(part, Container):
            yield from _walk(part, f"{prefix}{name}.")


# cell 59374363 809f71 · What the library's model adds
def _refuse_unseen(name: str, value: Any) -> None:
    """Refuse a value that must be trained or saved, but could not be registered."""
    leaf = isinstance(value, Tensor) and value.requires_grad and value.is_leaf
    if leaf or (hasattr(value, "state_dict") and value.state_dict()):
        raise TypeError(f"{name!r} is a {type(value).__name__}, which a Container cannot register: "
                        "use Parameters and Containers, or build the whole model from torch.nn")


# cell 8baaf896 56b86a · What the library's model adds
def _matched(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pair the tensors of the same name; refuse if names or shapes differ."""
    wrong = sorted(n for n in own.keys() | saved.keys()
                   if n not in own or n not in saved or own[n].shape != saved[n].shape)
    if wrong:
        raise ValueError(f"names or shapes differ from the saved ones: {wrong}")
    return [(tensor, saved[name]) for name, tensor in own.items()]


# cell 81d83d44 90ca77 · What the library's model adds
class Sequential(Container):
    """Apply layers (or functions) one after the other, each to the output of the one before.

    Raises: TypeError if a layer is not callable.
    """

    def __init__(self, *layers: Callable[[Any], Any]):
        for i, layer in enumerate(layers):
            if not callable(layer):
                raise TypeError(f"a layer must be callable, got a {type(layer).__name__} in place "
                                f"{i}")
            setattr(self, str(i), layer)
        self.n_layers = len(layers)

    def forward(self, x: Any) -> Any:
        for layer in self:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return self.n_layers

    def __getitem__(self, index: int | slice) -> Any:
        """Return one layer, or a model of a slice of the layers, with the same parameters."""
        if isinstance(index, slice):
            return Sequential(*(self[i] for i in range(*index.indices(len(self)))))
        return getattr(self, str(range(len(self))[index]))


# cell 3a3ce2a0 753d89 · What the library's optimizer adds
class Optimizer:
    """Visit every parameter that has a gradient, and change it with the settings of its group.

    A subclass defines `update` and, if its settings have limits, `check`. `params` are tensors, or
    groups: dicts with "params", any of the settings, and optionally a "name".
    Raises: TypeError or ValueError for invalid parameters, groups or settings.
    Differs: an unknown setting is an error; `step` takes no closure.
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict], defaults: dict[str, Any]):
        self.defaults, self.param_groups, self.state = defaults, [], defaultdict(dict)
        for group in _as_groups(params):
            self.add_param_group(group)

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Add more parameters, with the group's settings, or the defaults where it has none."""
        self.param_groups.append(_checked_group(self, group))

    def check(self, group: dict[str, Any]) -> None: ...  # raises ValueError for invalid settings

    def update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Change one parameter in place; keep in `state` what the next step needs."""
        raise NotImplementedError(f"{type(self).__name__} must define a method update")

    @torch.no_grad()
    def step(self) -> None:
        for p, group in _with_gradient(self):
            self.update(p, p.grad, self.state[p], group)

    def zero_grad(self) -> None:
        """Clear the gradients, so that the next backward does not add to them."""
        for p, _ in _with_gradient(self):
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        return _optimizer_state(self)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        _load_optimizer_state(self, saved)


# cell f471253e 12de6d · What the library's optimizer adds
def _as_groups(params: Iterable[Tensor] | Iterable[dict]) -> list[dict[str, Any]]:
    """Put single parameters into one group; leave groups as they are."""
    groups = [params] if isinstance(params, Tensor) else list(params)
    if not groups:
        raise ValueError("got no parameters; has a generator of them already been used up?")
    return groups if isinstance(groups[0], dict) else [{"params": groups}]


def _all_params(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _with_gradient(optimizer: Optimizer) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Yield the parameters that have a gradient, each with its group."""
    for group in optimizer.param_groups:
        yield from ((p, group) for p in group["params"] if p.grad is not None)


# cell d4c424c5 26ab48 · What the library's optimizer adds
def _checked_group(optimizer: Optimizer, group: dict[str, Any]) -> dict[str, Any]:
    """Complete a group with the defaults, and refuse mistakes that would only show later."""
    if not isinstance(group, dict) or "params" not in group:
        raise TypeError(f"a parameter group must be a dict with 'params', got {group!r:.80}")
    params = group["params"]
    params = [params] if isinstance(params, Tensor) else list(params)
    known = {*optimizer.defaults, "params", "name"}
    if unknown := group.keys() - known:
        raise ValueError(f"unknown settings {sorted(unknown)}; the known ones are {sorted(known)}")
    for p in params:
        if not isinstance(p, Tensor) or not p.is_leaf:
            raise TypeError(f"an optimizer needs leaf tensors, got "
                            f"{'a computed tensor' if isinstance(p, Tensor) else type(p).__name__}")
    everything = [*_all_params(optimizer), *params]
    if len({id(p) for p in everything}) < len(everything):
        raise ValueError("a parameter was given twice; it would be updated twice in each step")
    group = {**optimizer.defaults, **group, "params": params}
    optimizer.check(group)
    return group


# cell 983e505c e3195f · What the library's optimizer adds
def _optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """Number the parameters across all groups, and return the state under these numbers."""
    number = {id(p): i for i, p in enumerate(_all_params(optimizer))}
    groups = [{**group, "params": [number[id(p)] for p in group["params"]]}
              for group in optimizer.param_groups]
    state = {number[id(p)]: dict(kept) for p, kept in optimizer.state.items() if kept}
    return {"state": state, "param_groups": groups}


def _load_optimizer_state(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load saved settings, and copies of the saved state by the numbers of the parameters."""
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    if sizes != (theirs := [len(group["params"]) for group in saved["param_groups"]]):
        raise ValueError(f"this optimizer has groups of {sizes} parameters, the saved one had "
                         f"groups of {theirs}")
    optimizer.state.clear()
    for group, old in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        group.update({key: value for key, value in old.items() if key != "params"})
        for p, number in zip(group["params"], old["params"], strict=True):
            for key, value in saved["state"].get(number, {}).items():
                if isinstance(value, Tensor):  # same shape as the parameter: same dtype
                    value = value.to(p if value.shape == p.shape else p.device, copy=True)
                optimizer.state[p][key] = value


# cell 72dd1e66 59647d · What the library's optimizer adds
class SGD(Optimizer):
    """Step against the gradient, or against a velocity that accumulates the gradients.

    Source: Polyak 1964; Sutskever and others 2013, equations 1 to 4.
    Differs: the paper multiplies the gradient by lr when it enters the velocity; here, as in
        PyTorch, lr multiplies the velocity, so that a change of lr takes effect at once.
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict], lr: float = 1e-3,
                 momentum: float = 0.0, dampening: float = 0.0, weight_decay: float = 0.0,
                 nesterov: bool = False):
        super().__init__(params, dict(lr=lr, momentum=momentum, dampening=dampening,
                                      weight_decay=weight_decay, nesterov=nesterov))

    def check(self, group: dict[str, Any]) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            if not group[name] >= 0:
                raise ValueError(f"{name} must be 0 or more, got {group[name]}")
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError("nesterov needs momentum above 0 and dampening 0, got "
                             f"{group['momentum']} and {group['dampening']}")

    def update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        momentum = group["momentum"]
        if group["weight_decay"]:
            grad = grad + group["weight_decay"] * p
        if momentum:
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = grad.clone()
            else:
                state["momentum_buffer"].mul_(momentum).add_(grad, alpha=1 - group["dampening"])
            velocity = state["momentum_buffer"]
            grad = grad + momentum * velocity if group["nesterov"] else velocity
        p.sub_(grad, alpha=group["lr"])
