"""A filter for git: a notebook without what every run or editor changes.

`make` sets it up in a clone (`filter.notebooks.clean`), and `.gitattributes` says what it is for:
outputs stay, execution counts, times and versions go, so that reading a notebook changes nothing.
What is no notebook comes out as it went in.
"""

import json
import sys


def clean(text: str) -> str:
    """The text of a notebook's file without counts, times and versions.

    Raises: ValueError if it is not the JSON of a notebook.
    """
    try:
        notebook = json.loads(text)
        for cell in notebook["cells"]:
            for part in [cell, *cell.get("outputs", ())]:
                if "execution_count" in part:
                    part["execution_count"] = None
            tidy_cell(cell["metadata"])
        tidy_notebook(notebook["metadata"])
        for other in ("jupytext", "language_info") * ("kernelspec" in notebook["metadata"]):
            notebook["metadata"].pop(other, None)  # one style: the kernel says the language, too
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a notebook: {error!r}") from None
    return as_text(notebook)


def tidy_cell(metadata: dict) -> None:
    """Take out of a cell's metadata what a run or an editor puts there."""
    for volatile in ("execution", "ExecuteTime", "collapsed", "scrolled"):
        metadata.pop(volatile, None)


def tidy_notebook(metadata: dict) -> None:
    """Take out of a notebook's metadata what a run or an editor puts there."""
    for volatile in ("widgets", "vscode"):
        metadata.pop(volatile, None)
    metadata.get("language_info", {}).pop("version", None)


def as_text(notebook: dict) -> str:
    """A notebook as its file holds it: laid out as Jupyter does."""
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    content = sys.stdin.buffer.read()
    try:
        content = clean(content.decode("utf-8")).encode("utf-8")
    except ValueError:
        pass
    sys.stdout.buffer.write(content)
