"""The drawn pictures: the real files' formats, and truths that hold."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from exp import nb00c


def picture(path):
    with Image.open(path) as image:
        assert image.format == "JPEG"
        return np.asarray(image.convert("RGB"))


@given(st.sampled_from(sorted(nb00c.SHAPES)), st.floats(0.6, 1))
@settings(max_examples=40, deadline=None)
def test_every_shape_has_its_middle_inside_and_ends_before_a_radius_and_a_half(shape, far):
    turn = np.linspace(0, 2 * np.pi, 50)
    edge = 1.45 * np.sqrt(2) * far + 0.6
    away = nb00c.SHAPES[shape](edge * np.cos(turn), edge * np.sin(turn))
    assert (away > 0).all()
    y, x = np.mgrid[-1:1:41j, -1:1:41j]
    share = (nb00c.SHAPES[shape](x, y) < 0).mean()
    assert 0.1 < share < 0.9


@given(st.sampled_from(sorted(nb00c.PATTERNS)), st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_patterns_are_shares_and_neither_empty_nor_full(pattern, n):
    y, x = np.mgrid[0:n:0.07, 0:n:0.07]
    share = nb00c.PATTERNS[pattern](x, y)
    assert share.shape == x.shape and share.min() >= 0 and share.max() <= 1
    assert (pattern == "plain") == (share.max() == 0)
    if pattern != "plain":
        assert 0.1 < share.mean() < 0.9


def test_a_thing_stands_in_its_box_in_its_colour():
    rng = np.random.RandomState(5)
    for _ in range(20):
        image, (left, top, right, bottom) = nb00c.draw_thing(rng, "ball", "plain", "red", 70, 90)
        assert image.size == (90, 70)
        assert 0 <= left < right <= 89 and 0 <= top < bottom <= 69
        red, green, blue = np.asarray(image)[(top + bottom) // 2, (left + right) // 2].astype(int)
        assert red > green + 20 and red > blue + 20


@given(st.floats(-40, 140), st.floats(-40, 140), st.floats(3, 60))
@settings(max_examples=30, deadline=None)
def test_a_shape_may_hang_over_the_edge_or_lie_outside(x, y, radius):
    canvas = nb00c.Canvas(np.random.RandomState(0), 60, 100)
    share = canvas.cover(x, y, radius, 0.3, nb00c.SHAPES["fish"])
    assert share.shape == (60, 100) and 0 <= share.min() and share.max() <= 1
    canvas.paint(share, (1, 2, 3))
    assert canvas.pixels.shape == (60, 100, 3)


@pytest.mark.parametrize("coat", ["plain", "striped", "spotted", "masked"])
def test_pets_differ_by_ears_and_coat(coat):
    cat, dog = (
        np.asarray(nb00c.draw_pet(np.random.RandomState(3), cat, coat, 80, 70)).astype(int)
        for cat in (True, False)
    )
    assert cat.shape == dog.shape == (80, 70, 3)
    assert (abs(cat - dog).max(-1) > 60).mean() > 0.005


def test_breeds_are_four_cats_with_a_capital_and_four_dogs():
    breeds = nb00c.oxford_pets_truth()
    assert len({breed.name for breed in breeds}) == 8
    assert all(breed.is_cat == breed.name[0].isupper() for breed in breeds)
    assert len({(breed.is_cat, breed.coat) for breed in breeds}) == 8


def test_scenes_hold_none_to_four_things_apart_from_each_other():
    rng = np.random.RandomState(1)
    counts = set()
    for _ in range(80):
        image, things = nb00c.draw_scene(rng)
        assert image.size == (96, 96)
        counts.add(len(things))
        for i, a in enumerate(things):
            assert 0 < a.x < 96 and 0 < a.y < 96
            for b in things[:i]:
                assert (a.x - b.x) ** 2 + (a.y - b.y) ** 2 > (0.8 * (a.radius + b.radius)) ** 2
    assert counts >= {0, 1, 2, 3}


def test_heads_are_where_the_pose_and_the_camera_say(tmp_path, monkeypatch):
    truth, shots = nb00c._film_heads()
    monkeypatch.setattr(nb00c, "_film_heads", lambda: (truth, shots[::47]))
    nb00c.make_biwi(tmp_path)
    for file in tmp_path.glob("*/*_rgb.jpg"):
        camera = np.genfromtxt(file.parent / "rgb.cal", skip_footer=6)
        pose = file.with_name(file.name.replace("rgb.jpg", "pose.txt"))
        place, turn = np.genfromtxt(pose, skip_header=3), np.genfromtxt(pose, skip_footer=1)
        assert camera.shape == turn.shape == (3, 3)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-4)
        found = [place[k] * camera[k, k] / place[2] + camera[k, 2] for k in (0, 1)]
        person, frame = int(file.parent.name) - 1, int(file.name.split("_")[1]) - 3
        np.testing.assert_allclose(found, truth.centres[person, frame], atol=2e-3)
        assert picture(file).shape == (120, 160, 3)


def test_frames_of_one_person_are_alike_and_persons_differ():
    _, shots = nb00c._film_heads()
    pixels = np.stack([np.asarray(shot[2]).astype(float) for shot in shots[:60]]).reshape(3, 20, -1)
    within = np.mean([abs(p[:-1] - p[1:]).mean() for p in pixels])
    between = np.mean([abs(pixels[0] - pixels[1]).mean(), abs(pixels[1] - pixels[2]).mean()])
    assert within < 0.5 * between


def test_truths_pickle():
    for truth in (nb00c.imagenette_truth(), nb00c.oxford_pets_truth(), nb00c.biwi_truth()):
        again = pickle.loads(pickle.dumps(truth))
        assert type(again) is type(truth)
