"""The checks that every notebook relies on."""

import math
import subprocess
import sys
from collections import namedtuple
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exp.nb00 import (
    first_difference,
    near,
    test,
    test_eq,
    test_near,
    test_near_zero,
    test_raises,
)

ROOT = Path(__file__).parents[1]
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, math.inf, -math.inf, math.nan]
number = st.one_of(st.integers(-(2**60), 2**60), st.floats(), st.sampled_from(SPECIAL))
leaf = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())
shapes = st.lists(st.integers(1, 3), max_size=3)


@st.composite
def tensors(draw):
    """A tensor of a drawn shape and dtype that holds small whole numbers."""
    shape = draw(shapes)
    count = math.prod(shape)
    values = draw(st.lists(st.integers(0, 100), min_size=count, max_size=count))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bfloat16]))
    return torch.tensor(values, dtype=dtype).reshape(shape)


nested = st.recursive(
    st.one_of(leaf, tensors()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    max_leaves=8,
)


def copy(value):
    """A copy that shares no object with the original, tensors turned into arrays where they can."""
    if isinstance(value, dict):
        return {key: copy(item) for key, item in reversed(value.items())}
    if isinstance(value, list | tuple):
        return type(value)(map(copy, value))
    if isinstance(value, torch.Tensor):
        return value.clone() if value.dtype == torch.bfloat16 else value.numpy().copy()
    return value


def changed(value):
    """All values that differ from this one in a single place or shape."""
    if isinstance(value, dict):
        for key in value:
            rest = {k: v for k, v in value.items() if k != key}
            yield rest
            if None not in rest:
                yield rest | {None: value[key]}
            yield from ({**value, key: other} for other in changed(value[key]))
    elif isinstance(value, list | tuple):
        yield [*value] if isinstance(value, tuple) else (*value,)
        yield type(value)([*value, None])
        for place, item in enumerate(value):
            yield from (
                type(value)([*value[:place], other, *value[place + 1 :]]) for other in changed(item)
            )
    elif isinstance(value, torch.Tensor):
        yield value[None]
        for place in range(value.numel()):
            other = value.clone()
            other.view(-1)[place] += 1
            yield other
    else:
        yield object()


# --- test, test_eq -------------------------------------------------------------------------------


def test_none_of_the_helpers_is_collected():
    for helper in (test, test_eq, test_near, test_near_zero, test_raises):
        assert helper.__test__ is False


def test_failure_shows_both_sides():
    with pytest.raises(AssertionError, match=r"(?s)is below does not hold for\n3\n'two'"):
        test(3, "two", lambda a, b: False, "is below")


@given(nested)
def test_eq_accepts_a_copy(value):
    test_eq(value, copy(value))
    test_eq(copy(value), value)


@given(nested)
def test_eq_notices_every_single_change(value):
    for other in changed(value):
        for a, b in ((value, other), (other, value)):
            with pytest.raises(AssertionError, match="not equal: "):
                test_eq(a, b)


@pytest.mark.parametrize("a, b", [
    (torch.ones(3), torch.ones(3, 1)),
    (torch.ones(3), torch.ones(1)),
    (torch.ones(1), 1),
    (torch.ones(3), 1),
    (torch.ones(2), [1.0, 1.0]),
    (torch.zeros(0), torch.zeros(0, 3)),
    (np.array(["a", "b"]), np.array(["a", "c"])),
    (np.array("2024-01-01", "M8[D]"), np.array("2024-01-02", "M8[D]")),
    (torch.tensor([math.nan]), torch.tensor([math.nan])),
    ([math.nan], [math.nan]),
    (float("nan"), float("nan")),
    ("1", 1), (None, False), (None, torch.tensor(0)), ((1,), [1]),
    (2**60, 2**60 + 1), (torch.tensor(2**60), torch.tensor(2**60 + 1)),
])  # fmt: skip
def test_eq_refuses(a, b):
    for left, right in ((a, b), (b, a), ({"x": [a]}, {"x": [b]})):
        with pytest.raises(AssertionError, match="not equal"):
            test_eq(left, right)


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize("a, b", [
    (torch.tensor(3), 3), (np.float32(3), 3), (np.bool_(True), True), (1, 1.0),
    (Fraction(1, 2), 0.5),
    (torch.ones(2, requires_grad=True), np.ones(2)),
    (torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.int64)),
    (torch.tensor([1 + 2j]), torch.tensor([1 + 2j])),
    (torch.zeros(0, 3), np.zeros((0, 3))),
    (np.array(["a", "b"]), np.array(["a", "b"])), (np.str_("a"), "a"),
    (np.array([None, "x"]), np.array([None, "x"])),
    (torch.Size([2, 3]), (2, 3)), (Point(1, 2), (1, 2)), (range(3), range(3)), ({1, 2}, {2, 1}),
    (torch.arange(6).reshape(2, 3).t(), np.arange(6).reshape(2, 3).T),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
])  # fmt: skip
def test_eq_accepts(a, b):
    test_eq(a, b)
    test_eq(b, a)


def test_eq_says_where():
    a = {"layers": [{"weight": torch.zeros(4, 2)}, {"bias": (1, 2)}]}
    b = {"layers": [{"weight": torch.zeros(4, 2)}, {"bias": (1, 2)}]}
    b["layers"][0]["weight"][2, 1] = 0.5
    with pytest.raises(AssertionError) as error:
        test_eq(a, b)
    assert str(error.value) == (
        "not equal: in ['layers'][0]['weight']: 1 of 8 differ, first at [2, 1]: 0.0 against 0.5"
    )


def test_eq_refuses_to_guess():
    frame = pd.DataFrame({"a": [1, 2]})
    for a, b in ((frame, frame.copy()), (frame["a"], frame["a"]), ([frame], [frame])):
        with pytest.raises(TypeError, match="compare their parts"):
            test_eq(a, b)


# --- near, test_near, test_near_zero -------------------------------------------------------------


@given(number, number)
def test_near_agrees_on_numbers_and_tensors(a, b):
    expected = near(a, b)
    assert near(*(torch.tensor(x, dtype=torch.float64) for x in (a, b))) is expected
    assert near(np.float64(a), b) is expected
    assert near([a], [b]) is expected
    assert near(-a, -b) is expected


@given(st.sampled_from(SPECIAL), st.sampled_from(SPECIAL))
def test_near_is_symmetric_where_values_are_special(a, b):
    assert near(a, b) is near(b, a)
    if math.isnan(a) or math.isnan(b):
        assert not near(a, b)
    elif math.isinf(a) or math.isinf(b):
        assert near(a, b) is (a == b)


@given(st.floats(-1e6, 1e6), st.floats(0, 1), st.sampled_from([-1, 1]))
def test_near_keeps_to_its_formula(b, tol, sign):
    allowed, rounding = tol * (1 + abs(b)), 2 * math.ulp(b)
    assert near(b, b, tol)
    if allowed > 1000 * rounding:
        assert near(b + sign * allowed * 0.999, b, tol)
    if allowed > 1e-6:
        assert not near(b + sign * allowed * 1.001, b, tol)


@given(tensors(), tensors())
def test_near_never_stretches(a, b):
    if a.shape != b.shape:
        assert not near(a, b, tol=1e9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int32, torch.bool])
def test_near_takes_every_dtype(dtype):
    ones = torch.ones(2, 3, dtype=dtype)
    test_near(ones, 1)
    test_near(ones, torch.ones(2, 3, dtype=torch.float64))
    assert not near(ones, 0.5)


def test_near_of_half_precision_does_not_overflow():
    big = torch.tensor([60000.0], dtype=torch.float16)
    assert not near(big, -big, tol=1.0 - 1e-3)


def test_near_of_complex_numbers():
    a = torch.tensor([1 + 1j, complex(math.inf, 0)])
    test_near(a, a.clone())
    test_near(torch.tensor([1.0]), 1 + 1e-7j)
    assert not near(a[:1], 1 - 1j)


def test_near_refuses_nothing_to_compare():
    for a, b in ((torch.zeros(0), 0.0), (0.0, torch.zeros(0)), (torch.zeros(3), torch.zeros(0))):
        assert not near(a, b)
    assert near(torch.zeros(0), torch.zeros(0))
    with pytest.raises(AssertionError):
        test_near_zero(torch.zeros(0))


def test_near_compares_texts_exactly():
    assert near({"name": "a", "x": 1.0}, {"name": "a", "x": 1.000001})
    assert not near({"name": "a"}, {"name": "b"})
    assert not near(None, 0.0)


@pytest.mark.parametrize("tol", [-1e-9, math.nan, math.inf])
def test_near_refuses_a_senseless_tolerance(tol):
    with pytest.raises(ValueError, match="tol must be a finite number"):
        near(1.0, 1.0, tol)


def test_near_says_how_far():
    with pytest.raises(AssertionError, match=r"1 of 3 differ, first at \[1\]: 2.0 against 0.0; "
                       r"largest difference 2, tol 1e-05"):  # fmt: skip
        test_near(torch.tensor([0.0, 2.0, 0.0]), torch.zeros(3))
    with pytest.raises(AssertionError, match="largest difference nan"):
        test_near(torch.tensor([0.0, math.nan]), 0.0)


def test_near_zero_is_absolute():
    test_near_zero(torch.full((2, 2), -1e-3, dtype=torch.float64))
    with pytest.raises(AssertionError):
        test_near_zero(1.001e-3)
    with pytest.raises(AssertionError):
        test_near_zero(math.nan, tol=1e9)


def test_first_difference_reports_the_first():
    assert first_difference([1, 2, 3], [1, 5, 6], lambda a, b: "x" * (a != b)) == "in [1]: x"


# --- test_raises ---------------------------------------------------------------------------------


def fail(error):
    raise error


def test_raises_accepts():
    test_raises(lambda: fail(KeyError("who")), KeyError, "who")
    test_raises(lambda: fail(KeyError("who")), LookupError)
    test_raises(lambda: fail(KeyError("who")), (ValueError, KeyError))
    test_raises(lambda: fail(SystemExit(3)), SystemExit)
    test_raises(lambda: fail(AssertionError("no")), AssertionError, "no")


@pytest.mark.parametrize("function, exception, contains, message", [
    (lambda: 1, ValueError, "", "expected ValueError, but nothing was raised"),
    (lambda: 1, AssertionError, "", "expected AssertionError, but nothing was raised"),
    (lambda: fail(KeyError("a")), ValueError, "", "expected ValueError, got KeyError: 'a'"),
    (lambda: fail(KeyError("a")), (ValueError, OSError), "", "expected ValueError or OSError, got"),
    (lambda: fail(ValueError("a")), ValueError, "b", "the message should contain 'b': a"),
])  # fmt: skip
def test_raises_fails(function, exception, contains, message):
    with pytest.raises(AssertionError, match=message):
        test_raises(function, exception, contains)


def test_raises_lets_an_interrupt_through():
    with pytest.raises(KeyboardInterrupt):
        test_raises(lambda: fail(KeyboardInterrupt()))


def test_raises_wants_a_function():
    with pytest.raises(TypeError, match="write `lambda: …`, got int"):
        test_raises(3, ValueError)


# --- the module ----------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["nb00", "nb00i"])
def test_import_loads_nothing_heavy(module):
    code = (
        f"import sys, exp.{module}\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'pandas', 'filelock'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
