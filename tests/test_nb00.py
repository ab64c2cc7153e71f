"""The checks, the stopwatch and the record of results that every notebook relies on."""

import gc
import json
import math
import os
import pickle
import subprocess
import sys
import time
from collections import namedtuple
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exp import nb00
from exp.nb00 import (
    Timing,
    first_difference,
    near,
    record_experiment,
    record_result,
    recorded_experiment,
    test,
    test_eq,
    test_near,
    test_near_zero,
    test_raises,
    timed,
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
    allowed = tol * (1 + abs(b))
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


# --- timed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", [1e-8, 3e-7, 2e-5, 9e-4, 1e-3, 0.5])
def test_a_sample_lasts_a_millisecond(monkeypatch, cost):
    now = [0.0]
    calls = []

    def work():
        calls.append(1)
        now[0] += cost

    monkeypatch.setattr(nb00.time, "perf_counter", lambda: now[0])
    timing = timed(work, repeat=3)
    assert timing.number * cost >= 1e-3 * (1 - 1e-6)
    assert timing.number == 1 or timing.number * cost < 2e-3
    assert timing.median == pytest.approx(cost, rel=1e-3)
    assert len(timing.samples) == 3


def test_counts_of_calls():
    calls = []
    timing = timed(lambda: calls.append(1), repeat=4, number=6, warmup=0)
    assert len(calls) == 24 and timing.number == 6 and len(timing.samples) == 4
    timed(lambda: calls.append(1), repeat=1, number=1, warmup=5)
    assert len(calls) == 30


def test_a_coarse_clock_does_not_start_a_million_calls(monkeypatch):
    calls = []
    monkeypatch.setattr(nb00.time, "perf_counter", lambda: len(calls) // 64 * 0.016)
    assert timed(lambda: calls.append(1), repeat=2, warmup=0).number == 100


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_collector_is_as_before(collecting):
    (gc.enable if collecting else gc.disable)()
    try:
        seen = []
        timed(lambda: seen.append(gc.isenabled()), repeat=2, number=1)
        with pytest.raises(ZeroDivisionError):
            timed(lambda: 1 / 0)
        assert gc.isenabled() is collecting and not any(seen)
    finally:
        gc.enable()


def test_timing_prints_itself_and_pickles():
    timing = Timing((2e-3, 1e-3, 4e-3), number=5, threads=2, machine="M")
    assert str(timing) == "2 ms (1 ms to 4 ms; median of 3, 2 threads, M)"
    assert pickle.loads(pickle.dumps(timing)) == timing
    assert (timing.low, timing.median, timing.high) == (1e-3, 2e-3, 4e-3)


def test_threads_are_those_of_torch():
    assert timed(time.perf_counter, repeat=1, number=1).threads == torch.get_num_threads()


@pytest.mark.parametrize("arguments, message", [
    ({"repeat": 0}, "repeat must be 1 or more, got 0"),
    ({"number": 0}, "number must be 1 or more"),
    ({"warmup": -1}, "warmup must be 0 or more"),
])  # fmt: skip
def test_timed_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        timed(time.perf_counter, **arguments)
    with pytest.raises(TypeError, match="lambda"):
        timed(3.0)


def test_the_clock_waits_for_a_gpu_in_use(monkeypatch):
    events = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: events.append("wait"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(nb00.time, "perf_counter", lambda: float(events.append("clock") or 0))
    timing = timed(lambda: events.append("call"), repeat=1, number=2, warmup=0)
    assert events[-6:] == ["wait", "clock", "call", "call", "wait", "clock"]
    assert timing.machine.endswith(", a GPU")


@pytest.mark.cuda
def test_timed_waits_for_the_gpu():
    x = torch.ones(4096, 4096, device="cuda")
    timing = timed(lambda: [x @ x for _ in range(20)], repeat=3, number=1)
    assert torch.cuda.get_device_name() in timing.machine
    flops = 20 * 2 * 4096**3 / timing.median
    assert flops < 2e15  # queueing alone would seem to be faster than any GPU is


# --- record_result -------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a settings.ini, the working directory being its notebooks' folder."""
    (tmp_path / "settings.ini").write_text("[DEFAULT]\n")
    (tmp_path / "nbs" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "nbs" / "deep")
    for key in ("EXP_NOTEBOOK", "EXP_DATA", "EXP_DEVICE"):
        monkeypatch.delenv(key, raising=False)
    return tmp_path


def results(project):
    return json.loads((project / "build" / "results.json").read_text("utf-8"))


def test_result_is_kept_with_its_circumstances(project, monkeypatch, capsys):
    monkeypatch.setenv("EXP_NOTEBOOK", "04_callbacks")
    monkeypatch.setenv("EXP_DATA", "full")
    monkeypatch.setenv("EXP_DEVICE", "cuda")
    record_result("accuracy", torch.tensor(0.5), ">= 0.25", source="a paper", unit="%")
    assert results(project) == {"04_callbacks | accuracy | full | cuda": {
        "notebook": "04_callbacks", "name": "accuracy", "value": 0.5, "unit": "%",
        "target": ">= 0.25", "met": True, "mode": "full", "device": "cuda", "source": "a paper",
    }}  # fmt: skip
    assert capsys.readouterr().out == "accuracy: 0.5 % (target >= 0.25: met)\n"


def test_defaults_and_merging(project, monkeypatch):
    monkeypatch.setenv("EXP_DATA", "")  # set but empty: as if it were not
    record_result("a", 1)
    record_result("b", 2)
    record_result("a", 3)
    monkeypatch.setenv("EXP_DEVICE", "cuda")
    record_result("a", 4)
    assert {key: entry["value"] for key, entry in results(project).items()} == {
        "interactive | a | sample | cpu": 3,
        "interactive | a | sample | cuda": 4,
        "interactive | b | sample | cpu": 2,
    }
    assert results(project)["interactive | a | sample | cpu"]["met"] is None


def test_build_is_here_without_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record_result("a", 1)
    assert results(tmp_path)


def test_missed_target_is_kept_and_fails(project, capsys):
    record_result("accuracy", 0.9, ">= 0.8")
    with pytest.raises(AssertionError, match=r"accuracy: 0.7 \(target >= 0.8: MISSED\)"):
        record_result("accuracy", 0.7, ">= 0.8")
    assert [(e["value"], e["met"]) for e in results(project).values()] == [(0.7, False)]
    record_result("seconds", 3, "< 3", unit="s", strict=False)
    assert capsys.readouterr().out.endswith("seconds: 3 s (target < 3: MISSED)\n")


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(finite, finite, st.sampled_from([">=", "<=", ">", "<", "=="]))
def test_targets_mean_what_python_means(value, bound, sign):
    expected = eval(f"{value!r} {sign} {bound!r}")
    assert nb00._parse_target(f"{sign}{bound!r}")(value) is expected


@pytest.mark.parametrize("target", [
    "", "0.9", ">=", "=> 0.9", "> = 0.9", ">= nan", ">= inf", ">= 1e999", ">= 0,9", "~ 0.9",
    ">= 0.9 s", ">> 0.9", "!= 0.9",
])  # fmt: skip
def test_target_that_cannot_be_read(project, target):
    with pytest.raises(ValueError, match="a target must be a sign and a number"):
        record_result("accuracy", 1.0, target)
    assert not (project / "build").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.tensor(-math.inf)])
def test_result_must_be_finite(project, value):
    with pytest.raises(ValueError, match="finite number"):
        record_result("loss", value, strict=False)
    assert not (project / "build").exists()


def test_damaged_file_is_named(project):
    record_result("a", 1)
    path = project / "build" / "results.json"
    path.write_text('{"a": ')
    with pytest.raises(ValueError, match=r"results.json: .*; delete it and run again"):
        record_result("a", 1)
    assert path.read_text() == '{"a": '


def test_failed_write_leaves_the_old_file(project, monkeypatch):
    record_result("a", 1)
    before = results(project)
    for step in ("write_text", "replace"):
        target = Path if step == "write_text" else os
        with monkeypatch.context() as patch:
            patch.setattr(target, step, lambda *args, **kwargs: fail(OSError("disk full")))
            with pytest.raises(OSError, match="disk full"):
                record_result("a", 2)
        assert results(project) == before
    record_result("a", 3)
    assert [entry["value"] for entry in results(project).values()] == [3]


def record_many(start):
    for number in range(start, start + 20):
        record_result(f"figure {number}", number)


def test_several_processes_lose_nothing(project):
    context = get_context("spawn")
    workers = [context.Process(target=record_many, args=(20 * place,)) for place in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 3
    assert sorted(entry["value"] for entry in results(project).values()) == list(range(60))
    assert not list((project / "build").glob("*.new"))


# --- experiments that are kept -------------------------------------------------------------------


@pytest.mark.parametrize("kept", [False, True])
def test_an_experiment_is_kept_beside_the_notebooks_only_when_asked(project, monkeypatch, kept):
    monkeypatch.setenv("EXP_RECORD", "1" if kept else "")
    monkeypatch.setenv("EXP_DATA", "full")
    monkeypatch.setenv("EXP_NOTEBOOK", "08_vision")
    record_experiment("ants-and-bees", {"accuracy": [0.94, 0.95], "of": "five seeds"})
    assert (project / "nbs" / "recorded" / "ants-and-bees.json").exists() == kept
    found = recorded_experiment("ants-and-bees")
    assert found["figures"]["accuracy"] == [0.94, 0.95] and found["mode"] == "full"
    assert f"{found!r}".endswith(
        "EXP_RECORD=1 EXP_DATA=full python tools/run_notebook.py nbs/08_vision.ipynb --slow"
    )


def test_an_experiment_that_cannot_be_kept_leaves_the_old_figures(project):
    record_experiment("rates", {"loss": 1.5})
    for wrong, error in [({"loss": math.nan}, ValueError), ({"loss": object()}, TypeError)]:
        with pytest.raises(error):
            record_experiment("rates", wrong)
    assert recorded_experiment("rates")["figures"] == {"loss": 1.5}
    with pytest.raises(ValueError, match="letters, digits"):
        record_experiment("../rates", {})
    with pytest.raises(FileNotFoundError, match="--slow"):
        recorded_experiment("unknown")


# --- the module ----------------------------------------------------------------------------------


def test_import_loads_nothing_heavy():
    code = (
        "import sys, exp.nb00\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'pandas', 'filelock'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
