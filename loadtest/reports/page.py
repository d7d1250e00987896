"""A page of HTML that needs nothing but itself.

Its own module because reports and comparisons look alike: here are the frame, the style sheet
and tables; what stands in them is others' business. All text that comes in is escaped here.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_STYLE = """
:root { color-scheme: light dark;
  --back: #ffffff; --fore: #1c2024; --soft: #60676f; --line: #dfe3e8; --panel: #f6f8fa;
  --warn: #8a5300; --warnback: #fff6e5; --shade: #0969da14;
  --c0: #0b62d0; --c1: #c2410c; --c2: #15803d; --c3: #9333ea; --c4: #b0125b; --c5: #0e7490; }
@media (prefers-color-scheme: dark) { :root {
  --back: #14171a; --fore: #e6e9ec; --soft: #9aa3ad; --line: #30363d; --panel: #1c2126;
  --warn: #f5c26b; --warnback: #33270f; --shade: #58a6ff1c;
  --c0: #6cb0ff; --c1: #ff9d66; --c2: #5fd08a; --c3: #c9a2ff; --c4: #ff8fc0; --c5: #5ed3e6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 16px; background: var(--back);
  color: var(--fore); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 22px; line-height: 1.25; margin: 8px 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 28px 0 8px; }
p { margin: 4px 0; overflow-wrap: anywhere; }
.soft, caption { color: var(--soft); }
.warnings { list-style: none; margin: 12px 0; padding: 0; }
.warnings li { background: var(--warnback); color: var(--warn); padding: 6px 10px;
  margin: 4px 0; border-radius: 6px; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 8px;
  margin: 16px 0; }
.tile { background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 8px 12px; }
.tile b { display: block; font-size: 22px; font-weight: 600; }
.tile span { color: var(--soft); font-size: 13px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
caption { caption-side: bottom; text-align: left; font-size: 13px; padding-top: 4px; }
th, td { padding: 4px 8px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
th:first-child, td:first-child, .text th, .text td { text-align: left; }
.text td:last-child { white-space: normal; overflow-wrap: anywhere; min-width: 11em; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(340px, 100%), 1fr));
  gap: 12px; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: 10px; }
figcaption { font-weight: 600; margin-bottom: 4px; }
figure > svg { display: block; width: 100%; height: auto; }
.none { color: var(--soft); }
.grid { stroke: var(--line); stroke-width: 1; }
.shade { fill: var(--shade); }
.limit { stroke: var(--fore); stroke-width: 1.2; stroke-dasharray: 2 3; }
.tick, .label { fill: var(--soft); font: 11px system-ui, sans-serif; }
.line { fill: none; stroke-width: 1.7; stroke-linejoin: round; }
.dashed { stroke-dasharray: 5 3; }
.c0 { stroke: var(--c0); } .c1 { stroke: var(--c1); } .c2 { stroke: var(--c2); }
.c3 { stroke: var(--c3); } .c4 { stroke: var(--c4); } .c5 { stroke: var(--c5); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; list-style: none; margin: 6px 0 0;
  padding: 0; font-size: 13px; overflow-wrap: anywhere; }
.key { width: 18px; height: 6px; margin-right: 5px; vertical-align: middle; }
"""


def page(title: str, blocks: Iterable[str]) -> str:
    """Put a page together.

    Args:
        title: as text.
        blocks: as HTML.

    """
    body = "\n".join(blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{body}\n</body></html>\n"
    )


def paragraph(text: str) -> str:
    """Give some words that are not the main thing."""
    return f'<p class="soft">{escape(text)}</p>'


def heading(text: str) -> str:
    """Begin a section."""
    return f"<h2>{escape(text)}</h2>"


def warnings(lines: Sequence[str]) -> str:
    """Give what a reader must know first."""
    if not lines:
        return ""
    return f'<ul class="warnings">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def tiles(figures: Iterable[tuple[str, str]]) -> str:
    """Give a few figures large, each with its name."""
    shown = "".join(
        f'<div class="tile"><b>{escape(figure)}</b><span>{escape(name)}</span></div>'
        for name, figure in figures
    )
    return f'<div class="tiles">{shown}</div>'


class Cells(NamedTuple):
    """A table as text.

    Attributes:
        headings: of its columns.
        rows: cell by cell; the first names the row.

    """

    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]


def table(cells: Cells, caption: str = "", *, words: bool = False) -> str:
    """Give a table; one of words is set from the left, and its last column may break."""
    headings, rows = cells
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in headings)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    kind = ' class="text"' if words else ""
    below = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide"><table{kind}>{below}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Give names and sentences."""
    body = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in rows
    )
    return f'<div class="wide"><table class="text"><tbody>{body}</tbody></table></div>'


def charts(figures: Iterable[str]) -> str:
    """Lay out charts side by side where there is room."""
    return f'<div class="charts">{"".join(figures)}</div>'
