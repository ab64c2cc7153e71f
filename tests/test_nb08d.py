"""Points: the range of the answers, the head, errors in pixels and by the face, Biwi's files."""

import math
import pickle
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb00c import biwi_truth, make_biwi
from exp.nb03b import DataLoader, DataLoaders, TensorDataset
from exp.nb03e import MeanMetric
from exp.nb04 import Learner
from exp.nb06f import ImageBlock, PointBlock, Resize
from exp.nb06g import FunctionSplitter, parent_name
from exp.nb07 import DataBlock
from exp.nb07a import Flip
from exp.nb08d import (
    PointHead,
    SigmoidRange,
    eye_distance_error,
    point_error,
    read_head_centre,
    show_points,
    sigmoid_range,
)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "biwi"
    make_biwi(folder)
    return folder


def is_apart(path):
    return int(parent_name(path)) > 20


@given(low=st.floats(-50, 49), width=st.floats(0.01, 100), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_range_holds_its_ends_and_is_monotonic(low, width, seed):
    x = torch.randn(20, generator=torch.Generator().manual_seed(seed)).double().sort()[0] * 20
    y = sigmoid_range(x, low, low + width)
    assert (y >= low).all() and (y <= low + width + 1e-9).all()
    assert (y.diff() >= 0).all()
    middle = sigmoid_range(torch.zeros(1).double(), low, low + width).item()
    assert middle == pytest.approx(low + width / 2, abs=1e-9)


def test_a_wider_range_reaches_the_end_and_a_tight_one_loses_its_slope():
    logit = math.log(2.1 / 0.1)  # where -1.1 … 1.1 has its 1
    for high, slope in ((1.1, 2.2 * (2.1 / 2.2) * (0.1 / 2.2)), (1.0, None)):
        x = torch.tensor(float(logit), requires_grad=True)
        y = sigmoid_range(x, -high, high)
        (found,) = torch.autograd.grad(y, x)
        if slope:
            assert y.item() == pytest.approx(1.0)
            assert found.item() == pytest.approx(slope, rel=1e-4)
        else:
            assert y.item() < 0.92
    far = torch.tensor(20.0, requires_grad=True)
    (slope,) = torch.autograd.grad(sigmoid_range(far, -1.0, 1.0), far)
    assert slope < 1e-7


def test_ranges_that_are_none_are_refused():
    for low, high in ((1, 1), (5.5, 0), (0, math.nan)):
        with pytest.raises(ValueError, match="low must be below high"):
            SigmoidRange(low, high)
    layer = SigmoidRange(0, 5.5)
    assert repr(layer) == "SigmoidRange(0, 5.5)"
    assert pickle.loads(pickle.dumps(layer))(torch.zeros(1)).item() == 2.75


@given(batch=st.integers(1, 4), n=st.integers(1, 6), hidden=st.sampled_from([None, 3]))
@settings(max_examples=20, deadline=None)
def test_a_head_returns_points_and_begins_at_its_start(batch, n, hidden):
    start = torch.rand(n, 2) * 1.6 - 0.8
    head = PointHead(24, n, hidden=hidden, start=start)
    assert head(torch.randn(batch, 6, 2, 2)).shape == (batch, n, 2)
    assert (head(torch.zeros(batch, 24)) - start).abs().max() < 0.2
    pickle.loads(pickle.dumps(head))


def test_a_start_outside_the_range_or_of_another_shape_is_refused():
    for start in (torch.tensor([[1.5, 0.0]]), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match=r"start must be \(1, 2\)"):
            PointHead(4, 1, start=start)


def test_errors_in_pixels():
    pred = torch.tensor([[[0.0, 0.0]], [[0.5, 0.5]]])
    target = torch.tensor([[[3 / 80, -4 / 60]], [[0.5, 0.5]]])
    assert point_error(pred, target, 120, 160).item() == pytest.approx(2.5)
    metric = MeanMetric(partial(point_error, height=120, width=160))
    for i in (0, 1):
        metric.update(pred[[i]], target[[i]])
    assert metric.compute() == pytest.approx(2.5)
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(2, 1, 2\)"):
        point_error(pred[:, 0], target, 120, 160)  # broadcasting would compare all with all
    with pytest.raises(ValueError, match="points come as"):
        point_error(torch.zeros(4), torch.zeros(4), 120, 160)


def test_errors_by_the_face_do_not_depend_on_its_size():
    face = torch.tensor([[[-0.2, 0.0], [0.2, 0.0], [0.0, 0.1], [-0.1, 0.3], [0.1, 0.3]]])
    off = face + torch.tensor([0.0, 0.04])
    assert eye_distance_error(off, face).item() == pytest.approx(0.1)
    assert eye_distance_error(off / 2, face / 2).item() == pytest.approx(0.1)
    with pytest.raises(ValueError, match="in one place"):
        eye_distance_error(off, face, 2, 2)


def test_biwis_files_are_read(heads):
    shots = sorted(heads.glob("*/*_rgb.jpg"))
    read = torch.tensor([read_head_centre(shot) for shot in shots])
    truth = torch.from_numpy(biwi_truth().centres).reshape(-1, 2).float()
    assert (read - truth).abs().max() < 1e-3
    assert read_head_centre(str(shots[0])) == read_head_centre(shots[0])


def test_biwis_files_that_are_damaged_are_named(tmp_path):
    (tmp_path / "rgb.cal").write_text("1 0 0\n0 1 0\n0 0 1\n")
    (tmp_path / "frame_1_pose.txt").write_text("1 0 0\n0 1 0\n")
    with pytest.raises(ValueError, match=r"frame_1_rgb\.jpg"):
        read_head_centre(tmp_path / "frame_1_rgb.jpg")
    (tmp_path / "frame_1_pose.txt").write_text("1 0 here\n")
    with pytest.raises(ValueError, match=r"frame_1_pose\.txt should hold numbers"):
        read_head_centre(tmp_path / "frame_1_rgb.jpg")


def test_heads_are_split_by_person_and_points_follow_the_picture(heads):
    block = DataBlock(
        (ImageBlock, PointBlock),
        get_y=read_head_centre,
        splitter=FunctionSplitter(is_apart),
        item_transforms=Resize((48, 64)),
    )
    dls = block.loaders(sorted(heads.glob("*/*_rgb.jpg")), batch_size=16)
    people = [
        {parent_name(dls.train.dataset.item(k)) for k in range(400)},
        {parent_name(dls.valid.dataset.item(k)) for k in range(80)},
    ]
    assert people[1] == {"21", "22", "23", "24"} and not people[0] & people[1]
    x, y = next(iter(dls.valid))
    assert x.shape[1:] == (3, 48, 64) and y.shape[1:] == (1, 2)
    where = biwi_truth().centres[20, 0] / (80, 60) - 1
    assert y[0, 0].tolist() == pytest.approx(where.tolist(), abs=1e-4)


def test_in_a_mirror_left_becomes_right():
    face = torch.tensor([[[-0.2, 0.1], [0.3, 0.0]]])
    pictures = torch.zeros(1, 1, 8, 8)
    _, swapped = Flip(1.0, swap=[(0, 1)])((pictures, face), ("image", "points"), True)
    assert swapped[0].flatten().tolist() == pytest.approx([-0.3, 0.0, 0.2, 0.1], abs=1e-6)
    _, kept = Flip(1.0)((pictures, face), ("image", "points"), True)
    assert kept[0].flatten().tolist() == pytest.approx([0.2, 0.1, -0.3, 0.0], abs=1e-6)


def test_a_learner_trains_a_head_on_points():
    x = torch.rand(32, 2, 1)
    y = (x * 1.6 - 0.8).reshape(32, 1, 2)
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
    learn = Learner(
        PointHead(2, 1),
        DataLoaders(loader, loader),
        nn.MSELoss(),
        lr=0.1,
        opt_func=torch.optim.Adam,
        progress=False,
        metrics=[partial(point_error, height=100, width=100)],
    )
    rows = learn.fit(15).epochs
    assert rows[-1]["valid_point_error"] < 0.5 * rows[0]["valid_point_error"]


def test_points_are_drawn(monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda: None)
    show_points(torch.rand(3, 1, 8, 8), torch.zeros(3, 2, 2), torch.ones(3, 2, 2), columns=2)
    axes = plt.gcf().axes
    assert len(axes) == 4 and [len(axis.lines) for axis in axes] == [2, 2, 2, 0]
    assert axes[0].lines[1].get_xydata().tolist() == [[8, 8], [8, 8]]
    plt.close("all")
