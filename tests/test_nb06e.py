"""Blocks, pictures and points, splits: what the data block is made of."""

import json
import math

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from exp.nb06e import (
    Block,
    CategoryBlock,
    MultiCategoryBlock,
    NumberBlock,
    RowBlock,
    TokenBlock,
    Transform,
    find_vocab,
    part_from_state,
    part_state,
)
from exp.nb06f import (
    ImageBlock,
    NormalizeImages,
    PointBlock,
    Resize,
    ScalePoints,
    points_in_pixels,
)
from exp.nb06g import (
    ColumnReader,
    ColumnSplitter,
    FunctionSplitter,
    GrandparentSplitter,
    RandomSplitter,
    check_split,
    run_step,
)


def set_up(block, values):
    block.setup(values)
    return block


@given(st.lists(st.one_of(st.text(max_size=5), st.integers(-9, 9)), min_size=1))
def test_labels_come_back(values):
    block = set_up(CategoryBlock(), values)
    assert [block.decode(block.encode(value)) for value in values] == values
    assert len(set(map(repr, block.vocab))) == len(block.vocab) == block.n_out


def test_labels_of_numpy_and_of_tables_with_gaps():
    pandas = pytest.importorskip("pandas")
    column = pandas.Series([2.0, 1.0, None])
    block = set_up(CategoryBlock(), [column[0], column[1]])
    assert block.vocab == [1, 2]
    with pytest.raises(ValueError, match="missing"):
        block.encode(column[2])


@pytest.mark.parametrize("value", [None, math.nan, 1.5, ["a"], {"a"}])
def test_what_is_no_label(value):
    with pytest.raises((TypeError, ValueError), match="label"):
        CategoryBlock().setup([value])


def test_an_unknown_label_and_its_remedies():
    block = set_up(CategoryBlock(), ["a", "b"])
    with pytest.raises(ValueError, match=r"'z' is not among the 2 .*vocab=.*unknown="):
        block.encode("z")
    block = set_up(CategoryBlock(unknown="other"), ["a", "b"])
    assert (block.vocab, block.decode(block.encode("z"))) == (["other", "a", "b"], "other")
    block = set_up(CategoryBlock(vocab=["z", "a"]), ["a"])
    assert (block.vocab, int(block.encode("z"))) == (["z", "a"], 0)
    with pytest.raises(ValueError, match="twice"):
        CategoryBlock(vocab=["a", "a"])
    with pytest.raises(ValueError, match="no vocab yet"):
        CategoryBlock().encode("a")


@given(st.lists(st.lists(st.sampled_from("abcd"), unique=True), min_size=1))
def test_several_labels_come_back(values):
    block = set_up(MultiCategoryBlock(), values)
    for value in values:
        encoded = block.encode(value)
        assert encoded.dtype == torch.float32 and encoded.sum() == len(value)
        assert sorted(block.decode(encoded)) == sorted(value)


def test_several_labels_are_no_text():
    with pytest.raises(TypeError, match="separator"):
        MultiCategoryBlock().setup(["a b"])


@pytest.mark.parametrize("value", [math.nan, math.inf, "x", None])
def test_what_is_no_number(value):
    with pytest.raises((TypeError, ValueError)):
        NumberBlock().encode(value)


def test_a_row_is_normalised_by_the_training_rows():
    rows = [{"a": 1, "b": 5}, {"a": 3, "b": 5}]
    block = set_up(RowBlock(["a", "b"]), rows)
    assert torch.equal(block.encode(rows[0]), torch.tensor([-1.0, 0.0]))
    assert block.decode(block.encode(rows[1])) == pytest.approx({"a": 3, "b": 5})
    with pytest.raises(ValueError, match=r"\['b'\]; fill it"):
        block.encode({"a": 1, "b": math.nan})


def test_words_and_padding():
    block = set_up(TokenBlock(min_count=2), ["A b, b", "a"])
    assert block.vocab == ["<pad>", "<unknown>", "a", "b"]
    batch = block.collate([block.encode("a b zebra"), block.encode("b"), block.encode("")])
    assert batch.tolist() == [[2, 3, 1], [3, 0, 0], [0, 0, 0]]
    assert block.decode(batch[1]) == "b"


def test_parts_of_different_shapes_name_the_remedy():
    one, other = torch.zeros(3, 4, 5), torch.zeros(3, 5, 5)
    with pytest.raises(ValueError, match=r"sample 0 .* sample 1: add Resize"):
        ImageBlock().collate([one, other])


PARTS = [
    ImageBlock("L", 64),
    set_up(CategoryBlock(), ["b", "a", 3]),
    set_up(MultiCategoryBlock(), [["b"], ["a"]]),
    NumberBlock(),
    PointBlock(scaled=True),
    set_up(RowBlock(["a"]), [{"a": 1}, {"a": 2}]),
    set_up(TokenBlock(), ["a b"]),
    Resize((3, 4), "pad"),
    NormalizeImages([0.5], [0.2]),
]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_every_part_is_json_and_comes_back(part):
    state = json.loads(json.dumps(part_state(part)))
    again = part_from_state(state)
    assert type(again) is type(part) and part_state(again) == state
    if isinstance(part, CategoryBlock):
        again.setup([["zebra"]] if part.kind == "categories" else ["zebra"])
        assert again.vocab == part.vocab  # what was saved is kept


def test_what_cannot_be_saved_is_named():
    with pytest.raises(ValueError, match=r"TokenBlock\.tokenize"):
        part_state(TokenBlock(tokenize=str.split))

    class Inner(Block):
        pass

    with pytest.raises(ValueError, match="another process cannot import"):
        part_state(Inner())


@pytest.mark.parametrize("path", ["os:system", "exp.nb00:test", "exp.nb03b:DataLoader"])
def test_a_file_cannot_name_any_class(path):
    with pytest.raises(ValueError):
        part_from_state({"class": path})


def test_find_vocab_takes_the_last():
    assert find_vocab([PARTS[2], PARTS[1]]) == PARTS[1].vocab
    with pytest.raises(AttributeError, match="no block has a vocab"):
        find_vocab([NumberBlock()])


def test_a_transform_without_call_says_so():
    with pytest.raises(NotImplementedError, match="needs a method"):
        Transform()((), (), True)


# pictures and points


@given(
    st.integers(20, 40),
    st.integers(20, 40),
    st.integers(16, 32),
    st.integers(16, 32),
    st.sampled_from(["crop", "squash", "pad"]),
)
@example(27, 20, 23, 16, "crop")  # whose scale rounds up: an edge must not lie at -1e-15
@settings(max_examples=40, deadline=None)
def test_a_dot_moves_with_the_picture(height, width, new_height, new_width, method):
    """A block of 2 × 2 white pixels in the middle third is found where the point says."""
    y, x = height // 2, width // 2
    image = torch.zeros(1, height, width, dtype=torch.uint8)
    image[:, y - 1 : y + 1, x - 1 : x + 1] = 255
    point = PointBlock().encode((x, y))
    parts, kinds = (image, point), ("image", "points")
    parts = ScalePoints()(parts, kinds, True)
    new, moved = Resize((new_height, new_width), method)(parts, kinds, True)
    assert new.shape == (1, new_height, new_width)
    assume(moved.abs().max() < 0.7)
    weight = new[0].double()
    total = weight.sum()
    rows, columns = torch.arange(new_height) + 0.5, torch.arange(new_width) + 0.5
    centre = [(weight.sum(0) * columns).sum() / total, (weight.sum(1) * rows).sum() / total]
    found = points_in_pixels(moved, new_height, new_width)[0]
    assert found.tolist() == pytest.approx([float(c) for c in centre], abs=1.0)


def test_points_at_the_edges():
    image = torch.zeros(3, 10, 20, dtype=torch.uint8)
    points = PointBlock().encode([(0, 0), (20, 10), (10, 5)])
    _, scaled = ScalePoints()((image, points), ("image", "points"), True)
    assert scaled.tolist() == [[-1, -1], [1, 1], [0, 0]]
    _, cropped = Resize(10)((image, scaled), ("image", "points"), True)
    assert cropped.tolist() == [[-2, -1], [2, 1], [0, 0]]
    with pytest.raises(ValueError, match="scaled=True"):
        ScalePoints()((points,), ("points",), True)


@pytest.mark.parametrize("value", [[1, 2, 3], [[1, math.nan]], "x"])
def test_what_are_no_points(value):
    with pytest.raises((TypeError, ValueError)):
        PointBlock().encode(value)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_resize_takes_any_number_of_channels(channels):
    image = torch.randint(0, 256, (channels, 9, 12), dtype=torch.uint8)
    (new,) = Resize((9, 12))((image,), ("image",), False)
    assert torch.equal(new, image)
    with pytest.raises(ValueError, match="uint8"):
        Resize(4)((image.float(),), ("image",), False)


@pytest.mark.parametrize("mode, channels", [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_pictures_of_every_kind_get_the_channels_asked_for(tmp_path, mode, channels):
    Image = pytest.importorskip("PIL.Image")
    for kind in ("L", "RGB", "RGBA", "P"):
        picture = Image.new("RGB", (6, 4), "red").convert(kind)
        picture.save(tmp_path / f"{kind}.png")
        assert ImageBlock(mode).encode(tmp_path / f"{kind}.png").shape == (channels, 4, 6)
        assert ImageBlock(mode).encode(picture).shape == (channels, 4, 6)


def test_a_picture_is_turned_as_exif_says(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert ImageBlock().encode(tmp_path / "a.jpg").shape == (3, 6, 4)


@pytest.mark.parametrize(
    "value", [3, None, torch.zeros(3, 4, 4), torch.zeros(4, 4, 4, dtype=torch.uint8)]
)
def test_what_is_no_picture(value):
    with pytest.raises((TypeError, ValueError), match="a picture"):
        ImageBlock().encode(value)


def test_normalize_measures_and_undoes():
    batches = [(torch.rand(4, 3, 5, 5) + i,) for i in range(3)]
    transform = NormalizeImages()
    with pytest.raises(ValueError, match="no mean yet"):
        transform(batches[0], ("image",), True)
    transform.setup(iter(batches), ("image",))
    changed = torch.cat([transform(batch, ("image",), True)[0] for batch in batches])
    assert changed.mean((0, 2, 3)).abs().max() < 1e-5
    assert (changed.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    (back,) = transform.decode(transform(batches[0], ("image",), True), ("image",))
    assert torch.allclose(back, batches[0][0], atol=1e-5)
    with pytest.raises(ValueError, match="4 channels, mean and std 3"):
        transform((torch.zeros(1, 4, 2, 2),), ("image",), True)


@pytest.mark.parametrize("options", [([0.5], None), ([0.5], [0.0]), ([0.5, 0.5], [1.0])])
def test_normalize_refuses(options):
    with pytest.raises(ValueError):
        NormalizeImages(*options)


# splits and steps


@given(st.integers(5, 200), st.floats(0.11, 0.89), st.integers(0, 5))
def test_a_random_split_has_every_item_once(n, share, seed):
    train, valid = RandomSplitter(share, seed)(range(n))
    assert sorted(train + valid) == list(range(n))
    assert len(valid) == round(n * share)
    assert (train, valid) == RandomSplitter(share, seed)(range(n))


@pytest.mark.parametrize(
    "split, message",
    [
        (([0, 1], [1]), "both sides"),
        (([0], [5]), "index 5"),
        (([], [0]), "nothing to train on"),
        (([0], []), "splitter=None"),
    ],
)
def test_splits_that_cannot_be(split, message):
    with pytest.raises(ValueError, match=message):
        check_split(split, 3)


def test_a_column_is_read_by_its_meaning():
    rows = [{"is_valid": value} for value in (True, "False", 0, "1", "TRUE", 0.0)]
    assert ColumnSplitter()(rows) == ([1, 2, 5], [0, 3, 4])
    with pytest.raises(ValueError, match="must be true or false, got 'maybe'"):
        ColumnSplitter()([{"is_valid": "maybe"}])
    with pytest.raises(KeyError, match="no column 'valid'"):
        ColumnSplitter("valid")(rows)


def test_column_reader():
    assert ColumnReader("f", folder="a")({"f": "b.jpg"}).replace("\\", "/") == "a/b.jpg"
    assert ColumnReader("f", separator=" ")({"f": "x  y"}) == ["x", "y"]
    assert ColumnReader("f", separator=" ")({"f": math.nan}) == []
    with pytest.raises(ValueError, match="choose one"):
        ColumnReader("f", "a", " ")


def test_grandparents_and_functions():
    paths = ["d/train/a/1.jpg", "d/val/a/2.jpg", "d/test/a/3.jpg"]
    assert GrandparentSplitter(valid="val")(paths) == ([0], [1])
    with pytest.raises(ValueError, match=r"'valid'; the folders there are \['test', 'train'"):
        GrandparentSplitter()(paths)
    assert FunctionSplitter(lambda path: "val" in path)(paths) == ([0, 2], [1])


def test_a_step_is_named_with_what_it_was_given():
    seen = []
    assert run_step("double", lambda x: 2 * x, 3, lambda *step: seen.append(step)) == 6
    assert seen == [("double", 3, 6)]
    with pytest.raises(ZeroDivisionError) as error:
        run_step("divide", lambda x: 1 / x, 0, remedy="divide by something")
    assert error.value.__notes__ == ["in step divide, which was given int 0",
                                     "remedy: divide by something"]  # fmt: skip
    with pytest.raises(TypeError, match="returned None"):
        run_step("forget", lambda x: None, 0)
