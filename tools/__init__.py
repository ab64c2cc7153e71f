"""The tools as they are installed: the commands `notebook2script` and `run_notebook`.

Each tool is a script that finds the others in its own folder: `python tools/notebook2script.py`.
Installed, the folder is the package `ground_up_tools`, and a command runs the same script.
"""

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent


def notebook2script() -> None:
    run("notebook2script")


def run_notebook() -> None:
    run("run_notebook")


def run(name: str) -> None:
    sys.path.insert(0, str(HERE))
    try:
        runpy.run_path(str(HERE / f"{name}.py"), run_name="__main__")
    except ModuleNotFoundError as error:
        if error.name not in ("fire", "IPython", "nbformat"):
            raise
        sys.exit(f"{name} needs {error.name}: pip install 'ground-up[tools]'")
