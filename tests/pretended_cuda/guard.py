"""Builds and loads guard.cpp, which PyTorch has to meet when it is first imported."""

import ctypes
import os
import subprocess
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path


def load() -> None:
    """Load the compiled guard.cpp, after compiling it into build/ if it is new."""
    source, torch = Path(__file__).with_name("guard.cpp"), Path(find_spec("torch").origin).parent
    library = source.parents[2] / "build" / f"guard-{version('torch')}.so"
    if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
        library.parent.mkdir(exist_ok=True)
        half = library.with_suffix(f".{os.getpid()}")
        subprocess.run(
            [
                os.environ.get("CXX", "c++"),
                "-std=c++20",
                "-shared",
                "-fPIC",
                source,
                "-o",
                half,
                f"-I{torch / 'include'}",
                f"-L{torch / 'lib'}",
                "-lc10",
                "-ltorch_cpu",
                f"-Wl,-rpath,{torch / 'lib'}",
            ],
            check=True,
        )
        half.replace(library)
    ctypes.CDLL(str(library))
