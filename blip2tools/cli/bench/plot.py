"""Charts as SVG, written by hand: small files that browsers and code hosts show, in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 760
_LEFT, _RIGHT = 64, 24
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 16px; font-weight: 600 }
.faint { fill: #6e7781; font-size: 11px }
.grid { stroke: #d8dee4; stroke-width: 1 }
.one { stroke: #8c959f; stroke-width: 1.5 }
.band { fill: #2da44e; opacity: .13 }
.line { fill: none; stroke: #0969da; stroke-width: 1.8; stroke-linejoin: round }
.s0 { stroke: #0969da; fill: #0969da } .s1 { stroke: #bc4c00; fill: #bc4c00 }
.range { stroke-width: 3; stroke-linecap: round; opacity: .4 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .faint { fill: #8b949e } .grid { stroke: #30363d } .one { stroke: #6e7681 }
  .line { stroke: #58a6ff } .s0 { stroke: #58a6ff; fill: #58a6ff } .s1 { stroke: #f0883e; fill: #f0883e }
}
text.s0, text.s1 { stroke: none }
"""


@dataclass(frozen=True, slots=True)
class Panel:
    """One line over time. `band`: a level, and the factor up to which it may grow."""

    title: str
    xs: Sequence[float]
    ys: Sequence[float]
    band: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times one thing is another: the median of several rounds, the lowest and the highest."""

    case: str
    series: str
    median: float
    lowest: float
    highest: float


def panels(title: str, x_unit: str, charts: Sequence[Panel]) -> str:
    """Lines over a common horizontal axis, one below the other; the first is twice as high as the others."""
    parts: list[str] = []
    top = 72.0
    for number, chart in enumerate(charts):
        height = 150.0 if number == 0 else 64.0
        parts += _panel(chart, top, height)
        top += height + 46
    end = max((chart.xs[-1] for chart in charts if chart.xs), default=1.0)
    step = _step(end, 8)
    for tick in _ticks(0, end, step):
        x = _LEFT + (WIDTH - _LEFT - _RIGHT) * tick / end
        parts.append(_text(x, top - 22, f"{tick:g}", "faint", "middle"))
    parts.append(_text(WIDTH - _RIGHT, top - 6, x_unit, "faint", "end"))
    return _svg(title, top, parts)


def ratios(title: str, rows: Sequence[Ratio]) -> str:
    """Dots with their ranges on a logarithmic axis, under the name of each case its series."""
    names = list(dict.fromkeys(row.series for row in rows))
    cases = list(dict.fromkeys(row.case for row in rows))
    left, lowest = 24.0, min(1.0, *(row.lowest for row in rows))
    bounds = math.floor(math.log2(lowest)), math.ceil(math.log2(max(2.0, *(row.highest for row in rows))))

    def place(value: float) -> float:
        return left + (WIDTH - left - 70) * (math.log2(value) - bounds[0]) / (bounds[1] - bounds[0])

    parts, top = _legend(names), 84.0
    bottom = top + sum(_depth(rows, case) for case in cases)
    for power in range(bounds[0], bounds[1] + 1):
        x = place(2.0**power)
        parts.append(
            f'<line class="{"one" if power == 0 else "grid"}" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 8}" y2="{bottom}"/>'
        )
        parts.append(_text(x, bottom + 16, f"{2.0**power:g}×", "faint", "middle"))
    for case in cases:
        own = [row for row in rows if row.case == case]
        parts.append(_text(left, top + 8, case))
        for number, row in enumerate(own):
            y, series = top + 24 + 18 * number, f"s{names.index(row.series) % 2}"
            parts.append(
                f'<line class="range {series}" x1="{place(row.lowest):.1f}" x2="{place(row.highest):.1f}" '
                f'y1="{y}" y2="{y}"/><circle class="{series}" cx="{place(row.median):.1f}" cy="{y}" r="4.5"/>'
            )
            parts.append(_text(place(row.highest) + 10, y + 4, f"{row.median:#.3g}×", series))
        top += _depth(rows, case)
    return _svg(title, bottom + 30, parts)


def _depth(rows: Sequence[Ratio], case: str) -> float:
    return 18.0 * sum(row.case == case for row in rows) + 32


def _legend(names: Sequence[str]) -> list[str]:
    if len(names) < 2:
        return []
    places = [24 + sum(30 + 8 * len(before) for before in names[:n]) for n in range(len(names))]
    return [
        f'<circle class="s{n % 2}" cx="{x}" cy="52" r="4.5"/>{_text(x + 10, 56, name, f"s{n % 2}")}'
        for n, (x, name) in enumerate(zip(places, names, strict=True))
    ]


def _panel(chart: Panel, top: float, height: float) -> Iterator[str]:
    yield _text(_LEFT, top - 10, chart.title)
    if not chart.xs:
        return
    highest = max([*chart.ys, chart.band[0] * chart.band[1] if chart.band else 0.0])
    step = _step(highest or 1.0, 4 if height > 100 else 2)
    bound = step * math.ceil((highest or 1.0) / step)

    def down(value: float) -> float:
        return top + height * (1 - value / bound)

    def across(value: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * value / chart.xs[-1]

    for tick in _ticks(0, bound, step):
        y = down(tick)
        yield f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _text(_LEFT - 8, y + 4, f"{tick:g}", "faint", "end")
    if chart.band is not None:
        level, factor = chart.band
        high, low = down(level * factor), down(level)
        yield f'<rect class="band" x="{_LEFT}" width="{WIDTH - _LEFT - _RIGHT}" y="{high:.1f}" height="{low - high:.1f}"/>'
        yield _text(WIDTH - _RIGHT, high - 5, f"allowed: {level:.0f} + {factor - 1:.0%}", "faint", "end")
    points = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in zip(chart.xs, chart.ys, strict=True))
    yield f'<polyline class="line" points="{points}"/>'


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" role="img" '
        f'aria-label="{escape(title)}">\n<style>{_STYLE}</style>\n{_text(24, 28, title, "title")}\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def _step(span: float, parts: int) -> float:
    """A round distance between ticks: 1, 2 or 5 times a power of ten, at most `parts` of them in `span`."""
    rough = span / parts
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))


def _ticks(start: float, end: float, step: float) -> list[float]:
    return [start + step * number for number in range(int((end - start) / step + 1e-6) + 1)]
