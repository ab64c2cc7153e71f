"""Sample pictures: drawn things in the files of real photographs

By the end you will have programs that draw pictures in the file formats of four public data sets, from one thing on a plain ground to 24 people before a camera, each with the truth about what was drawn.
"""

# generated from nbs/00c_sample_pictures.ipynb: do not edit · 993409
__all__ = [
    "SHAPES",
    "PATTERNS",
    "COLOURS",
    "Canvas",
    "draw_thing",
    "DrawnClass",
    "imagenette_truth",
    "save_picture",
    "make_imagenette",
    "DrawnBreed",
    "oxford_pets_truth",
    "draw_pet",
    "make_oxford_pets",
    "SceneObject",
    "draw_scene",
    "pascal_2007_truth",
    "make_pascal_2007",
    "BiwiTruth",
    "biwi_truth",
    "make_biwi",
]
__dir__ = __all__.copy  # what completion offers

# cell f91be237 cf5984 · Sample pictures: drawn things in the files of real photographs
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np


# cell 78c3bb65 3769cf · A shape is a distance
def _ellipse(x: np.ndarray, y: np.ndarray, a: float, b: float) -> np.ndarray:
    """Return roughly how far each point lies outside an ellipse with half axes a and b."""
    return (np.sqrt((x / a) ** 2 + (y / b) ** 2) - 1) * min(a, b)


def _box(x: np.ndarray, y: np.ndarray, a: float, b: float) -> np.ndarray:
    """Return how far each point lies outside a box of half width a and half height b."""
    return np.maximum(abs(x) - a, abs(y) - b)


# cell ca3fa234 c0c07c · A shape is a distance
def _flower(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five petals: the radius of the edge goes up and down five times around."""
    r = np.sqrt(x * x + y * y) + 1e-9
    c = x / r
    return r - (0.66 + 0.3 * (16 * c**5 - 20 * c**3 + 5 * c))  # cos 5θ as a polynomial of cos θ


def _butterfly(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Two large wings, two small ones, and a thin body."""
    wings = np.minimum(_ellipse(abs(x) - 0.5, y + 0.3, 0.5, 0.55),
                       _ellipse(abs(x) - 0.38, y - 0.5, 0.36, 0.4))
    return np.minimum(wings, _box(x, y, 0.08, 0.85))


# cell 822df640 c84d5a · A shape is a distance
SHAPES = {
    "ball": lambda x, y: _ellipse(x, y, 0.95, 0.95),
    "fish": lambda x, y: np.minimum(
        _ellipse(x + 0.2, y, 0.8, 0.5), np.maximum(_box(x - 0.75, y, 0.25, 1), abs(y) - x + 0.4)),
    "beetle": lambda x, y: np.minimum.reduce(
        [_ellipse(x, y - 0.15, 0.55, 0.75), _ellipse(x, y + 0.72, 0.26, 0.26),
         *(_box(x, y - 0.15 - k, 0.9, 0.05) for k in (-0.4, 0, 0.4))]),
    "butterfly": _butterfly,
    "flower": _flower,
    "mushroom": lambda x, y: np.minimum(
        np.maximum(_ellipse(x, y - 0.1, 1, 0.9), y - 0.1), _box(x, y - 0.5, 0.22, 0.5)),
    "cloth": lambda x, y: _box(x, y, 0.95, 0.65),
    "triangle": lambda x, y: np.maximum(y - 0.65, 0.87 * abs(x) - 0.5 * y - 0.5),
    "star": lambda x, y: np.sqrt(abs(x)) + np.sqrt(abs(y)) - 1,
    "cross": lambda x, y: np.minimum(_box(x, y, 0.95, 0.35), _box(x, y, 0.35, 0.95)),
}


# cell 43b4b3e5 72e536 · A pattern, a colour, a place
def _wave(t: np.ndarray) -> np.ndarray:
    """Return a wave between 0 and 1 with period 1, flat at both ends: bands with soft edges."""
    return np.clip(abs((t % 1) - 0.5) * 8 - 1.5, 0, 1)


PATTERNS = {
    "plain": lambda x, y: np.zeros_like(x),
    "striped": lambda x, y: _wave(x),
    "spotted": lambda x, y: np.clip(
        2.2 - 6 * np.hypot((x + 0.5 * (np.floor(y) % 2)) % 1 - 0.5, y % 1 - 0.5), 0, 1),
    "checked": lambda x, y: (np.floor(2 * x) + np.floor(2 * y)) % 2,
}
COLOURS = {"red": (205, 45, 40), "orange": (240, 140, 35), "yellow": (235, 215, 60),
           "green": (60, 160, 70), "blue": (55, 95, 205), "white": (238, 238, 232)}


# cell 076d2503 ce4953 · A pattern, a colour, a place
class Canvas:
    """A picture to draw on: a background of soft clouds, then things from back to front.

    Shape: pixels (H, W, 3), float, 0..255.
    """

    def __init__(self, rng: np.random.RandomState, height: int, width: int):
        from PIL import Image

        self.rng, self.y, self.x = rng, *np.ogrid[:height, :width]
        sky = np.clip(rng.uniform(40, 215, 3) + rng.normal(0, 35, (4, 4, 3)), 0, 255)
        small = Image.fromarray(sky.astype(np.uint8))
        self.pixels = np.asarray(small.resize((width, height), Image.BICUBIC)).astype(float)

    def cover(self, cx: float, cy: float, radius: float, angle: float, distance, *sizes):
        """Return the share of each pixel that a shape covers, turned and enlarged to a radius.

        `window`, `u` and `v` are then the part of the picture around it, and the coordinates there.
        """
        reach, shape = 1.45 * radius * max(1, 1, *sizes), self.pixels.shape
        rows, columns = (slice(max(int(c - reach), 0), min(max(int(c + reach) + 1, 0), n))
                         for c, n in ((cy, shape[0]), (cx, shape[1])))
        self.window, x, y = (rows, columns), self.x[:, columns] - cx, self.y[rows] - cy
        c, s = np.cos(angle) / radius, np.sin(angle) / radius
        self.u, self.v = c * x + s * y, c * y - s * x
        share = np.zeros(shape[:2])
        share[self.window] = np.clip(0.5 - radius * distance(self.u, self.v, *sizes), 0, 1)
        return share

    def paint(self, share: np.ndarray, colour) -> None:
        """Mix a colour into the pixels of the window, by a share between 0 and 1 for each."""
        inside = self.pixels[self.window]
        inside += (np.asarray(colour) - inside) * share[self.window][..., None]

    def paint_pattern(self, share: np.ndarray, pattern: str, colour, bands: float) -> None:
        """Paint a pattern over what the last shape covers, so many bands to its radius."""
        a, b = self.rng.uniform(0, 1, 2)
        share = share.copy()
        share[self.window] *= PATTERNS[pattern](self.u * bands + a, self.v * bands + b)
        self.paint(share, colour)

    def draw(self, shape: str, pattern: str, colour, second, cx: float, cy: float,
             radius: float, angle: float) -> None:
        """Draw a thing: its shape in its colour, and over it the pattern in a second colour."""
        inside = self.cover(cx, cy, radius, angle, SHAPES[shape])
        self.paint(inside, colour)
        self.paint_pattern(inside, pattern, second, self.rng.uniform(1.3, 2.2))

    def image(self, noise: float = 10):
        """Return the picture for saving, with the grain of a cheap camera."""
        from PIL import Image

        grain = self.rng.normal(0, noise, self.pixels.shape)
        return Image.fromarray(np.clip(self.pixels + grain, 0, 255).round().astype(np.uint8))


# cell 8bcc7abd 4cc26f · A pattern, a colour, a place
def _tint(rng: np.random.RandomState, colour: str | None = None) -> np.ndarray:
    """Return a named colour, a little off; or any colour."""
    if colour is None:
        return rng.uniform(30, 235, 3)
    light = rng.uniform(0.75, 1.1)
    return np.clip(np.array(COLOURS[colour]) * light + rng.normal(0, 14, 3), 0, 255)


def _second(rng: np.random.RandomState, colour: np.ndarray) -> np.ndarray:
    """Return a second colour that stands out: dark on light, light or dark on the rest."""
    dark = colour.mean() > 150 or (colour.mean() > 80 and rng.random_sample() < 0.5)
    return rng.uniform(10, 55, 3) if dark else rng.uniform(200, 250, 3)


def draw_thing(rng: np.random.RandomState, shape: str, pattern: str, colour: str | None = None,
               height: int = 64, width: int = 64):
    """Draw one thing at any place, in any size, lightly turned: return the picture and its box.

    Units: the box is left, top, right, bottom, in pixels.
    """
    canvas, side = Canvas(rng, height, width), min(height, width)
    radius = side * rng.uniform(0.24, 0.42)
    cx, cy = (rng.uniform(0.8 * radius, n - 0.8 * radius) for n in (width, height))
    tint = _tint(rng, colour)
    canvas.draw(shape, pattern, tint, _second(rng, tint), cx, cy, radius, rng.uniform(-0.6, 0.6))
    edges = np.clip([cx - radius, cy - radius, cx + radius, cy + radius], 0,
                    [width - 1, height - 1] * 2)
    return canvas.image(rng.uniform(6, 20)), tuple(int(e) for e in edges)


# cell c6f947d6 a4d7de · imagenette: a source task
@dataclass(frozen=True)
class DrawnClass:
    """A class of drawn things: its id and name, and what is drawn; colour None is any colour."""

    wnid: str
    name: str
    shape: str
    pattern: str
    colour: str | None = None


_SOURCE = tuple(
    DrawnClass(f"n9100{i:04d}", f"{pattern}_{shape}", shape, pattern)
    for i, (pattern, shape) in enumerate((
        ("plain", "ball"), ("striped", "ball"), ("spotted", "ball"), ("checked", "cloth"),
        ("plain", "triangle"), ("striped", "triangle"), ("spotted", "triangle"),
        ("striped", "fish"), ("plain", "star"), ("spotted", "cross")), 1))


def imagenette_truth() -> tuple[DrawnClass, ...]:
    """Return the ten classes of the source task: what is drawn in each folder."""
    return _SOURCE


# cell 866f9167 b99442 · imagenette: a source task
def save_picture(image, path: Path) -> None:
    """Write a picture as a JPEG file, making its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="JPEG", quality=90)


def make_imagenette(folder: Path) -> None:
    """Write ten classes of drawn pictures as train/ID/*.JPEG and val/ID/*.JPEG.

    Differs: drawn patterns on shapes; 120 + 30 pictures of each class; the short side is 64.
    """
    rng = np.random.RandomState(11)
    for kind in _SOURCE:
        for i in range(150):
            size = [64, 64 + rng.randint(25)]
            size, part = size[:: rng.choice([1, -1])], "train" if i < 120 else "val"
            image, _ = draw_thing(rng, kind.shape, kind.pattern, None, *size)
            save_picture(image, folder / part / kind.wnid / f"{kind.wnid}_{i}.JPEG")


# cell 7d4d7d16 8ee4a8 · oxford_pets: a small target task
@dataclass(frozen=True)
class DrawnBreed:
    """A breed of the drawn pets: its name, whether it is a cat, and its coat."""

    name: str
    is_cat: bool
    coat: str


def oxford_pets_truth() -> tuple[DrawnBreed, ...]:
    """Return the eight breeds and what is drawn of each."""
    coats = ("plain", "striped", "spotted", "masked")
    names = "Abyssinian Maine_Coon Bengal Siamese basset_hound boxer german_shorthaired pug".split()
    return tuple(DrawnBreed(name, i < 4, coats[i % 4]) for i, name in enumerate(names))


# cell f6f07c63 ec61b9 · oxford_pets: a small target task
def draw_pet(rng: np.random.RandomState, is_cat: bool, coat: str, height: int, width: int):
    """Draw the head of a cat or a dog, from the front."""
    canvas, radius = Canvas(rng, height, width), min(height, width) * rng.uniform(0.26, 0.38)
    cx, cy = (rng.uniform(1.1 * radius, side - 1.1 * radius) for side in (width, height))
    tilt, fur = rng.uniform(-0.4, 0.4), _tint(rng)
    second = _second(rng, fur)

    def part(x, y, size, angle, distance, *sizes):
        """Cover a part of the head, given in the head's own coordinates."""
        c, s = np.cos(tilt), np.sin(tilt)
        centre = cx + radius * (c * x - s * y), cy + radius * (s * x + c * y)
        return canvas.cover(*centre, radius * size, tilt + angle, distance, *sizes)

    pointed = 0.8, 0.62, -0.72, 0.62, 0.35, SHAPES["triangle"]
    hanging = 0.65, 0.92, 0, 0.62, -0.15, _ellipse, 0.42, 1
    shade, x, y, size, angle, *shape = pointed if is_cat else hanging
    for side in (-1, 1):
        canvas.paint(part(side * x, y, size, side * angle, *shape), fur * shade)
    head = part(0, 0, 1, 0, _ellipse, rng.uniform(0.85, 1), rng.uniform(0.8, 0.95))
    canvas.paint(head, fur)
    if coat == "masked":
        canvas.paint(head * part(0, 0.2, 0.62, 0, _ellipse, 1, 0.9), second)
    else:
        canvas.paint_pattern(head, coat, second, rng.uniform(1.5, 2.4))
    for side in (-1, 1):
        canvas.paint(part(side * 0.36, -0.15, 0.15, 0, _ellipse, 1, 1), (245, 245, 235))
        canvas.paint(part(side * 0.36, -0.15, 0.08, 0, _ellipse, 1, 1), (15, 15, 15))
    canvas.paint(part(0, 0.3, 0.14, 0, _ellipse, 1, 0.7), (30, 20, 20))
    return canvas.image(rng.uniform(8, 22))


def make_oxford_pets(folder: Path) -> None:
    """Write eight breeds of drawn cats and dogs as images/NAME_NUMBER.jpg, 60 of each.

    Differs: drawn; eight breeds instead of 37, of 60 pictures instead of 200.
    """
    rng = np.random.RandomState(12)
    for breed in oxford_pets_truth():
        for i in range(1, 61):
            size = 64 + rng.randint(0, 33, 2)
            image = draw_pet(rng, breed.is_cat, breed.coat, *size)
            save_picture(image, folder / "images" / f"{breed.name}_{i}.jpg")


# cell a88091a5 2af3e2 · pascal_2007: none, one or several
@dataclass(frozen=True)
class SceneObject:
    """A thing in a drawn scene: its kind, and where it is, in pixels."""

    kind: str
    x: float
    y: float
    radius: float


_KINDS = ("ball", "beetle", "butterfly", "cloth", "fish", "flower", "mushroom")
_SCENE = 96  # pixels, both sides


def draw_scene(rng: np.random.RandomState):
    """Draw a scene: return the picture, and the labelled things in it."""
    canvas, found = Canvas(rng, _SCENE, _SCENE), []
    things = ["star", "cross", "triangle"][: rng.randint(0, 3)]  # clutter: never labelled
    things += list(rng.choice(_KINDS, rng.choice(5, p=[0.08, 0.3, 0.3, 0.2, 0.12])))
    taken = []
    for kind in things:
        for _ in range(12):  # look for a place where it hides no other one
            radius, (x, y) = rng.uniform(9, 21), rng.uniform(11, _SCENE - 11, 2)
            if all((x - a) ** 2 + (y - b) ** 2 > (0.8 * (radius + r)) ** 2 for a, b, r in taken):
                break
        else:
            continue
        taken.append((x, y, radius))
        tint, pattern = _tint(rng), rng.choice(list(PATTERNS))
        canvas.draw(kind, pattern, tint, _second(rng, tint), x, y, radius, rng.uniform(-0.7, 0.7))
        if kind in _KINDS:
            found.append(SceneObject(str(kind), float(x), float(y), float(radius)))
    return canvas.image(rng.uniform(6, 18)), tuple(found)


# cell 1d9d186e 38f8fa · pascal_2007: none, one or several
@cache
def _draw_scenes() -> tuple:
    """Draw all scenes: 500 for training, 200 for validation, 150 for the test."""
    rng = np.random.RandomState(13)
    return tuple((f"{i:06d}.jpg", *draw_scene(rng)) for i in range(1, 851))


def pascal_2007_truth() -> dict[str, tuple[SceneObject, ...]]:
    """Return the labelled things in each scene, by the name of its file."""
    return {file: things for file, _, things in _draw_scenes()}


def make_pascal_2007(folder: Path) -> None:
    """Write scenes into train/ and test/, with train.csv (fname,labels,is_valid) and test.csv.

    Differs: drawn; seven kinds instead of 20, and some scenes without any.
    """
    lines = {"train": ["fname,labels,is_valid"], "test": ["fname,labels"]}
    for i, (file, image, things) in enumerate(_draw_scenes()):
        part = "train" if i < 700 else "test"
        save_picture(image, folder / part / file)
        row = [file, " ".join(sorted({thing.kind for thing in things}))]
        lines[part].append(",".join(row + [str(i >= 500)] * (part == "train")))
    for part, rows in lines.items():
        (folder / f"{part}.csv").write_bytes("\n".join([*rows, ""]).encode("ascii"))


# cell d66be766 b8a28c · biwi: where is the head?
@dataclass(frozen=True)
class BiwiTruth:
    """Where the heads are. Shape: centres (24, 20, 2) in pixels, lifts (24,) in head heights."""

    centres: np.ndarray
    lifts: np.ndarray  # how much higher the tracker sat on each person's head


_FOCUS, _MIDDLE = 129.42, (80.0, 60.125)  # a quarter of the Kinect's, for pictures of 160 × 120
_IDENTITY = "1 0 0\n0 1 0\n0 0 1\n"
_CALIBRATION = f"129.42 0 80\n0 129.42 60.125\n0 0 1\n\n0 0 0 0\n\n{_IDENTITY}\n0 0 0\n\n160 120\n"


# cell 7edbadd6 0eace6 · biwi: where is the head?
def _rotation(pitch: float, yaw: float, roll: float) -> np.ndarray:
    """Return the matrix that turns about x, then y, then z. Shape: (3, 3)."""
    (a, b, c), (d, e, f) = np.cos([pitch, yaw, roll]), np.sin([pitch, yaw, roll])
    about_x = np.array([[1, 0, 0], [0, a, -d], [0, d, a]])
    about_y = np.array([[b, 0, e], [0, 1, 0], [-e, 0, b]])
    return np.array([[c, -f, 0], [f, c, 0], [0, 0, 1]]) @ about_y @ about_x


def _draw_head(look: np.random.RandomState, centre, radius: float, turn):
    """Draw a person whose looks come from `look`, the head at a place, turned by three angles."""
    canvas, (x, y), (pitch, yaw, roll) = Canvas(look, 120, 160), centre, turn
    skin, hair, shirt = (look.uniform(90, 235) * np.array([1, 0.8, 0.66]),
                         look.uniform(10, 150) * np.array([1, 0.8, 0.6]), look.uniform(20, 235, 3))
    long, brow = look.uniform(0.8, 1.5), look.uniform(-0.75, -0.35)
    beard = look.random_sample() < 0.3
    dx, dy = 0.55 * np.sin(yaw), 0.5 * np.sin(pitch)

    def part(u, v, a, b):
        """Cover a part of the head, given in the head's own coordinates."""
        c, s = np.cos(roll), np.sin(roll)
        place = x + radius * (c * u - s * v), y + radius * (s * u + c * v)
        return canvas.cover(*place, radius, roll, _ellipse, a, b)

    canvas.paint(part(0, 2.6, 1.7, 1.5), shirt)
    canvas.paint(part(0, 0.1 * long, 0.9, 0.95 * long), hair)
    face = part(0, 0.1, 0.74, 0.95)
    canvas.paint(face, skin)
    canvas.paint(face * part(dx * 0.4, brow - 0.6 + dy, 1.2, 0.6), hair)
    for side in (-1, 1):
        canvas.paint(face * part(side * 0.3 + dx, -0.1 + dy, 0.11, 0.08), (20, 20, 25))
    canvas.paint(face * part(1.25 * dx, 0.22 + dy, 0.09, 0.17), skin * 0.75)
    canvas.paint(face * part(dx, 0.57 + dy, 0.26, 0.07), (150, 50, 50))
    canvas.paint(face * part(dx, 0.85 + dy, 0.4, 0.16) * beard, hair)
    return canvas


# cell b6af7ae3 147de7 · biwi: where is the head?
@cache
def _film_heads() -> tuple[BiwiTruth, tuple]:
    """Film 24 people: return the truth and (person, frame, picture, rotation, place) of each."""
    rng, shots = np.random.RandomState(14), []
    centres, lifts = np.empty((24, 20, 2)), rng.uniform(-0.35, 0.35, 24)
    for person in range(24):
        path = np.cumsum(rng.normal(0, 1, (20, 6)), 0)  # small steps
        path = (path - path.mean(0)) / abs(path).max()
        home = np.array([rng.uniform(-110, 110), rng.uniform(-60, 60), rng.uniform(470, 720)])
        for frame, step in enumerate(path):
            place = home + step[:3] * (150, 90, 60)
            turn = step[3:] * (0.6, 0.8, 0.5)
            centre = _FOCUS * place[:2] / place[2] + _MIDDLE
            radius = _FOCUS * 110 / place[2]
            drawn = centre + (0, radius * lifts[person])  # the tracker sat above the head's middle
            canvas = _draw_head(np.random.RandomState(1000 + person), drawn, radius, turn)
            canvas.rng = rng
            centres[person, frame] = centre
            shots.append((person + 1, frame + 3, canvas.image(8), _rotation(*turn), place))
    return BiwiTruth(centres, lifts), tuple(shots)


def biwi_truth() -> BiwiTruth:
    """Return the centres of all heads, and how the tracker sat on each person."""
    return _film_heads()[0]


def make_biwi(folder: Path) -> None:
    """Write NN/frame_*_rgb.jpg, NN/frame_*_pose.txt and NN/rgb.cal for 24 people.

    Differs: drawn, 160 × 120 pixels instead of 640 × 480, 20 frames of each person.
    """
    for person, frame, image, rotation, place in _film_heads()[1]:
        stem = folder / f"{person:02d}" / f"frame_{frame:05d}"
        save_picture(image, stem.with_name(f"{stem.name}_rgb.jpg"))
        lines = [" ".join(f"{x:.6g}" for x in row) + " \n" for row in (*rotation, place)]
        stem.with_name(f"{stem.name}_pose.txt").write_bytes(
            "".join([*lines[:3], "\n", lines[3]]).encode("ascii"))
        (stem.parent / "rgb.cal").write_bytes(_CALIBRATION.encode("ascii"))
