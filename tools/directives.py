"""Directives: what `#export`, `#| hide` and their like on top of a cell say."""

from __future__ import annotations

import difflib
import functools
import keyword
import re

DIRECTIVE = re.compile(r"#\s*(\|?)\s*(\w+)(.*)")
EXPORTS = {"export", "exports", "exporti"}  # the last two are nbdev's: shown, and private
SKIPS = {"slow", "experiment", "cuda", "skip", "exercise"}
UNSEEN = {"hide", "exercise"}  # not in the book
FLAGS = EXPORTS | SKIPS | UNSEEN | {"fold"}  # directives that stand alone
MODULE_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)


def parse_directive(line: str) -> tuple[str, str] | None:
    """Read `#export`, `# export`, `#|export`, `#| export` as one directive: (name, argument).

    A comment is a directive if it says so alone on its line (`# hide`), if it is `#earns …`,
    `#export NAME` or `#export replaces …`, or if it starts with `#|`; `# skip the header` is only
    a comment, and so is `# slow` or `# skip`: what keeps a cell from running must not look like
    English; and `#| exprot` is a misspelling.
    """
    match = DIRECTIVE.fullmatch(line.strip())
    if match is None:
        return None
    bar, name, argument = match[1], match[2], match[3].strip().removeprefix(":").strip()
    if name in SKIPS and not bar and not line.strip().startswith(f"#{name}"):
        return None
    if name in FLAGS and not argument:
        return name, ""
    sent = MODULE_NAME.fullmatch(argument) or re.match(r"replaces\s+\w", argument)
    if name in EXPORTS and sent:
        return name, argument
    if name in ("earns", "default_exp") and argument and match[3][0] in " \t":
        return name, argument
    # other lines with a bar are options of nbdev and Quarto
    known = name not in FLAGS and not (resembles_export(name.lower()) and name != "exportd")
    return (name, argument) if bar and known else None


@functools.cache
def resembles_export(word: str) -> bool:
    return difflib.SequenceMatcher(None, word, "export").ratio() > 0.8


def nbdev_directives(metadata: object) -> dict[str, str]:
    """The directives in nbdev's part of a cell's or a notebook's metadata."""
    found = metadata.get("nbdev") if isinstance(metadata, dict) else None
    if not isinstance(found, dict):
        return {}
    texts = {k: str(v).strip() for k, v in found.items() if v is not False}
    return {k: "" if v.lower() == "true" else v for k, v in texts.items()}


def importable(name: str) -> bool:
    """Whether a dotted name can be that of a module inside a library."""
    parts = name.split(".")
    odd = any(part == "__init__" or keyword.iskeyword(part) or len(part) > 100 for part in parts)
    return bool(MODULE_NAME.fullmatch(name)) and not odd
