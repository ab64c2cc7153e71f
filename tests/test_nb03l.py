"""The state of an optimizer is loaded by name, whatever the order of its parameters."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb00 import test_eq
from exp.nb03 import SGD
from exp.nb03l import check_groups, group_names, load_optimizer_state, match_groups
from exp.nb05c import AdamW

OPTIMIZERS = [
    partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    partial(torch.optim.AdamW, lr=0.1, amsgrad=True),
    partial(SGD, lr=0.1, momentum=0.9),
    partial(AdamW, lr=0.1),
]


def make(opt_func, order, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(4)])
    groups = [{"params": list(model[i].parameters()), "lr": 0.1 * (i + 1)} for i in order]
    return model, opt_func(groups)


def step(model, opt):
    model(torch.randn(5, 3, generator=torch.Generator().manual_seed(1))).square().sum().backward()
    opt.step()
    opt.zero_grad()


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)), st.sampled_from(range(len(OPTIMIZERS))))
def test_any_order(order, kind):
    model, opt = make(OPTIMIZERS[kind], range(4))
    step(model, opt)
    twin, other = make(OPTIMIZERS[kind], order)
    twin.load_state_dict(model.state_dict())
    names = group_names(opt, dict(model.named_parameters()))
    load_optimizer_state(
        other, dict(twin.named_parameters()), opt.state_dict(), names, settings=False
    )
    assert [group["lr"] for group in other.param_groups] == [0.1 * (i + 1) for i in order]
    step(model, opt)
    step(twin, other)
    test_eq(twin.state_dict(), model.state_dict())


def test_settings_come_along_group_by_group():
    model, opt = make(OPTIMIZERS[0], range(4))
    step(model, opt)
    opt.param_groups[2]["lr"] = 7.0
    twin, other = make(OPTIMIZERS[0], range(4))
    named = dict(twin.named_parameters())
    names = group_names(opt, dict(model.named_parameters()))
    check_groups(group_names(other, named), names, named, "x", same_order=True)
    load_optimizer_state(other, named, opt.state_dict(), names)
    test_eq(other.state_dict(), opt.state_dict())


@pytest.mark.parametrize("opt_func", OPTIMIZERS[:2])
def test_groups_come_and_go(opt_func):
    model, opt = make(opt_func, (0, 1, 2))
    named = dict(model.named_parameters())
    step(model, opt)
    names = group_names(opt, named)
    match_groups(opt, names[:1], named)
    assert group_names(opt, named) == names[:1] and len(opt.state) == 2
    opt.state_dict()  # of no parameter that is gone
    match_groups(opt, names, named)
    assert group_names(opt, named) == names
    step(model, opt)


@pytest.mark.parametrize(
    ("here", "there", "same_order", "fits"),
    [
        ([["a"], ["b"]], [["b"], ["a"]], False, True),
        ([["a"], ["b"]], [["b"], ["a"]], True, False),
        ([["a", "b"]], [["a"], ["b"]], False, True),
        ([["a", "b"]], [["a"], ["b"]], True, False),
        ([["a"]], [["a"], ["b"]], True, True),  # added by a callback
        ([["a"], ["b"]], [["a"]], True, True),  # not added yet
        ([["a"]], [["a"], ["c"]], True, False),
        ([["a"]], [["a"], ["b"]], False, False),
        ([["a", "a2"]], [["a"]], False, False),
    ],
)
def test_which_groups_fit(here, there, same_order, fits):
    known = {"a": 0, "b": 0}
    if fits:
        check_groups(here, there, known, "x", same_order)
    else:
        with pytest.raises(ValueError, match="x is of an optimizer with the parameters"):
            check_groups(here, there, known, "x", same_order)


def test_parameters_without_a_name():
    model, opt = make(OPTIMIZERS[0], (0,))
    opt.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    assert group_names(opt, dict(model.named_parameters()))[1] == ["unnamed 0 of group 1"]
