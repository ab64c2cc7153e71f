"""The state of an optimizer, by name

By the end you will be able to hand one optimizer what another has gathered for each parameter, even if the two hold their parameters in different orders.
"""

# cell d59932e0 a6284e · The state of an optimizer, by name
from __future__ import annotations

# generated from nbs/03l_optimizer_state.ipynb: do not edit · e25032
__all__ = [
    "group_names",
    "load_optimizer_state",
    "check_groups",
    "match_groups",
    "SameGroups",
    "takes_one",
]
__dir__ = __all__.copy  # what completion offers

# cell d59932e0 e0955c · The state of an optimizer, by name
from collections.abc import Mapping
from copy import deepcopy
from inspect import signature
from typing import Any

import torch
from torch import Tensor


# cell b1e516fc 927ec8 · Names
def group_names(opt: Any, named: Mapping[str, Tensor]) -> list[list[str]]:
    """Name the parameters of each group of an optimizer."""
    names = {id(p): name for name, p in named.items()}
    return [[names.get(id(p), f"unnamed {i} of group {g}") for i, p in enumerate(group["params"])]
            for g, group in enumerate(opt.param_groups)]


# cell 7b876d0d 33c460 · Names
def load_optimizer_state(opt: Any, named: Mapping[str, Tensor], saved: Mapping[str, Any],
                         names: list[list[str]], settings: bool = True) -> None:
    """Load what an optimizer has kept for each parameter, by the names of the parameters.

    `names` are those of the groups in `saved`. With `settings` rates and the like are loaded too,
    group by group.
    """
    own = opt.state_dict()
    numbers = dict(zip(sum(group_names(opt, named), []), _numbers(own), strict=True))
    theirs = dict(zip(_numbers(saved), sum(names, []), strict=True))
    kept = {numbers[theirs[n]] if n in theirs else n: deepcopy(value)  # `saved` is not shared
            for n, value in saved["state"].items() if n not in theirs or theirs[n] in numbers}
    groups = [{**(group if settings else mine), "params": mine["params"]}
              for group, mine in zip(saved["param_groups"], own["param_groups"], strict=False)]
    groups += own["param_groups"][len(groups):]
    opt.load_state_dict({**saved, "state": kept, "param_groups": groups})


def _numbers(state: Mapping[str, Any]) -> list[int]:
    return [number for group in state["param_groups"] for number in group["params"]]


# cell ebe90c84 061f2b · The same groups
def check_groups(here: list[list[str]], there: list[list[str]], known: Mapping[str, Any],
                 path: Any, same_order: bool) -> None:
    """Refuse a state of other parameters, or of other groups with `same_order`.

    `here` are the names in each group now, `there` those in the state of `path`; `known` are the
    parameters that could be added.
    Raises: ValueError that shows both.
    """
    if same_order:
        both = min(len(here), len(there))
        fit = here[:both] == there[:both] and set(sum(there, [])) <= {*known, *sum(here, [])}
    else:
        fit = sorted(sum(here, [])) == sorted(sum(there, []))
    if not fit:
        raise ValueError(f"{path} is of an optimizer with the parameters {there}, this one has "
                         f"{here}; build it with the same groups in the same order")


def match_groups(opt: Any, names: list[list[str]], named: Mapping[str, Tensor]) -> None:
    """Remove and add groups at the end of an optimizer, until it has those of these names."""
    for group in opt.param_groups[len(names):]:
        for p in group["params"]:
            opt.state.pop(p, None)
    del opt.param_groups[len(names):]
    for group in names[len(opt.param_groups):]:
        opt.add_param_group({"params": [named[name] for name in group]})


# cell 14a5e615 e6c5d4 · Groups that are lent
class SameGroups(torch.optim.Optimizer):
    """Lend the parameter groups of any optimizer to schedulers, which accept PyTorch's own only."""

    _opt_called = True  # or PyTorch warns that it has not stepped yet
    param_groups = property(lambda self: self.opt.param_groups)
    state = property(lambda self: self.opt.state)
    defaults = property(lambda self: getattr(self.opt, "defaults", self.opt.param_groups[0]))

    def __init__(self, opt: Any):
        self.opt = opt

    def step(self, closure: Any = None) -> None:
        """Do nothing: the Learner lets the optimizer step."""


def takes_one(function: Any) -> bool:
    """Return whether a function can be called with one argument."""
    try:
        return callable(function) and bool(signature(function).bind(None))
    except TypeError:
        return False
    except ValueError:  # it does not say
        return True
