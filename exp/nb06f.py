"""Pictures and points: blocks that move together

By the end you will have blocks for pictures and for points in them, and transforms that bring pictures to one size and move the points along.
"""

# cell 03f31c3a a6284e · Pictures and points: blocks that move together
from __future__ import annotations

# generated from nbs/06f_picture_blocks.ipynb: do not edit · 2d11ff
__all__ = [
    "ImagesToFloat",
    "ImageBlock",
    "ScalePoints",
    "points_in_pixels",
    "PointBlock",
    "Resize",
    "NormalizeImages",
    "show_samples",
]
__dir__ = __all__.copy  # what completion offers

# cell 03f31c3a b8b04f · Pictures and points: blocks that move together
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from exp.nb03d import format_table
from exp.nb06d import open_image
from exp.nb06e import Block, Transform, change_parts


# cell de79e8f6 fb01d4 · Pictures
class ImagesToFloat(Transform):
    """Turn a batch of pictures from whole numbers 0..255 into numbers 0..1."""

    order = 0

    def __call__(self, parts: tuple, kinds: tuple[str, ...], train: bool) -> tuple:
        return change_parts(lambda x: x if x.is_floating_point() else x.float() / 255, parts,
                            kinds, "image")


_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}


class ImageBlock(Block):
    """A picture: a file, or a tensor uint8 (C, H, W), read in one `mode`, "L", "RGB" or "RGBA".

    With `min_side`, large JPEGs are decoded at a reduced size of at least that many pixels.
    Shape: (C, H, W) uint8 as an item; (B, C, H, W) in 0..1 in a batch.
    """

    kind = "image"
    unequal = "add Resize(size) to the item_transforms"
    batch_transforms = (ImagesToFloat(),)

    def __init__(self, mode: str = "RGB", min_side: int | None = None):
        if mode not in _CHANNELS:
            raise ValueError(f"mode must be one of {[*_CHANNELS]}, got {mode!r}")
        self.mode, self.min_side = mode, min_side

    def encode(self, value: Any) -> Tensor:
        if isinstance(value, str | Path | bytes) or hasattr(value, "read"):
            return open_image(value, self.mode, self.min_side)
        if hasattr(value, "convert"):  # a picture of PIL
            pixels = torch.frombuffer(bytearray(value.convert(self.mode).tobytes()),
                                      dtype=torch.uint8)
            return pixels.reshape(value.height, value.width, -1).permute(2, 0, 1).contiguous()
        if not isinstance(value, Tensor):
            raise TypeError("a picture is a path, an open file, bytes, a picture of PIL or a "
                            f"tensor, got a {type(value).__name__}: {value!r:.80}")
        C = _CHANNELS[self.mode]
        if value.dtype != torch.uint8 or value.ndim != 3 or value.shape[0] != C:
            raise ValueError(f"a picture of mode {self.mode!r} must be uint8 ({C}, H, W), got "
                             f"{value.dtype} {tuple(value.shape)}")
        return value

    def decode(self, encoded: Tensor) -> Tensor:
        """Return numbers in 0..1. Shape: (C, H, W)."""
        pixels = encoded if encoded.is_floating_point() else encoded.float() / 255
        return pixels.detach().float().cpu().clamp(0, 1)

    def label(self, value: Tensor) -> str:
        return "×".join(map(str, value.shape))

    def show(self, axis: Any, value: Tensor) -> None:
        """Draw it in the coordinates of points: -1 to 1 from edge to edge, y down."""
        C, H, W = value.shape
        pixels = value.movedim(0, -1) if C in (3, 4) else value[0]
        axis.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1, extent=(-1, 1, 1, -1),
                    aspect=H / W)
        axis.set_axis_off()


# cell 8ce3d6b6 907537 · Points
class ScalePoints(Transform):
    """Turn points in pixels into -1..1 of the picture: from the left edge to the right, y down."""

    order = 0

    def __call__(self, parts: tuple, kinds: tuple[str, ...], train: bool) -> tuple:
        if "image" not in kinds:
            raise ValueError("points in pixels need a picture among the parts to be measured by; "
                             "if they are in -1..1 already: PointBlock(scaled=True)")
        H, W = parts[kinds.index("image")].shape[-2:]
        return change_parts(lambda points: points * 2 / torch.tensor([W, H]) - 1, parts, kinds,
                            "points")


def points_in_pixels(points: Tensor, height: int, width: int) -> Tensor:
    """Turn points in -1..1 into pixels from the upper left corner. Shape: (…, 2) both."""
    return (points + 1) / 2 * points.new_tensor([width, height])


class PointBlock(Block):
    """Points in a picture, (x, y) each, in pixels from its upper left corner as it is seen.

    The centre of the first pixel is (0.5, 0.5). With `scaled`, values are in -1..1 already, as
    tensors and predictions are: from edge to edge, y down.
    Shape: (n, 2) float32; one point may come as (2,).
    """

    kind = "points"
    loss_func = staticmethod(F.mse_loss)
    unequal = "every item needs the same number of points"

    def __init__(self, scaled: bool = False):
        self.scaled, self.n_out = scaled, None

    @property
    def item_transforms(self) -> tuple[Any, ...]:
        return () if self.scaled else (ScalePoints(),)

    def setup(self, values: Sequence[Any]) -> None:
        self.n_out = self.encode(values[0]).numel()

    def encode(self, value: Any) -> Tensor:
        points = torch.as_tensor(value, dtype=torch.float32)
        if points.ndim not in (1, 2) or points.shape[-1] != 2 or not points.isfinite().all():
            raise ValueError(f"points must be finite numbers (n, 2), x and y each, got {value!r}")
        return points.reshape(-1, 2)

    def choose(self, output: Tensor) -> Tensor:
        return output.reshape(-1, 2)

    def decode(self, encoded: Tensor) -> Tensor:
        """Return the points in -1..1; `points_in_pixels` turns them into pixels."""
        return encoded.detach().float().cpu()

    def label(self, value: Tensor) -> str:
        return "; ".join(f"({x:.2f}, {y:.2f})" for x, y in value.tolist())

    def show(self, axis: Any, value: Tensor) -> None:
        """Draw them; those outside of the picture do not stretch it."""
        axis.plot(*value.T, "o", ms=5, mfc="none", mec="red", mew=1.5)
        axis.set(xlim=(-1, 1), ylim=(1, -1))


# cell 24888dd4 d035c3 · One size, and one scale
class Resize(Transform):
    """Bring pictures to one size; points move along.

    `size` is the side of a square or (height, width). "crop" fills it and cuts off what is over,
    equally on both sides; "squash" changes the proportions; "pad" adds black. Points may leave a
    cropped picture: they then lie outside of -1..1.
    """

    order = 10

    def __init__(self, size: int | Sequence[int], method: str = "crop"):
        size = [size, size] if isinstance(size, int) else list(size)
        if len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
            raise ValueError(f"size must be whole numbers (height, width), got {size}")
        if method not in (known := ("crop", "squash", "pad")):
            raise ValueError(f"method must be one of {known}, got {method!r}")
        self.size, self.method = size, method

    def __call__(self, parts: tuple, kinds: tuple[str, ...], train: bool) -> tuple:
        boxes = [(*self.box(*part.shape[-2:]), *part.shape[-2:])
                 for part, kind in zip(parts, kinds, strict=True) if kind == "image"]
        parts = change_parts(self._resize, parts, kinds, "image")
        if not boxes:
            return parts
        left, top, right, bottom, H, W = boxes[0]

        def move(points: Tensor) -> Tensor:
            pixels = points_in_pixels(points, H, W) - torch.tensor([left, top])
            return pixels * 2 / torch.tensor([right - left, bottom - top]) - 1

        return change_parts(move, parts, kinds, "points")

    def _inner(self, height: int, width: int) -> tuple[int, int]:
        """Return the size of the whole picture where it is padded."""
        scale = min(self.size[0] / height, self.size[1] / width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Return the part of a picture that fills the new one: left, top, right, bottom."""
        H, W = self.size
        if self.method == "squash":
            return 0, 0, width, height
        if self.method == "crop":
            scale = min(height / H, width / W)  # old pixels for a new one
            left, top = (max(0, n - new * scale) / 2 for n, new in ((width, W), (height, H)))
            return left, top, width - left, height - top
        h, w = self._inner(height, width)
        left, top = (W - w) // 2, (H - h) // 2
        return (-left * width / w, -top * height / h, (W - left) * width / w,
                (H - top) * height / h)

    def _resize(self, image: Tensor) -> Tensor:
        if image.dtype != torch.uint8 or image.ndim != 3:
            raise ValueError("Resize is for single pictures uint8 (C, H, W), got "
                             f"{image.dtype} {tuple(image.shape)}")
        C, H, W = image.shape
        if self.method != "pad":
            return _resized(image, self.size, self.box(H, W))
        h, w = self._inner(H, W)
        padded = image.new_zeros(C, *self.size)
        top, left = (self.size[0] - h) // 2, (self.size[1] - w) // 2
        padded[:, top:top + h, left:left + w] = _resized(image, (h, w), (0, 0, W, H))
        return padded


def _resized(image: Tensor, size: Sequence[int], box: tuple[float, ...]) -> Tensor:
    """Let PIL resize the part of a picture in a box, each new pixel a mean of old ones."""
    from PIL import Image

    def resized(pixels: Tensor) -> Tensor:
        picture = Image.fromarray(pixels.numpy()).resize(
            (size[1], size[0]), Image.Resampling.BILINEAR, box)
        return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)

    if len(image) in (3, 4):
        flat = resized(image.movedim(0, -1).contiguous())
        return flat.reshape(*size, len(image)).movedim(-1, 0).contiguous()
    return torch.stack([resized(channel.contiguous()).reshape(*size) for channel in image])


# cell 53cded18 b9eeac · One size, and one scale
class NormalizeImages(Transform):
    """Subtract a mean from each channel of a batch of pictures and divide by a spread.

    Without arguments, both are measured on training batches. A pretrained network needs those that
    it was trained with.
    Shape: (B, C, H, W), pixels in 0..1 -> the same.
    """

    order = 90

    def __init__(self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None):
        if (mean is None) != (std is None) or mean is not None and len(mean) != len(std):
            raise ValueError("pass a mean and a std for each channel, or neither, got "
                             f"{mean} and {std}")
        if std is not None and min(std) <= 0:
            raise ValueError(f"std must be positive, got {std}")
        self.mean, self.std = (None if x is None else [float(n) for n in x] for x in (mean, std))

    def setup(self, batches: Iterable[tuple], kinds: tuple[str, ...]) -> None:
        """Measure mean and spread of each channel, if they were not given."""
        if self.mean is None and "image" in kinds:
            pixels = [parts[kinds.index("image")].double() for parts in batches]
            n = sum(x.numel() // x.shape[1] for x in pixels)
            mean = sum(x.sum((0, 2, 3)) for x in pixels) / n
            square = sum(((x - mean[:, None, None]) ** 2).sum((0, 2, 3)) for x in pixels) / n
            self.mean, self.std = mean.tolist(), square.sqrt().clamp(min=1e-6).tolist()

    def _stats(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.mean is None:
            raise ValueError("NormalizeImages has no mean yet: give it one, or let a DataBlock's "
                             "loaders measure it")
        if not x.is_floating_point():
            raise ValueError(f"NormalizeImages needs numbers in 0..1, got {x.dtype}: let "
                             "ImagesToFloat come first, as an ImageBlock does")
        if x.shape[-3] != len(self.mean):
            raise ValueError(f"the pictures have {x.shape[-3]} channels, mean and std "
                             f"{len(self.mean)}: read them with ImageBlock(mode=…) to match")
        return tuple(x.new_tensor(stats)[:, None, None] for stats in (self.mean, self.std))

    def __call__(self, parts: tuple, kinds: tuple[str, ...], train: bool) -> tuple:
        def change(x: Tensor) -> Tensor:
            mean, std = self._stats(x)
            return (x - mean) / std
        return change_parts(change, parts, kinds, "image")

    def decode(self, parts: tuple, kinds: tuple[str, ...]) -> tuple:
        def change(x: Tensor) -> Tensor:
            mean, std = self._stats(x)
            return x * std + mean
        return change_parts(change, parts, kinds, "image")


# cell 030d090a 2b1425 · Shown
def show_samples(samples: Sequence[Sequence[Any]], blocks: Sequence[Block], columns: int = 0,
                 title: str = "") -> None:
    """Draw samples of values in a grid, each part as its block shows it; or print a table."""
    if all(type(block).show is Block.show for block in blocks):
        print(format_table([{f"{i} {block.kind}": block.label(value) for i, (block, value)
                             in enumerate(zip(blocks, sample, strict=False))}
                            for sample in samples]))
        return
    import matplotlib.pyplot as plt

    columns = columns or (4 if len(samples) in (4, 8, 12) else min(len(samples), 5))
    rows = -(-len(samples) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.9 * columns, 2.1 * rows), squeeze=False,
                                layout="constrained")
    for axis in axes.flat[len(samples):]:
        axis.set_axis_off()
    for axis, sample in zip(axes.flat, samples, strict=False):
        for block, value in zip(blocks, sample, strict=False):
            block.show(axis, value)
    figure.suptitle(title)
    plt.show()
