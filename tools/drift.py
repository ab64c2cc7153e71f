"""Whether a run shows what the notebook holds: saved outputs against new ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from math import isclose, isnan

from notebooks import show
from plan import tags
from reports import Result

NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}\b")  # of an object in memory
IGNORED = {"nbval-ignore-output", "drifts"}  # tags of cells whose output may change


def drifted(result: Result, tolerance: float) -> Iterator[str]:
    """A line for each cell that shows another text than the saved one.

    Numbers may differ by a share `tolerance` of the larger; pictures and HTML are not compared.
    """
    for cell in result.notebook.cells:
        outcome = result.outcomes.get(cell.number) if cell.number else None
        if outcome is None or outcome.status != "passed" or tags(cell) & IGNORED:
            continue
        saved = shown(result.notebook.raw["cells"][cell.index].get("outputs", ()))
        new = shown(outcome.outputs)
        if where := first_difference(saved, new, tolerance):
            place = f"{show(result.notebook.path)} · cell {cell.number} ({cell.id})"
            yield f"{place} drifts: it shows {where[1]!r}, and {where[0]!r} is saved"


def shown(outputs: Iterable[dict]) -> str:
    """What outputs say as text: what was printed, and the plain form of what was displayed."""
    texts = []
    for output in outputs:
        data = output.get("data", {})
        picture = any(kind.startswith("image/") for kind in data)
        text = output.get("text", "" if picture else data.get("text/plain", ""))
        texts.append("".join(text))
    return "\n".join(texts)


def first_difference(saved: str, new: str, tolerance: float) -> tuple[str, str] | None:
    """The first lines that differ, by more than numbers may."""
    rows = [ADDRESS.sub("0x", text).rstrip().split("\n") for text in (saved, new)]
    length = max(map(len, rows))
    for left, right in zip(*(row + [""] * (length - len(row)) for row in rows), strict=True):
        if not alike(left, right, tolerance):
            return left, right
    return None


def alike(left: str, right: str, tolerance: float) -> bool:
    """Whether two lines have the same words, spaces apart, and numbers that are near."""
    words = [" ".join(NUMBER.sub("#", line).split()) for line in (left, right)]
    if words[0] != words[1]:
        return False
    numbers = [[float(n.replace(",", "")) for n in NUMBER.findall(line)] for line in (left, right)]
    return all(
        isclose(a, b, rel_tol=tolerance, abs_tol=tolerance * 1e-3) or (isnan(a) and isnan(b))
        for a, b in zip(*numbers, strict=True)
    )
