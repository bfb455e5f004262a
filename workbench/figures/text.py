"""How is text that came from elsewhere shown as it is, in a figure and on a page? It goes through one function, where it comes in.

Plotly reads a small HTML (`<b>`, `<br>`, `<a href>`, `&lt;`), TeX between dollars and, in templates, `%{...}` in every text it draws:
tokens, names of documents, tasks and SAEs, titles, values of category axes. A page reads HTML. Markup of ours is put around such text,
never in it.

1. `visible`: what has no shape of its own gets one: `↵` stands for a line end, `⇥` for a tab, and `⟨U+202E⟩` for any other character that
   does not print: other controls, direction marks, zero-width characters, lone surrogates, which no file could hold. For lists, which show
   text as it is.
2. `as_text`: the same, with references (`&lt;`, `&#36;`) for what plotly or a page would interpret. Both decode a reference once, so it is
   called once. For every text of a figure and every piece of HTML; numbers beside a figure keep the text as it was.

Source: plotly.js 4.1, svg_text_utils (convertToTspans, matchTex, convertEntities) and TEMPLATE_STRING_REGEX; Python's `str.isprintable`.
"""

from __future__ import annotations

import textwrap
import unicodedata
from typing import Any

LINE_END = "↵"
_SHAPES = {"\n": LINE_END, "\t": "⇥"}
# plotly knows few names, so numbers for all else
_REFERENCES = str.maketrans({"<": "&lt;", ">": "&gt;", "&": "&amp;"} | {sign: f"&#{ord(sign)};" for sign in "'$\""})


def visible(text: Any, *, spaces: bool = False, longest: int | None = None) -> str:
    """A text in which every character can be seen.

    Parameters
    ----------
    text : str, or anything that has one
    spaces : bool
        Show spaces too, as "␣": of tokens they matter.
    longest : int, optional
        Cut to so many characters, with "…".
    """
    shown = "".join(_shape(char, spaces) for char in str(text))
    return shown if longest is None or len(shown) <= longest else f"{shown[: longest - 1]}…"


def _shape(char: str, spaces: bool) -> str:
    if char == " ":
        return "␣" if spaces else char
    if char.isprintable() or (not spaces and unicodedata.category(char) == "Zs"):  # a wide space is none of a text's secrets
        return char
    return _SHAPES.get(char) or f"⟨U+{ord(char):04X}⟩"


def as_text(text: Any, *, spaces: bool = False, longest: int | None = None) -> str:
    """A text as plotly and HTML (also between quotes) show it literally.

    Parameters
    ----------
    text : str, or anything that has one
        As it came, with no markup of ours: that would be shown too.
    spaces, longest
        As `visible` has them.
    """
    # a percent sign alone is harmless, and frequent in our own words
    return visible(text, spaces=spaces, longest=longest).translate(_REFERENCES).replace("%{", "&#37;{")


def as_token(token: Any) -> str:
    """A token as an axis shows it: `as_text` with its spaces, cut to 14 characters."""
    return as_text(token, spaces=True, longest=14)


def as_lines(text: Any, width: int) -> str:
    """`as_text` in lines of at most so many characters, for a figure."""
    return "<br>".join(as_text(line) for line in textwrap.wrap(visible(text), width))


def as_passage(text: Any) -> str:
    """`as_text` for running text on a page (`white-space: pre-wrap`): a line end is seen, and ends the line."""
    return as_text(text).replace(LINE_END, f"{LINE_END}\n")
