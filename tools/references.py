"""Figures, equations and links of the book's pages: numbers, and what refers to what.

A figure is numbered by its page and its place there, as in "Figure 3c.2". A link to its cell whose
text is `figure`, as `[figure](03c_generalisation.ipynb#cell-id=3f2a9c1b)`, gets that number in the
book. An equation that is referred to has a `\\tag{1}`; `equation (1)` on the same page leads to it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from bs4 import BeautifulSoup, NavigableString, Tag

PICTURES = ".jp-RenderedImage img, .jp-RenderedSVG img, .jp-OutputArea-output .animation"
REFERENCE = re.compile(r"<!--figure (\S+) (\S+)-->")


def number_figures(soup: BeautifulSoup, page: str) -> dict[str, str]:
    """Put its number below each figure; returns the number of the first figure of each cell."""
    found: dict[str, str] = {}
    page = page.lstrip("0") or page[:1]
    for count, picture in enumerate(soup.select(PICTURES), 1):
        number = f"{page}.{count}" if page else str(count)
        below = soup.new_tag("figcaption", id=f"figure-{count}")
        below.string = f"Figure {number}"
        picture.wrap(soup.new_tag("figure")).append(below)
        cell = picture.find_parent(class_="jp-Cell")
        found.setdefault(cell.get("id", "").removeprefix("cell-id="), number)
    return found


def mark_reference(link: Tag, file: str, fragment: str) -> None:
    """Leave a mark behind a link to a cell that calls it a figure; `refer` puts a number there."""
    if fragment.startswith("cell-id=") and link.get_text().strip().lower() == "figure":
        link.append(BeautifulSoup(f"<!--figure {file} {fragment[8:]}-->", "html.parser"))


def refer(html: str, numbers: dict[str, dict[str, str]]) -> str:
    """Put the numbers of figures, by page and cell, where pages refer to them."""

    def number(match: re.Match) -> str:
        found = numbers.get(match[1], {}).get(match[2])
        return f" {found}" if found else ""

    return REFERENCE.sub(number, html)


def link_equations(soup: BeautifulSoup) -> None:
    """Make links of what names an equation of the page by its number."""
    tagged = {place["id"]: place for place in soup.select(".equation[id]")}
    for text in soup.find_all(string=re.compile(r"[Ee]quation \(\w+\)")) if tagged else ():
        if text.find_parent(["a", "pre", "code"]):
            continue
        pieces = re.split(r"([Ee]quation \((\w+)\))", text)
        made: list = [NavigableString(pieces[0])]
        for said, name, rest in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
            link = soup.new_tag("a", href=f"#equation-{name}")
            link.string = said
            made += [link if f"equation-{name}" in tagged else NavigableString(said), rest]
        text.replace_with(*made)


def caption(image: Tag) -> str:
    """What a figure shows, for those who do not see it: the first sentence below it."""
    cell = image.find_parent(class_="jp-Cell").find_next(class_="jp-Cell")
    text = cell.find("p") if cell and "jp-MarkdownCell" in cell["class"] else None
    source = text or image.find_previous(["h1", "h2", "h3", "h4"]) or image
    words = " ".join(source.get_text(" ").split()).removesuffix(" #") or "figure"
    return re.split(r"(?<=[.:;]) ", words)[0]


def relink(link: Tag, files: dict[str, str], here: str) -> None:
    """Point a link at the page of the notebook it names; one that leads out of the book is text."""
    target = urlsplit(link["href"])
    if target.scheme or target.netloc:
        return
    path = unquote(target.path)
    page = files.get(path.removeprefix("./")) if path else here
    if page is None:
        link.name, link["title"] = "span", path
        del link["href"]
        return
    if path:
        link["href"] = page + (f"#{target.fragment}" if target.fragment else "")
    mark_reference(link, page, target.fragment)


def links_outside(path: Path, repository: str, root: Path) -> dict[str, str]:
    """Where a notebook stands in a repository on GitHub, and a service that runs it from there."""
    match = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?", repository)
    if not match:
        return {}
    place = quote(os.path.relpath(path, root).replace(os.sep, "/"))
    return {
        "notebook": f"https://github.com/{match[1]}/blob/HEAD/{place}",
        "run it": f"https://mybinder.org/v2/gh/{match[1]}/HEAD?labpath={quote(place, safe='')}",
    }
