"""Notebooks written for a test."""

import json


def cell(source, id="", kind="code", **metadata):
    made = {"cell_type": kind, "metadata": metadata, "source": source}
    if kind == "code":
        made |= {"outputs": [], "execution_count": None}
    return made | ({"id": id} if id else {})


def save(path, *cells, nbformat=4, **extra):
    """Write a notebook of these code cells (strings) or ready-made cells."""
    path.parent.mkdir(exist_ok=True, parents=True)
    cells = [c if isinstance(c, dict) else cell(c, f"c{i}") for i, c in enumerate(cells)]
    notebook = {"cells": cells, "metadata": {}, "nbformat": nbformat, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook | extra), encoding="utf-8")
    return path
