"""The stopwatch and the record of results."""

import gc
import json
import math
import os
import pickle
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exp import nb00i
from exp.nb00i import (
    Timing,
    record_experiment,
    record_result,
    recorded_experiment,
    recorded_figures,
    timed,
)


def fail(error):
    raise error


# --- timed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", [1e-8, 3e-7, 2e-5, 9e-4, 1e-3, 0.5])
def test_a_sample_lasts_a_millisecond(monkeypatch, cost):
    now = [0.0]
    calls = []

    def work():
        calls.append(1)
        now[0] += cost

    monkeypatch.setattr(nb00i.time, "perf_counter", lambda: now[0])
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
    monkeypatch.setattr(nb00i.time, "perf_counter", lambda: len(calls) // 64 * 0.016)
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
    monkeypatch.setattr(nb00i.time, "perf_counter", lambda: float(events.append("clock") or 0))
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
        "headline": False,
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


def test_a_headline_of_a_recorded_experiment_has_its_data(project, monkeypatch):
    monkeypatch.setenv("EXP_NOTEBOOK", "04_callbacks")
    record_result("a", 1, headline=True, recorded={"mode": "full", "device": "cuda"})
    entry = results(project)["04_callbacks | a | full | cuda"]
    assert (entry["mode"], entry["device"], entry["headline"]) == ("full", "cuda", True)


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
    assert nb00i._parse_target(f"{sign}{bound!r}")(value) is expected


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


def test_a_run_goes_on_from_figures_of_its_own_kind(project, monkeypatch):
    assert recorded_figures("rates") == {}
    record_experiment("rates", {"loss": 1.5, "settings": {"lr": 0.1}})
    assert recorded_figures("rates")["loss"] == 1.5
    assert recorded_figures("rates", settings={"lr": 0.1})["loss"] == 1.5
    assert recorded_figures("rates", settings={"lr": 0.2}) == {"settings": {"lr": 0.2}}
    monkeypatch.setenv("EXP_DATA", "full")
    assert recorded_figures("rates") == {}
