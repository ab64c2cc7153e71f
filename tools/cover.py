"""Which lines of exported cells no notebook runs: measured by coverage.py, told by cell.

Each notebook's process, and each that it starts, leaves a file of coverage.py's data; `uncovered`
puts these together, and traces the lines back to their cells.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from modules import generated, read_module, sections, where
from notebooks import Settings, ToolError, show
from reports import Results

SETTINGS = """[run]
source = {lib}
data_file = {folder}/data
parallel = true
concurrency = thread, multiprocessing
disable_warnings = no-data-collected, module-not-measured, module-not-imported, already-imported

[html]
directory = {folder}/html

[json]
output = {folder}/coverage.json
"""


def measure(folder: Path, home: Settings) -> dict[str, str]:
    """What a process finds in its environment to note which lines of the library it runs.

    The folder is to hold coverage.py's settings and data, of this run alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder.resolve() / "coverage.ini"
    file.write_text(SETTINGS.format(lib=home.lib, folder=file.parent), "utf-8")
    coverage_of(file).erase()
    return {"NOTEBOOK_COVERAGE": str(file)}


def coverage_of(settings: Path):
    """coverage.py with these settings. Raises: ToolError where it is not installed."""
    try:
        from coverage import Coverage
    except ImportError:
        raise ToolError("--coverage needs coverage.py: pip install coverage") from None
    return Coverage(config_file=str(settings))


def uncovered(results: Results, folder: Path, home: Settings) -> Iterator[str]:
    """A line for each cell of these notebooks with lines that nothing ran, and one that counts.

    Writes coverage.py's own reports beside its data: `coverage.json` and `html/index.html`.
    """
    found = coverage_of(folder / "coverage.ini")
    found.combine()
    found.save()
    ran = {result.notebook.path.resolve() for result in results}
    total = missed = 0
    for file in sorted(home.lib.rglob("*.py")):
        module = read_module(file)
        match = generated(module)
        owners = {section.origin or match[1] for section in sections(module) if match}
        if not any(path.as_posix().endswith(name) for path in ran for name in owners):
            continue
        _, statements, _, missing, _ = found.analysis2(str(file))
        in_cells = {line for part in sections(module) if part.id for line in statements
                    if line in part}  # fmt: skip
        places = [where(file, line, home.nbs) for line in missing if line in in_cells]
        total, missed = total + len(in_cells), missed + len(places)
        by_cell = itertools.groupby(places, key=lambda place: place[:2])
        for (notebook, cell), lines in by_cell:
            if notebook.path.resolve() in ran:
                told = ranges(line for *_, line in lines if line)
                place = f"{show(notebook.path)} · cell {cell.number} ({cell.id})"
                yield f"{place}: nothing runs line {told or '?'}"
    if total and not found.get_data().measured_files():
        yield "coverage.py has no data: no notebook came to its end"
    elif total:
        found.html_report()
        found.json_report()
        share = f"{total - missed:,} of {total:,} lines of exported cells ran"
        yield f"{share} ({(total - missed) / total:.1%}); see {show(folder / 'html/index.html')}"
    else:
        yield "no exported cell belongs to these notebooks, so that there is nothing to cover"


def ranges(lines: Iterable[int]) -> str:
    """Line numbers in their order, neighbours as 3-5."""
    found: list[list[int]] = []
    for line in sorted(lines):
        if found and line == found[-1][1] + 1:
            found[-1][1] = line
        else:
            found.append([line, line])
    return ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in found)
