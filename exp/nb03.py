"""Minibatch training

In the end you have trained a classifier of digits with parts you built yourself: a loss for classes that no number can break, a model that knows its own parameters, and an optimizer that takes the same steps as PyTorch's.
"""

# cell 01c0e185 a6284e · Imports
from __future__ import annotations

# generated from nbs/03_minibatch_training.ipynb: do not edit · 042247
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

# cell 01c0e185 1d4c67 · Imports
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


# cell 1b591edd 80d34b · From numbers to probabilities
def logsumexp(x: Tensor, dim: int = -1, keepdim: bool = False) -> Tensor:
    """Take the largest number out, sum the exponentials of what remains, take the logarithm.

    Shape: x (…, n, …) -> (…, …), or with a 1 at `dim` if `keepdim`.
    """
    largest = x.detach().amax(dim, keepdim=True)
    largest = torch.where(largest.isfinite(), largest, 0)  # inf - inf would be nan
    total = (x - largest).exp().sum(dim, keepdim=True).log() + largest
    return total if keepdim else total.squeeze(dim)


# cell 7bc3d9bf a3dc6e · From numbers to probabilities
def log_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """Subtract from each logit the log-sum-exp of all: the logarithm of its probability.

    Shape: the same in and out; `dim` is the axis of the classes.
    """
    x = x - x.detach().amax(dim, keepdim=True)  # first, or the digits after the point are lost
    return x - logsumexp(x, dim, keepdim=True)


# cell 9b241017 1c0515 · Negative log likelihood, and cross-entropy
def nll_loss(log_probs: Tensor, target: Tensor, reduction: str = "mean",
             ignore_index: int = -100) -> Tensor:
    """Pick the log-probability of each right class and turn its sign.

    Shape: log_probs (B, C, …), target (B, …) -> (), or (B, …) for reduction "none".
    Raises: ValueError for shapes that do not match, a class outside 0..C-1, another reduction.
    Differs: takes no weights of the classes.
    """
    counted = _check_classes(log_probs, target, ignore_index)
    picked = log_probs.gather(1, target.where(counted, 0).long().unsqueeze(1)).squeeze(1)  # (B, …)
    return _reduce(-picked, counted, reduction)


# cell decd253e d361b4 · Negative log likelihood, and cross-entropy
def cross_entropy(logits: Tensor, target: Tensor, reduction: str = "mean",
                  ignore_index: int = -100, label_smoothing: float = 0.0) -> Tensor:
    """Turn logits into log-probabilities and take the negative log likelihood of the right class.

    Shape: logits (B, C, …), target (B, …) -> (), or (B, …) for reduction "none".
    Units: nats.
    Raises: ValueError as `nll_loss`, and for a smoothing outside 0..1.
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


# cell 217d96bd 3d0891 · Negative log likelihood, and cross-entropy
def _check_classes(scores: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Refuse targets that fit no row of scores; tell which ones count."""
    if scores.ndim < 2 or scores.shape[:1] + scores.shape[2:] != target.shape:
        raise ValueError(f"scores (B, C, …) need a target (B, …), got {tuple(scores.shape)} and "
                         f"{tuple(target.shape)}")
    if target.is_floating_point():
        raise ValueError(f"target holds class numbers, so it needs an integer dtype, "
                         f"got {target.dtype}")
    counted = target != ignore_index
    wrong = counted & ((target < 0) | (target >= scores.shape[1]))
    if wrong.any():
        raise ValueError(f"a class must lie in 0..{scores.shape[1] - 1} or be ignore_index "
                         f"({ignore_index}), got {target[wrong][0].item()}")
    return counted


# cell 40814b3d e19dd7 · Negative log likelihood, and cross-entropy
def _reduce(losses: Tensor, counted: Tensor, reduction: str) -> Tensor:
    """Sum or average the losses that count, or leave each as it is and the others 0."""
    losses = torch.where(counted, losses, 0)
    if reduction == "none":
        return losses
    if reduction in ("sum", "mean"):
        return losses.sum() / (counted.sum() if reduction == "mean" else 1)
    raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


# cell 111a5d5e 495143 · Models that know their parameters
class Parameter(Tensor):
    """A tensor that training changes, told apart from all others by its class.

    Shape: that of the data, whose memory it shares.
    Differs: computing with it is slower than with torch's, whose rule below is written in C.
    """

    def __new__(cls, data: Tensor, requires_grad: bool = True) -> Parameter:
        return torch.Tensor._make_subclass(cls, data.detach(), requires_grad)

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: Any = (),
                           kwargs: Any = None) -> Any:
        """Compute as with a plain tensor: what comes out is one."""
        return Tensor.__torch_function__(function, (), args, kwargs)

    def __deepcopy__(self, memo: dict) -> Parameter:
        return memo.setdefault(id(self), type(self)(self.detach().clone(), self.requires_grad))


# cell f75100bb 828a96 · Models that know their parameters
class Container:
    """Write down each parameter and each part on assignment; name, save and load all of them.

    Raises: TypeError for a leaf with gradients, or a part, that is neither Parameter nor Container.
    Differs: torch.nn.Module also keeps buffers, hooks, a training mode, and moves between devices.
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
        """Go through all parameters once, by the first of their names."""
        first = {p: name for name, p in reversed([*_walk(self)])}
        return ((name, p) for name, p in _walk(self) if first[p] == name)

    def parameters(self) -> Iterator[Parameter]:
        return (p for _, p in self.named_parameters())

    def state_dict(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in _walk(self)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy saved values into the parameters of the same names: all, or none if names differ."""
        for own, saved in _matched(self.state_dict(), state):
            own.copy_(saved)


# cell 733ee8e3 24355f · Models that know their parameters
def _walk(model: Container, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
    """Name each parameter by the way to it: one's own first, then those of the parts."""
    registered = vars(model).get("_registered", {}).items()
    yield from ((prefix + name, p) for name, p in registered if isinstance(p, Parameter))
    for name, part in registered:
        if isinstance(part, Container):
            yield from _walk(part, f"{prefix}{name}.")


# cell 59374363 6f2d83 · Models that know their parameters
def _refuse_unseen(name: str, value: Any) -> None:
    """Refuse what wants training or saving, but would be written down nowhere."""
    leaf = isinstance(value, Tensor) and value.requires_grad and value.is_leaf
    if leaf or (hasattr(value, "state_dict") and value.state_dict()):
        raise TypeError(f"{name!r} is a {type(value).__name__}, which a Container does not see: "
                        "give it Parameters and Containers, or build all of it from torch.nn")


# cell 8baaf896 75a21b · Models that know their parameters
def _matched(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pair the tensors of one name; refuse if names or shapes differ."""
    wrong = sorted(n for n in own.keys() | saved.keys()
                   if n not in own or n not in saved or own[n].shape != saved[n].shape)
    if wrong:
        raise ValueError(f"names or shapes differ from the saved ones: {wrong}")
    return [(tensor, saved[name]) for name, tensor in own.items()]


# cell 81d83d44 60f4c6 · Models that know their parameters
class Sequential(Container):
    """Apply layers (or functions) one after the other: each gets what the one before returns.

    Raises: TypeError if a layer cannot be called.
    """

    def __init__(self, *layers: Callable[[Any], Any]):
        for i, layer in enumerate(layers):
            if not callable(layer):
                raise TypeError(f"a layer can be called, got {type(layer).__name__} in place {i}")
            setattr(self, str(i), layer)
        self.n_layers = len(layers)

    def forward(self, x: Any) -> Any:
        for layer in self:
            x = layer(x)
        return x

    def __len__(self) -> int:
        return self.n_layers

    def __getitem__(self, index: int | slice) -> Any:
        """Give one layer, or the model of a slice of them, with the same parameters."""
        if isinstance(index, slice):
            return Sequential(*(self[i] for i in range(*index.indices(len(self)))))
        return getattr(self, str(range(len(self))[index]))


# cell 3a3ce2a0 ad1ce0 · Optimizers
class Optimizer:
    """Visit every parameter that has a gradient and change it by the settings of its group.

    A subclass writes `update`, and `check`. `params` are tensors, or groups: dicts of "params", any
    of the settings, and a "name" if you like.
    Raises: TypeError or ValueError for parameters, groups or settings that make no sense.
    Differs: an unknown setting is an error; `step` takes no closure.
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict], defaults: dict[str, Any]):
        self.defaults, self.param_groups, self.state = defaults, [], defaultdict(dict)
        for group in _as_groups(params):
            self.add_param_group(group)

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Take in more parameters, with settings of their own where the group has any."""
        self.param_groups.append(_checked_group(self, group))

    def check(self, group: dict[str, Any]) -> None: ...  # or ValueError for senseless settings

    def update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Change one parameter in place; keep in `state` what the next step needs."""
        raise NotImplementedError(f"{type(self).__name__} needs a method update")

    @torch.no_grad()
    def step(self) -> None:
        for p, group in _with_gradient(self):
            self.update(p, p.grad, self.state[p], group)

    def zero_grad(self) -> None:
        """Forget the gradients, so that the next backward does not add to them."""
        for p, _ in _with_gradient(self):
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        return _optimizer_state(self)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        _load_optimizer_state(self, saved)


# cell f471253e 92f260 · Optimizers
def _as_groups(params: Iterable[Tensor] | Iterable[dict]) -> list[dict[str, Any]]:
    """Put single parameters into one group; leave groups as they are."""
    groups = [params] if isinstance(params, Tensor) else list(params)
    if not groups:
        raise ValueError("there are no parameters; was a generator of them used up before?")
    return groups if isinstance(groups[0], dict) else [{"params": groups}]


def _all_params(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _with_gradient(optimizer: Optimizer) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Go through the parameters that have a gradient, each with its group."""
    for group in optimizer.param_groups:
        yield from ((p, group) for p in group["params"] if p.grad is not None)


# cell d4c424c5 bf177a · Optimizers
def _checked_group(optimizer: Optimizer, group: dict[str, Any]) -> dict[str, Any]:
    """Complete a group with the defaults, and refuse what would only go wrong later."""
    if not isinstance(group, dict) or "params" not in group:
        raise TypeError(f"a parameter group is a dict with 'params', got {group!r:.80}")
    params = group["params"]
    params = [params] if isinstance(params, Tensor) else list(params)
    known = {*optimizer.defaults, "params", "name"}
    if unknown := group.keys() - known:
        raise ValueError(f"unknown settings {sorted(unknown)}; the known ones are {sorted(known)}")
    for p in params:
        if not isinstance(p, Tensor) or not p.is_leaf:
            raise TypeError(f"an optimizer changes leaf tensors, got "
                            f"{'a computed tensor' if isinstance(p, Tensor) else type(p).__name__}")
    everything = [*_all_params(optimizer), *params]
    if len({id(p) for p in everything}) < len(everything):
        raise ValueError("a parameter was given twice; it would be stepped twice")
    group = {**optimizer.defaults, **group, "params": params}
    optimizer.check(group)
    return group


# cell 983e505c 0179bc · Optimizers
def _optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """Number the parameters through all groups, and write the state under these numbers."""
    number = {id(p): i for i, p in enumerate(_all_params(optimizer))}
    groups = [{**group, "params": [number[id(p)] for p in group["params"]]}
              for group in optimizer.param_groups]
    state = {number[id(p)]: dict(kept) for p, kept in optimizer.state.items() if kept}
    return {"state": state, "param_groups": groups}


# cell f4d2fd4a 68a8d2 · Optimizers
def _load_optimizer_state(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Put saved settings and copies of the saved state where the numbers say."""
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    if sizes != (theirs := [len(group["params"]) for group in saved["param_groups"]]):
        raise ValueError(f"this optimizer has groups of {sizes} parameters, the saved one {theirs}")
    optimizer.state.clear()
    for group, old in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        group.update({key: value for key, value in old.items() if key != "params"})
        for p, number in zip(group["params"], old["params"], strict=True):
            for key, value in saved["state"].get(number, {}).items():
                if isinstance(value, Tensor):  # what is as large as the parameter is of its type
                    value = value.to(p if value.shape == p.shape else p.device, copy=True)
                optimizer.state[p][key] = value


# cell 72dd1e66 aaf219 · Optimizers
class SGD(Optimizer):
    """Step against the gradient, or against a velocity that gathers the gradients.

    Source: Polyak 1964; Sutskever and others 2013, equations 1 to 4.
    Differs: the paper multiplies the gradient by lr when it enters the velocity; here, as in
        PyTorch, lr multiplies the velocity, so that changing lr acts at once.
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
