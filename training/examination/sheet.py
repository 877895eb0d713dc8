"""The outcome of an examination as plain lines, as a table for the card, and as one HTML page with the worst misses."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from training.examination.figures import Figure, Miss

_THUMB: Final = 160
_STYLE: Final = """\
:root { color-scheme: light dark; }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; } th, td { padding: .15rem 1.2rem .15rem 0; text-align: left; }
td { font-variant-numeric: tabular-nums; } .no { color: #c62828; font-weight: 600; }
ul { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; padding: 0; list-style: none; }
img { display: block; width: 10rem; height: 10rem; } p { margin: .2rem 0; overflow-wrap: anywhere; }
"""
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def line(figure: Figure) -> str:
    """One figure for a terminal."""
    mark = "" if figure.bar is None and figure.at_most is None else "holds" if figure.holds else "MISSED"
    return f"{figure.section:18} {figure.name:34} {_value(figure):>16}  {_bar(figure):12} {mark}".rstrip()


def markdown(figures: Sequence[Figure]) -> str:
    """The figures as tables, one for each section."""
    parts = []
    for section, group in itertools.groupby(figures, key=lambda figure: figure.section):
        rows = "\n".join(f"| {figure.name} | {_value(figure)} | {_bar(figure)} |" for figure in group)
        parts.append(f"| {section} | | bar |\n|---|---:|---|\n{rows}")
    return "\n\n".join(parts)


def page(title: str, figures: Sequence[Figure]) -> str:
    """One page that needs nothing else: all figures, and the worst misses with their pictures inside."""
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>
{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<table>
<thead><tr><th>Part</th><th>Figure</th><th>Value</th><th>Bar</th></tr></thead>
<tbody>
{_lines(_row(figure) for figure in figures)}
</tbody>
</table>
{_lines(_misses(figure) for figure in figures if figure.misses)}
</body>
</html>
"""


def _value(figure: Figure) -> str:
    if figure.section == "time":
        return f"{figure.value:.1f} ms"
    return f"{figure.value:.3f}" + (f" of {figure.number}" if figure.number else "")


def _bar(figure: Figure) -> str:
    digits = ".0f" if figure.section == "time" else ".3f"
    parts = [] if figure.bar is None else [f"≥ {figure.bar:{digits}}"]
    return ", ".join(parts if figure.at_most is None else [*parts, f"≤ {figure.at_most:{digits}}"])


def _row(figure: Figure) -> str:
    mark = "" if figure.holds else ' class="no"'
    cells = (figure.section, figure.name, _value(figure), _bar(figure))
    return f"<tr{mark}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def _misses(figure: Figure) -> str:
    heading = f"<h2>{escape(figure.section)}: {escape(figure.name)}</h2>"
    return f"{heading}\n<ul>\n{_lines(_miss(miss) for miss in figure.misses)}\n</ul>"


def _miss(miss: Miss) -> str:
    file = io.BytesIO()
    miss.picture.resize((_THUMB, _THUMB)).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    said = f"<p>{escape(miss.asked)}</p><p><b>{escape(miss.said)}</b></p><p>{escape(miss.truth)}</p>"
    return f'<li><img src="data:image/png;base64,{data}" alt="{escape(miss.truth)}">{said}</li>'


def _lines(parts: Iterator[str]) -> str:
    return "\n".join(parts)
