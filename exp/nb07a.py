"""Augmentation: more pictures from the ones you have

By the end you will have transforms that crop, turn and flip whole batches of pictures and change their light, on any device, move the points in them along, and resample only once, and you will have measured what they are worth when pictures are few: fewer than half the mistakes, from the same hundred digits.
"""

# cell fda7acda a6284e · Augmentation: more pictures from the ones you have
from __future__ import annotations

# generated from nbs/07a_augmentation.ipynb: do not edit · 542bbc
__all__ = [
    "resample",
    "move_points",
    "GeometricTransform",
    "Flip",
    "Rotate",
    "Zoom",
    "RandomResizedCrop",
    "Geometry",
    "relight",
    "Lighting",
    "RandomErasing",
    "standard_augmentation",
    "MixUp",
    "predict_augmented",
]
__dir__ = __all__.copy  # what completion offers

# cell fda7acda cd55b6 · Augmentation: more pictures from the ones you have
import copy
import math
import random
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from exp.nb03b import SequentialSampler
from exp.nb03d import check_whole_number, map_tensors, random_kept
from exp.nb03f import Callback
from exp.nb04 import Learner
from exp.nb06e import Transform, change_parts, part_from_state, part_state


# cell 7682c6c8 e2fd84 · One matrix, one resampling
def resample(images: Tensor, matrix: Tensor, size: Sequence[int],
             padding: str = "reflection") -> Tensor:
    """Resample each picture once: the pixel at place p of the new one comes from matrix · p.

    Places are (x, y, 1) with -1 and 1 at the edges. Where all pictures shrink to less than a half,
    means over blocks of pixels are taken first.
    Shape: images (B, C, H, W), matrix (B, 3, 3), size (h, w) -> (B, C, h, w).
    Source: Jaderberg and others 2015, equations 1 and 5.
    """
    H, W = images.shape[-2:]
    old_pixels = matrix[:, :2, :2] * matrix.new_tensor([[W], [H]]) / matrix.new_tensor(size[::-1])
    if (shrink := int(old_pixels.square().sum(1).sqrt().amin())) >= 2:  # old pixels for a new one
        images = F.adaptive_avg_pool2d(images, (max(1, H // shrink), max(1, W // shrink)))
    grid = F.affine_grid(matrix[:, :2].to(images), [len(images), 1, *size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode=padding, align_corners=False)


def move_points(points: Tensor, matrix: Tensor) -> Tensor:
    """Move points as `resample` moves the pictures. Shape: (B, n, 2), (B, 3, 3) -> (B, n, 2)."""
    (a, b, x), (c, d, y) = (row.unbind(-1) for row in matrix[:, :2].to(points).unbind(1))
    adjugate = torch.stack([d, -b, -c, a], 1).reshape(-1, 2, 2)
    inverse = adjugate / (a * d - b * c)[:, None, None]
    return (points - torch.stack([x, y], 1)[:, None]) @ inverse.mT


# cell 1b906bb9 4387be · Each picture draws its own
def _uniform(B: int, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(B)


def _matrices(a: Any, b: Any, c: Any, d: Any, x: Any, y: Any) -> Tensor:
    """Stack matrices [[a, b, x], [c, d, y], [0, 0, 1]] of numbers (B,) -> (B, 3, 3)."""
    zero = next(torch.zeros_like(t) for t in (a, d, x) if isinstance(t, Tensor))
    numbers = [zero + number for number in (a, b, x, c, d, y, 0, 0, 1)]
    return torch.stack(numbers, 1).reshape(-1, 3, 3)


def _check_shares(**shares: float) -> None:
    if not all(0 <= share <= 1 for share in shares.values()):
        raise ValueError(f"{' and '.join(shares)} must lie in 0..1, got {[*shares.values()]}")


# cell e582e897 616c2a · Each picture draws its own
class GeometricTransform(Transform):
    """A change of where pixels come from, with other random numbers for each picture of a batch.

    A subclass has `draw(B, size) -> (matrix, new size)`, with matrix (B, 3, 3) from new places to
    old ones, and `settle`, the same for validation. Join several in a `Geometry`.
    """

    order = 40

    def draw(self, B: int, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        raise NotImplementedError(f"{type(self).__name__} needs a method draw(B, size)")

    def settle(self, B: int, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        return torch.eye(3).expand(B, 3, 3), size

    def __call__(self, parts: tuple, kinds: tuple[str, ...], train: bool) -> tuple:
        return Geometry(self)(parts, kinds, train)


# cell e0f29bc0 9317bf · Each picture draws its own
class Flip(GeometricTransform):
    """Mirror a picture, with these probabilities, from side to side and upside down.

    `swap`: pairs of points that change roles in a mirror, as left and right eye do.
    """

    def __init__(self, horizontal: float = 0.5, vertical: float = 0.0,
                 swap: Sequence[Sequence[int]] = ()):
        _check_shares(horizontal=horizontal, vertical=vertical)
        self.horizontal, self.vertical = horizontal, vertical
        self.swap = [list(pair) for pair in swap]

    def draw(self, B: int, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        x, y = (1 - 2.0 * (torch.rand(B) < share) for share in (self.horizontal, self.vertical))
        return _matrices(x, 0, 0, y, 0, 0), size


# cell 38bf8030 e72983 · Each picture draws its own
class Rotate(GeometricTransform):
    """Turn a picture by up to some degrees to either side, with probability `p`."""

    def __init__(self, degrees: float = 10.0, p: float = 0.75):
        _check_shares(p=p)
        self.degrees, self.p = degrees, p

    def draw(self, B: int, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        H, W = size
        angle = math.radians(self.degrees) * _uniform(B, -1, 1) * (torch.rand(B) < self.p)
        c, s = angle.cos(), angle.sin()
        return _matrices(c, -s * H / W, s * W / H, c, 0, 0), size


# cell d33d5dd8 25b08e · Each picture draws its own
class Zoom(GeometricTransform):
    """Enlarge a picture by up to a factor; move it by up to a share of its sides; each with `p`."""

    def __init__(self, factor: float = 1.2, shift: float = 0.0, p: float = 0.75):
        _check_shares(shift=shift, p=p)
        if not factor >= 1:
            raise ValueError(f"factor must be 1 or more, got {factor}")
        self.factor, self.shift, self.p = factor, shift, p

    def draw(self, B: int, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        part = 1 / (1 + _uniform(B, 0, self.factor - 1) * (torch.rand(B) < self.p))
        shift = 2 * self.shift * part * (torch.rand(B) < self.p)
        x, y = ((1 - part) * _uniform(B, -1, 1) + shift * _uniform(B, -1, 1) for _ in "xy")
        return _matrices(part, 0, 0, part, x, y), size


# cell b3b11d35 4a3dc9 · Each picture draws its own
class RandomResizedCrop(GeometricTransform):
    """Show a random part of a picture at a size; in validation, the largest part in the middle.

    `size` is a side, (height, width), or None for the size that the pictures have. `scale` bounds
    the share of the area, `ratio` the distortion, width over height.
    Source: Szegedy and others 2014, section 6.
    Differs: a part that does not fit is cut to fit, not drawn anew; `ratio` is relative to that of
        the new size.
    """

    def __init__(self, size: int | Sequence[int] | None = None,
                 scale: Sequence[float] = (0.35, 1.0), ratio: Sequence[float] = (3 / 4, 4 / 3)):
        size = [size, size] if isinstance(size, int) else size if size is None else list(size)
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError("size must be a number of pixels, (height, width) or None, got "
                             f"{size}")
        if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError("scale must be two rising shares in 0..1, ratio two rising positive "
                             f"numbers, got {scale} and {ratio}")
        self.size, self.scale, self.ratio = size, list(scale), list(ratio)

    def draw(self, B: int, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        (H, W), (h, w) = size, self.size or size
        area = _uniform(B, *self.scale) * H * W
        ratio = _uniform(B, *map(math.log, self.ratio)).exp() * w / h
        across, down = (side.sqrt().clamp(max=1)
                        for side in (area * ratio / W**2, area / ratio / H**2))
        x, y = ((1 - part) * _uniform(B, -1, 1) for part in (across, down))
        return _matrices(across, 0, 0, down, x, y), (h, w)

    def settle(self, B: int, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        (H, W), (h, w) = size, self.size or size
        scale = min(H / h, W / w)  # old pixels for a new one
        return torch.diag(torch.tensor([w * scale / W, h * scale / H, 1.0])).expand(B, 3, 3), (h, w)


# cell 6ab6b328 3bf40c · Each picture draws its own
class Geometry(Transform):
    """Change pictures, and the points in them, by several geometric transforms with one resampling.

    All pictures of a sample move together; those of a batch each on their own. In validation
    nothing happens, unless a transform sets a size.
    `padding`: what lies beyond the edge: "reflection", "border" (the nearest pixel) or "zeros".
    """

    order = 40

    def __init__(self, *transforms: GeometricTransform, padding: str = "reflection"):
        if not all(isinstance(step, GeometricTransform) for step in transforms):
            raise TypeError(f"Geometry joins geometric transforms, got {transforms}")
        if padding not in (known := ("reflection", "border", "zeros")):
            raise ValueError(f"padding must be one of {known}, got {padding!r}")
        self._transforms, self.padding = list(transforms), padding
        try:
            self.transforms = [part_state(step) for step in transforms]  # what is saved
        except ValueError:
            self.transforms = list(transforms)  # cannot be saved, and saving says so

    @property
    def steps(self) -> list[GeometricTransform]:
        """The transforms, in their order."""
        if "_transforms" not in vars(self):  # as it comes from a file
            self._transforms = [part_from_state(state) for state in self.transforms]
        return self._transforms

    def __call__(self, parts: tuple, kinds: tuple[str, ...], train: bool) -> tuple:
        if "image" not in kinds:
            return parts
        B, *_, H, W = _common_shape(parts, kinds)
        size, matrix = (H, W), torch.eye(3)
        for step in self.steps:
            moved, size = (step.draw if train else step.settle)(B, size)
            matrix = matrix @ moved
        if not train and tuple(size) == (H, W):
            return parts
        parts = change_parts(lambda x: resample(_floats(x), matrix, size, self.padding), parts,
                             kinds, "image")
        pairs = [pair for step in self.steps for pair in getattr(step, "swap", ())]
        return change_parts(lambda x: _change_roles(move_points(x, matrix), matrix, pairs), parts,
                            kinds, "points")

    def __repr__(self) -> str:
        return f"Geometry({', '.join(map(repr, self.steps))})"


# cell 52f5f369 24933c · Each picture draws its own
def _floats(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.float() / 255


def _common_shape(parts: tuple, kinds: tuple[str, ...]) -> tuple[int, ...]:
    shapes = [tuple(x.shape) for x, kind in zip(parts, kinds, strict=True) if kind == "image"]
    if len(shapes[0]) != 4 or any(shape[-2:] != shapes[0][-2:] for shape in shapes):
        raise ValueError("Geometry is a batch transform for pictures (B, C, H, W) of one size, got "
                         f"{shapes}: put an item transform such as Resize before it")
    return shapes[0]


def _change_roles(points: Tensor, matrix: Tensor, pairs: Sequence[Sequence[int]]) -> Tensor:
    """In pictures that are mirrored, exchange the points of each pair."""
    (a, b), (c, d) = (row.unbind(-1) for row in matrix[:, :2, :2].unbind(1))
    mirrored = (a * d < b * c).to(points.device)[:, None, None]  # a negative determinant
    for pair in pairs:
        order = torch.arange(points.shape[1])
        order[list(pair)] = order[list(pair)].flip(0)
        points = points[:, order].where(mirrored, points)
    return points


# cell f26d0ae8 b3e054 · Light
_GREY = (0.299, 0.587, 0.114)  # how bright red, green and blue look


def relight(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Change the light of each picture by three factors, 1 for none; pixels stay in 0..1.

    Shape: images (B, C, H, W), factors (B,) -> the same. With C = 4 the alpha stays as it is.
    Differs: `PIL.ImageEnhance` rounds and clips after each of the three, here it is done once.
    """
    if images.shape[1] == 4:
        colors = relight(images[:, :3], brightness, contrast, saturation)
        return torch.cat([colors, images[:, 3:]], 1)
    B, C, *_ = images.shape
    f, c, s = (x.to(images)[:, None, None] for x in (brightness, contrast, saturation))
    flat, own = images.flatten(2), torch.eye(C).to(images)  # (B, C, H·W)
    weights = images.new_tensor(_GREY if C == 3 else [1 / C] * C)
    mean = f * (flat.mean(2) @ weights)[:, None, None]
    matrix = s * own + (1 - s) * weights if C == 3 else own.expand(B, C, C)
    return ((c * f * matrix) @ flat + (1 - c) * mean).clamp_(0, 1).reshape(images.shape)


class Lighting(Transform):
    """Change brightness, contrast and saturation of each picture, each with probability `p`.

    The three bound the factors: 0.2 means from 1 / 1.2 to 1.2.
    """

    order = 50

    def __init__(self, brightness: float = 0.2, contrast: float = 0.2, saturation: float = 0.2,
                 p: float = 0.75):
        _check_shares(p=p)
        if min(brightness, contrast, saturation) < 0:
            raise ValueError("brightness, contrast and saturation must be 0 or more, got "
                             f"{brightness}, {contrast} and {saturation}")
        self.brightness, self.contrast = brightness, contrast
        self.saturation, self.p = saturation, p

    def __call__(self, parts: tuple, kinds: tuple[str, ...], train: bool) -> tuple:
        if not train or "image" not in kinds:
            return parts
        B = len(parts[kinds.index("image")])
        factors = [(math.log1p(most) * _uniform(B, -1, 1) * (torch.rand(B) < self.p)).exp()
                   for most in (self.brightness, self.contrast, self.saturation)]
        return change_parts(lambda x: relight(_floats(x), *factors), parts, kinds, "image")


# cell fe9c2988 ba42fa · Erase a part
class RandomErasing(Transform):
    """Cover a rectangle of each picture, with probability `p`; points stay where they are.

    `area` bounds its share of the picture and `ratio` its width over its height; `fill` is its
    brightness, None the mean colour of the picture.
    Source: Zhong and others 2017, algorithm 1.
    Differs: a rectangle that is too long is cut, not drawn anew; no noise inside.
    """

    order = 60

    def __init__(self, p: float = 0.5, area: Sequence[float] = (0.02, 0.25),
                 ratio: Sequence[float] = (0.3, 3.3), fill: float | None = None):
        _check_shares(p=p)
        if not 0 < area[0] <= area[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError("area must be two rising shares in 0..1 and ratio two rising positive "
                             f"numbers, got {area} and {ratio}")
        self.p, self.area, self.ratio, self.fill = p, list(area), list(ratio), fill

    def __call__(self, parts: tuple, kinds: tuple[str, ...], train: bool) -> tuple:
        if not train or "image" not in kinds:
            return parts
        B, _, H, W = parts[kinds.index("image")].shape
        area = H * W * _uniform(B, *self.area) * (torch.rand(B) < self.p)
        ratio = _uniform(B, *map(math.log, self.ratio)).exp()
        rows = _stretch(H, (area / ratio).sqrt())[:, None, :, None]
        hidden = rows & _stretch(W, (area * ratio).sqrt())[:, None, None]  # (B, 1, H, W)

        def erase(x: Tensor) -> Tensor:
            x = _floats(x)
            fill = x.mean((2, 3), keepdim=True) if self.fill is None else x.new_tensor(self.fill)
            return fill.where(hidden.to(x.device), x)

        return change_parts(erase, parts, kinds, "image")


def _stretch(n: int, length: Tensor) -> Tensor:
    """Mark a stretch of some length at a random place on each of B axes. (B,) -> (B, n)."""
    length = length.clamp(max=n)
    start = ((n - length) * torch.rand(len(length)))[:, None]
    place = torch.arange(n) + 0.5
    return (place >= start) & (place < start + length[:, None])


# cell 57474d74 65d48e · One line
def standard_augmentation(size: int | Sequence[int] | None = None, min_scale: float = 0.35,
                          flip: float = 0.5, degrees: float = 10.0, lighting: float = 0.2,
                          erasing: float = 0.0, swap: Sequence[Sequence[int]] = ()) -> list[Any]:
    """Return batch transforms for photographs: crop, flip and turn in one resampling, then light.

    `size`: of the new pictures, None for that of the old ones. `min_scale`: the smallest share of
    a picture that is shown. `flip`, `erasing`: probabilities. `swap`: pairs of points that change
    roles in a mirror.
    """
    crop = RandomResizedCrop(size, scale=(min_scale, 1.0))
    transforms = [Geometry(crop, Flip(flip, swap=swap), Rotate(degrees))]
    if lighting:
        transforms.append(Lighting(lighting, lighting, lighting))
    return transforms + ([RandomErasing(erasing)] if erasing else [])


# cell 56b37d99 27b786 · Mixing pictures
class MixUp(Callback):
    """Train on mixtures of two pictures, with the same mixture of the losses of their targets.

    A batch's share is drawn from Beta(alpha, alpha); of it and its complement the larger one
    belongs to the picture itself, whose target is also what training metrics see.
    Raises: ValueError for an alpha that is not positive; TypeError for inputs that cannot be mixed.
    Source: Zhang and others 2017, equation 1.
    """

    order = 30  # after the batch is on its device
    evaluates = False

    def __init__(self, alpha: float = 0.4):
        if not alpha > 0:
            raise ValueError(f"alpha must be a positive number, got {alpha}")
        self.alpha, self.share, self.partners = alpha, 1.0, None

    def before_fit(self, learn: Learner) -> None:
        self.share, self.partners = 1.0, None

    def before_batch(self, learn: Learner) -> None:
        self.partners = None
        if learn.training:
            if not isinstance(learn.inputs, list) or not all(
                    isinstance(x, Tensor) and x.is_floating_point() for x in learn.inputs):
                raise TypeError("MixUp mixes tensors of floats, such as pictures in 0..1, got "
                                f"{[getattr(x, 'dtype', type(x)) for x in learn.inputs]}")
            share = random.betavariate(self.alpha, self.alpha)
            self.share = max(share, 1 - share)
            self.partners = torch.randperm(learn.n_items)
            learn.inputs = [x.lerp(x[self.partners.to(x.device)], 1 - self.share)
                            for x in learn.inputs]

    def do_loss(self, learn: Learner) -> None:
        learn.do_loss()
        if self.partners is not None:
            target, loss = learn.target, learn.loss
            learn.target = map_tensors(lambda t: t[self.partners.to(t.device)], target)
            learn.do_loss()
            learn.target, learn.loss = target, learn.loss.lerp(loss, self.share)

    def cleanup_fit(self, learn: Learner) -> None:
        self.partners = None


# cell 988d387b 0622cf · Look more than once
def predict_augmented(learn: Learner, loader: Any = None, n: int = 4,
                      seed: int = 42) -> tuple[Tensor, Tensor]:
    """Return outputs and targets as `get_preds`: means over the pictures and `n` changed versions.

    `loader`: of a DataBlock, by default that of the validation set; its batch transforms change
    the pictures as they do in training. The random state stays as it was.
    Raises: TypeError for another loader; ValueError if it shuffles, or if the targets are points,
        which move with the pictures.
    """
    loader = learn.dls.valid if loader is None else loader
    if not (hasattr(loader, "pipeline") and hasattr(loader, "train")):
        raise TypeError(f"the loader must be one of a DataBlock, got a {type(loader).__name__}")
    if type(loader.sampler) is not SequentialSampler:
        raise ValueError("the loader shuffles, so that its rounds cannot be averaged: pass "
                         "learn.dls.valid, or test_loader(…) of the loaders")
    if "points" in loader.pipeline.kinds:
        raise ValueError("points move with the pictures, so that each changed version has others "
                         "and their mean is wrong: use learn.get_preds(loader)")
    check_whole_number("n", n)
    total, targets = learn.get_preds(loader)
    changed = copy.copy(loader)
    changed.train = True
    with random_kept([loader]):
        for i in range(n):
            torch.manual_seed(seed + i)
            total = total + learn.get_preds(changed)[0]
    return total / (n + 1), targets
