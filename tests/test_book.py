"""The book: what becomes of a notebook's parts, and whether every page works in a browser."""

import base64
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from browser import BROWSER, Browser
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

import book
import parts
from notebooks import ToolError, find

ROOT = Path(__file__).parents[1]


def picture() -> str:
    file = io.BytesIO()
    Image.new("RGB", (1200, 40), "teal").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def display(**data: str) -> dict:
    return new_output("display_data", data={kind.replace("_", "/"): d for kind, d in data.items()})


FIRST = [
    new_markdown_cell(
        "# A first $x^2$ page\n\n> At the end you have `one` page.\n\n"
        "See [the other](02_other.ipynb), [its end](02_other.ipynb#The-end), [here](#Sums), "
        "[a tool](../tools/book.py), [the web](https://example.org/)."
    ),
    new_markdown_cell(
        "## Sums\n\n| symbol | meaning |\n| --- | --- |\n| $\\lVert W \\rVert_F$ | its norm |\n\n"
        "$$\\hat y_i = \\frac{e^{x_i}}{\\sum_j e^{x_j}}$$\n\nand $\\bar x$\n\n"
        "\\begin{align} a &= \\sqrt{b} \\\\ c &= d \\end{align}"
    ),
    new_code_cell(
        "#export\ndef f(x):\n    'Return `x` < 2. Always.'\n    return x",
        outputs=[display(image_png=picture())],
    ),
    new_markdown_cell("The stripe is teal. There is no more to see.\n\n## Sums\n\nagain"),
    new_code_cell("#exercise\n# the reader's own", outputs=[display(text_plain="nor that")]),
    new_code_cell(
        "x" * 200,
        outputs=[
            new_output("stream", name="stdout", text="\x1b[31mred\x1b[0m " + "wide " * 100),
            display(text_html="<table><tr>" + "<td>a wide cell</td>" * 40 + "</tr></table>"),
            display(text_html='<script src="https://example.org/x.js"></script><b>kept</b>'),
            display(text_html='<h2 id="own">a heading of an output is no section</h2>'),
            display(text_latex="$\\alpha$"),
        ],
    ),
    new_code_cell("#hide\nprint('not shown')", outputs=[display(text_plain="nor this")]),
    new_code_cell("#fold\ndef drawn():\n    pass", outputs=[display(text_plain="seen")]),
    new_code_cell("#hide\n### BEGIN SOLUTION\nprint('folded')\n### END SOLUTION"),
]
SECOND = [
    new_markdown_cell("# The other\n\n> At the end you are back.\n\n[back](01_first.ipynb)"),
    new_code_cell(
        "#earns torch.nn.Linear\n1 / 0",
        outputs=[new_output("error", ename="ZeroDivisionError", evalue="", traceback=["1 / 0"])],
    ),
    new_markdown_cell("## The end\n\nis here"),
]


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> Path:
    """The folder of a book made of two small notebooks; `problems` of it are in problems.json."""
    folder = tmp_path_factory.mktemp("made_up")
    pages = []
    for name, cells, status in [("02_other", SECOND, "failed"), ("01_first", FIRST, "passed")]:
        path = folder / f"{name}.ipynb"
        notebook = new_notebook(cells=cells)
        nbformat.write(notebook, path)
        pages.append((path, notebook, {"status": status, "seconds": 1.25}))
    problems = book.write_book(pages, folder / "book")
    (folder / "problems.json").write_text(json.dumps(problems))
    return folder / "book"


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """The folder of the project's own book, from the outputs stored in nbs/."""
    folder = tmp_path_factory.mktemp("stored")
    paths = find(ROOT / "nbs")
    problems = book.write_book(((p, nbformat.read(p, as_version=4), {}) for p in paths), folder)
    assert problems == []
    return folder


BOOKS = ["made_up", "stored"] + ["build"] * (ROOT / "build" / "book" / "index.html").exists()


@pytest.fixture(params=BOOKS)
def folder(request) -> Path:
    """Each book in turn, with the one that `make book` left, if it is there."""
    if request.param == "build":
        return ROOT / "build" / "book"
    return request.getfixturevalue(request.param)


def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


class Anchors(HTMLParser):
    """The ids of a page, and its links as (tag, target); a whole tree takes six times as long."""

    # Most tags of a page: coloured code and mathematics, with neither an id nor a link.
    NEITHER = re.compile(r"""<span class="\w+">|</?(span|m\w+)>""")

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.links = [], []
        self.feed(self.NEITHER.sub("", text))

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            elif name in ("href", "src"):
                self.links.append((tag, value))


def dangling(folder: Path) -> list[str]:
    """Each link, picture or anchor in a folder of pages that leads nowhere, or needs a network."""
    pages = {path.name: Anchors(path.read_text("utf-8")) for path in folder.glob("*.html")}
    found = [f"{name}: an id twice" for name, page in pages.items()
             if len(page.ids) != len(set(page.ids))]  # fmt: skip
    for name, page in pages.items():
        for tag, link in page.links:
            parts = urlsplit(link)
            if parts.scheme == "data" or (parts.scheme in ("http", "https") and tag == "a"):
                continue
            target = unquote(parts.path) or name
            there = not parts.scheme and not parts.netloc and (folder / target).is_file()
            if not there or (parts.fragment and unquote(parts.fragment) not in pages[target].ids):
                found.append(f"{name}: <{tag}> {link[:100]}")
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if BROWSER is None:
        pytest.skip("no Chromium is here to open the pages in")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def test_every_link_and_picture_resolves(folder):
    assert dangling(folder) == []


def test_every_page_loads_and_fits(folder, browser):
    first, then = 1250, 390
    for path in sorted(folder.glob("*.html")):
        opened, complaints = browser.open(path, first)
        assert complaints == [], path.name
        assert opened["broken"] == [] and opened["words"] > 10, path.name
        browser.resize(then)
        for look, width in ((opened, first), (browser.run(browser.LOOK), then)):
            assert look["width"] == width and look["needed"] <= width, path.name
        first, then = then, first  # to widen a page that is left would lay it out for nothing


def test_the_browser_check_sees_what_is_wrong(tmp_path, browser):
    page = tmp_path / "page.html"
    wide = '<div style="width: 600px">wide</div><script>nowhere()</script>'
    page.write_text(
        '<!DOCTYPE html><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<img src="gone.png"><script src="http://127.0.0.1:9/x.js"></script>{wide}'
    )
    look, complaints = browser.open(page, 390)
    text = "\n".join(complaints)
    assert "nowhere is not defined" in text
    assert "cannot load: net::ERR_FILE_NOT_FOUND" in text
    assert "asks the network: http://127.0.0.1:9/x.js" in text
    assert len(look["broken"]) == 1 and look["needed"] >= 600


def test_the_link_check_sees_what_is_wrong(tmp_path):
    links = '<a href="gone.html">x</a><a href="#gone">x</a><img src="http://x.org/y.png">'
    (tmp_path / "page.html").write_text(links)
    assert len(dangling(tmp_path)) == 3


def test_contents(made_up):
    page = soup(made_up / "index.html")
    rows = [row.get_text(" ", strip=True) for row in page.select("tbody tr")]
    assert [row.split()[0] for row in rows] == ["01", "02"]
    assert rows[0].endswith("At the end you have one page.")
    assert rows[1].endswith("failed when the book was made")
    assert page.select_one(".failed") and page.select_one("h1") and page.select_one(".introduction")
    assert page.select_one('tbody a[href="01_first.html"] math'), "the title has an equation"


CONTENTS = """
[[part]]
title = "The way"
sentence = "Both ends of `it`."
needs = "Nothing."
have = "seen it"
pages = ["01_a", "03_c"]
[[workshop]]
title = "Tools"
sentence = "How."
pages = ["02_b"]
"""


def test_the_path_and_the_workshop(tmp_path):
    names = ("01_a", "02_b", "03_c")
    for name in names:
        cells = [new_markdown_cell(f"# {name}\n\n> A page.")]
        nbformat.write(new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    (tmp_path / "contents.toml").write_text(CONTENTS)
    pages = [(p, nbformat.read(p, 4), {}) for p in sorted(tmp_path.glob("*.ipynb"))]
    assert book.write_book(pages, tmp_path / "book") == [] and dangling(tmp_path / "book") == []

    def pager(name):
        return [a["href"] for a in soup(tmp_path / "book" / f"{name}.html").select(".pager a")]

    assert pager("01_a") == ["03_c.html"] and pager("03_c") == ["01_a.html"] and pager("02_b") == []
    index = soup(tmp_path / "book" / "index.html")
    assert index.select_one(".part h2").get_text() == "1. The way"
    facts = index.select_one(".facts").get_text()
    assert facts == "You need Nothing. You will have seen it. Reading time about 5 min."
    assert index.select_one(".begin a")["href"] == "01_a.html"
    assert [a["href"] for a in index.select("details.part td a")] == ["02_b.html"]
    page = soup(tmp_path / "book" / "02_b.html")
    assert "Workshop: Tools" in " ".join(page.header.get_text().split())
    assert page.select_one("aside details[open] .here").get_text() == "02 02_b"


def test_parts_that_are_wrong_are_refused(tmp_path):
    (tmp_path / "contents.toml").write_text(CONTENTS)
    found = parts.read_parts(tmp_path)
    assert parts.misplaced(found, ["01_a", "02_b", "03_c"]) == []
    wrong = parts.misplaced(found, ["01_a", "02_b", "04_d"])
    assert wrong == ["no part has 04_d", "there is no notebook 03_c"]
    assert parts.misplaced([*found, found[1]], names := ["01_a", "02_b", "03_c"])
    assert "02_b stands in two" in parts.misplaced([*found, found[1]], names)[0]
    for text in ("[[part]]\ntitle = 'x'", "[[part]", CONTENTS.replace("needs", "need")):
        (tmp_path / "contents.toml").write_text(text)
        with pytest.raises(ToolError, match="contents.toml"):
            parts.read_parts(tmp_path)


def test_the_names_of_the_library_lead_to_where_they_are_built(made_up):
    assert soup(made_up / "index.html").select_one('a[href="names.html"]')
    name, sentence, where = soup(made_up / "names.html").select("tr td")
    assert (name.get_text(), sentence.get_text()) == ("f", "Return x < 2.")
    assert sentence.code.get_text() == "x" and where.get_text() == "Sums"
    target = urlsplit(name.a["href"])
    cell = soup(made_up / target.path).find(id=target.fragment)
    assert "def f(x)" in cell.get_text() and where.a["href"] == name.a["href"]


def test_a_library_without_names_has_no_page_of_them(tmp_path):
    notebook = new_notebook(cells=[new_markdown_cell("# Plain")])
    nbformat.write(notebook, tmp_path / "01_plain.ipynb")
    book.write_book([(tmp_path / "01_plain.ipynb", notebook, {})], tmp_path / "book")
    assert not (tmp_path / "book" / "names.html").exists() and dangling(tmp_path / "book") == []


def test_a_project_without_a_readme_has_a_book(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = new_notebook(cells=[new_markdown_cell("# Plain")])
    nbformat.write(notebook, tmp_path / "01_plain.ipynb")
    assert book.write_book([(tmp_path / "01_plain.ipynb", notebook, {})], tmp_path / "book") == []
    assert soup(tmp_path / "book" / "index.html").h1.get_text() == tmp_path.name


def test_neighbours(made_up):
    first, other = soup(made_up / "01_first.html"), soup(made_up / "02_other.html")
    assert [a["href"] for a in first.select(".pager a")] == ["02_other.html"]
    assert [a["href"] for a in other.select(".pager a")] == ["01_first.html"]
    assert first.select_one('header a[href="index.html"]')


def test_table_of_contents_and_repeated_headings(made_up):
    links = soup(made_up / "01_first.html").select("aside a")
    assert [(a["href"], a.get_text()) for a in links] == [("#Sums", "Sums"), ("#Sums-2", "Sums")]


def test_links_lead_to_pages(made_up):
    links = {a.get_text(): a for a in soup(made_up / "01_first.html").select("article p a")}
    assert links["the other"]["href"] == "02_other.html"
    assert links["its end"]["href"] == "02_other.html#The-end"
    assert links["the web"]["href"] == "https://example.org/"
    assert "a tool" not in links, "a link out of the book is plain text"


def test_equations_are_mathml_in_a_font_of_the_book(made_up):
    page = soup(made_up / "01_first.html")
    assert len(page.select("article math")) == 6
    assert len(page.select('article .equation math[display="block"]')) == 2
    assert page.select_one("article td math") and page.select_one("article mfrac")
    assert "$" not in page.select_one("article").get_text()
    assert "@font-face" in (made_up / "book.css").read_text()


def test_an_equation_keeps_its_own_punctuation_and_no_more():
    html = book.inline("where $T$ and $C$ lie, a few words on, in ($B$).", [])
    page = BeautifulSoup(html, "html.parser")
    together = [span.text for span in page.select("span.together")]
    assert together == ["(B)."] and len(page.select("math")) == 3


def test_a_numbered_equation_has_its_number():
    html = book.inline(r"$x = 1 \tag{7}$", problems := [])
    assert "(7)" in BeautifulSoup(html, "html.parser").get_text() and problems == []


def test_an_equation_that_cannot_be_set_is_named(tmp_path):
    path = tmp_path / "01_bad.ipynb"
    notebook = new_notebook(cells=[new_markdown_cell("# Bad\n\n> One $\\nosuch{x} < 1$ sentence.")])
    nbformat.write(notebook, path)
    problems = book.write_book([(path, notebook, {})], tmp_path / "book")
    assert problems and all("01_bad.ipynb" in p and "nosuch" in p for p in problems)
    page = (tmp_path / "book" / "01_bad.html").read_text()
    assert '<code class="tex">\\nosuch{x} &lt; 1</code>' in page


def test_what_a_reader_does_not_see(made_up):
    page = soup(made_up / "01_first.html")
    assert not re.search("not shown|nor this|the reader's own|nor that", page.get_text())
    assert "folded" in page.select_one("details.solution").get_text()
    folded = page.select_one("details.folded")  # the code; what it shows is seen
    assert folded.summary.get_text() == "Code: drawn" and "pass" in folded.get_text()
    assert "seen" in page.get_text() and "seen" not in folded.get_text()
    assert page.select_one(".export .highlight") and not page.select_one(".earns")


def test_nothing_is_loaded_from_the_network(made_up):
    page = soup(made_up / "01_first.html")
    assert page.find("b", string="kept")
    assert [script["src"] for script in page.select("script")] == ["book.js"]
    problems = json.loads((made_up.parent / "problems.json").read_text())
    assert len(problems) == 1 and "https://example.org/x.js" in problems[0]


def test_a_picture_says_what_it_shows(made_up):
    image = soup(made_up / "01_first.html").select_one("article img")
    assert image["alt"] == "The stripe is teal."


def test_figures_are_numbered_and_referred_to(tmp_path):
    png = picture()
    film = new_output("display_data", data={"text/html": '<div class="animation"><img></div>'})
    table = new_output(
        "display_data", data={"text/html": f"<img src='data:image/png;base64,{png}'>"}
    )
    cells = [
        new_markdown_cell("# Drawn\n\n> By the end …\n\nSee [Figure](#cell-id=two), [figure]("
                          "02_x.ipynb#cell-id=film), [the figure](#cell-id=two), "
                          "[figure](#cell-id=none)."),
        new_code_cell("1", id="one", outputs=[display(image_png=png), table]),
        new_code_cell("2", id="two", outputs=[display(image_png=png)] * 2),
    ]  # fmt: skip
    other = [
        new_markdown_cell("# X\n\n> By the end …"),
        new_code_cell("3", id="film", outputs=[film]),
    ]
    pages = []
    for name, these in {"01c_drawn": cells, "02_x": other}.items():
        path = tmp_path / f"{name}.ipynb"
        nbformat.write(new_notebook(cells=these), path)
        pages.append((path, nbformat.read(path, 4), {}))
    book.write_book(pages, tmp_path / "book")
    page = soup(tmp_path / "book" / "01c_drawn.html")
    assert [c.get_text() for c in page.select("article figcaption")] == [
        "Figure 1c.1", "Figure 1c.2", "Figure 1c.3"]  # fmt: skip
    told = [link.get_text() for link in page.select("article p a")]
    assert told == ["Figure 1c.2", "figure 2.1", "the figure", "figure"]
    assert page.find("a", string="figure 2.1")["href"] == "02_x.html#cell-id=film"
    assert len(soup(tmp_path / "book" / "02_x.html").select("figure .animation + figcaption")) == 1


def test_an_equation_is_found_by_its_number(tmp_path):
    text = ("# E\n\n> By the end …\n\n$$a = b \\tag{1}$$\n\nBy equation (1), not equation (2), "
            "nor `equation (1)`.")  # fmt: skip
    path = tmp_path / "01_e.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell(text)]), path)
    book.write_book([(path, nbformat.read(path, 4), {})], tmp_path / "book")
    page = soup(tmp_path / "book" / "01_e.html")
    (link,) = page.select("article p a")
    assert (link.get_text(), link["href"]) == ("equation (1)", "#equation-1")
    assert page.find(id="equation-1").math and "not equation (2), nor" in page.article.get_text()


def test_pages_lead_to_their_repository_if_it_has_an_address(made_up, tmp_path, monkeypatch):
    path = tmp_path / "nbs" / "01_first.ipynb"
    path.parent.mkdir()
    nbformat.write(new_notebook(cells=FIRST), path)
    pages = [(path, nbformat.read(path, 4), {})]
    monkeypatch.chdir(tmp_path)
    about = '[project]\nname = "x"\n[project.urls]\nRepository = "https://github.com/a/b.git"'
    (tmp_path / "pyproject.toml").write_text(f"{about}\n[tool.ground-up]\nnbs_path = 'nbs'\n")
    book.write_book(pages, tmp_path / "book")
    found = soup(tmp_path / "book" / "01_first.html").select(".outside a")
    assert [(link.get_text(), link["href"]) for link in found] == [
        ("notebook", "https://github.com/a/b/blob/HEAD/nbs/01_first.ipynb"),
        ("run it", "https://mybinder.org/v2/gh/a/b/HEAD?labpath=nbs%2F01_first.ipynb"),
    ]
    book.write_book(pages, tmp_path / "book", repository="https://example.org/a/b")
    assert not soup(tmp_path / "book" / "01_first.html").select(".outside")


def test_a_failure_is_marked(made_up):
    page = soup(made_up / "02_other.html")
    assert page.select_one(".failure")
    assert "1 / 0" in page.select_one('[data-mime-type$="stderr"]').get_text()
    assert not soup(made_up / "01_first.html").select(".failure")


def test_same_notebooks_same_bytes_and_old_pages_go(tmp_path):
    path = tmp_path / "01_first.ipynb"
    nbformat.write(new_notebook(cells=FIRST), path)
    pages = [(path, nbformat.read(path, as_version=4), {})]
    folder = tmp_path / "book"
    book.write_book(pages, folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    stale = folder / "09_gone.html"
    stale.write_bytes(before["01_first.html"])
    own = folder / "mine.html"
    own.write_text("the user's own")
    book.write_book(pages, folder)
    assert not stale.exists() and own.read_text() == "the user's own"
    own.unlink()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_command_shows_stored_outputs(made_up, tmp_path):
    notebook = made_up.parent / "01_first.ipynb"
    command = [sys.executable, ROOT / "tools" / "book.py", notebook, "--to", tmp_path / "book"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"wrote .*index.html", done.stdout)
    assert "https://example.org/x.js" in done.stderr
    assert dangling(tmp_path / "book") == []


def test_search_finds_names_headings_and_words_from_a_folder(made_up, browser):

    run = browser.run
    browser.open(made_up / "02_other.html", 1250)
    ask = """(async words => {
        const box = document.getElementById("search");
        box.focus(); box.value = words; box.dispatchEvent(new Event("input"));
        await new Promise(done => setTimeout(done, 300));
        return [...document.querySelectorAll(".found li")].map(
            li => [li.querySelector("a")?.getAttribute("href"), li.innerText]);
    })"""
    (link, text), *_ = run(f"{ask}('f')")
    assert link == "01_first.html#Sums" and "Sums" in text
    (link, text), *_ = run(f"{ask}('stripe TEAL')")
    assert link == "01_first.html#Sums" and "stripe is teal" in text
    assert run(f"{ask}('torch.nn.linear')")[0][0] == "02_other.html"
    assert run(f"{ask}('zebra')") == [[None, "Nothing found."]]
    assert run("document.querySelectorAll('.copy').length") >= 1
    dark = (
        "(document.querySelector('.tools button').click(), document.documentElement.dataset.theme)"
    )
    assert [run(dark) for _ in range(3)] == ["light", "dark", None]
