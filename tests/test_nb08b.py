"""DeViSE: classes as points, distances over a tree, features kept, and neighbours found."""

import gzip
import json
import math
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb07d import WordVectors
from exp.nb08b import (
    NeighbourIndex,
    NounTree,
    PictureSearch,
    cached_features,
    class_vectors,
    cosine_loss,
    devise_head,
    read_class_names,
    read_nouns,
)

WORDS = WordVectors(("north", "east", "up"), torch.eye(3) * torch.tensor([1.0, 2.0, 3.0]))
ROOT = Path(__file__).parents[1]


# --- classes ------------------------------------------------------------------------------------


def test_class_names_keep_their_order(tmp_path):
    (tmp_path / "index.json").write_text('{"0": ["n02", "tench"], "1": ["n01", "crane"]}')
    assert list(read_class_names(tmp_path / "index.json").items()) == [
        ("n02", "tench"),
        ("n01", "crane"),
    ]


def test_a_class_takes_its_first_known_name_and_one_without_is_listed():
    kinds = {"a": ["zenith", "up"], "b": ["north_east"], "c": ["zenith"]}
    rows, missing = class_vectors(kinds, WORDS)
    assert missing == ["c"] and rows.shape == (3, 3)
    torch.testing.assert_close(rows[0], torch.tensor([0.0, 0, 1]))
    torch.testing.assert_close(rows[1], torch.tensor([0.5, 0.5, 0]).sqrt())
    assert rows[2].abs().sum() == 0


# --- the tree -----------------------------------------------------------------------------------

TREE = NounTree(
    {"1": ("thing",), "2": ("animal",), "3": ("beetle", "Bug"), "4": ("fly",), "5": ("fly", "zip")},
    {"2": ("1",), "3": ("2",), "4": ("2",), "5": ("1",), "1": ()},
)


def test_steps_go_over_the_nearest_common_parent():
    assert [TREE.distance("3", x) for x in "12345"] == [2, 1, 0, 2, 3]
    assert TREE.above("3") == {"3": 0, "2": 1, "1": 2}
    with pytest.raises(ValueError, match="no common parent"):
        NounTree({"a": ("a",), "b": ("b",)}, {}).distance("a", "b")


def test_a_noun_of_several_meanings_takes_the_one_that_shares_most_words():
    assert TREE.find("fly") == "4" and TREE.find("FLY", also=["zip", "fly"]) == "5"
    assert TREE.find("bug") == "3"
    with pytest.raises(KeyError, match="no synset of 'flurb'"):
        TREE.find("flurb")


@given(st.integers(2, 30), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_distance_is_symmetric_and_a_cycle_ends(n, rng):
    parents = {
        str(i): tuple(str(rng.randrange(i)) for _ in range(rng.choice((1, 1, 2))))
        for i in range(1, n)
    }
    parents["0"] = (str(n - 1),)  # a damaged table
    tree = NounTree({str(i): (f"w{i}",) for i in range(n)}, parents)
    a, b = (str(rng.randrange(n)) for _ in range(2))
    assert tree.distance(a, b) == tree.distance(b, a) >= (a != b)


@pytest.mark.parametrize("suffix", [".tsv", ".tsv.gz"])
def test_nouns_are_read_with_quotes_and_several_parents(tmp_path, suffix):
    text = (
        "synset\tlexname\tlemmas\thypernyms\tdefinition\n"
        '1-n\tx\tentity\t\tall "there\n'
        '2-n\tx\tbeing|"quoted"\t1-n|3-n\tliving\n'
        "3-n\tx\tlife\t1-n\t\n"
    )
    path = tmp_path / f"nouns{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    tree = read_nouns(path)
    assert len(tree.lemmas) == 3 and tree.parents["2-n"] == ("1-n", "3-n")
    assert tree.find('"quoted"') == "2-n" and tree.distance("2-n", "1-n") == 1


# --- loss and head ------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(1, 7), st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_the_cosine_loss_knows_directions_only(b, d, scale):
    torch.manual_seed(b * 10 + d)
    x, y = torch.randn(2, b, d, dtype=torch.float64)
    loss = cosine_loss(x, y)
    assert -1e-9 <= loss <= 2 + 1e-9
    torch.testing.assert_close(cosine_loss(scale * x, y), loss)
    assert abs(float(cosine_loss(y, scale * y))) < 1e-9


def test_the_cosine_loss_refuses_to_broadcast():
    with pytest.raises(ValueError, match="for each target"):
        cosine_loss(torch.ones(4, 3), torch.ones(3))


def test_a_head_learns_to_point():
    torch.manual_seed(0)
    head, x = devise_head(8, 3, 16, dropout=0.0), torch.randn(30, 8)
    y = F.normalize(x[:, :3] + 0.1, dim=-1)
    opt = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(200):
        opt.zero_grad()
        cosine_loss(head(x), y).backward()
        opt.step()
    assert cosine_loss(head(x), y) < 0.02
    assert nn.functional.cosine_similarity(head(x), y).min() > 0.7


# --- features -----------------------------------------------------------------------------------


def body():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5))


def refuse():
    raise AssertionError("the batches were touched")
    yield


def test_features_are_computed_once_and_again_for_another_body_pictures_or_pool(tmp_path):
    net, x = body(), torch.rand(4, 3, 8, 8)
    path, asked = tmp_path / "deep" / "f.safetensors", []

    def batches():
        asked.append(1)
        yield from x.split(3)

    first = cached_features(net, batches(), path, "these")
    assert first.shape == (4, 5) and first.dtype == torch.float32 and net.training
    torch.testing.assert_close(first, net.eval()(x).mean((2, 3)), atol=1e-3, rtol=1e-3)
    assert torch.equal(cached_features(net, refuse(), path, "these"), first)
    cached_features(net, batches(), path, "others")
    cached_features(net, batches(), path, "others", pool="max")
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] += 1
    cached_features(net, batches(), path, "others", pool="max")
    assert len(asked) == 4
    with pytest.raises(ValueError, match='"mean" or "max"'):
        cached_features(net, batches(), path, pool="sum")


def test_an_interrupted_computation_leaves_no_file(tmp_path):
    def breaking():
        yield torch.rand(2, 3, 8, 8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_features(body(), breaking(), tmp_path / "f.safetensors")
    assert not list(tmp_path.iterdir())


# --- neighbours ---------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_the_exact_index_is_a_sorted_list_of_cosines(n, d, b):
    torch.manual_seed(n + 100 * d)
    vectors, targets = torch.randn(n, d), torch.randn(b, d)
    k = min(n, 3)
    cosines, rows = NeighbourIndex(vectors).query(targets, k)
    true = F.cosine_similarity(targets[:, None], vectors[None], dim=-1)
    torch.testing.assert_close(cosines, true.sort(descending=True).values[:, :k])
    torch.testing.assert_close(true.gather(1, rows), cosines)


def test_the_graph_finds_nearly_all_and_more_with_more_effort():
    pytest.importorskip("nmslib")
    torch.manual_seed(0)
    vectors, targets = torch.randn(2000, 20), torch.randn(50, 20)
    true = NeighbourIndex(vectors).query(targets, 10)[1]
    graph, recalls = NeighbourIndex(vectors, "nmslib"), []
    for effort in (10, 200):
        cosines, rows = graph.query(targets, 10, effort)
        recalls.append(float((rows[:, :, None] == true[:, None]).any(2).float().mean()))
        assert (cosines[:, :-1] >= cosines[:, 1:] - 1e-5).all()
    assert recalls[1] >= recalls[0] and recalls[1] > 0.95
    again = pickle.loads(pickle.dumps(graph))
    assert torch.equal(again.query(targets, 10, 200)[1], graph.query(targets, 10, 200)[1])


def test_a_graph_smaller_than_the_question_fills_up():
    pytest.importorskip("nmslib")
    index = NeighbourIndex(torch.eye(3), "nmslib")
    cosines, rows = index.query(torch.eye(3)[0], 3)
    assert rows[0] == 0 and rows.shape == (3,) and math.isclose(cosines[0], 1, abs_tol=1e-5)


def test_without_nmslib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nmslib", None)
    with pytest.raises(ImportError, match=r"ground-up\[neighbours\].*exact"):
        NeighbourIndex(torch.eye(3), "nmslib")


@pytest.mark.parametrize("k", [0, 4])
def test_wrong_questions_are_refused(k):
    index = NeighbourIndex(torch.eye(3))
    with pytest.raises(ValueError, match=r"1\.\.3"):
        index.query(torch.ones(3), k)
    with pytest.raises(ValueError, match="must end in 3"):
        index.query(torch.ones(2), 1)
    with pytest.raises(ValueError, match="at least one"):
        NeighbourIndex(torch.empty(0, 3))


# --- the search ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exact", "nmslib"])
def test_pictures_are_found_by_words_means_of_words_and_pictures(method):
    if method == "nmslib":
        pytest.importorskip("nmslib")
    points = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 5], [0.9, 0.1, 0]])
    search = PictureSearch(points, WORDS, ["north", "up", "nowhere"], method)
    assert search.find("north", 2).items == (0, 3)
    assert search.find("north east", 1).items == (1,)
    assert search.like(0, 2).items == (3, 1) and 0 not in search.like(0, 3).items
    assert search.nouns == ("north", "up") and search.name(2, 1).words == ("up",)
    with pytest.raises(KeyError, match="no vector for 'nowhere'"):
        search.find("nowhere")
    with pytest.raises(ValueError, match="give the search its nouns"):
        PictureSearch(points, WORDS).name(0)
    again = pickle.loads(pickle.dumps(search))
    assert again.find("up", 1) == search.find("up", 1)


def test_a_picture_alone_is_like_no_other():
    assert PictureSearch(torch.ones(1, 3), WORDS).like(0).items == ()


# --- what was recorded --------------------------------------------------------------------------


def test_the_recorded_experiment_says_what_the_page_says():
    entry = json.loads((ROOT / "nbs/recorded/devise_tiny_imagenet.json").read_text("utf-8"))
    figures = entry["figures"]
    assert entry["mode"] == "full" and figures["classes"] == 199
    mean = {
        name: sum(run["P@5 among held-out"] for run in runs) / len(runs)
        for name, runs in figures["models"].items()
    }
    assert all(len(runs) == 3 for runs in figures["models"].values())
    assert mean["DeViSE"] > 0.25 > 4 * mean["shuffled"]
