"""The data block: every source, every kind of item, and every mistake that is named."""

import json
import multiprocessing
import pickle
import string
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb03b import DataLoader, DataLoaders
from exp.nb03c import accuracy
from exp.nb04 import Learner
from exp.nb04c import export_model
from exp.nb06e import (
    Block,
    CategoryBlock,
    MultiCategoryBlock,
    NumberBlock,
    RowBlock,
    TokenBlock,
    Transform,
)
from exp.nb06f import ImageBlock, NormalizeImages, PointBlock, Resize
from exp.nb06g import (
    ColumnReader,
    ColumnSplitter,
    FunctionSplitter,
    GrandparentSplitter,
    parent_name,
)
from exp.nb07 import BlockPipeline, DataBlock

Image = pytest.importorskip("PIL.Image")
LETTERS = list(string.ascii_lowercase)


def is_vowel(letter):
    return "vowel" if letter in "aeiou" else "consonant"


def save(path, height=20, width=24, color="red", mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (width, height), color).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two kinds, four pictures each in train/ and two in valid/, of two sizes."""
    for part, n in (("train", 4), ("valid", 2)):
        for kind, color in (("red", "red"), ("blue", "blue")):
            for i in range(n):
                save(tmp_path / part / kind / f"{i}.png", 20 + i % 2, 24, color)
    return tmp_path


def pictures(**options):
    options = {"item_transforms": Resize(16), "splitter": GrandparentSplitter()} | options
    return DataBlock((ImageBlock, CategoryBlock), get_y=parent_name, **options)


def notes(error):
    return "\n".join([str(error.value), *getattr(error.value, "__notes__", [])])


# the parts, one at a time


def test_an_empty_block_takes_the_item_twice():
    sets = DataBlock().datasets(LETTERS)
    assert (len(sets.train), len(sets.valid)) == (21, 5)
    assert all(x == y for x, y in (sets.train[i] for i in range(21)))


@given(st.integers(2, 60), st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_every_item_comes_once_an_epoch(n, batch_size):
    block = DataBlock((NumberBlock, NumberBlock), splitter=None)
    loaders = block.loaders(range(n), batch_size=batch_size)
    assert loaders.valid is None
    seen = torch.cat([x for x, _ in loaders.train])
    assert sorted(seen.tolist()) == list(range(n))


def test_one_plan_serves_two_sources():
    block = DataBlock((Block, CategoryBlock), get_y=is_vowel, splitter=None)
    first, second = block.datasets(LETTERS), block.datasets(["x"])
    assert (first.vocab, second.vocab) == (["consonant", "vowel"], ["consonant"])


@pytest.mark.parametrize("source", [LETTERS, tuple(LETTERS), range(26)])
def test_any_indexable_source(source):
    assert len(DataBlock().datasets(source).train) == 21


def test_a_dataset_and_a_table_as_source():
    pandas = pytest.importorskip("pandas")

    class Squares:
        def __len__(self):
            return 10

        def __getitem__(self, i):
            return float(i), float(i * i)

    sets = DataBlock((NumberBlock, NumberBlock), splitter=None).datasets(Squares())
    assert sets.train[3] == (torch.tensor(3.0), torch.tensor(9.0))
    frame = pandas.DataFrame({"x": [1, 2, 3], "y": list("aba"), "is_valid": [0, 0, 1]})
    block = DataBlock((NumberBlock, CategoryBlock), get_x=ColumnReader("x"),
                      get_y=ColumnReader("y"), splitter=ColumnSplitter())  # fmt: skip
    sets = block.datasets(frame.set_index("y", drop=False))  # the index plays no part
    assert [x.item() for x, _ in (sets.train[0], sets.train[1], sets.valid[0])] == [1, 2, 3]


def test_base_path_and_relative_names(folder):
    block = DataBlock((ImageBlock, CategoryBlock), get_y=parent_name, splitter=None,
                      item_transforms=Resize(8))  # fmt: skip
    sets = block.datasets(["red/0.png", "blue/1.png"], base_path=folder / "train")
    assert sets.train[0][0].shape == (3, 8, 8) and sets.vocab == ["blue", "red"]


def test_several_inputs_and_targets():
    block = DataBlock((NumberBlock, NumberBlock, CategoryBlock), get_x=[float, abs],
                      get_y=lambda x: x > 0, splitter=None)  # fmt: skip
    loaders = block.loaders([-2, 3], batch_size=2)
    x, size, y = next(iter(loaders.train))
    assert x.shape == size.shape == y.shape == (2,) and (x.abs() == size).all()
    (only_x, only_size) = next(iter(loaders.test_loader([5])))
    assert (only_x.item(), only_size.item()) == (5, 5)
    with pytest.raises(ValueError, match="2 blocks need 2 values, got 2 from get_x and 1"):
        DataBlock((Block, Block), get_x=[abs, abs], get_y=abs)


def test_transforms_come_in_their_order():
    class Note(Transform):
        def __init__(self, order):
            self.order = order

        def __call__(self, parts, kinds, train):
            seen.append((self.order, kinds, train))
            return parts

    seen = []
    block = DataBlock(item_transforms=[Note(30), Note(5)], batch_transforms=[Note(9), Note(1)])
    loaders = block.loaders(LETTERS, batch_size=21)
    next(iter(loaders.train))
    kinds = ("value", "value")
    assert seen == [*[(5, kinds, True), (30, kinds, True)] * 21, (1, kinds, True), (9, kinds, True)]
    seen.clear()
    next(iter(loaders.valid))
    assert {train for *_, train in seen} == {False}


def test_statistics_are_those_of_the_training_set(folder):
    loaders = pictures(batch_transforms=NormalizeImages()).loaders(folder, batch_size=3)
    stats = loaders.pipeline.batch_transforms[-1]
    assert stats.mean == pytest.approx([0.5, 0, 0.5]) and stats.std[0] == pytest.approx(0.5)
    x, _ = next(iter(loaders.valid))
    assert x.dtype == torch.float32 and loaders.vocab == ["blue", "red"]


def test_making_loaders_moves_no_random_number(folder):
    block = pictures(batch_transforms=NormalizeImages())
    before = torch.get_rng_state()
    loaders = block.loaders(folder, batch_size=3)
    loaders.show_batch(2)
    block.summary(folder)
    assert torch.equal(torch.get_rng_state(), before)


# every kind of item


def test_pictures_and_labels_learn_and_decode(folder):
    torch.manual_seed(0)
    loaders = pictures(batch_transforms=NormalizeImages()).loaders(folder, batch_size=4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    learn = Learner(model, loaders, F.cross_entropy, 0.01, metrics=[accuracy], progress=False)
    learn.fit(5)
    assert learn.evaluate()["accuracy"] == 1
    file = folder / "valid" / "blue" / "0.png"
    preds, targets = learn.get_preds(loaders.test_loader([file]))
    assert loaders.pipeline.decode_predictions(preds) == ["blue"] and targets is None
    picture, label = loaders.decode(next(iter(loaders.valid)))[0]
    assert label == "blue" and torch.allclose(picture[2], torch.ones(16, 16), atol=1e-5)


def test_pictures_and_several_labels(folder):
    rows = [{"f": "red/0.png", "l": "a b"}, {"f": "red/1.png", "l": ""}]
    block = DataBlock((ImageBlock, MultiCategoryBlock), get_x=ColumnReader("f"),
                      get_y=ColumnReader("l", separator=" "), splitter=None,
                      item_transforms=Resize(8))  # fmt: skip
    loaders = block.loaders(rows, batch_size=2, base_path=folder / "train")
    x, y = next(iter(loaders.train))
    assert (y.dtype, sorted(y.sum(1).tolist())) == (torch.float32, [0, 2])
    assert sorted(labels for _, labels in loaders.decode((x, y))) == [[], ["a", "b"]]


def test_pictures_and_points():
    items = [(torch.zeros(3, 10, 20, dtype=torch.uint8), [(5, 5), (20, 10)])] * 4
    loaders = DataBlock((ImageBlock, PointBlock), item_transforms=Resize(10, "squash")).loaders(
        items, batch_size=3
    )
    _, points = next(iter(loaders.train))
    assert points[0].tolist() == [[-0.5, 0], [1, 1]]
    assert loaders.blocks[1].n_out == 4


def test_rows_and_numbers_and_texts(capsys):
    rows = [{"a": i, "b": 2 * i} for i in range(10)]
    block = DataBlock((RowBlock(["a", "b"]), NumberBlock), get_y=ColumnReader("b"))
    loaders = block.loaders(rows, batch_size=4)
    x, y = next(iter(loaders.train))
    assert x.shape == (4, 2) and y.dtype == torch.float32
    loaders.show_batch(2)
    texts = DataBlock((TokenBlock, CategoryBlock), splitter=None).loaders(
        [("good film", "yes"), ("bad", "no")], batch_size=2
    )
    tokens, _ = next(iter(texts.train))
    assert tokens.shape == (2, 2) and tokens.dtype == torch.int64
    texts.show_batch(2)
    assert "good film" in capsys.readouterr().out


def test_show_batch_draws_a_picture_for_each_sample(folder):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    pictures().loaders(folder, batch_size=4).show_batch(3)
    axes = [axis for axis in pyplot.gcf().axes if axis.images]
    assert len(axes) == 3 and {axis.get_title() for axis in axes} <= {"red", "blue"}
    pyplot.close("all")


def test_points_outside_of_the_picture_do_not_stretch_it():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    _, axis = pyplot.subplots()
    ImageBlock().show(axis, torch.zeros(3, 4, 6))
    PointBlock().show(axis, torch.tensor([[0.0, 0.5], [3.0, -2.0]]))
    assert axis.get_xlim() == (-1, 1) and axis.get_ylim() == (1, -1)
    pyplot.close("all")


def test_several_labels_say_which_loss_to_pass():
    assert "binary_cross_entropy_with_logits" in MultiCategoryBlock.__doc__
    data = DataLoaders([(torch.zeros(2, 3), torch.zeros(2, 3))], None)
    with pytest.raises(TypeError, match="several labels nn.BCEWithLogitsLoss"):
        Learner(torch.nn.Linear(3, 3), data, MultiCategoryBlock().loss_func, 0.1)


class Doubled(Block):
    """A new kind of part takes one small class."""

    kind = "doubled"

    def encode(self, value):
        return torch.tensor(2.0 * value)

    def decode(self, encoded):
        return encoded.item() / 2


def test_a_new_block_is_a_small_class():
    loaders = DataBlock((Doubled, Doubled), splitter=None).loaders([1, 2], batch_size=2)
    batch = next(iter(loaders.train))
    assert sorted(loaders.decode(batch)) == [(1, 1), (2, 2)]


# workers, pickles, other processes


@pytest.mark.parametrize("context", multiprocessing.get_all_start_methods())
def test_workers_make_the_same_batches(folder, context):
    torch.set_num_threads(1)
    block = pictures(batch_transforms=NormalizeImages())
    alone = list(block.loaders(folder, batch_size=2).valid)
    loaders = block.loaders(folder, batch_size=2, num_workers=2, multiprocessing_context=context)
    for a, b in zip(loaders.valid, alone, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_loaders_and_plans_pickle(folder):
    block = pictures(batch_transforms=NormalizeImages())
    again = pickle.loads(pickle.dumps(block)).loaders(folder, batch_size=2)
    loaders = pickle.loads(pickle.dumps(again))
    assert loaders.vocab == ["blue", "red"] and len(list(loaders.valid)) == len(again.valid)


def test_an_exported_model_decodes_in_a_fresh_process(folder, tmp_path):
    loaders = pictures(batch_transforms=NormalizeImages()).loaders(folder, batch_size=4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    file = folder / "valid" / "red" / "0.png"
    (x,) = next(iter(loaders.test_loader([file])))
    wanted = loaders.pipeline.decode_predictions(model(x))
    state = loaders.pipeline.state_dict()
    assert json.loads(json.dumps(state)) == state
    path = export_model(model, tmp_path / "m.safetensors", extra=state)
    program = f"""
from exp import BlockPipeline, load_exported
model, state = load_exported({str(path)!r})
pipeline = BlockPipeline.from_state(state)
(x,) = next(iter(pipeline.loader([{str(file)!r}])))
print(*pipeline.decode_predictions(model(x)))
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.stdout.split() == wanted, told.stderr


def test_a_notebooks_own_block_is_named_when_it_cannot_travel():
    class Inner(Block):
        pass

    with pytest.raises(ValueError, match="Inner"):
        BlockPipeline([Inner()]).state_dict()


# summary


def test_summary_walks_one_item_through_every_step(folder, capsys):
    pictures(batch_transforms=NormalizeImages()).summary(folder)
    text = capsys.readouterr().out
    steps = ["8 items to train on, 4 to validate", "get_y", "ImageBlock.encode",
             "uint8 (3, 20, 24)",
             "CategoryBlock.encode", "int64 ()", "Resize", "uint8 (3, 16, 16)", "a batch of 4",
             "ImagesToFloat", "float32 (4, 3, 16, 16)", "NormalizeImages",
             "finished batch: (float32 (4, 3, 16, 16), int64 (4,))"]  # fmt: skip
    places = [text.index(step) for step in steps]
    assert places == sorted(places)


def broken_label(path):
    return path.nane


class NoNumbers(Block):
    def encode(self, value):
        return value / 2


class WrongAxes(Transform):
    def __call__(self, parts, kinds, train):
        return (parts[0][:, 0, 0, 0], *parts[1:])


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({"get_y": broken_label}, ["in step get_y", "PosixPath", "remedy", "returns what a"]),
        ({"get_y": lambda path: None}, ["get_y returned None", "0.png"]),
        ({"get_x": parent_name}, ["in step ImageBlock.encode", "item 0", "remedy"]),
        ({"blocks": (ImageBlock, NoNumbers)}, ["in step NoNumbers.encode", "str 'blue'"]),
        ({"item_transforms": WrongAxes()}, ["in step WrongAxes()", "uint8 (3, 20, 24)"]),
        ({"item_transforms": ()}, ["in step ImageBlock.collate", "add Resize(size)"]),
        ({"batch_transforms": WrongAxes()}, []),
    ],
)
def test_summary_names_the_step_that_fails(folder, capsys, options, wanted):
    usual = {"blocks": (ImageBlock, CategoryBlock), "get_y": parent_name}
    usual |= {"item_transforms": Resize(16), "splitter": GrandparentSplitter()}
    block = DataBlock(**usual | options)
    if not wanted:  # it fails nowhere
        return block.summary(folder)
    with pytest.raises(Exception) as error:
        block.summary(folder)
    text = capsys.readouterr().out
    assert "FAILED" in text
    for part in wanted:
        assert part in text and part in notes(error), (part, text)


# mistakes in the data


def test_an_unknown_validation_label_is_found_before_the_training(folder):
    save(folder / "valid" / "green" / "0.png")
    with pytest.raises(ValueError, match=r"'green' is not among the 2") as error:
        pictures().datasets(folder)
    assert "green" in notes(error).split("item ")[1] and "validation" in notes(error)
    block = pictures()
    block.blocks[1] = CategoryBlock(unknown="other")
    assert block.datasets(folder).vocab == ["other", "blue", "red"]


def test_a_missing_label_names_its_row():
    rows = [{"x": 1.0, "y": "a"}, {"x": 2.0, "y": float("nan")}]
    block = DataBlock((NumberBlock, CategoryBlock), get_x=ColumnReader("x"),
                      get_y=ColumnReader("y"), splitter=None)  # fmt: skip
    with pytest.raises(ValueError, match="the label is missing") as error:
        block.datasets(rows)
    assert "item 1 of the source" in notes(error)


def test_empty_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="no pictures"):
        pictures().datasets(tmp_path)
    with pytest.raises(FileNotFoundError, match="not there"):
        pictures().datasets(tmp_path / "absent")
    with pytest.raises(ValueError, match="the source has no items"):
        DataBlock().datasets([])
    with pytest.raises(ValueError, match="get_items returned an empty list"):
        DataBlock(get_items=lambda source: []).datasets(tmp_path)
    with pytest.raises(TypeError, match="get_items returned None"):
        DataBlock(get_items=lambda source: None).datasets(tmp_path)


@pytest.mark.parametrize("source", [{"a": 1}, iter("abc"), 3, {1, 2}])
def test_sources_that_cannot_be_indexed(source):
    with pytest.raises(TypeError, match="put them into a list"):
        DataBlock().datasets(source)


def test_an_unreadable_picture_is_named_and_left_out_only_if_asked(folder):
    bad = folder / "train" / "red" / "9.png"
    bad.write_bytes((folder / "train" / "red" / "0.png").read_bytes()[:40])
    (folder / "train" / "red" / "8.png").write_bytes(b"")
    sets = pictures().datasets(folder)
    with pytest.raises(ValueError, match="9.png"):
        sets.train[len(sets.train) - 1]
    with pytest.raises(ValueError, match=r"(8|9)\.png"):
        list(pictures().loaders(folder, batch_size=4).train)
    with pytest.warns(UserWarning, match=r"2 items are left out .*8\.png.*9\.png"):
        kept = pictures(skip_unreadable=True).datasets(folder)
    assert len(kept.train) == 8 and len([kept.train[i] for i in range(8)]) == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bad.unlink()
        (folder / "train" / "red" / "8.png").unlink()
        pictures(skip_unreadable=True).datasets(folder)


def test_pictures_of_different_sizes_in_a_batch(folder):
    loaders = pictures(item_transforms=()).loaders(folder, batch_size=8)
    with pytest.raises(ValueError, match="add Resize") as error:
        next(iter(loaders.train))
    assert "while collating samples" in notes(error)


@pytest.mark.parametrize("mode, channels", [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_one_and_four_channels(tmp_path, mode, channels):
    for i, kind in enumerate(("L", "RGB", "RGBA", "RGB")):
        save(tmp_path / f"{i}.png", mode=kind, color=None)
    block = DataBlock((ImageBlock(mode), Block), get_y=lambda path: torch.tensor(0), splitter=None,
                      item_transforms=Resize(8))  # fmt: skip
    loaders = block.loaders(tmp_path, batch_size=4)
    x, _ = next(iter(loaders.train))
    assert x.shape == (4, channels, 8, 8)
    stem = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    learn = Learner(stem, loaders, F.cross_entropy, progress=False)
    if channels == 3:
        learn.fit(1)
    else:
        with pytest.raises(RuntimeError, match="3 channels"):
            learn.fit(1)
    with pytest.raises(ValueError, match=f"{channels} channels, mean and std 2"):
        NormalizeImages([0.5] * 2, [0.5] * 2)((x,), ("image",), True)


def test_exif_turns_a_picture_and_its_points(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    sets = DataBlock((ImageBlock, PointBlock), get_y=lambda path: (10, 20), splitter=None).datasets(
        tmp_path
    )
    image, points = sets.train[0]
    assert image.shape == (3, 20, 10) and points.tolist() == [[1, 1]]


def test_splits_that_go_wrong():
    for splitter, message in ((FunctionSplitter("z".__lt__), "splitter=None"),
                              (lambda items: ([0, 1], [1]), "both sides"),
                              (lambda items: ([], [1]), "nothing to train on"),
                              (lambda items: None, "splitter returned None")):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=message):
            DataBlock(splitter=splitter).datasets(LETTERS)


def test_an_item_that_is_none():
    with pytest.raises(TypeError, match="get_x returned None") as error:
        DataBlock(get_x=lambda x: x, get_y=abs, splitter=None).datasets([1, None]).train[1]
    assert "item 1 of the source" in notes(error)


@pytest.mark.parametrize(
    "options",
    [
        {"blocks": ()},
        {"blocks": (3, 4)},
        {"get_y": "column"},
        {"item_transforms": [Resize]},
        {"batch_transforms": ["flip"]},
    ],
)
def test_plans_that_cannot_be(options):
    with pytest.raises(TypeError):
        DataBlock(**options)


def test_a_step_of_a_worker_is_named(folder):
    (folder / "train" / "red" / "9.png").write_bytes(b"nothing")
    loaders = pictures().loaders(folder, batch_size=2, num_workers=1)
    with pytest.raises(ValueError, match="9.png") as error:
        list(loaders.train)
    assert "in step ImageBlock.encode" in notes(error)


def test_drop_last_that_leaves_nothing():
    with pytest.raises(ValueError, match="no batch to train on: 21 items"):
        DataBlock().loaders(LETTERS, batch_size=64, drop_last=True)


def test_the_vocab_of_loaders_without_labels():
    loaders = DataBlock((NumberBlock, NumberBlock)).loaders(range(10))
    with pytest.raises(AttributeError, match="no block has a vocab"):
        _ = loaders.vocab
    assert isinstance(loaders.train, DataLoader) and "8 samples" in repr(loaders)


@pytest.mark.cuda
def test_batches_are_finished_on_the_device(folder):
    loaders = pictures(batch_transforms=NormalizeImages()).loaders(
        folder, batch_size=4, device="cuda"
    )
    x, y = next(iter(loaders.train))
    assert x.is_cuda and y.is_cuda and x.dtype == torch.float32
    on_cpu = next(iter(pictures(batch_transforms=NormalizeImages()).loaders(folder, 4).valid))
    assert torch.allclose(next(iter(loaders.valid))[0].cpu(), on_cpu[0], atol=1e-5)
