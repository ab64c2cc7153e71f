"""The font that the book carries with it for its equations: STIX Two Math, cut down and mended."""

from __future__ import annotations

import base64
import importlib.metadata
import io
import re
from copy import deepcopy

from bs4 import BeautifulSoup
from fontTools import subset
from fontTools.ttLib import TTFont

# Glyphs that a browser takes for equations though no text asks for them: italics, and the root.
UNWRITTEN = [0x210E, 0x221A, *range(0x1D434, 0x1D468), *range(0x1D6E2, 0x1D71C)]


def math_font(html: str) -> str:
    """A style rule that carries STIX Two Math, cut down to the characters of the equations."""
    equations = re.findall(r"<math.*?</math>", html, re.S)
    if not equations:
        return ""
    # found, not imported: only its font is of use here
    ziamath = importlib.metadata.distribution("ziamath")
    font_file = ziamath.locate_file("ziamath/fonts/STIXTwoMath-Regular.ttf")
    options = subset.Options(layout_features=["*"], flavor="woff", notdef_outline=True)
    font = subset.load_font(str(font_file), options)
    fit_root(font)
    cut = subset.Subsetter(options)
    written = BeautifulSoup("".join(equations), "html.parser").get_text()
    cut.populate(text=written, unicodes=UNWRITTEN)
    cut.subset(font)
    woff = io.BytesIO()
    subset.save_font(font, woff, options)
    data = base64.b64encode(woff.getvalue()).decode()
    return (
        f'\n@font-face {{ font-family: "Book Math"; src: url(data:font/woff;base64,{data}) }}\n'
        'math { font-family: "Book Math", math }\n'
    )


def fit_root(font: TTFont) -> None:
    """Make the root sign of STIX Two Math fit what stands under it in a browser.

    Its smallest size is twice as high as a letter, and hangs below: one of a letter's height is put
    before it. And browsers leave room for the widest size: all get the width of the first.
    """
    root, outlines, widths = font.getBestCmap()[0x221A], font["glyf"], font["hmtx"]
    variants = font["MATH"].table.MathVariants
    font["MATH"].table.MathConstants.RadicalVerticalGap.Value = 120
    sizes = variants.VertGlyphConstruction[variants.VertGlyphCoverage.glyphs.index(root)]

    font.setGlyphOrder([*font.getGlyphOrder(), "root.middle"])
    outlines["root.middle"], widths["root.middle"] = deepcopy(outlines[root]), widths[root]
    smallest, middle = sizes.MathGlyphVariantRecord[0], deepcopy(sizes.MathGlyphVariantRecord[0])
    middle.VariantGlyph = "root.middle"
    smallest.AdvanceMeasurement = round(0.72 * smallest.AdvanceMeasurement)
    sizes.MathGlyphVariantRecord.insert(1, middle)

    width = round(0.8 * widths[root][0])
    glyphs = [size.VariantGlyph for size in sizes.MathGlyphVariantRecord]
    for name in [*glyphs, *(part.glyph for part in sizes.GlyphAssembly.PartRecords)]:
        outline, ratio = outlines[name], width / widths[name][0]
        outline.coordinates.scale((ratio, 0.72 if name == root else 1))
        outline.coordinates.toInt()
        outline.recalcBounds(outlines)
        widths[name] = width, outline.xMin
