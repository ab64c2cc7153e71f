"""Files that are written whole or not at all; Markdown tables, and their place in a file."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from project import ToolError, show

STALE = 3600  # seconds after which a temporary file belongs to no running writer


def write_all(texts: dict[Path, str]) -> None:
    """Replace files by new ones, each whole: after a crash at any point it is the old or the new.

    All are written beside their targets first, so that a full disk changes nothing.
    """
    waiting: list[tuple[str, Path]] = []
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(".new", f".{path.name}.", path.parent)
            waiting.append((temporary, path))
            with os.fdopen(handle, "wb") as file:
                file.write(text.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, path.stat().st_mode if path.exists() else 0o644)
        while waiting:
            os.replace(*waiting[0])
            waiting.pop(0)
    finally:
        for temporary, _ in waiting:
            Path(temporary).unlink(missing_ok=True)
    for folder in {path.parent for path in texts}:
        sweep(folder)


def sweep(folder: Path) -> None:
    """Remove what a writer left behind that was killed long ago."""
    for path in folder.glob(".*.new"):
        try:
            if time.time() - path.stat().st_mtime > STALE:
                path.unlink()
        except OSError:
            pass  # another process was faster, or may and this one may not


def markdown(rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Rows as a Markdown table, the first as its heading; `right` names columns of numbers."""
    heading, *rest = rows
    rules = ["---:" if name in right else "---" for name in heading]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in (heading, rules, *rest))


def _cell(text: str) -> str:
    """Keep a text inside its cell of a table: one line, and neither bars nor tags take effect."""
    return re.sub(r"(\||<(?=[a-zA-Z/!?]))", r"\\\1", " ".join(text.split()))


def fill(text: str, content: str, mark: str = "results") -> str:
    """The text with what stands between the lines `<!-- mark -->` and `<!-- /mark -->` replaced.

    Raises: ToolError unless each mark is there once, on a line of its own, in order.
    """
    start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    match = re.fullmatch(rf"(.*^{start}\r?\n).*?(^{end}\r?$.*)", text, re.M | re.S)
    if match is None or text.count(start) != 1 or text.count(end) != 1:
        raise ToolError(f"the README needs one line {start} and below it one line {end}: "
                        "the table goes between them")  # fmt: skip
    return f"{match[1]}{content}\n{match[2]}"


def write_between(target: Path, content: str, mark: str, dry: bool = False) -> bool:
    """Fill the marks in a file, as a whole or not at all; return False if it was right already.

    With `dry` it only looks.
    """
    try:
        old = target.read_bytes().decode("utf-8")
    except OSError as error:
        raise ToolError(f"{show(target)} cannot be read: {error.strerror}") from None
    new = fill(old, content, mark)
    if new != old and not dry:
        write_all({target: new})
    return new != old
