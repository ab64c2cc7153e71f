"""Where is it? Points from pictures

By the end you will have networks that point: at the middle of a head, and at five places in a face, with an error in pixels, a split that does not flatter them, and a body that once learned to classify and now measures.
"""

# cell d4fbb2dd a6284e · Where is it? Points from pictures
from __future__ import annotations

# generated from nbs/08d_points.ipynb: do not edit · 990d49
__all__ = [
    "read_head_centre",
    "show_points",
    "sigmoid_range",
    "SigmoidRange",
    "PointHead",
    "point_error",
    "eye_distance_error",
]
__dir__ = __all__.copy  # what completion offers

# cell d4fbb2dd a7e785 · Where is it? Points from pictures
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from exp.nb03e import divides_by
from exp.nb06f import points_in_pixels


# cell b8ff4418 8965fd · Twenty-four people move their heads
def _numbers(path: Path, rows: int) -> list[list[float]]:
    """Read the first lines of numbers in a text, blank lines apart."""
    lines = [line.split() for line in path.read_text("utf-8").splitlines() if line.strip()]
    try:
        return [[float(word) for word in line] for line in lines[:rows]]
    except ValueError as error:
        raise ValueError(f"{path} should hold numbers only: {error}") from error


def read_head_centre(path: str | Path) -> list[float]:
    """Read where the middle of the head is in a frame of Biwi, in pixels (x, y).

    Beside NN/frame_00003_rgb.jpg lie frame_00003_pose.txt, three lines of a rotation and one of
    the place in millimetres, and the camera's rgb.cal.
    Raises: ValueError for a file that does not hold this.
    """
    path = Path(path)
    camera = _numbers(path.with_name("rgb.cal"), 3)
    pose = _numbers(path.with_name(path.name.replace("_rgb.jpg", "_pose.txt")), 4)
    if [len(row) for row in camera + pose] != [3] * 7:
        raise ValueError(f"{path.parent}: rgb.cal should begin with 3 lines of 3 numbers, and the "
                         f"pose of {path.name} have 4, got {camera} and {pose}")
    X, Y, Z = pose[3]
    return [X / Z * camera[0][0] + camera[0][2], Y / Z * camera[1][1] + camera[1][2]]


# cell f78843cd 13b4ee · Twenty-four people move their heads
def show_points(images: Sequence[Tensor], target: Tensor, pred: Tensor | None = None,
                columns: int = 6, title: str = "") -> None:
    """Draw pictures with their points: the true ones as rings, the predicted ones as crosses.

    Shape: images, each (C, H, W) of 0..255 or 0..1; target and pred (N, n, 2) in -1..1.
    """
    import matplotlib.pyplot as plt

    rows = math.ceil(len(images) / columns)
    H, W = images[0].shape[-2:]
    figure, axes = plt.subplots(rows, columns, figsize=(1.6 * columns, 1.7 * rows * H / W + 0.4),
                                squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        C, H, W = image.shape
        axis.imshow(image.permute(1, 2, 0).squeeze(-1).cpu().numpy(), cmap="gray",
                    extent=(0, W, H, 0))
        for points, style in ((target, {"marker": "o", "mfc": "none", "mec": "lime", "ms": 7}),
                              (pred, {"marker": "x", "mec": "red", "ms": 5})):
            if points is not None:
                axis.plot(*points_in_pixels(points[i].detach().cpu(), H, W).T, ls="", **style)
    figure.suptitle(title, fontsize=10)
    plt.show()


# cell fe88d973 bd728e · Squeezed into a range
def sigmoid_range(x: Tensor, low: float, high: float) -> Tensor:
    """Squeeze any numbers into the range between `low` and `high`, by a sigmoid.

    Shape: the same in and out.
    Raises: ValueError unless low < high.
    """
    if not low < high:
        raise ValueError(f"low must be below high, got {low} and {high}")
    return low + (high - low) * torch.sigmoid(x)


class SigmoidRange(nn.Module):
    """`sigmoid_range` as a layer: the last one of a model whose answers have a `y_range`.

    Make the range a little wider than the targets: its ends are reached only at infinity.
    """

    def __init__(self, low: float, high: float):
        super().__init__()
        sigmoid_range(torch.zeros(()), low, high)
        self.low, self.high = float(low), float(high)

    def forward(self, x: Tensor) -> Tensor:
        return sigmoid_range(x, self.low, self.high)

    def extra_repr(self) -> str:
        return f"{self.low:g}, {self.high:g}"


# cell 27ccb126 dae910 · Squeezed into a range
class PointHead(nn.Module):
    """Turn a map of features into points: flatten it, one or two linear layers, a range.

    `start`: the points that it returns at first, whatever it sees, such as the mean of the training
    set. Without `hidden` there is a single layer.
    Shape: x (B, …) with in_features numbers for each item -> (B, n_points, 2) within `y_range`.
    Raises: ValueError if `start` is not (n_points, 2) inside the range.
    """

    def __init__(self, in_features: int, n_points: int = 1,
                 y_range: tuple[float, float] = (-1.1, 1.1), hidden: int | None = None,
                 start: Tensor | None = None):
        super().__init__()
        first = [] if hidden is None else [nn.Linear(in_features, hidden), nn.ReLU()]
        self.layers = nn.Sequential(*first, nn.Linear(hidden or in_features, 2 * n_points))
        self.range, self.n_points = SigmoidRange(*y_range), n_points
        if start is not None:
            self._begin_at(start)

    def _begin_at(self, start: Tensor) -> None:
        low, high = self.range.low, self.range.high
        if start.shape != (self.n_points, 2) or start.min() <= low or start.max() >= high:
            raise ValueError(f"start must be ({self.n_points}, 2) between {low:g} and {high:g}, "
                             f"got {tuple(start.shape)}: {start.tolist()}")
        share = (start.flatten() - low) / (high - low)
        with torch.no_grad():
            self.layers[-1].weight.mul_(0.1)
            self.layers[-1].bias.copy_((share / (1 - share)).log())

    def forward(self, x: Tensor) -> Tensor:
        return self.range(self.layers(x.flatten(1))).reshape(-1, self.n_points, 2)


# cell 046d49be e6bfd8 · How far off?
def _points(pred: Tensor, target: Tensor) -> int:
    return pred.numel() // 2


@divides_by(_points)
def point_error(pred: Tensor, target: Tensor, height: int, width: int) -> Tensor:
    """Average the distance between predicted and true points, in pixels of a picture of this size.

    Shape: pred (…, 2) in -1..1, target the same -> ().
    Units: pixels.
    Raises: ValueError for shapes that differ, which broadcasting would hide.
    """
    _check_points(pred, target)
    apart = points_in_pixels(pred, height, width) - points_in_pixels(target, height, width)
    return apart.square().sum(-1).sqrt().mean()


point_error.higher_is_better = False


def _check_points(pred: Tensor, target: Tensor) -> None:
    if pred.shape != target.shape or pred.shape[-1:] != (2,):
        raise ValueError("points come as (…, 2), as many as there are targets, got "
                         f"{tuple(pred.shape)} and {tuple(target.shape)}")


# cell ee273b15 15b437 · Five points in a face
@divides_by(_points)
def eye_distance_error(pred: Tensor, target: Tensor, left: int = 0, right: int = 1) -> Tensor:
    """Average the distance to the true points, as a share of that between the true eyes.

    `left` and `right` are the numbers of the eyes among the points. The picture is square.
    Shape: pred (B, n, 2), target the same -> ().
    Raises: ValueError for other shapes, or eyes in one place.
    Source: Sun and others 2013, section 4, with the eyes instead of the width of the face.
    """
    _check_points(pred, target)
    between = (target[:, left] - target[:, right]).square().sum(-1).sqrt()
    if not (between > 0).all():
        raise ValueError("the eyes of a face are in one place: left and right are the numbers of "
                         f"the eyes among the {target.shape[1]} points, got {left} and {right}")
    apart = (pred - target).square().sum(-1).sqrt()
    return (apart / between[:, None]).mean()


eye_distance_error.higher_is_better = False
