"""Files and checkpoints; the kills are in test_resume.py."""

import json
import math
import os
import random
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb00 import test_eq
from exp.nb03b import DataLoader, DataLoaders, TensorDataset
from exp.nb03d import random_state
from exp.nb04 import Callback, Learner
from exp.nb04b import DeviceCallback, EarlyStopping, GradientAccumulation
from exp.nb04c import (
    Checkpoint,
    SaveBest,
    export_model,
    load_exported,
    load_learner,
    load_weights,
    pack,
    read_state,
    save_learner,
    save_weights,
    unpack,
    write_state,
)

torch.set_num_threads(1)


def learner(callbacks=(), seed=1, hidden=8, opt_func=None, workers=0, **options):
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(40, 6, generator=draw)
    y = (x[:, 0] > 0).long()
    torch.manual_seed(seed)
    random.seed(seed)
    sets = TensorDataset(x[:30], y[:30]), TensorDataset(x[30:], y[30:])
    dls = DataLoaders.from_datasets(*sets, batch_size=4, num_workers=workers)
    layers = nn.Linear(6, hidden), nn.BatchNorm1d(hidden), nn.Dropout(0.2), nn.Linear(hidden, 2)
    opt_func = opt_func or partial(torch.optim.SGD, momentum=0.9)
    model = nn.Sequential(*layers)
    return Learner(model, dls, F.cross_entropy, 0.1, opt_func, callbacks=callbacks, **options)


class Stop(Callback):
    """Fail at a batch of an epoch, as a crash would."""

    order = 20_000

    def __init__(self, epoch, batch):
        self.epoch, self.batch = epoch, batch

    def after_batch(self, learn):
        if learn.training and (learn.epoch, learn.batch_index) == (self.epoch, self.batch):
            raise ZeroDivisionError("crash")


def resumed(script, folder, *place):
    """Let a training crash at this batch of this epoch; start it again, and give what it became."""
    with pytest.raises(ZeroDivisionError):
        script(folder, Stop(*place))
    return script(folder)


# ---------------------------------------------------------------- states and files

leaves = (st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
          | st.lists(st.integers(0, 3), max_size=3).map(torch.rand))  # fmt: skip
keys = st.text(max_size=3) | st.integers(-5, 5) | st.sampled_from(["$tensor", "$tuple", "a.b", "a"])
states = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


def identical(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, float):
        return a.hex() == b.hex()
    return a == b


@settings(max_examples=200, deadline=None)
@given(states)
def test_any_state_survives(state):
    assert identical(unpack(*pack(state)), state)


@settings(max_examples=15, deadline=None)
@given(state=states)
def test_any_state_survives_a_file(tmp_path_factory, state):
    path = write_state(tmp_path_factory.mktemp("x") / "state", state)
    assert identical(read_state(path), state)


@pytest.mark.parametrize("dtype", "bool uint8 int64 uint32 bfloat16 float64".split())
def test_types_of_tensors(tmp_path, dtype):
    tensor = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    for state in (tensor, tensor[:0], tensor.T, tensor[:, ::2], tensor[0].expand(4, 3)):
        assert identical(read_state(write_state(tmp_path / "x", state)), state.contiguous())


def test_numpy_arrays_come_back_as_arrays():
    numpy = pytest.importorskip("numpy")
    back = unpack(*pack({"a": numpy.arange(3, dtype="uint32")}))["a"]
    assert isinstance(back, numpy.ndarray) and back.dtype == numpy.uint32
    assert back.tolist() == [0, 1, 2]
    kinds = ["int8", "float32", "int64", "float64"]  # empty ones have no address to be told by
    back = unpack(*pack([numpy.empty(0, kind) for kind in kinds]))
    assert [array.dtype.name for array in back] == kinds


@pytest.mark.parametrize(
    ("thing", "place"),
    [
        ({"opt": {"betas": [lambda: 0]}}, "opt.betas.0"),
        ({"opt": {3: object()}}, "opt.3"),
        ({"kinds": {1, 2}}, "kinds"),
        ({"raw": b"x"}, "raw"),
        ({"path": os}, "path"),
        ({"z": 1j}, "z"),
        ({"sparse": torch.eye(3).to_sparse()}, "sparse"),
    ],
)
def test_what_no_file_can_hold_is_named(tmp_path, thing, place):
    with pytest.raises(TypeError, match=f"cannot save {place}: a"):
        write_state(tmp_path / "x", thing)
    assert list(tmp_path.iterdir()) == []


def test_a_lambda_in_an_optimizer_is_named(tmp_path):
    learn = learner([Checkpoint(tmp_path)])
    learn.opt.param_groups[0]["rule"] = lambda step: 0.1
    place = "optimizer.param_groups.0.rule"
    with pytest.raises(TypeError, match=f"{place}: a function.*<lambda>"):
        learn.fit(1)
    assert not list(tmp_path.glob("*"))


def test_tied_tensors_are_written_once(tmp_path):
    x = torch.randn(3)
    state = read_state(write_state(tmp_path / "x", {"a": x, "b": x, "c": x.clone()}))
    assert len(pack({"a": x, "b": x, "c": x.clone()})[0]) == 2
    assert all(torch.equal(part, x) for part in state.values())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_state(tmp_path / "x", {"version": 1})

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_state(path, {"version": 2})
    assert read_state(path) == {"version": 1} and [f.name for f in tmp_path.iterdir()] == ["x"]


def test_other_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "text").write_text("hello")
    save_file({"x": torch.ones(1)}, tmp_path / "foreign")
    (tmp_path / "empty").touch()
    for name, message in (("text", "incomplete"), ("foreign", "says format None"),
                          ("empty", "incomplete"), ("none", "no file")):  # fmt: skip
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            read_state(tmp_path / name)


# ---------------------------------------------------------------- weights and learners


def test_weights_of_another_model_are_refused_with_their_keys(tmp_path):
    path = save_weights(learner().model, tmp_path / "w")
    other = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    before = {name: t.clone() for name, t in other.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_weights(other, path)
    message = str(caught.value)
    for part in ("unknown '3.weight'", "unknown '1.running_mean'", "'1.weight' is (8,)", "(3, 8)"):
        assert part in message, part
    test_eq(other.state_dict(), before)


def test_a_learner_goes_on_in_a_new_fit(tmp_path):
    learn = learner()
    learn.fit(2)
    save_learner(learn, tmp_path / "l")
    other = learner(seed=9)
    load_learner(other, tmp_path / "l")
    torch.manual_seed(4)
    learn.fit(1)
    torch.manual_seed(4)
    other.fit(1)
    test_eq(other.model.state_dict(), learn.model.state_dict())
    test_eq(other.opt.state_dict(), learn.opt.state_dict())
    assert other.n_steps == learn.n_steps and len(other.recorder.epochs) == 3


# ---------------------------------------------------------------- resume, in one process


def train(folder, crash=None, **options):
    """Two fits of two epochs; after a crash, the whole script once more."""
    def script(*callbacks):
        learn = learner([Checkpoint(folder, every=2), *callbacks], **options)
        learn.fit(2)
        learn.fit(1, lr=0.01)
        return learn

    if crash:
        with pytest.raises(ZeroDivisionError):
            script(Stop(*crash))
    return script()


@pytest.mark.parametrize(
    "opt_func",
    [
        torch.optim.SGD,
        torch.optim.Adam,
        partial(torch.optim.AdamW, amsgrad=True),
        torch.optim.RMSprop,
        partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    ],
)
def test_resumes_with_any_optimizer(tmp_path, opt_func):
    whole = train(tmp_path / "a", opt_func=opt_func)
    again = train(tmp_path / "b", crash=(1, 5), opt_func=opt_func)
    test_eq(again.model.state_dict(), whole.model.state_dict())
    test_eq(again.opt.state_dict(), whole.opt.state_dict())
    test_eq(again.recorder.state_dict(), whole.recorder.state_dict())


def test_resumes_with_workers(tmp_path):
    whole = train(tmp_path / "a", workers=2)
    again = train(tmp_path / "b", crash=(0, 4), workers=2)
    test_eq(again.model.state_dict(), whole.model.state_dict())


def test_resumes_with_torchs_loader(tmp_path):
    def script(folder, *callbacks):
        learn = learner([Checkpoint(tmp_path / folder, every=1), *callbacks])
        dataset = learn.dls.train.dataset
        draw = torch.Generator().manual_seed(2)
        loader = torch.utils.data.DataLoader(dataset, 4, shuffle=True, generator=draw)
        learn.dls = DataLoaders(loader, None)
        learn.fit(3)
        return learn

    whole = script("a")
    again = resumed(script, "b", 1, 2)
    test_eq(again.model.state_dict(), whole.model.state_dict())
    test_eq(again.recorder.losses, whole.recorder.losses)


def test_resumes_in_the_middle_of_gathered_gradients(tmp_path):
    def script(folder, *callbacks):
        checkpoint = Checkpoint(tmp_path / folder, every=1)
        learn = learner([GradientAccumulation(3), checkpoint, *callbacks])
        learn.fit(2)
        return learn

    whole = script("a")
    for batch in (0, 1, 2):
        again = resumed(script, f"b{batch}", 1, batch)
        test_eq(again.model.state_dict(), whole.model.state_dict())


def test_a_retry_in_the_same_process_resumes(tmp_path):
    whole = learner([Checkpoint(tmp_path / "a", every=1)])
    whole.fit(2)
    learn = learner([Checkpoint(tmp_path / "b", every=1)])
    with pytest.raises(ZeroDivisionError):
        learn.fit(2, callbacks=[Stop(1, 3)])
    learn.fit(2)
    test_eq(learn.model.state_dict(), whole.model.state_dict())
    test_eq(learn.recorder.losses, whole.recorder.losses)


def test_events_of_a_resumed_fit(tmp_path):
    """before_epoch comes once in each process; no batch comes twice."""
    seen = []

    class Note(Callback):
        def before_epoch(self, learn):
            seen.append(("epoch", learn.epoch))

        def before_batch(self, learn):
            if learn.training:
                seen.append((learn.epoch, learn.batch_index))

    with pytest.raises(ZeroDivisionError):
        learner([Checkpoint(tmp_path, every=3), Note(), Stop(0, 3)]).fit(2)
    seen.clear()
    learner([Checkpoint(tmp_path, every=3), Note()]).fit(2)
    assert seen == [("epoch", 0), *[(0, i) for i in range(3, 8)],
                    ("epoch", 1), *[(1, i) for i in range(8)]]  # fmt: skip


def test_a_look_before_the_first_batch_of_a_resumed_fit(tmp_path):
    """The evaluation must not take the place in the epoch for its own."""

    class Look(Callback):
        def before_fit(self, learn):
            learn.evaluate()

        def before_epoch(self, learn):
            learn.evaluate()

        def before_batch(self, learn):
            learn.get_preds()

    def script(folder, *callbacks):
        learn = learner([Checkpoint(tmp_path / folder, every=2), Look(), *callbacks])
        learn.fit(2)
        return learn

    whole = learner()
    whole.fit(2)
    again = resumed(script, "b", 1, 4)
    test_eq(again.model.state_dict(), whole.model.state_dict())
    assert again.recorder.losses == whole.recorder.losses


def test_old_checkpoints_go(tmp_path):
    learner([Checkpoint(tmp_path, every=1, keep=3)]).fit(1)
    assert [f.name for f in sorted(tmp_path.iterdir())] == [
        "fit1_epoch000000_batch00000007.safetensors",
        "fit1_epoch000000_batch00000008.safetensors",
        "fit1_epoch000001_batch00000000.safetensors",
    ]


def test_what_a_killed_process_did_not_clear_away_goes(tmp_path):
    """Killed after it had written the last file of a fit, before it removed the old one."""
    checkpoint = Checkpoint(tmp_path, every=1, keep=9)
    learner([checkpoint]).fit(1)
    (tmp_path / ".fit1_x.tmp").mkdir()
    learner([Checkpoint(tmp_path, keep=1)]).fit(1)
    assert [f.name for f in tmp_path.iterdir()] == ["fit1_epoch000001_batch00000000.safetensors"]


def test_other_metrics_are_refused_and_nothing_changes(tmp_path):
    learner([Checkpoint(tmp_path)]).fit(2)
    other = learner([Checkpoint(tmp_path)], seed=5, metrics={"other": lambda pred, target: 0.5})
    before = {name: t.clone() for name, t in other.model.state_dict().items()}
    with pytest.raises(ValueError, match=r"metrics .*this one has \['other'\]"):
        other.fit(2)
    test_eq(other.model.state_dict(), before)


def test_the_loss_has_a_state_too(tmp_path):
    class Centred(nn.Module):
        """Counts its calls in a buffer, and depends on them."""

        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, pred, target):
            self.calls += 1
            return F.cross_entropy(pred, target) * (1 + 0.1 * self.calls)

    def script(folder, *callbacks):
        learn = learner([Checkpoint(tmp_path / folder, every=1), *callbacks])
        learn.loss_func = Centred()
        learn.fit(2)
        return learn

    whole = script("a")
    again = resumed(script, "b", 1, 3)
    test_eq(again.recorder.losses, whole.recorder.losses)
    assert again.loss_func.calls == whole.loss_func.calls


def test_another_training_is_refused(tmp_path):
    learner([Checkpoint(tmp_path)]).fit(2)
    adam = torch.optim.Adam
    attempts = {
        "another model.*'0.weight' is \\(8, 6\\)": (dict(hidden=9), 2, None),
        "optimizer SGD, this one has Adam": (dict(opt_func=adam), 2, None),
        "'n_epochs': 2": ({}, 3, None),
        "'lrs': \\[0.1\\]": ({}, 2, 0.3),
        "the callbacks .*EarlyStopping": (dict(callbacks=[EarlyStopping()]), 2, None),
    }
    for message, (options, n_epochs, lr) in attempts.items():
        callbacks = [Checkpoint(tmp_path), *options.pop("callbacks", [])]
        with pytest.raises(ValueError, match=message):
            learner(callbacks, **options).fit(n_epochs, lr)
    learn = learner([Checkpoint(tmp_path)])
    learn.dls = DataLoaders(DataLoader(learn.dls.train.dataset, 5), None)
    with pytest.raises(ValueError, match="'n_batches': 8"):
        learn.fit(2)
    with pytest.raises(FileExistsError, match="resume is False"):
        learner([Checkpoint(tmp_path, resume=False)]).fit(2)


def test_checkpoints_hold_all_random_numbers(tmp_path):
    learn = learner([Checkpoint(tmp_path)])
    learn.fit(1)
    state, now = read_state(next(tmp_path.iterdir()))["random"], random_state(learn.loaders)
    test_eq(state, now)


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    learner([Checkpoint(tmp_path / "c"), SaveBest(tmp_path / "best", restore=False)]).fit(1)
    assert list((tmp_path / "c").iterdir()) == [] and not (tmp_path / "best").exists()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_is_saved_on_one_device_loads_on_the_other(tmp_path):
    def script(folder, device, *callbacks):
        checkpoint = Checkpoint(tmp_path / folder, every=2)
        learn = learner([DeviceCallback(device), checkpoint, *callbacks])
        learn.fit(2)
        return learn

    for first, second in (("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")):
        folder = f"{first}-{second}"
        with pytest.raises(ZeroDivisionError):
            script(folder, first, Stop(1, 3))
        learn = script(folder, second)
        assert next(learn.model.parameters()).device.type == second
        assert len(learn.recorder.losses) == 16
    whole, again = script("whole", "cuda"), learn
    test_eq(again.model.state_dict(), whole.model.state_dict())  # cuda to cuda: to the last bit
    arguments, extra = {"in_features": 6, "out_features": 2}, {"mean": torch.ones(1).cuda()}
    path = export_model(nn.Linear(6, 2).cuda(), tmp_path / "e", nn.Linear, arguments, extra)
    model, extra = load_exported(path)
    assert model.weight.device.type == extra["mean"].device.type == "cpu"


# ---------------------------------------------------------------- best weights, export


class Course(Callback):
    order = 50

    def __init__(self, values):
        self.values = values

    def after_epoch(self, learn):
        learn.results["valid_loss"] = self.values[learn.epoch]
        self.weights = [*getattr(self, "weights", []), learn.model[0].weight.detach().clone()]


def test_the_best_weights_come_back(tmp_path):
    course, best = Course([3, 1, 2, math.nan]), SaveBest(tmp_path / "best")
    learn = learner([course, best])
    learn.fit(4)
    assert best.best == 1 and best.best_epoch == 2
    assert torch.equal(learn.model[0].weight, course.weights[1])
    learn = learner([Course([3, 1, 2]), SaveBest(tmp_path / "b"), Stop(2, 1)])
    with pytest.raises(ZeroDivisionError):
        learn.fit(3)
    assert torch.equal(learn.model[0].weight, learn.callback(Course).weights[1])


def make_model(width, layers=1) -> nn.Module:
    return nn.Sequential(*[nn.Linear(width, width) for _ in range(layers)])


def test_export_by_function_and_by_path(tmp_path):
    model = make_model(3, layers=2)
    for factory in (make_model, f"{__name__}:make_model"):
        arguments = {"width": 3, "layers": 2}
        path = export_model(model, tmp_path / "m", factory, arguments, {"k": [1, "a"]})
        twin, extra = load_exported(path, trusted=[__name__])
        test_eq(twin.state_dict(), model.state_dict())
        assert extra == {"k": [1, "a"]} and not twin.training
        with pytest.raises(ValueError, match="none of the packages"):
            load_exported(path)


def test_exports_that_would_not_load_are_refused(tmp_path):
    model = make_model(3)

    def local(width) -> nn.Module:
        return make_model(width)

    for factory, arguments, error, message in (
        (lambda width: make_model(width), {"width": 3}, ValueError, "cannot import"),
        (local, {"width": 3}, ValueError, "cannot import"),
        (make_model, {"width": 4}, ValueError, r"'0.bias' is \(3,\)"),
        (make_model, {"width": 3, "layers": 2}, ValueError, "missing '1.weight'"),
        ("json:loads", {"s": "1"}, ValueError, "must be a subclass of torch.nn.Module"),
    ):
        with pytest.raises(error, match=message):
            export_model(model, tmp_path / "m", factory, arguments)
    assert not (tmp_path / "m").exists()


def test_a_file_cannot_call_what_it_likes(tmp_path):
    foreign = ["os:system", "expression:x", "torch:load", "experiments.exp:x", ":x"]
    through_imports = ["exp.nb04c:os.system", "torch.nn:functional.torch.hub.load"]
    for factory in [*foreign, *through_imports, "torch.nn:nothing", "exp.nb04c:"]:
        state = {"factory": factory, "arguments": {}, "model": {}, "extra": None}
        write_state(tmp_path / "bad", state)
        with pytest.raises(ValueError, match="none of the packages"):
            load_exported(tmp_path / "bad")


def test_the_text_in_a_file_is_plain_json(tmp_path):
    from safetensors import safe_open

    path = save_learner(learner(), tmp_path / "l")
    with safe_open(path, framework="pt") as file:
        json.loads(file.metadata()["state"])
