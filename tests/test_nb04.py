"""The Learner: what the notebook does not check, and what only shows from outside."""

import copy
import gc
import pickle
import weakref
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb00 import test_eq
from exp.nb03b import DataLoader, DataLoaders, TensorDataset
from exp.nb03c import accuracy
from exp.nb03d import loader_length, random_state, set_random_state
from exp.nb03e import name_metrics
from exp.nb03f import (
    EVENTS,
    Callback,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelStep,
    MetricsCallback,
    arrange,
)
from exp.nb03g import Recorder
from exp.nb04 import Learner


def data(n=20, n_valid=7, batch_size=4, device="cpu"):
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(n + n_valid, 6, generator=draw)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    x, y = x.to(device), y.to(device)
    return DataLoaders.from_datasets(
        TensorDataset(x[:n], y[:n]), TensorDataset(x[n:], y[n:]), batch_size=batch_size
    )


def network():
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)]
    return nn.Sequential(*layers)


def learner(callbacks=(), dls=None, seed=1, **options):
    torch.manual_seed(seed)
    options = {"lr": 0.1, "metrics": [accuracy], **options}
    return Learner(network(), dls or data(), F.cross_entropy, callbacks=callbacks, **options)


def on(event, action, order=0, **attributes):
    """A callback that does something at one event."""
    method = lambda self, learn: action(learn)  # noqa: E731
    return type(f"On_{event}", (Callback,), {event: method, "order": order, **attributes})()


def fail(learn):
    raise ZeroDivisionError("planned")


def weights(learn):
    return {name: t.clone() for name, t in learn.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------- the loop against plain PyTorch


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("loader", [DataLoader, torch.utils.data.DataLoader])
def test_same_bits_as_a_plain_loop(loader, momentum):
    dls = data()
    dataset = torch.utils.data.TensorDataset(*dls.train.dataset.tensors)
    train = loader(dataset, batch_size=6, shuffle=True)
    learn = learner(
        dls=DataLoaders(train, None), opt_func=partial(torch.optim.SGD, momentum=momentum)
    )
    torch.manual_seed(1)
    model = network()
    opt = torch.optim.SGD(model.parameters(), 0.1, momentum=momentum)
    state = random_state([train])
    losses = []
    for _ in range(3):
        for xb, yb in train:
            loss = F.cross_entropy(model(xb), yb)
            losses.append(loss.item())
            loss.backward()
            opt.step()
            opt.zero_grad()
    set_random_state(state, [train])
    learn.fit(3)
    assert same(learn.model.state_dict(), model.state_dict())
    assert learn.recorder.losses == losses


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 45), seed=st.integers(0, 9))
def test_metrics_are_means_over_the_items(n, batch_size, seed):
    dls = data(8, n, 4)
    x, y = dls.valid.dataset.tensors
    valid = DataLoader(TensorDataset(x, y), batch_size)
    learn = learner(dls=DataLoaders(dls.train, valid), seed=seed)
    scores = learn.evaluate()
    pred, target = learn.get_preds()
    assert torch.equal(target, y)
    assert scores["loss"] == pytest.approx(F.cross_entropy(pred, y).item(), rel=1e-5)
    assert scores["accuracy"] == pytest.approx(accuracy(pred, y).item(), rel=1e-6)


def test_training_metrics_are_weighted_too():
    learn = learner(dls=DataLoaders(DataLoader(data(10, 3).train.dataset, 4), None))
    seen = []
    note = on("after_batch", lambda learn: seen.append((learn.loss.item(), learn.n_items)))
    learn.fit(1, callbacks=[note])
    assert [n for _, n in seen] == [4, 4, 2]
    expected = sum(loss * n for loss, n in seen) / 10
    assert learn.results["train_loss"] == pytest.approx(expected, rel=1e-6)
    assert "valid_loss" not in learn.results


def test_many_small_losses_do_not_get_lost():
    metrics = MetricsCallback()
    learn = learner()
    learn.training, learn.n_items, learn.loss_weight, learn.loss = True, 1, 1, torch.tensor(1e8)
    metrics.before_epoch(learn)
    learn.pred = torch.zeros(1, 3)
    metrics.after_batch(learn)
    learn.loss = torch.tensor(1.0)
    for _ in range(1000):
        metrics.after_batch(learn)
    assert metrics.averages("train")["loss"] == (1e8 + 1000) / 1001


def test_sums_can_be_pooled_with_those_of_others():
    """As over two processes: here the other one has seen 6 items with twice the loss."""

    def pool(learn):
        others = torch.tensor([[6.0], [12.0]], dtype=torch.float64)  # items, their sum of losses
        learn.callback(MetricsCallback).pool(lambda sums: sums + others)

    dls = DataLoaders(data().train, None)
    learn = learner([on("after_epoch", pool, order=5)], dls=dls, metrics=())
    losses = []
    learn.fit(1, callbacks=[on("after_batch", lambda learn: losses.append(learn.loss.item()))])
    expected = (4 * sum(losses) + 12) / (20 + 6)
    assert learn.results["train_loss"] == pytest.approx(expected, rel=1e-6)


# ---------------------------------------------------------------- cancelling


def test_a_cancelled_batch_is_in_no_metric_and_in_no_step():
    def third(learn):
        if learn.training and learn.batch_index == 2:
            raise CancelBatch

    for event in ("before_batch", "after_pred", "after_loss", "after_backward"):
        learn = learner([on(event, third)], dls=DataLoaders(data().train, None))
        learn.fit(1)
        assert learn.n_steps == 4 and len(learn.recorder.losses) == 4, event
        kept = sum(learn.recorder.losses) / 4
        assert learn.results["train_loss"] == pytest.approx(kept, rel=1e-6), event


def test_a_cancelled_batch_leaves_no_gradient_for_the_next():
    """One step on batch 1 alone, whether batch 0 was cancelled late or never came."""
    dls = data(8)
    batches = list(dls.train)

    def first(learn):
        if learn.batch_index == 0:
            raise CancelBatch

    plain = nn.Linear(6, 3)
    late = pickle.loads(pickle.dumps(plain))
    Learner(plain, DataLoaders(batches[1:], None), F.cross_entropy).fit(1)
    cancel = on("after_backward", first)
    Learner(late, DataLoaders(batches, None), F.cross_entropy, callbacks=[cancel]).fit(1)
    assert same(plain.state_dict(), late.state_dict())


def test_cancel_step_keeps_the_gradient():
    dls = data(8)
    seen = []

    def skip_first(learn):
        seen.append(learn.model[0].weight.grad.clone())
        if learn.batch_index == 0:
            raise CancelStep

    learn = learner([on("after_backward", skip_first)], dls=DataLoaders(dls.train, None))
    learn.fit(1)
    assert learn.n_steps == 1 and len(learn.recorder.losses) == 2
    assert not torch.equal(seen[0], seen[1])


def test_cancel_epoch_has_no_results_and_the_next_one_comes():
    def first(learn):
        if learn.epoch == 0 and learn.batch_index == 1:
            raise CancelEpoch

    learn = learner([on("after_batch", first, order=99)])
    learn.fit(3)
    assert len(learn.recorder.epochs) == 2 and learn.epoch == 3


def test_cancel_fit_skips_after_fit_and_nothing_else_is_left():
    seen = []
    learn = learner([on("after_fit", lambda learn: seen.append("after_fit")),
                     on("cleanup_fit", lambda learn: seen.append("cleanup_fit"))])  # fmt: skip

    def stop(learn):
        raise CancelFit

    learn.fit(5, callbacks=[on("after_epoch", stop, order=99)])
    assert seen == ["cleanup_fit"] and learn.n_fits == 1
    assert len(learn.recorder.epochs) == 1


def test_a_cancellation_in_the_wrong_place_is_an_error():
    def cancel(kind, learn):
        raise kind

    for event, kind in (("before_epoch", CancelBatch), ("after_pred", CancelStep),
                        ("before_fit", CancelEpoch), ("cleanup_fit", CancelFit)):  # fmt: skip
        learn = learner([on(event, partial(cancel, kind))])
        with pytest.raises(RuntimeError, match=kind.__name__) as caught:
            learn.fit(1)
        assert isinstance(caught.value.__cause__, kind)


# ---------------------------------------------------------------- after an exception


class Hooked(Callback):
    """Sets something up, and takes it down."""

    def before_fit(self, learn):
        self.handle = learn.model[0].register_forward_hook(lambda *things: None)

    def cleanup_fit(self, learn):
        self.handle.remove()


def count_tensors():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def test_an_exception_leaves_everything_as_it_was():
    learn = learner([Hooked()])
    learn.model[1].eval()  # a mode of its own
    learn.fit(1)
    modes = [part.training for part in learn.model.modules()]
    callbacks, live = list(learn.callbacks), count_tensors()
    for event in EVENTS:
        for order in (-999, 999):
            batch = []
            note = lambda learn, to=batch: to.append(weakref.ref(learn.inputs[0]))  # noqa: E731
            watch = on("before_batch", note)
            with pytest.raises(ZeroDivisionError):
                learn.fit(1, callbacks=[watch, on(event, fail, order)])
            assert learn.callbacks == callbacks
            assert [part.training for part in learn.model.modules()] == modes
            assert not learn.model[0]._forward_hooks
            assert all(p.grad is None for p in learn.model.parameters())
            assert torch.is_grad_enabled()
            assert all(reference() is None for reference in batch), event
    assert count_tensors() == live
    learn.fit(1)  # and it still works


def test_keyboard_interrupt_is_cleaned_up_after():
    def interrupt(learn):
        raise KeyboardInterrupt

    learn = learner([Hooked()])
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, callbacks=[on("after_backward", interrupt)])
    assert not learn.model[0]._forward_hooks and not learn._plan and learn.n_fits == 0


def test_cleanup_runs_for_those_who_began_in_reverse_order_errors_or_not():
    seen = []

    def cleaner(name, order, error=None):
        def clean(self, learn):
            seen.append(name)
            if error:
                raise error

        return type(name, (Callback,), {"cleanup_fit": clean, "order": order})()

    learn = learner([cleaner("a", 1), cleaner("b", 2, KeyError("b")), cleaner("c", 3, OSError("c")),
                     on("before_fit", fail, order=4), cleaner("d", 5)])  # fmt: skip
    with pytest.raises(KeyError) as caught:  # the last one; the others stand in its traceback
        learn.fit(1)
    assert seen == ["c", "b", "a"]  # d did not begin
    assert isinstance(caught.value.__context__, OSError)
    assert isinstance(caught.value.__context__.__context__, ZeroDivisionError)


def test_out_of_memory_names_batch_size_and_remedy():
    def no_memory(learn):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def no_cpu_memory(learn):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate …")

    for action in (no_memory, no_cpu_memory):
        message = "batch_size 4.*GradientAccumulation"
        with pytest.raises(torch.OutOfMemoryError, match=message) as caught:
            learner([on("after_pred", action)]).fit(1)
        assert "allocate" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match="^shapes"):  # any other error stays itself
        learner([on("after_pred", lambda learn: exec("raise RuntimeError('shapes')"))]).fit(1)


# ---------------------------------------------------------------- looking without touching


def test_evaluating_inside_a_fit_changes_nothing():
    plain = learner()
    plain.fit(3)

    def look(learn):
        learn.evaluate()
        learn.get_preds(learn.dls.train)
        learn.predict(torch.zeros(2, 6))
        learn.trace()

    for event in ("before_epoch", "before_batch", "after_loss", "after_backward", "after_epoch"):
        curious = learner([on(event, look)])
        curious.fit(3)
        assert same(curious.model.state_dict(), plain.model.state_dict()), event
        assert curious.recorder.state_dict()["losses"].equal(plain.recorder.state_dict()["losses"])
        assert curious.recorder.epochs == plain.recorder.epochs, event


def test_evaluate_get_preds_predict_and_trace_have_no_side_effects(capsys):
    generator = torch.Generator().manual_seed(3)
    dls = data()
    train = DataLoader(dls.train.dataset, 4, shuffle=True, generator=generator)
    momentum_sgd = partial(torch.optim.SGD, momentum=0.9)
    learn = learner(dls=DataLoaders(train, dls.valid), opt_func=momentum_sgd)
    learn.fit(2)
    learn.model[3].eval()
    learn.model[0].weight.grad = torch.ones_like(learn.model[0].weight)

    def everything():
        return (
            weights(learn),
            [part.training for part in learn.model.modules()],
            copy.deepcopy(learn.opt.state_dict()),
            random_state(learn.loaders),
            [p.grad is None for p in learn.model.parameters()],
            learn.recorder.state_dict(),
            (learn.epoch, learn.n_steps, learn.n_fits, dict(learn.results)),
        )

    before = everything()
    learn.evaluate(train)
    learn.get_preds(train)
    learn.predict(torch.zeros(1, 6))
    learn.trace([Hooked()])
    test_eq(everything(), before)
    capsys.readouterr()


def test_an_error_while_evaluating_changes_nothing_either():
    learn = learner([on("after_pred", fail, evaluates=True)])
    learn.model.train()
    state = random_state(learn.loaders)
    with pytest.raises(ZeroDivisionError):
        learn.evaluate()
    test_eq(random_state(learn.loaders), state)
    assert all(part.training for part in learn.model.modules()) and learn.inputs == []


def test_predictions_of_several_parts_and_of_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, a, b):
            return self.layer(a), b * 2

    x, y = torch.randn(10, 6), torch.randint(3, (10,))
    set_ = TensorDataset(x, torch.arange(10.0), y)
    loss = lambda pred, target: F.cross_entropy(pred[0], target)  # noqa: E731
    learn = Learner(Two(), DataLoaders.from_datasets(set_, set_, batch_size=4), loss)
    learn.fit(1)
    (first, second), target = learn.get_preds()
    assert first.shape == (10, 3) and torch.equal(second, torch.arange(10.0) * 2)
    assert torch.equal(target, y)
    first, second = learn.predict(x[:2], torch.ones(2))
    assert first.shape == (2, 3)


def test_no_validation_set():
    learn = learner(dls=DataLoaders(data().train, None))
    learn.fit(2)
    assert set(learn.results) == {"train_loss", "train_accuracy"}
    with pytest.raises(ValueError, match="pass a loader"):
        learn.evaluate()
    assert set(learn.evaluate(data().valid)) == {"loss", "accuracy"}


# ---------------------------------------------------------------- callbacks


def test_each_event_is_announced_once():
    counts = dict.fromkeys(EVENTS, 0)

    def count(event, learn):
        counts[event] += 1

    learn = learner([on(event, partial(count, event)) for event in EVENTS])
    learn.fit(2)  # 5 training and 1 validation batch in each epoch
    assert counts == {
        "before_fit": 1,
        "before_epoch": 2,
        "before_batch": 12,
        "after_pred": 12,
        "after_loss": 12,
        "after_backward": 10,
        "after_step": 10,
        "after_batch": 12,
        "after_epoch": 2,
        "after_fit": 1,
        "cleanup_fit": 1,
    }


@pytest.mark.parametrize(
    "name", ["befor_fit", "after_bach", "on_batch_end", "begin_epoch", "after_prediction",
             "cleanup", "afterstep", "before_step", "do_forward", "after_Batch"]
)  # fmt: skip
def test_a_misspelt_event_is_refused_when_the_class_is_defined(name):
    with pytest.raises(TypeError, match="did you mean"):
        type("Misspelt", (Callback,), {name: lambda self, learn: None})


@pytest.mark.parametrize("name", ["plot", "reset", "read", "show", "_before", "state_dict"])
def test_other_methods_are_the_callbacks_own_affair(name):
    type("Fine", (Callback,), {name: lambda self: None})


def test_actions_can_be_taken_over():
    """What half precision needs: wrap the prediction, scale the loss, decide on the step."""

    class Scaled(Callback):
        def do_predict(self, learn):
            learn.pred = learn.model(*learn.inputs).double()

        def do_backward(self, learn):
            (learn.loss * 1024).backward()

        def after_backward(self, learn):
            for p in learn.model.parameters():
                p.grad /= 1024

        def do_step(self, learn):
            learn.opt.step()

    plain = learner()
    plain.fit(2)
    scaled = learner([Scaled()])  # seeds anew
    scaled.fit(2)
    for a, b in zip(plain.model.parameters(), scaled.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert scaled.recorder.losses == pytest.approx(plain.recorder.losses, rel=1e-5)
    with pytest.raises(ValueError, match="only one callback can do_predict"):
        learner([Scaled(), on("do_predict", fail)])


def test_repeatable_callbacks_and_the_same_object_twice():
    class Many(Callback):
        repeatable = True

    assert len(arrange([Many(), Many()])) == 2
    one = Many()
    with pytest.raises(ValueError, match="appears 2 times"):
        arrange([one, one])


def test_own_metrics_and_recorder_take_the_place_of_the_usual_ones():
    metrics, recorder = MetricsCallback({"top": accuracy}), Recorder()
    learn = Learner(network(), data(), F.cross_entropy, callbacks=[metrics, recorder])
    learn.fit(1)
    assert learn.recorder is recorder and "valid_top" in learn.results
    assert set(learn.evaluate()) == {"loss", "top"}
    with pytest.raises(ValueError, match="choose one"):
        learner([MetricsCallback([accuracy])])
    with pytest.raises(ValueError, match="different names"):
        name_metrics({"loss": accuracy})


def test_callbacks_of_a_fit_are_gone_after_it():
    learn = learner()
    extra = Hooked()
    learn.fit(1, callbacks=[extra])
    assert extra not in learn.callbacks
    with pytest.raises(RuntimeError, match="called inside fit"):
        learn.fit(1, callbacks=[on("after_batch", lambda learn: learn.fit(1))])


def test_rates_start_anew_with_each_fit():
    def halve(learn):
        for group in learn.opt.param_groups:
            group["lr"] /= 2

    def two_groups(params, lr):
        params = list(params)
        groups = [{"params": params[:2], "lr": lr / 10}, {"params": params[2:]}]
        return torch.optim.SGD(groups, lr=lr)

    learn = learner(opt_func=two_groups)
    learn.fit(1, callbacks=[on("after_batch", halve)])
    learn.fit(1)
    assert learn.recorder.lrs[-1] == [0.01, 0.1]
    learn.fit(1, lr=[0.5, 0.25])
    assert learn.recorder.lrs[-1] == [0.5, 0.25]


def test_recorder_keeps_rows_of_any_length():
    """A parameter group may be added between two fits."""
    learn = learner(opt_func=lambda params, lr: torch.optim.SGD(list(params)[:2], lr))
    learn.fit(1)
    learn.opt.add_param_group({"params": list(learn.model.parameters())[2:], "lr": 0.5})
    learn.fit(1)
    other = Recorder()
    other.load_state_dict(learn.recorder.state_dict())
    for name in ("losses", "lrs", "momenta", "epochs", "epoch_ends"):
        assert getattr(other, name) == getattr(learn.recorder, name), name
    assert other.lrs[0] == [0.1] and other.lrs[-1] == [0.1, 0.5]


def test_recorder_reads_in_pieces():
    x = torch.randn(1203, 6)
    batches = [(row[None], torch.zeros(1, dtype=torch.long)) for row in x]
    model = nn.Linear(6, 3)
    learn = Learner(model, DataLoaders(batches, None), F.cross_entropy, metrics=[accuracy])
    learn.fit(1)
    assert len(learn.recorder.losses) == 1203 == len(learn.recorder.lrs)
    state = learn.recorder.state_dict()
    other = Recorder()
    other.load_state_dict(state)
    assert other.losses == learn.recorder.losses and other.lrs == learn.recorder.lrs


def test_a_learner_pickles():
    learn = learner([Hooked()])
    learn.fit(1)
    del learn.callback(Hooked).handle
    twin = pickle.loads(pickle.dumps(learn))
    assert same(twin.model.state_dict(), learn.model.state_dict())
    state = random_state()
    learn.fit(1)
    set_random_state(state)
    twin.fit(1)
    assert same(twin.model.state_dict(), learn.model.state_dict())


def test_wrong_batches_are_refused():
    class Dicts(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return {"x": torch.zeros(6), "y": 0}

    with pytest.raises(TypeError, match="target="):  # a dict is passed by name, all of it
        learner(dls=DataLoaders(DataLoader(Dicts(), 2), None)).fit(1)
    with pytest.raises(TypeError, match="got a Tensor"):
        learner(dls=DataLoaders(torch.zeros(4, 2, 6), None)).fit(1)
    with pytest.raises(ValueError, match="drop_last"):
        empty = DataLoader(data(3).train.dataset, 4, drop_last=True)
        learner(dls=DataLoaders(empty, None)).fit(1)


def test_a_stream_without_a_length():
    """torch's loader over an IterableDataset has a __len__ that raises."""

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            draw = torch.Generator().manual_seed(1)
            for _ in range(6):
                yield torch.randn(6, generator=draw), 1

    loader = torch.utils.data.DataLoader(Stream(), 2)
    learn = learner(dls=DataLoaders(loader, loader))
    learn.fit(2)
    assert learn.n_steps == 6 and loader_length(loader) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_short_losses_are_averaged_exactly(dtype):
    losses = iter(torch.rand(5, generator=torch.Generator().manual_seed(1)).to(dtype))
    seen = []

    def replace(learn):
        seen.append((learn.n_items, next(losses).item()))
        learn.loss = learn.loss * 0 + seen[-1][1]
        learn.loss = learn.loss.to(dtype)

    learn = learner([on("after_loss", replace)], dls=DataLoaders(data(18).train, None))
    learn.fit(1)
    expected = sum(n * loss for n, loss in seen) / sum(n for n, _ in seen)
    assert learn.results["train_loss"] == pytest.approx(expected, rel=1e-14)


def test_a_loss_or_a_metric_of_several_numbers_is_refused():
    each = lambda pred, target: (pred.argmax(-1) == target).float()  # noqa: E731
    with pytest.raises(ValueError, match="take its mean"):
        learner(metrics={"each": each}).fit(1)
    with pytest.raises(ValueError, match="take its mean"):
        learn = learner()
        learn.loss_func = partial(F.cross_entropy, reduction="none")
        learn.evaluate()
    one = lambda pred, target: F.cross_entropy(pred, target).reshape(1)  # noqa: E731
    learn = learner(metrics={"one": one})
    learn.fit(1)
    assert learn.results["valid_one"] == pytest.approx(learn.results["valid_loss"])


def test_metrics_cannot_hold_on_to_the_graph():
    """Neither through the prediction, in whatever form, nor through the weights."""
    model = nn.Linear(6, 3)
    forward = model.forward
    model.forward = lambda x: {"logits": forward(x), "more": [forward(x), (forward(x),)]}
    seen = []

    def size(pred, target):
        seen.extend([pred["logits"], pred["more"][0], pred["more"][1][0]])
        return sum(p.square().sum() for p in model.parameters())

    def look(learn):
        means = learn.callback(MetricsCallback)._phases["train"].means
        seen.extend(number for column in means.columns.values() for number in column._loose)

    loss = lambda pred, target: F.cross_entropy(pred["logits"], target)  # noqa: E731
    learn = Learner(model, data(), loss, metrics={"size": size})
    learn.fit(1, callbacks=[on("after_batch", look, order=99)])
    held = [number for number in seen if isinstance(number, torch.Tensor)]
    assert len(held) > 10 and not any(number.requires_grad for number in held)
    preds, _ = learn.get_preds()
    assert preds["logits"].shape == preds["more"][1][0].shape == (7, 3)


def test_targets_without_axes():
    """One sample at a time, without a batch axis; and no target at all."""
    x = torch.randn(5, 6)
    batches = [(x[i], torch.tensor(i % 3)) for i in range(5)]
    learn = Learner(nn.Linear(6, 3), DataLoaders(batches, batches), F.cross_entropy)
    learn.fit(1)
    pred, target = learn.get_preds()
    assert pred.shape == (15,) and target.tolist() == [0, 1, 2, 0, 1]
    expected = sum(F.cross_entropy(learn.model(a), b).item() for a, b in batches) / 5
    assert learn.evaluate()["loss"] == pytest.approx(expected, rel=1e-6)
    numbers = [([1.0, 2.0], 0.5), ([3.0, 4.0], 0.25)]  # no tensor in them: each batch counts once
    square = lambda pred, target: (pred - target).square().mean()  # noqa: E731
    model = nn.Linear(1, 1)
    model.forward = lambda x: model.weight * torch.tensor(x)
    learn = Learner(model, DataLoaders(numbers, None), square)
    learn.fit(1)
    assert learn.results["train_loss"] == pytest.approx(sum(learn.recorder.losses) / 2)


def test_get_preds_says_when_nothing_is_left():
    def cancel(learn):
        raise CancelBatch

    learn = learner([on("before_batch", cancel, evaluates=True)])
    with pytest.raises(ValueError, match="cancel all"):
        learn.get_preds()
    assert learn.evaluate() == {}


def test_an_epoch_cancelled_while_validating_forgets_gathered_gradients():
    seen = []

    def keep(learn):
        raise CancelStep

    def cancel(learn):
        if not learn.training:
            raise CancelEpoch

    look = on("before_epoch", lambda learn: seen.append(learn.model[0].weight.grad), order=9)
    learn = learner([look])
    learn.fit(2, callbacks=[on("after_backward", keep), on("after_pred", cancel)])
    assert seen == [None, None]


@pytest.mark.cuda
def test_on_cuda_as_on_the_cpu():
    on_cpu = learner(dls=DataLoaders(list(data().train), None))
    on_gpu = learner(dls=DataLoaders(list(on_cpu.dls.train), None))
    on_gpu.model.load_state_dict(on_cpu.model.state_dict())
    on_gpu.model.cuda()
    for part in (on_cpu.model[3], on_gpu.model[3]):
        part.p = 0.0  # other random numbers there
    on_gpu.dls = DataLoaders([(x.cuda(), y.cuda()) for x, y in on_cpu.dls.train], None)
    on_cpu.fit(2)
    on_gpu.fit(2)
    assert on_gpu.recorder.losses == pytest.approx(on_cpu.recorder.losses, rel=1e-3)
