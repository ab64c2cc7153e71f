"""Start here: ten lines that learn, and a page that tests itself

By the end you will have seen ten lines of Python find a rule in five examples, and you will know how each page of this book works: it checks its claims, hands its best cells on to later pages, and runs as its own test.
"""

# generated from nbs/00_exports.ipynb: do not edit · d6ac52
__all__ = [
    "test",
    "first_difference",
    "test_eq",
    "near",
    "test_near",
    "test_near_zero",
    "test_raises",
]
__dir__ = __all__.copy  # what completion offers

# cell a3b04328 5b8142 · Start here: ten lines that learn, and a page that tests itself
import math
from collections.abc import Callable
from functools import partial
from numbers import Number
from typing import Any


# cell aa8004a5 7e3c60 · A check in one line
def test(a: Any, b: Any, compare: Callable[[Any, Any], bool], name: str | None = None) -> None:
    """Check that `compare(a, b)` holds; if it does not, fail and show both.

    Raises: AssertionError with the comparison's name and the two values.
    """
    if not compare(a, b):
        raise AssertionError(f"{name or compare.__name__} does not hold for\n{a!r}\n{b!r}")


test.__test__ = False


# cell d881b706 97e39a · `test_eq`: the same
def first_difference(a: Any, b: Any, leaf: Callable[[Any, Any], str], path: str = "") -> str:
    """Walk through dicts, lists and tuples; return where `a` and `b` first differ, or "".

    `leaf` compares all other values: it returns how the two differ, or "".
    """
    if isinstance(a, dict) and isinstance(b, dict):
        places = list(a)
        odd = ", ".join(sorted(map(repr, a.keys() ^ b.keys())))
        text = odd and f"only one of the two has {odd}"
    elif any(isinstance(a, kind) and isinstance(b, kind) for kind in (list, tuple)):
        places = range(len(a))
        text = f"{len(a)} items against {len(b)}" if len(a) != len(b) else ""
    else:
        places, text = (), leaf(a, b)
    if text:
        return f"in {path}: {text}" if path else text
    found = (first_difference(a[place], b[place], leaf, f"{path}[{place!r}]") for place in places)
    return next(filter(None, found), "")


# cell 7650ee52 07d799 · `test_eq`: the same
def _is_array(x: Any) -> bool:
    """Return whether a value is a tensor or a numpy array, without loading either library."""
    return hasattr(x, "reshape") and hasattr(x, "tolist") and not isinstance(x, str | bytes)


def _shape(x: Any) -> tuple[int, ...] | None:
    """Return the shape of an array, () for a number, and None for anything else."""
    if _is_array(x):
        return tuple(x.shape)
    return () if isinstance(x, Number) else None


def _kind(x: Any) -> str:
    """Return the name of the type, with the shape if there is one."""
    return f"{type(x).__name__} of shape {tuple(x.shape)}" if _is_array(x) else type(x).__name__


def _values(x: Any) -> Any:
    """Return an array's values as a tensor on the CPU, detached from the graph."""
    import torch

    return x.detach().cpu() if isinstance(x, torch.Tensor) else torch.tensor(x)


def _mismatches(wrong: Any, a: Any, b: Any) -> str:
    """Count the elements where `wrong` is true and show the first; "" if there are none."""
    if not wrong.any():
        return ""
    place = tuple(wrong.nonzero()[0].tolist())
    left, right = (x[place].item() if place and _shape(x) else x for x in (a, b))
    where = f", first at {list(place)}" if place else ""
    return f"{int(wrong.sum())} of {wrong.numel()} differ{where}: {left} against {right}"


# cell b2caee02 8c984b · `test_eq`: the same
def _exact(a: Any, b: Any) -> str:
    """Return how two leaves differ under `==`, or "".

    Raises: TypeError if `==` returns neither True nor False.
    """
    if not (_is_array(a) or _is_array(b)):
        same = a == b
        if not isinstance(same, bool):
            raise TypeError(f"== between {_kind(a)} and {_kind(b)} returns a {_kind(same)}, "
                            "not True or False: compare their parts instead")
        return "" if same else f"{a!r} against {b!r}"
    if _shape(a) != _shape(b):
        return f"{_kind(a)} against {_kind(b)}"
    try:
        a, b = (_values(x) if _is_array(x) else x for x in (a, b))
    except TypeError:  # texts, dates, objects: no tensor holds them
        return first_difference(*(x.tolist() if _is_array(x) else x for x in (a, b)), _exact)
    return _mismatches(a != b, a, b)


def test_eq(a: Any, b: Any) -> None:
    """Check that `a` equals `b` item by item and in shape, without broadcasting.

    Takes numbers, strings, tensors, arrays, and dicts, lists and tuples of them, nested at will.
    The dtypes may differ, the values may not. A list is not a tuple, and NaN equals nothing.
    Raises: AssertionError that says where the first difference is.
    """
    if text := first_difference(a, b, _exact):
        raise AssertionError(f"not equal: {text}")


test_eq.__test__ = False


# cell b3f3c8d7 e480d9 · `test_near`: the same, but for rounding
def _float64(x: Any) -> Any:
    """Turn a number or an array into a tensor of double precision."""
    import torch

    if not _is_array(x):
        x = complex(x) if isinstance(x, complex) else float(x)
        return torch.tensor(x, dtype=torch.complex128 if isinstance(x, complex) else torch.float64)
    x = _values(x)
    return x.to(torch.complex128) if x.is_complex() else x.double()


def _near(a: Any, b: Any, tol: float) -> str:
    """Return how two numbers or arrays differ by more than `tol`, others at all, or ""."""
    if _shape(a) is None or _shape(b) is None:
        return _exact(a, b)
    alone = not (_is_array(a) and _is_array(b))  # a number may stand against a whole tensor
    a, b = _float64(a), _float64(b)
    if a.shape != b.shape and not (alone and a.numel() and b.numel()):
        return f"shape {tuple(a.shape)} against {tuple(b.shape)}"
    close = (a == b) | (((a - b).abs() <= tol * (1 + b.abs())) & b.isfinite())
    text = _mismatches(~close, a, b)
    return text and f"{text}; largest difference {(a - b).abs().max().item():.3g}, tol {tol:g}"


# cell 832ac917 5bd366 · `test_near`: the same, but for rounding
def _apart(a: Any, b: Any, tol: float) -> str:
    """Return where `a` and `b` are first further apart than `tol`, or ""."""
    if not 0 <= tol < math.inf:
        raise ValueError(f"tol must be a finite number, 0 or more; got {tol}")
    return first_difference(a, b, partial(_near, tol=tol))


def near(a: Any, b: Any, tol: float = 1e-5) -> bool:
    """Return whether |a - b| <= tol (1 + |b|) for every element.

    Shapes must be equal, unless one of the two is a number. Dicts, lists and tuples are compared
    item by item. NaN is near nothing, an infinity only near itself.
    Raises: ValueError if `tol` is negative or not finite.
    """
    return not _apart(a, b, tol)


def test_near(a: Any, b: Any, tol: float = 1e-5) -> None:
    """Check that `near(a, b, tol)` holds; if not, fail and say where and by how much."""
    if text := _apart(a, b, tol):
        raise AssertionError(f"not near: {text}")


test_near.__test__ = False


def test_near_zero(a: Any, tol: float = 1e-3) -> None:
    """Check that |a| <= tol for every element."""
    test_near(a, 0.0, tol)


test_near_zero.__test__ = False


# cell bef864a6 ed2d55 · `test_raises`: an error that should come
def test_raises(function: Callable[[], Any],
                exception: type[BaseException] | tuple[type[BaseException], ...] = Exception,
                contains: str = "") -> None:
    """Check that calling `function` raises `exception`, with `contains` in its message.

    Raises: AssertionError if nothing was raised, or something else; TypeError if `function`
    is not callable.
    """
    if not callable(function):
        raise TypeError(f"test_raises needs a function: write `lambda: …`, got {_kind(function)}")
    kinds = exception if isinstance(exception, tuple) else (exception,)
    expected = " or ".join(kind.__name__ for kind in kinds)
    try:
        function()
    except kinds as error:
        if contains not in str(error):
            raise AssertionError(f"the message should contain {contains!r}: {error}") from error
        return
    except Exception as error:
        raise AssertionError(f"expected {expected}, got {type(error).__name__}: {error}") from error
    raise AssertionError(f"expected {expected}, but nothing was raised")


test_raises.__test__ = False
