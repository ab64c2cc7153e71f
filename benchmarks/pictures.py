"""Loading pictures from files: our DataLoader with `open_image`, and PyTorch's with plain Pillow.

Usage: python benchmarks/pictures.py [--files 200] [--rounds 3] [--workers 0,2]. Drawn JPEGs of
1600 x 1200 and of 320 x 240 pixels, each resized so that its shorter side is 160, and put into
batches of 32. In each round every way serves an epoch, one after the other; medians of the rounds.
Seconds are those on the processor, of this process and its workers together, so that other programs
do not count: with as many cores as workers, the clock on the wall goes that much faster.

`min_side` lets a JPEG be decoded at 1/2, 1/4 or 1/8 of its size; "draft" says so.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

import fire
import torch
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader as TorchLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from exp.nb03b import DataLoader
from exp.nb06d import open_image

SHORT = 160  # the shorter side of what is served
BATCH = 32


def draw_files(folder: Path, n: int, width: int, height: int) -> list[Path]:
    """Draw noise under shapes, so that a file is about as large as a photograph's."""
    generator = torch.Generator().manual_seed(1)
    paths = []
    for i in range(n):
        coarse = torch.randint(256, (height // 16, width // 16, 3), generator=generator)
        image = Image.fromarray(coarse.to(torch.uint8).numpy()).resize((width, height))
        fine = torch.randint(40, (height, width, 3), generator=generator).to(torch.uint8)
        image = Image.blend(image, Image.fromarray(fine.numpy()), 0.3)
        ImageDraw.Draw(image).ellipse((width // 4, height // 4, width // 2, height // 2), "#c8402f")
        paths.append(folder / f"{width}-{i:04}.jpg")
        image.save(paths[-1], quality=90)
    return paths


def shrunk(image: Image.Image) -> torch.Tensor:
    """Resize to the shorter side, and return the bytes."""
    scale = SHORT / min(image.size)
    image = image.resize([round(scale * side) for side in image.size], Image.Resampling.BILINEAR)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.reshape(image.height, image.width, 3).permute(2, 0, 1)


class Plain:
    """Files as most people read them: Pillow, convert, resize."""

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return shrunk(Image.open(self.paths[index]).convert("RGB"))


class Ours(Plain):
    """The same files through `open_image`."""

    min_side: int | None = None

    def __getitem__(self, index: int) -> torch.Tensor:
        pixels = open_image(self.paths[index], min_side=self.min_side)
        return shrunk(Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()))


class Draft(Ours):
    """Through `open_image`, which decodes a reduced picture."""

    min_side = SHORT


def seconds(batches) -> float:
    """Seconds of processor time for an epoch; workers count when they have ended."""
    start = time.process_time() + sum(os.times()[2:4])
    for _ in batches:
        pass
    return time.process_time() + sum(os.times()[2:4]) - start


def measure(paths: list[Path], workers: int, rounds: int) -> dict[str, float]:
    """Pictures per second in each way, the median over the rounds."""
    ways = {
        "torch, Pillow": TorchLoader(Plain(paths), BATCH, num_workers=workers),
        "ours": DataLoader(Ours(paths), BATCH, num_workers=workers),
        "ours, draft": DataLoader(Draft(paths), BATCH, num_workers=workers),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # few cores
        for _ in range(rounds):
            for name, loader in ways.items():
                times[name].append(seconds(loader))
    return {name: len(paths) / statistics.median(found) for name, found in times.items()}


def main(files: int = 200, rounds: int = 3, workers: tuple[int, ...] = (0, 2)) -> None:
    torch.set_num_threads(1)
    print(
        f"pictures per second of processor time, median of {rounds}, {files} files, "
        f"torch {torch.__version__}"
    )
    print(f"{'JPEGs of':<12} {'workers':>7} {'torch':>8} {'ours':>8} {'draft':>8} {'/ torch':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for width, height in ((1600, 1200), (320, 240)):
            paths = draw_files(Path(folder), files, width, height)
            for n in [workers] if isinstance(workers, int) else workers:
                speed = measure(paths, n, rounds)
                plain, ours, draft = speed.values()
                print(
                    f"{f'{width} × {height}':<12} {n:>7} {plain:>8,.0f} {ours:>8,.0f} "
                    f"{draft:>8,.0f} {draft / plain:>7.2f}×"
                )


if __name__ == "__main__":
    fire.Fire(main)
