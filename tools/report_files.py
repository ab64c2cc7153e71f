"""What other tools read of a run: JUnit XML, the book, and the notebooks with their outputs."""

from __future__ import annotations

import base64
import copy
import io
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

from clean_notebook import tidy_cell, tidy_notebook
from files import write_all
from notebooks import ToolError, read, show
from outcomes import Step
from reports import Result, Results, explain

PICTURES = ("image/svg+xml", "image/png", "image/jpeg")


def write_junit(results: Results, file: str | Path) -> None:
    """Write JUnit XML: a suite for each notebook, a case for each cell."""

    def clean(text: str) -> str:
        return re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)

    root = ElementTree.Element("testsuites")
    for result in results:
        path = show(result.notebook.path)
        suite = ElementTree.SubElement(root, "testsuite", name=path, time=f"{result.seconds:.3f}")
        for step in [*result.task.steps, Step(0, "")]:
            cell, outcome = result.cell(step.number), result.outcomes.get(step.number)
            if step.number == 0 and (outcome is None or outcome.status != "failed"):
                continue
            name = f"cell {cell.number} ({cell.id}) {cell.heading}" if cell else "as a whole"
            seconds = f"{outcome.seconds if outcome else 0:.3f}"
            case = ElementTree.SubElement(suite, "testcase", classname=path, name=clean(name),
                                          time=seconds)  # fmt: skip
            if outcome is None or outcome.status == "skipped":
                ElementTree.SubElement(case, "skipped", message=clean(step.skip or "not run"))
            for failure in outcome.failures if outcome else ():
                text = explain(result, outcome, failure) + "\n" + failure.details
                lines = failure.what.split("\n")  # a SyntaxError begins with its file
                named = (line for line in lines if re.match(r"[\w.]+(Error|Warning): ", line))
                what = next(named, lines[0])
                ElementTree.SubElement(case, "failure", message=clean(what)).text = clean(text)
        for count, tag in (("tests", "testcase"), ("failures", "failure"), ("skipped", "skipped")):
            suite.set(count, str(sum(1 for _ in suite.iter(tag))))
    write_all({Path(file).resolve(): ElementTree.tostring(root, encoding="unicode")})


def executed(result: Result, counts: bool = False):
    """The notebook with the outputs of this run; cells that were skipped keep what they had."""
    from quick_nbformat import nbformat

    node = nbformat.from_dict(copy.deepcopy(result.notebook.raw))
    node.setdefault("metadata", nbformat.from_dict({}))
    for made in node.cells:
        made.setdefault("metadata", nbformat.from_dict({}))
        if made.cell_type == "code":
            made.setdefault("outputs", [])
    node = nbformat.v4.rwbase.rejoin_lines(node)
    for cell, made in zip(result.notebook.cells, node.cells, strict=True):
        if cell.kind != "code":
            continue
        outcome = result.outcomes.get(cell.number)
        made.execution_count = cell.number if counts else None
        kept = outcome.status == "skipped" if outcome else "exercise" in cell.directives
        if not kept:
            made.outputs = [nbformat.from_dict(o) for o in (outcome.outputs if outcome else ())]
        for output in made.outputs:
            keep_lightest(output)
            if output.output_type == "execute_result":
                output.execution_count = made.execution_count
        tidy_cell(made.metadata)
        # JupyterLab shows three dots in place of the code
        if "fold" in cell.directives or "### BEGIN SOLUTION" in cell.source:
            made.metadata["jupyter"] = {**made.metadata.get("jupyter", {}), "source_hidden": True}
    tidy_notebook(node.metadata)
    return node


def keep_lightest(output) -> None:
    """Of a picture stored in several forms keep the smallest, and no date in it."""
    data = output.get("data", {})
    shrink_photographs(output)
    if svg := data.get("image/svg+xml"):
        data["image/svg+xml"] = re.sub(r"\s*<dc:date>.*?</dc:date>", "", svg)
        forms = [form for form in PICTURES if form in data]
        for form in sorted(forms, key=lambda form: len(data[form]))[1:]:
            del data[form]
            output.get("metadata", {}).pop(form, None)


def shrink_photographs(output, large: int = 150_000) -> None:
    """Store a large figure in twice its size as JPEG, if that makes it three times lighter.

    So it is with photographs, whose every pixel PNG keeps; a line drawing stays as it is.
    """
    data, sizes = output.get("data", {}), output.get("metadata", {})
    if len(data.get("image/png", "")) < large or "image/png" not in sizes:
        return  # only what IPython drew in twice the size says in which size it is shown
    from PIL import Image

    bytes_ = io.BytesIO(base64.b64decode(data["image/png"]))
    jpeg = io.BytesIO()
    picture = Image.open(bytes_)
    if getattr(picture, "is_animated", False):
        return  # JPEG would keep the first frame only
    picture.convert("RGB").save(jpeg, "JPEG", quality=88, optimize=True)
    if 3 * jpeg.tell() < bytes_.getbuffer().nbytes:
        data["image/jpeg"] = base64.b64encode(jpeg.getvalue()).decode()
        sizes["image/jpeg"] = sizes.pop("image/png")
        del data["image/png"]


def save_outputs(results: Results) -> None:
    """Write the notebooks that passed back with their outputs; others stay as they were.

    What cannot be written, or was edited in the meantime, is a problem of that notebook alone.
    """
    for result in results:
        if result.status == "passed":
            path = result.notebook.path
            try:
                save(result)
            except (ToolError, OSError) as error:
                results.problems.append(f"{show(path)}: its outputs are not saved: {error}")
            except Exception as error:  # a notebook that nbformat cannot write
                what = f"{type(error).__name__}: {error}"
                results.problems.append(f"{show(path)}: its outputs are not saved: {what}")


def save(result: Result) -> None:
    from quick_nbformat import nbformat

    path = result.notebook.path
    if read(path).raw != result.notebook.raw:
        raise ToolError("the notebook changed while it ran; run it again")
    text = nbformat.v4.writes(executed(result)) + "\n"
    if text != path.read_text("utf-8"):
        write_all({path.resolve(): text})


def write_html(results: Results, folder: str | Path) -> None:
    """Write the book of these notebooks."""
    from book import write_book

    pages = [
        (result.notebook.path, executed(result, counts=True),
         {"status": result.status, "seconds": result.seconds})
        for result in results if result.notebook.raw
    ]  # fmt: skip
    for problem in write_book(pages, folder):
        print(problem, file=sys.stderr)
