"""07a_augmentation: points stay on their pixels, batches keep their kinds, randomness resumes."""

import math
import pickle
import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from torch import nn

from exp.nb00 import test_eq, test_near
from exp.nb03b import DataLoader, DataLoaders, TensorDataset
from exp.nb03c import accuracy
from exp.nb03d import seed_everything
from exp.nb03f import Callback
from exp.nb04 import Learner
from exp.nb04d import Checkpoint
from exp.nb06e import Transform, part_from_state, part_state
from exp.nb07 import CategoryBlock, DataBlock, ImageBlock, PointBlock
from exp.nb07a import (
    Flip,
    Geometry,
    Lighting,
    MixUp,
    RandomErasing,
    RandomResizedCrop,
    Rotate,
    Zoom,
    move_points,
    predict_augmented,
    relight,
    resample,
    standard_augmentation,
)

quick = settings(max_examples=40, deadline=None)
sides = st.integers(40, 90)
EVERY = [
    Flip(0.5, 0.5),
    Rotate(180, p=1.0),
    Zoom(1.5, p=1.0),
    Zoom(1.0, shift=0.2, p=1.0),
    RandomResizedCrop(scale=(0.3, 1.0), ratio=(0.5, 2.0)),
    RandomResizedCrop((50, 70), scale=(0.4, 0.8)),
]


def draw_dot(place, height, width):
    """A soft white dot on black at a place in -1..1: (1, H, W)."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    x0, y0 = (place + 1) / 2 * torch.tensor([width, height])
    return torch.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 8)[None]


def find_dot(picture):
    """The centre of what is white, in pixels: (2,)."""
    (H, W), share = picture.shape[-2:], picture[0] / picture[0].sum()
    x, y = torch.arange(W) + 0.5, torch.arange(H) + 0.5
    return torch.stack([(share.sum(0) * x).sum(), (share.sum(1) * y).sum()])


@settings(max_examples=150, deadline=None)
@given(
    sides,
    sides,
    st.lists(st.sampled_from(EVERY), min_size=1, max_size=4),
    st.integers(0, 2**31),
    st.tuples(st.floats(-0.7, 0.7), st.floats(-0.7, 0.7)),
)
def test_a_dot_is_found_again_within_a_pixel(height, width, steps, seed, place):
    torch.manual_seed(seed)
    point = torch.tensor([[place]])
    picture = draw_dot(point[0, 0], height, width)[None]
    geometry = Geometry(*steps, padding="zeros")
    moved, points = geometry((picture, point), ("image", "points"), True)
    h, w = moved.shape[-2:]
    x, y = ((points[0, 0] + 1) / 2 * torch.tensor([w, h])).tolist()
    # the dot is 2 pixels wide, and as much wider as it is enlarged: nothing of it may be cut
    wide = 8 * max(1.0, math.sqrt(moved.sum() / picture.sum()))
    assume(wide < x < w - wide and wide < y < h - wide)
    assert (find_dot(moved[0]) - torch.tensor([x, y])).square().sum().sqrt() < 1


@quick
@given(sides, sides, st.sampled_from(EVERY), st.integers(0, 2**31))
def test_points_go_by_the_inverse_of_the_matrix(height, width, step, seed):
    torch.manual_seed(seed)
    matrix, _ = step.draw(5, (height, width))
    points = torch.randn(5, 3, 2)
    there = move_points(points, matrix)
    whole = torch.cat([there, torch.ones(5, 3, 1)], -1) @ matrix.mT
    test_near(whole[..., :2], points, tol=1e-4)


def test_exact_flips_and_turns():
    x = torch.rand(2, 3, 5, 7)
    for flip, axes in ((Flip(1, 0), [3]), (Flip(0, 1), [2]), (Flip(1, 1), [2, 3])):
        test_near(flip((x,), ("image",), True)[0], x.flip(axes), tol=1e-5)
    quarter = torch.tensor([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]]).expand(2, 3, 3)
    square = torch.rand(2, 3, 6, 6)
    test_near(resample(square, quarter, (6, 6)), square.rot90(1, (2, 3)), tol=1e-5)


def test_a_turn_keeps_shapes_in_pictures_that_are_not_square():
    torch.manual_seed(1)
    matrix, _ = Rotate(90, p=1.0).draw(50, (30, 90))
    pixels = torch.tensor([45.0, 15.0])  # half the sides
    a = matrix[:, :2, :2] * pixels[:, None] / pixels  # in units of pixels
    test_near(a @ a.mT, torch.eye(2).expand(50, 2, 2), tol=1e-5)


def test_mirrored_points_change_roles():
    eyes = torch.tensor([[[-0.5, 0.0], [0.5, 0.1], [0.0, 0.5]]])
    x, kinds = torch.rand(1, 1, 8, 8), ("image", "points")
    swapped = Flip(1, swap=[(0, 1)])((x, eyes), kinds, True)[1]
    test_near(swapped[0], torch.tensor([[-0.5, 0.1], [0.5, 0.0], [0.0, 0.5]]))
    turned = Flip(1, 1, swap=[(0, 1)])((x, eyes), kinds, True)[1]
    test_near(turned, -eyes)  # upside down and mirrored is a turn: left is left
    joined = Geometry(Zoom(1.0), Flip(1, swap=[(0, 1)]))((x, eyes), kinds, True)[1]
    test_near(joined, swapped)


def test_validation_is_untouched():
    batch = torch.rand(3, 3, 20, 30), torch.rand(3, 2, 2), torch.arange(3)
    kinds = ("image", "points", "category")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    for change in [*EVERY[:5], *standard_augmentation(erasing=1.0), Geometry(*EVERY[:5])]:
        found = change(batch, kinds, False)
        assert all(a is b for a, b in zip(found, batch, strict=True))
    test_eq(torch.get_rng_state(), state)


def test_a_size_holds_in_validation_and_training():
    batch = torch.rand(2, 3, 20, 28), torch.tensor([[[0.0, 0]], [[0.5, 1]]])
    kinds = ("image", "points")
    crop = RandomResizedCrop((10, 10))
    for train in (True, False):
        test_eq(crop(batch, kinds, train)[0].shape, (2, 3, 10, 10))
    pictures, points = crop(batch, kinds, False)  # the middle, 20 × 20
    test_near(pictures, F.avg_pool2d(batch[0][..., 4:24], 2), tol=1e-5)
    test_near(points[:, 0], torch.tensor([[0.0, 0], [0.7, 1]]))


@quick
@given(st.floats(0.1, 1.0), st.floats(1.0, 2.0), st.integers(0, 2**31))
def test_crops_keep_to_their_bounds(least, distortion, seed):
    torch.manual_seed(seed)
    crop = RandomResizedCrop(scale=(least, 1.0), ratio=(1 / distortion, distortion))
    matrix, size = crop.draw(200, (30, 50))
    across, down = matrix[:, 0, 0], matrix[:, 1, 1]
    assert size == (30, 50) and (matrix[:, :2, :2].sum(2) <= 1 + 1e-5).all()
    assert (matrix[:, 0, 2].abs() <= 1 - across + 1e-5).all()
    assert (matrix[:, 1, 2].abs() <= 1 - down + 1e-5).all()
    ratio = across / down
    assert (ratio <= distortion + 1e-4).all() and (ratio >= 1 / distortion - 1e-4).all()
    assert (across * down >= least / distortion - 1e-4).all()


def test_one_resampling_is_the_product():
    x = torch.rand(2, 3, 24, 24)
    torch.manual_seed(1)
    joined = Geometry(Rotate(20, 1.0), Flip(0.5), Zoom(1.5, p=1.0))((x,), ("image",), True)[0]
    torch.manual_seed(1)
    steps = Rotate(20, 1.0), Flip(0.5), Zoom(1.5, p=1.0)
    matrix = torch.eye(3)
    for step in steps:
        matrix = matrix @ step.draw(2, (24, 24))[0]
    test_near(joined, resample(x, matrix, (24, 24)))


def test_large_pictures_are_averaged_before_they_shrink():
    checks = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    x = checks.float().expand(1, 1, 64, 64)
    test_near(resample(x, torch.eye(3)[None], (8, 8)), torch.full((1, 1, 8, 8), 0.5))


def test_bytes_become_floats_and_other_kinds_pass():
    pictures = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    words = torch.arange(6).reshape(2, 3)
    for change in (Flip(1), Lighting(p=1.0), RandomErasing(1.0)):
        x, y = change((pictures, words), ("image", "tokens"), True)
        assert x.dtype == torch.float32 and 0 <= x.min() <= x.max() <= 1 and y is words
        assert change((words,), ("tokens",), True)[0] is words


def test_each_picture_draws_its_own():
    x = torch.rand(1, 3, 16, 16).expand(8, 3, 16, 16)
    for change in (Rotate(30, 1.0), Lighting(p=1.0), RandomErasing(1.0), RandomResizedCrop()):
        torch.manual_seed(1)
        found = change((x,), ("image",), True)[0]
        assert len({tuple(picture.flatten().tolist()) for picture in found}) == 8
        torch.manual_seed(1)
        test_eq(change((x,), ("image",), True)[0], found)


@quick
@given(st.integers(0, 2), st.floats(0.5, 2.0), st.integers(0, 1000))
def test_light_as_pillow(which, factor, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (3, 9, 7), generator=generator).to(torch.uint8)
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[which]
    theirs = torch.frombuffer(
        bytearray(enhance(image).enhance(factor).tobytes()), dtype=torch.uint8
    )
    factors = [torch.ones(1)] * 3
    factors[which] = torch.tensor([factor])
    ours = 255 * relight(pixels[None].float() / 255, *factors)[0]
    assert (ours - theirs.reshape(9, 7, 3).permute(2, 0, 1)).abs().max() < 2.5  # it rounds thrice


def test_light_of_other_channels():
    factors = [torch.tensor([1.5, 0.5])] * 3
    four = torch.rand(2, 4, 5, 5)
    found = relight(four, *factors)
    test_eq(found[:, 3], four[:, 3])
    test_near(found[:, :3], relight(four[:, :3], *factors))
    grey = torch.full((2, 1, 5, 5), 0.4)
    test_near(relight(grey, *factors)[:, 0, 0, 0], torch.tensor([0.6, 0.2]))


@quick
@given(st.integers(5, 30), st.integers(5, 30), st.floats(0.05, 0.4), st.integers(0, 1000))
def test_erasing(height, width, share, seed):
    torch.manual_seed(seed)
    x = torch.rand(20, 3, height, width) * 0.5
    found = RandomErasing(1.0, (share, share), (1.0, 1.0), fill=1.0)((x,), ("image",), True)[0]
    hidden = (found == 1).all(1)
    test_eq(found.where(~hidden[:, None], x), x)
    side = math.sqrt(share * height * width)
    for mask in hidden:
        rows, columns = mask.any(1), mask.any(0)
        test_eq(mask, rows[:, None] & columns)  # a rectangle
        assert abs(int(rows.sum()) - min(side, height)) <= 1
        assert abs(int(columns.sum()) - min(side, width)) <= 1


def test_wrong_settings_are_refused():
    for make, text in (
        (lambda: Flip(1.5), "horizontal and vertical"),
        (lambda: Rotate(10, p=2), "p must"),
        (lambda: Zoom(0.5), "factor"),
        (lambda: Zoom(shift=-1), "shift and p"),
        (lambda: RandomResizedCrop(0), "size"),
        (lambda: RandomResizedCrop(8, scale=(0.5, 2)), "scale"),
        (lambda: Lighting(-0.1), "brightness"),
        (lambda: RandomErasing(area=(0.5, 0.1)), "area"),
        (lambda: Geometry(Flip(), padding="mirror"), "padding"),
        (lambda: MixUp(-1), "alpha"),
    ):
        with pytest.raises(ValueError, match=text):
            make()
    with pytest.raises(TypeError, match="geometric"):
        Geometry(Lighting())
    with pytest.raises(ValueError, match="batch transform"):
        Geometry(Flip())((torch.rand(3, 8, 8),), ("image",), True)


@pytest.mark.parametrize("change", [*standard_augmentation(8, erasing=0.5, swap=[(0, 1)]), *EVERY])
def test_transforms_are_saved_and_pickled(change):
    assert isinstance(change, Transform)
    batch, kinds = (torch.rand(4, 3, 12, 12), torch.rand(4, 2, 2)), ("image", "points")
    results = []
    for other in (change, part_from_state(part_state(change)), pickle.loads(pickle.dumps(change))):
        torch.manual_seed(3)
        results.append(list(other(batch, kinds, True)))
        assert repr(other) == repr(change)
    test_eq(results[1], results[0])
    test_eq(results[2], results[0])


class NotImportable(Flip):
    __module__ = "__main__"


def test_a_transform_of_a_notebook_works_and_refuses_to_be_saved():
    geometry = Geometry(NotImportable(1.0))
    x = torch.rand(1, 1, 4, 4)
    test_near(geometry((x,), ("image",), True)[0], x.flip(3), tol=1e-5)
    with pytest.raises(ValueError, match="cannot be saved"):
        part_state(geometry)


# in a training


def items(n=24, size=12):
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(n) % 2
    pictures = torch.randint(150, (n, 3, size, size), generator=generator)
    pictures[labels == 1, 0] += 100
    return [
        (picture.to(torch.uint8), int(label))
        for picture, label in zip(pictures, labels, strict=True)
    ]


def learner(callbacks=(), seed=1, **options):
    seed_everything(seed)
    block = DataBlock(
        (ImageBlock, CategoryBlock), batch_transforms=standard_augmentation(8, erasing=0.5)
    )
    dls = block.loaders(items(), batch_size=8)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    return Learner(
        model,
        dls,
        F.cross_entropy,
        0.1,
        metrics=[accuracy],
        callbacks=callbacks,
        progress=False,
        **options,
    )


class StopAt(Callback):
    only_watches = True

    def __init__(self, step):
        self.step = step

    def after_batch(self, learn):
        if learn.training and learn.n_steps == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("extra", [[], [MixUp(1.0)]])
def test_a_killed_training_sees_the_same_crops(tmp_path, extra):
    whole = learner([type(c)(1.0) for c in extra])
    whole.fit(3)
    killed = learner([Checkpoint(tmp_path, every=2), StopAt(5), *(type(c)(1.0) for c in extra)])
    with pytest.raises(KeyboardInterrupt):
        killed.fit(3)
    resumed = learner([Checkpoint(tmp_path, every=2), *(type(c)(1.0) for c in extra)])
    torch.rand(7), random.random()  # other numbers would come now
    resumed.fit(3)
    test_eq(resumed.model.state_dict(), whole.model.state_dict())


class Watch(Callback):
    order = 50

    def __init__(self):
        self.train, self.valid = [], []

    def after_loss(self, learn):
        seen = learn.inputs[0], learn.pred.detach(), learn.target, learn.loss.item()
        (self.train if learn.training else self.valid).append(seen)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("module", [False, True])
def test_mixup(smoothing, module):
    torch.manual_seed(1)
    x, y = torch.rand(16, 5), torch.randint(3, (16,))
    watch, mixup = Watch(), MixUp(1.0)
    loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
    loss_func = loss if module else lambda p, t: F.cross_entropy(p, t, label_smoothing=smoothing)
    data = [(x, y)]

    class Keep(Callback):
        def after_loss(self, learn):
            if learn.training:
                self.share, self.partners = mixup.share, mixup.partners

    keep = Keep()
    learn = Learner(
        nn.Linear(5, 3),
        DataLoaders(data, data),
        loss_func,
        0.1,
        metrics=[accuracy],
        callbacks=[watch, mixup, keep],
        progress=False,
    )
    learn.fit(1)
    mixed, pred, target, found = watch.train[0]
    assert 0.5 <= keep.share <= 1
    test_near(mixed, keep.share * x + (1 - keep.share) * x[keep.partners])
    soft = torch.eye(3)[y] * keep.share + torch.eye(3)[y[keep.partners]] * (1 - keep.share)
    test_near(found, F.cross_entropy(pred, soft, label_smoothing=smoothing).item(), tol=1e-5)
    test_eq(target, y)  # metrics see the honest targets
    test_near(learn.results["train_accuracy"], (pred.argmax(1) == y).float().mean().item())
    test_eq(watch.valid[0][0], x)
    test_near(watch.valid[0][3], loss(watch.valid[0][1], y).item(), tol=1e-6)
    assert mixup.partners is None


def test_mixup_refuses_whole_numbers():
    data = DataLoaders([(torch.arange(6).reshape(3, 2), torch.zeros(3).long())], None)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 2))
    learn = Learner(model, data, F.cross_entropy, 0.1, callbacks=[MixUp()], progress=False)
    with pytest.raises(TypeError, match=r"floats.*int64"):
        learn.fit(1)


def test_predict_augmented():
    learn = learner()
    learn.fit(2)
    state = torch.get_rng_state()
    plain, targets = learn.get_preds()
    many, same = predict_augmented(learn, n=3)
    test_eq(torch.get_rng_state(), state)
    test_eq(targets, same)
    assert many.shape == plain.shape and (many != plain).any()
    test_eq(predict_augmented(learn, n=3)[0], many)
    assert (predict_augmented(learn, n=3, seed=1)[0] != many).any()
    assert learn.dls.valid.train is False
    test_eq(learn.get_preds()[0], plain)


def test_predict_augmented_refuses():
    learn = learner()
    with pytest.raises(ValueError, match="shuffles"):
        predict_augmented(learn, learn.dls.train)
    with pytest.raises(TypeError, match="DataBlock"):
        predict_augmented(learn, DataLoader(TensorDataset(torch.rand(4, 2)), 2))
    with pytest.raises(ValueError, match="n must be"):
        predict_augmented(learn, n=0)
    pictures = [(picture, torch.zeros(1, 2)) for picture, _ in items()]
    block = DataBlock((ImageBlock, PointBlock(scaled=True)))
    learn.dls = block.loaders(pictures, batch_size=4)
    with pytest.raises(ValueError, match="points move"):
        predict_augmented(learn)


@pytest.mark.cuda
def test_a_gpu_draws_what_a_cpu_draws():
    batch, kinds = (torch.rand(4, 3, 40, 50), torch.rand(4, 2, 2)), ("image", "points")
    for change in standard_augmentation(24, erasing=1.0, swap=[(0, 1)]):
        found = []
        for device in ("cpu", "cuda"):
            torch.manual_seed(1)
            parts = change(tuple(part.to(device) for part in batch), kinds, True)
            assert all(part.device.type == device for part in parts)
            found.append([part.cpu() for part in parts])
        test_near(found[1], found[0], tol=1e-4)
