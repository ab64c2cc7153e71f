"""Whether anything changed since an export that had nothing to do.

An export reads the notebooks, the modules and the settings. If it found every module in step, the
hash of all that it read is kept; as long as the hash is the same, there is nothing to do again. It
is a hash of contents, so that no clock can mislead it, and of the tools and of Python as well.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from project import Settings

TOOLS = Path(__file__).parent


def memory(lib: Path) -> Path:
    """Where the hash is kept: beside what else Python makes of the modules, and can make again."""
    return lib / "__pycache__" / "in_step.txt"


def everything(config: Settings, nbs: Path, lib: Path) -> str:
    """A hash of all that an export of a whole folder reads."""
    seen = hashlib.blake2b(f"{sys.version}{config}{nbs}{lib}".encode(), digest_size=16)
    for path in [*below(TOOLS, ".py"), *below(nbs, ".ipynb"), *below(lib, ".py")]:
        content = hashlib.blake2b(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        seen.update(f"{path}\0{content}\0".encode("utf-8", "surrogatepass"))
    return seen.hexdigest()


def below(folder: Path, suffix: str) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        yield from (Path(place, name) for name in sorted([*folders, *files])
                    if name.endswith(suffix))  # fmt: skip


def in_step(lib: Path, seen: str) -> bool:
    """Whether an export that read just this had nothing to do and nothing to say."""
    try:
        return memory(lib).read_text("ascii") == seen
    except (OSError, UnicodeError):
        return False


def remember(lib: Path, seen: str) -> None:
    """Keep that nothing is to do; where nothing may be written, nothing is remembered."""
    file = memory(lib)
    try:
        file.parent.mkdir(exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}.new")
        draft.write_text(seen, "ascii")
        os.replace(draft, file)
    except OSError:
        pass
