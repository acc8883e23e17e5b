"""Pieces of Markdown that the generators share."""

import inspect
import re
from collections.abc import Iterable, Sequence


class Undescribed(Exception):
    """A public name has no description; the site is not built."""

    def __init__(self, name: str) -> None:
        super().__init__(name)

    def __str__(self) -> str:
        return f"{self.args[0]} has no description; write one where it is defined"


def described(name: str, text: str | None) -> str:
    """Return the description of a public name, as Markdown.

    Raises
    ------
    Undescribed
        There is none.

    Examples
    --------
    >>> described("store", "Default: <name>, as in `<name>`.")
    'Default: &lt;name>, as in `<name>`.'
    """
    if text is None or not text.strip():
        raise Undescribed(name)
    return _outside_code(inspect.cleandoc(text), "<", "&lt;")


def one_line(text: str) -> str:
    """Return a text with every run of white space replaced by one space."""
    return " ".join(text.split())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""Return a table.

    Examples
    --------
    >>> print(table(["key", "means"], [["`a|b`", "a | b"]]))
    | key | means |
    | --- | --- |
    | `a|b` | a \| b |
    """
    lines = [_row(header), _row(["---"] * len(header)), *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_outside_code(one_line(cell), "|", "\\|") for cell in cells) + " |"


def _outside_code(text: str, old: str, new: str) -> str:
    """Return `text` with `old` replaced by `new`, but not in inline code, which Markdown leaves as it is."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else part.replace(old, new) for part in parts)


def fenced(text: str, language: str = "text") -> str:
    """Return a block of code."""
    return f"```{language}\n{text.strip()}\n```"


def page(title: str, introduction: str, *parts: str, depth: int = 3) -> str:
    """Return a page; its table of contents shows headings up to `depth`."""
    return "\n\n".join([f"---\ntoc_depth: {depth}\n---", f"# {title}", introduction.strip(), *parts]) + "\n"


def code(text: str) -> str:
    """Return inline code, also of a text that holds backticks.

    Examples
    --------
    >>> code("a`b")
    '`` a`b ``'
    """
    return f"`` {text} ``" if "`" in text else f"`{text}`"
