"""Write executed notebooks as a book: one page each and an index, to be read without a network.

    python tools/book.py [NOTEBOOK …] [--to build/book]

shows notebooks with the outputs stored in them; `tools/run_notebook.py --html DIR` runs them first.
nbconvert makes the body of a page; this adds what a book has around it, and sets mathematics as
MathML, in a font that the book carries with it.
"""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from urllib.parse import unquote, urlsplit

from quick_nbformat import nbformat  # isort: split

from bs4 import BeautifulSoup
from jinja2 import Environment, FileSystemLoader, pass_context
from math_core import LatexError, LatexToMathML
from nbconvert import HTMLExporter
from nbconvert.filters.highlight import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.filters.widgetsdatatypefilter import WidgetsDataTypeFilter

from directives import UNSEEN
from front_door import names_of
from math_font import math_font
from notebooks import Cell, Notebook, find, read
from parts import NEIGHBOURS, Part, duration, minutes, read_parts
from project import cli, settings, show
from references import (
    caption,
    link_equations,
    links_outside,
    number_figures,
    refer,
    relink,
)
from render import gather
from search_index import as_script, sections_of

HERE = Path(__file__).parent / "book"  # the templates and the style sheet
OURS = '<meta name="generator" content="tools/book.py">'  # marks the pages that may be replaced
MATHML = LatexToMathML(fancy_error=False, allow_unreliable_rendering=True)


@dataclass
class Page:
    """One notebook on its way into the book; `status` is what the runner says of it."""

    path: Path
    executed: nbformat.NotebookNode
    status: dict
    problems: list[str] = field(default_factory=list)  # what could not be shown
    figures: dict[str, str] = field(default_factory=dict)  # the numbers of its cells' figures

    @cached_property
    def notebook(self) -> Notebook:
        return read(self.path)

    @property
    def number(self) -> str:
        return self.path.stem.split("_")[0] if self.notebook.order[0] == 0 else ""

    @property
    def file(self) -> str:
        return self.path.stem + ".html"

    @property
    def title(self) -> str:
        return inline(self.notebook.title, self.problems)

    @property
    def summary(self) -> str:
        return inline(self.notebook.summary, self.problems)

    @property
    def outcome(self) -> str:
        return self.status.get("status", "")


@dataclass
class Chapter:
    """A part of the book as its index and its pages show it."""

    part: Part
    pages: list[Page]
    number: int = 0  # on the path, from 1

    @property
    def duration(self) -> str:
        return duration(sum(minutes(page.notebook) for page in self.pages))


class BookRenderer(IPythonRenderer):
    """nbconvert's Markdown, with equations set as MathML instead of left to a script."""

    def __init__(self, problems: list[str], **options):
        super().__init__(escape=False, anchor_link_text="#", **options)
        self.problems = problems

    def block_math(self, body: str) -> str:
        tag = re.search(r"\\tag\{(\w+)\}", body)
        name = f' id="equation-{tag[1]}"' if tag else ""
        return f'<div class="equation"{name}>{self.typeset(body, block=True)}</div>'

    def inline_math(self, body: str) -> str:
        return self.typeset(body, block=False)

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")

    def typeset(self, tex: str, block: bool) -> str:
        """The equation as MathML; one that cannot be set is shown as it was typed, and noted."""
        numbered = re.sub(r"\\tag\{([^{}]*)\}", r"\\qquad\\text{(\1)}", tex.strip())
        try:
            mathml = MATHML.convert_with_local_state(numbered, displaystyle=block)
            return mathml.replace("\u0332", "\u203e")  # browsers misplace a combining line
        except LatexError as error:
            self.problems.append(f"cannot set ${tex.strip()}$: {error}")
            return f'<code class="tex">{escape(tex.strip())}</code>'


class BookExporter(HTMLExporter):
    """nbconvert's HTML exporter with the template in tools/book and mathematics as MathML.

    Highlighted code is most of a page's tags, and nothing changes in it: a comment stands in its
    place until `with_code` is called at the end, which makes all that parses the page much faster.
    """

    def __init__(self):
        super().__init__(
            template_name="book",
            extra_template_basedirs=[str(HERE.parent)],
            filters={"highlight_code": self.keep_code},
        )
        self.problems: list[str] = []  # of the page at hand, and its code
        self.code: list[str] = []

    def keep_code(self, source: str, metadata: dict) -> str:
        # What IPython adds to Python needs one of these; without it, the plain lexer is quicker.
        language = None if re.search("[%!?]", source) else "python3"
        self.code.append(Highlight2HTML()(source, language, metadata))
        return f"<!--code {len(self.code) - 1}-->"

    def from_notebook_node(self, nb: nbformat.NotebookNode, resources: dict, **options):
        """The page without what HTMLExporter adds in a parse of its own: `finish` parses it too."""
        resources = self._init_resources(resources)
        chosen = WidgetsDataTypeFilter(self._nb_metadata, parent=self, resources=resources)
        self.register_filter("filter_data_type", chosen)
        return super(HTMLExporter, self).from_notebook_node(nb, resources, **options)

    def with_code(self, html: str) -> str:
        return re.sub(r"<!--code (\d+)-->", lambda match: self.code[int(match[1])], html)

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        renderer = BookRenderer(
            self.problems,
            attachments=context.get("cell", {}).get("attachments", {}),
            embed_images=True,
            path=context["resources"]["metadata"]["path"],
        )
        return render(source, renderer)


def render(markdown: str, renderer: BookRenderer) -> str:
    """Markdown as HTML; an equation stays on one line with the punctuation around it."""
    html = MarkdownWithMath(renderer=renderer).render(markdown)
    return re.sub(
        r"\(?<math>(?:(?!</math>).)*</math>[^\s<]+", r'<span class="together">\g<0></span>', html
    )


def inline(markdown: str, problems: list[str]) -> str:
    """One line of Markdown as HTML, without the paragraph around it."""
    html = render(markdown, BookRenderer(problems)).strip()
    return html.removeprefix("<p>").removesuffix("</p>")


def write_book(
    pages: Iterable[tuple[str | Path, nbformat.NotebookNode, dict]],
    folder: str | Path,
    repository: str = "",
) -> list[str]:
    """Write a page for each notebook, in reading order, and `index.html`; return what went wrong.

    `pages` holds (path, executed notebook, status), where status has `status` ("passed", "failed"
    or "skipped") and `seconds`, as far as they are known. Pages that an earlier run left and that
    have no notebook any more are removed; no other file in the folder is touched. `repository` is
    the address of a repository on GitHub, to which the pages then link, and to where it runs.
    """
    book = [Page(Path(path), executed, status) for path, executed, status in pages]
    book.sort(key=lambda page: page.notebook.order)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    templates = Environment(loader=FileSystemLoader(HERE), trim_blocks=True, lstrip_blocks=True)
    templates.filters["markdown"] = lambda text: inline(text, [])
    home = settings()
    front = front_matter(home.root / "README.md")
    repository = repository or home.values.get("git_url", "")
    chapters = chapters_of(book)
    shared = {"chapters": chapters, "generator": OURS, **front}

    exporter = BookExporter()  # one for all: it compiles its templates once
    of_notebooks = {page.path.name: page.file for page in book}
    bodies = [finish(page, of_notebooks, exporter) for page in book]
    figures = {page.file: page.figures for page in book}
    bodies = [(refer(body, figures), sections) for body, sections in bodies]
    names = index_of_names(book, {p.file: body for p, (body, _) in zip(book, bodies, strict=True)})
    files = {"index.html": templates.get_template("contents.html.j2").render(
        **shared, names=names)}  # fmt: skip
    if names:
        files["names.html"] = templates.get_template("names.html.j2").render(
            **shared, names=names, package=home.lib.name
        )
    for page, (body, sections) in zip(book, bodies, strict=True):
        around = neighbours(chapters, page)
        files[page.file] = templates.get_template("page.html.j2").render(
            **shared,
            **around,
            page=page,
            body=body,
            sections=sections,
            outside=links_outside(page.path, repository, home.root),
        )
    drawn = "".join(files.values())
    files["book.js"] = (HERE / "book.js").read_text("utf-8")
    files["search.js"] = as_script(
        section for page, (_, labels) in zip(book, bodies, strict=True)
        for section in sections_of(page.notebook, page.file, page.notebook.title, labels)
    )  # fmt: skip
    files["book.css"] = (HERE / "book.css").read_text("utf-8") + math_font(drawn)
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    for path in folder.glob("*.html"):
        if path.name not in files and OURS in path.read_text("utf-8", "replace")[:500]:
            path.unlink()
    return [f"{show(page.path)}: {problem}" for page in book for problem in page.problems]


def index_of_names(book: list[Page], bodies: dict[str, str]) -> list[dict]:
    """For each module of the library: its page, and its names with the place that teaches them."""
    pages = {page.path: page for page in book}
    found = []
    for module in gather(page.notebook for page in book):
        page, rows = pages[module.notebook.path], []
        for name in names_of(module):
            anchor = f"cell-id={name.cell.id}"
            there = f'id="{anchor}"' in bodies[page.file]  # a hidden cell is not in the book
            rows.append({
                "name": name.name,
                "sentence": quoted(name.sentence),
                "link": page.file + (f"#{anchor}" if there else ""),
                "section": name.cell.heading or page.notebook.title,
            })  # fmt: skip
        if rows:
            found.append({"module": module.name, "page": page, "rows": rows})
    return found


def quoted(text: str) -> str:
    """A sentence as HTML, with what stands between backticks as code; a value is code."""
    if text.startswith("= "):
        return f"<code>{escape(text)}</code>"
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def chapters_of(book: list[Page]) -> list[Chapter]:
    """The pages in the parts that the project gives them; what is in none comes first."""
    pages = {page.path.stem: page for page in book}
    found, number = [], 0
    for part in read_parts(book[0].path.parent) if book else []:
        number += not part.workshop
        if members := [pages.pop(name) for name in part.pages if name in pages]:
            found.append(Chapter(part, members, 0 if part.workshop else number))
    rest = [Chapter(Part("", "", ()), list(pages.values()))] if pages else []
    return rest + found


def neighbours(chapters: list[Chapter], page: Page) -> dict:
    """Where a page stands, and the pages before and after it, on the path or in the workshop."""
    here = next(chapter for chapter in chapters if page in chapter.pages)
    alike = [c.pages for c in chapters if c.part.workshop == here.part.workshop]
    row = [None, *(page for pages in alike for page in pages), None]
    i = row.index(page)
    return {"here": here, "before": row[i - 1], "after": row[i + 1]}


def front_matter(readme: Path) -> dict[str, str]:
    """Title, first paragraph and first picture of the README: the book says what it is once."""
    text = readme.read_text("utf-8", "replace") if readme.is_file() else ""
    match = re.search(r"^# (.+?)\n\n(.+?)(\n\n|\Z)", text, re.S | re.M)
    if match is None:
        return {"book_title": escape(readme.parent.name or "Notebooks"), "introduction": ""}
    front = {"book_title": escape(match[1]), "introduction": inline(joined(match[2]), [])}
    picture = re.search(r"^!\[(.+?)\]\((\S+\.(svg|png))\)\n\n(.+?)(\n\n|\Z)", text, re.S | re.M)
    if picture and (file := readme.parent / picture[2]).is_file():
        kind = {"svg": "svg+xml", "png": "png"}[picture[3]]
        data = base64.b64encode(file.read_bytes()).decode()
        front |= {"picture": f"data:image/{kind};base64,{data}", "picture_alt": picture[1]}
        front["caption"] = inline(joined(picture[4]), [])
    return front


def joined(text: str) -> str:
    return " ".join(text.split())


def finish(
    page: Page, files: dict[str, str], exporter: BookExporter
) -> tuple[str, list[tuple[int, str, str]]]:
    """Render a page's body and make it part of the book: links, captions, room to scroll.

    Returns the HTML and the table of contents: (level, anchor, label) for each heading.
    """
    notebook = prepare(page.executed)
    resources = {"metadata": {"name": page.path.stem, "path": str(page.path.parent)}}
    exporter.problems, exporter.code = page.problems, []
    body, _ = exporter.from_notebook_node(notebook, resources)
    soup = BeautifulSoup(body, "html.parser")
    sections = []
    taken: set[str] = set()
    for link in soup.select("a.anchor-link"):
        heading = link.parent
        heading["id"] = anchor = unquote(heading["id"])
        copies = 1
        while heading["id"] in taken:
            copies += 1
            heading["id"] = f"{anchor}-{copies}"
        taken.add(heading["id"])
        link.extract()
        label = heading.decode_contents()
        if heading.name == "h1":
            continue  # the title: the page starts with it
        if heading.name in ("h2", "h3"):
            sections.append((int(heading.name[1]), heading["id"], label))
        link["href"], link["aria-label"] = "#" + heading["id"], "link to this section"
        heading.append(link)
    for link in soup.select("a[href]"):
        relink(link, files, page.file)
    for table in soup.select("table"):
        table.wrap(soup.new_tag("div", attrs={"class": "scroll"}))
    for image in soup.select(".jp-OutputArea img"):
        image["alt"] = caption(image)
    page.figures = number_figures(soup, page.number)
    link_equations(soup)
    drop_remote(soup, page)
    return exporter.with_code(str(soup)), sections


def prepare(executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy with the cells that a reader sees; what kind each is stands in `metadata.book`."""
    notebook = nbformat.from_dict({**executed, "cells": []})
    for cell in executed.cells:
        if not cell.source.strip() or cell.get("id") == NEIGHBOURS:  # a page has its own links
            continue
        directives = Cell(0, "", cell.cell_type, cell.source).directives
        solution = cell.cell_type == "code" and "### BEGIN SOLUTION" in cell.source
        if UNSEEN & directives.keys() and not solution:  # a solution is only folded
            continue
        kind = "solution" if solution else " ".join(directives)
        shown = {"book": kind, "folded": label(cell.source) if "fold" in directives else ""}
        notebook.cells.append(nbformat.from_dict({**cell, "metadata": {**cell.metadata, **shown}}))
    return notebook


def label(source: str) -> str:
    """What stands in place of a folded cell: the names that it defines."""
    names = re.findall(r"^(?:class|def) (\w+)", source, re.M)
    return "Code" + (f": {', '.join(names)}" if names else "")


def drop_remote(soup: BeautifulSoup, page: Page) -> None:
    """Take out what outputs would load from the network (matplotlib's player asks for icons)."""
    for tag in soup.select("link[href], script[src], img[src], iframe[src], source[src]"):
        source = tag.get("src") or tag.get("href")
        if urlsplit(source).scheme in ("http", "https") or source.startswith("//"):
            if "font-awesome" not in source:  # book.css draws these icons
                page.problems.append(f"left out {source}: the book loads nothing from the network")
            tag.decompose()


def stored(*notebooks: str, to: str = "build/book", repository: str = "") -> None:
    """Write the book from the outputs that the notebooks hold, without running anything.

    Args:
        notebooks: files; none means all of the project.
        to: the folder of the book.
        repository: the address on GitHub that pages link to; by default what pyproject.toml says.
    """
    paths = [Path(path) for path in notebooks] or find(settings().nbs)
    pages = [(path, nbformat.read(path, as_version=4), {}) for path in paths]
    for problem in write_book(pages, to, repository):
        print(problem, file=sys.stderr)
    print(f"wrote {show(Path(to) / 'index.html')}")


if __name__ == "__main__":
    cli(stored)
