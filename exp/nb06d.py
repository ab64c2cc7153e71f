"""Pictures from files

By the end you will have one function that reads any picture file as a tensor, upright and with the channels you ask for, an error that names the file when it cannot, and measured advice for loading thousands of pictures quickly.
"""

# cell f5068292 a6284e · Pictures from files
from __future__ import annotations

# generated from nbs/06d_pictures.ipynb: do not edit · 1cdd27
__all__ = [
    "UnreadableImage",
    "open_image",
    "IMAGE_EXTENSIONS",
    "image_files",
    "unreadable_images",
]
__dir__ = __all__.copy  # what completion offers

# cell f5068292 1a17e8 · Pictures from files
import io
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


# cell 46cb1330 71e15c · Open it properly
_TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE",
          6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}  # EXIF's orientation, undone


def _upright(image: Any) -> Any:
    """Turn a PIL image as its EXIF data says; damaged EXIF data says nothing."""
    from PIL import Image

    try:
        turn = _TURNS.get(image.getexif().get(274))
    except Exception:
        turn = None
    return image.transpose(Image.Transpose[turn]) if turn else image


# cell 83ccfa52 178b7e · Open it properly
def _eight_bits(image: Any) -> Any:
    """Scale a grey PIL image of 16 bits to 8; other modes stay."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("holds decimal numbers (mode F), and nothing says which of them is white: "
                         "scale it to 0..255 and save it again")
    if not image.mode.startswith("I"):
        return image
    wide = torch.frombuffer(bytearray(image.convert("I").tobytes()), dtype=torch.int32)
    if wide.min() < 0 or wide.max() > 65_535:
        raise ValueError(f"holds whole numbers from {wide.min()} to {wide.max()}, and pixels of 16 "
                         "bits end at 65535: scale it to 0..255 and save it again")
    narrow = ((wide + 128) // 257).to(torch.uint8)  # 65535 = 255 · 257
    return Image.frombytes("L", image.size, narrow.numpy().tobytes())


# cell 42f59388 753400 · Open it properly
def _as_mode(image: Any, mode: str) -> Any:
    """Convert a PIL image to RGB, L or RGBA; in the first two, transparency becomes white."""
    from PIL import Image

    image = _eight_bits(image)
    transparent = image.mode[-1] in "Aa" or "transparency" in image.info
    if transparent and mode != "RGBA":
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image if image.mode == mode else image.convert(mode)


# cell 1b62bb92 d76e60 · Open it properly
def _draft(image: Any, min_side: int) -> None:
    """Let a JPEG be decoded at 1/2, 1/4 or 1/8, if its shorter side stays `min_side` or more."""
    if image.format == "JPEG" and min(image.size) > min_side:
        scale = min_side / min(image.size)
        image.draft(None, tuple(max(min_side, int(scale * side)) for side in image.size))


# cell b078c3f1 eafc58 · Open it properly
class UnreadableImage(ValueError):
    """A file that should hold a picture does not; the message names it and what is wrong."""

    def __init__(self, name: str, problem: str):
        super().__init__(name, problem)
        self.name, self.problem = name, problem

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}. Replace the file, or take it out of the folder"


# cell c2e4bd67 57a644 · Open it properly
def _explain(source: Any, error: Exception) -> str:
    """Say what is wrong with a picture."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, Image.DecompressionBombError):
        return f"{error}; if you trust the file, raise PIL.Image.MAX_IMAGE_PIXELS"
    if not (start := _first_bytes(source)):
        return "the file is empty (0 bytes)"
    if isinstance(error, UnidentifiedImageError):
        return f"not a picture that Pillow can read; it begins with {start!r}"
    return f"damaged, cut short, or of an unknown kind ({error or type(error).__name__})"


def _first_bytes(source: Any, n: int = 16) -> bytes:
    if isinstance(source, bytes):
        return source[:n]
    if hasattr(source, "read"):
        source.seek(0)
        return source.read(n)
    with open(source, "rb") as file:
        return file.read(n)


# cell b9f68583 4be817 · Open it properly
def open_image(source: Any, mode: str = "RGB", min_side: int | None = None) -> Tensor:
    """Read a picture as a tensor of bytes, upright, with the channels of `mode`.

    `mode`: "RGB" (grey is repeated three times), "L" (grey) or "RGBA"; in the first two, what is
    transparent lies over white. 16 bits are scaled to 8. Of an animation you get the first picture.
    `source`: a path, an open binary file, or bytes. `min_side`: a JPEG is decoded at 1/2, 1/4 or
    1/8 of its size where its shorter side stays at least this long, which is faster.
    Shape: -> (C, H, W) of uint8, with C = 3, 1 or 4; in memory the pixels lie side by side, as in
        Pillow, so that the way back to Pillow costs no copy either.
    Raises: UnreadableImage, which names the file, for one that is empty, damaged, no picture, or
        a decompression bomb; FileNotFoundError; ValueError for another mode or min_side.
    """
    from PIL import Image

    if mode not in ("RGB", "L", "RGBA"):
        raise ValueError(f'mode must be "RGB", "L" or "RGBA", got {mode!r}')
    if min_side is not None and min_side < 1:
        raise ValueError(f"min_side must be a number of pixels, 1 or more, or None; got {min_side}")
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if min_side is not None:
                _draft(image, min_side)
            image.load()
            image = _as_mode(_upright(image), mode)
            numbers = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    except (FileNotFoundError, IsADirectoryError, PermissionError, MemoryError):
        raise  # they name the file, or it is not to blame
    except Exception as error:
        name = getattr(source, "name", "an open file") if hasattr(source, "read") else source
        name = "these bytes" if isinstance(source, bytes) else name
        raise UnreadableImage(str(name), _explain(source, error)) from error
    return numbers.reshape(image.height, image.width, -1).permute(2, 0, 1)  # a view, not a copy


# cell 40849f18 3b786e · Find the files
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff",
                    ".ppm", ".pgm")


def image_files(folder: str | Path, recursive: bool = True,
                extensions: Iterable[str] = IMAGE_EXTENSIONS) -> list[Path]:
    """List the picture files of a folder by their extensions, sorted; hidden files are left out.

    Links to folders are followed, each folder once.
    Raises: FileNotFoundError if the folder does not exist or holds no picture, NotADirectoryError.
    """
    folder, extensions = Path(folder), tuple(end.lower() for end in extensions)
    if not folder.is_dir():
        kind = NotADirectoryError if folder.exists() else FileNotFoundError
        raise kind(f"{folder} is {'a file, not a folder' if folder.exists() else 'not there'}: "
                   "pass the folder that holds the pictures")
    found, others, seen = [], 0, set()
    for home, folders, names in os.walk(folder, followlinks=True):
        again = os.path.realpath(home) in seen
        seen.add(os.path.realpath(home))
        names = [name for name in names if not name.startswith(".") and not again]
        deeper = recursive and not again
        folders[:] = [name for name in folders if not name.startswith(".") and deeper]
        pictures = [Path(home, name) for name in names if name.lower().endswith(extensions)]
        found, others = found + pictures, others + len(names) - len(pictures)
    if not found:
        raise FileNotFoundError(f"no pictures in {folder}: {others} other files, none of which "
                                f"ends in {', '.join(extensions)}")
    return sorted(found)


# cell 8af72ccc 759f86 · What cannot be read
def unreadable_images(source: str | Path | Iterable[str | Path],
                      num_workers: int | None = None) -> dict[Path, str]:
    """Open every picture of a folder or a list of files; return each bad one with its problem.

    `num_workers`: threads, by default as many as there are cores.
    """
    paths = image_files(source) if isinstance(source, str | Path) else map(Path, source)

    def problem(path: Path) -> tuple[Path, str]:
        try:
            open_image(path, min_side=1)
        except (UnreadableImage, OSError) as error:
            return path, getattr(error, "problem", str(error))
        return path, ""

    with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
        return {path: text for path, text in pool.map(problem, paths) if text}
