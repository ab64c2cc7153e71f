"""06d_pictures: every kind of file becomes the same tensor, and what cannot be read is named."""

import io
import os
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from exp.nb00 import test_eq
from exp.nb03b import DataLoader
from exp.nb06d import UnreadableImage, image_files, open_image, unreadable_images

quick = settings(max_examples=40, deadline=None)


def picture(height=4, width=6, seed=1):
    """A random picture: bytes (3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), generator=generator).to(torch.uint8)


def as_image(pixels, mode="RGB"):
    """A PIL image of bytes (C, H, W)."""
    C, H, W = pixels.shape
    return Image.frombytes(mode, (W, H), bytes(pixels.permute(1, 2, 0).flatten().tolist()))


def stored(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@quick
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["PNG", "BMP", "TIFF"]))
def test_lossless_files_come_back(height, width, kind):
    pixels = picture(height, width)
    found = open_image(stored(as_image(pixels), kind))
    test_eq(found, pixels)
    assert found.dtype == torch.uint8 and found.permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_orientation(orientation, kind):
    back = {
        2: "FLIP_LEFT_RIGHT",
        3: "ROTATE_180",
        4: "FLIP_TOP_BOTTOM",
        5: "TRANSPOSE",
        6: "ROTATE_90",
        7: "TRANSVERSE",
        8: "ROTATE_270",
    }
    pixels, exif = picture(), Image.Exif()
    exif[274] = orientation
    image = as_image(pixels)
    if orientation > 1:
        image = image.transpose(Image.Transpose[back[orientation]])
    options = {"lossless": True} if kind == "WEBP" else {}
    test_eq(open_image(stored(image, kind, exif=exif, **options)), pixels)


def test_damaged_exif_is_ignored():
    pixels = picture()
    test_eq(open_image(stored(as_image(pixels), exif=b"Exif\0\0nonsense")), pixels)


def test_grey_palette_and_bits():
    pixels = picture()[:1]
    for mode in ("L", "P"):
        image = as_image(pixels, "L")
        image = image if mode == "L" else image.convert("P")
        test_eq(open_image(stored(image)), pixels.expand(3, -1, -1))
        test_eq(open_image(stored(image), mode="L"), pixels)
    black_white = Image.new("1", (3, 2))
    black_white.putpixel((1, 0), 1)
    test_eq(open_image(stored(black_white), "L")[0, 0], torch.tensor([0, 255, 0]))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(kind):
    values = torch.tensor([0, 256, 257, 32767, 65278, 65535], dtype=torch.int32)
    wide = Image.frombytes("I;16", (3, 2), values.to(torch.uint16).numpy().tobytes())
    test_eq(open_image(stored(wide, kind), "L").flatten().tolist(), [0, 1, 1, 127, 254, 255])
    test_eq(open_image(stored(wide, kind)).shape, (3, 2, 3))


def test_numbers_without_a_white_are_refused():
    with pytest.raises(UnreadableImage, match="decimal numbers"):
        open_image(stored(Image.new("F", (2, 2), 0.5), "TIFF"))
    with pytest.raises(UnreadableImage, match="65535"):
        open_image(stored(Image.new("I", (2, 2), 70_000), "TIFF"))


def test_transparency():
    image = as_image(picture()).convert("RGBA")
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))
    data = stored(image)
    found = open_image(data)
    test_eq(found[:, 0, 0], torch.tensor([255] * 3))
    assert abs(int(found[0, 0, 1]) - 127) <= 1
    test_eq(open_image(data, "L")[0, 0, 0], torch.tensor(255))
    four = open_image(data, "RGBA")
    test_eq(four[:, 0, :2], torch.tensor([[0, 0], [0, 0], [0, 0], [0, 128]]))
    test_eq(open_image(stored(as_image(picture())), "RGBA")[3].unique(), torch.tensor([255]))
    grey = Image.new("LA", (2, 2), (0, 0))
    test_eq(open_image(stored(grey)).unique(), torch.tensor([255]))
    palette = Image.new("P", (2, 2), 3)
    palette.putpalette([9] * 768)
    test_eq(open_image(stored(palette, "GIF", transparency=3)).unique(), torch.tensor([255]))


def test_cmyk():
    found = open_image(stored(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert found[0].min() > 240 and found[1:].max() < 15  # red


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("keep", [0, 1, 10, 60])
def test_cut_short(tmp_path, kind, keep):
    data = stored(as_image(picture(64, 64)), kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(data[: len(data) * keep // 100])
    with pytest.raises(UnreadableImage) as caught:
        open_image(path)
    assert str(path) in str(caught.value) and caught.value.name == str(path)
    assert ("empty" in str(caught.value)) == (keep == 0)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)


@quick
@given(st.binary(max_size=200), st.integers(0, 100))
def test_any_bytes_either_open_or_are_named(noise, place):
    data = bytearray(stored(as_image(picture(16, 16)), "JPEG"))
    data[place : place + len(noise)] = noise
    for content in (bytes(data), noise):
        try:
            assert open_image(content).dtype == torch.uint8
        except UnreadableImage as error:
            assert "these bytes" in str(error)


def test_a_web_page_is_no_picture(tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_text("<!DOCTYPE html><title>404</title>")
    with pytest.raises(UnreadableImage, match="DOCTYPE"):
        open_image(path)
    with open(path, "rb") as file, pytest.raises(UnreadableImage, match=r"cat\.jpg"):
        open_image(file)


def test_bomb():
    with pytest.raises(UnreadableImage, match="MAX_IMAGE_PIXELS"):
        open_image(stored(Image.new("1", (20_000, 20_000))))


def test_other_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        open_image(tmp_path / "nothing.png")
    with pytest.raises(IsADirectoryError):
        open_image(tmp_path)
    with pytest.raises(ValueError, match="mode must be"):
        open_image(b"", mode="HSV")
    with pytest.raises(ValueError, match="min_side"):
        open_image(b"", min_side=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 300), st.integers(8, 300), st.integers(1, 350))
def test_min_side(height, width, min_side):
    found = open_image(stored(Image.new("RGB", (width, height)), "JPEG"), min_side=min_side)
    C, H, W = found.shape
    assert C == 3 and min(H, W) >= min(min_side, height, width)
    sizes = [(-(-height // scale), -(-width // scale)) for scale in (1, 2, 4, 8)]
    assert (H, W) in sizes


def test_min_side_leaves_other_files_alone():
    pixels = picture(64, 64)
    test_eq(open_image(stored(as_image(pixels)), min_side=4), pixels)


def test_min_side_with_orientation():
    exif = Image.Exif()
    exif[274] = 6
    data = stored(Image.new("RGB", (320, 160)), "JPEG", exif=exif)
    test_eq(open_image(data, min_side=40).shape, (3, 80, 40))


def test_files_are_listed_sorted(tmp_path):
    for name in ("b/2.JPG", "b/1.png", "a/x.jpeg", "a/.hidden.jpg", ".git/y.jpg", "a/n.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = [path.relative_to(tmp_path).as_posix() for path in image_files(tmp_path)]
    assert names == ["a/x.jpeg", "b/1.png", "b/2.JPG"]
    with pytest.raises(FileNotFoundError, match="no pictures in .*: 0 other files"):
        image_files(tmp_path, recursive=False)
    assert [p.name for p in image_files(tmp_path / "a", extensions=[".TXT"])] == ["n.txt"]


def test_an_empty_or_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="0 other files"):
        image_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="not there"):
        image_files(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="not a folder"):
        image_files(tmp_path / "file")


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_are_followed_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert len(image_files(tmp_path)) == 1


def test_a_folder_is_verified(tmp_path):
    good = stored(as_image(picture(64, 64)), "JPEG")
    for name, content in (("1.jpg", good), ("2.jpg", good[:-200]), ("3.jpg", b""), ("4.png", good)):
        (tmp_path / name).write_bytes(content)
    for workers in (None, 1):
        found = unreadable_images(tmp_path, num_workers=workers)
        assert [path.name for path in found] == ["2.jpg", "3.jpg"]
    assert "empty" in found[tmp_path / "3.jpg"]
    assert unreadable_images([tmp_path / "1.jpg"]) == {}
    assert "No such file" in unreadable_images([tmp_path / "9.jpg"])[tmp_path / "9.jpg"]


class Files:
    """Picture files as a data set."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return open_image(self.paths[index])


def test_workers_read_and_name(tmp_path):
    (tmp_path / "1.png").write_bytes(stored(as_image(picture())))
    (tmp_path / "2.png").write_bytes(b"?")
    loader = DataLoader(Files([tmp_path / "1.png"] * 3), batch_size=2, num_workers=2)
    test_eq([tuple(batch.shape) for batch in loader], [(2, 3, 4, 6), (1, 3, 4, 6)])
    with pytest.raises(UnreadableImage, match=r"2\.png"):
        list(DataLoader(Files([tmp_path / "2.png"]), num_workers=1))
