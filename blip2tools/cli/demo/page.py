"""The outcome of a demo as one self-contained HTML page: no scripts, no addresses, pictures embedded."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from typing import Final

from blip2tools.checkpoints.family import Kind, demo_folder
from blip2tools.checkpoints.sizes import weights_of
from blip2tools.cli.demo.report import TASK_NAMES, TASKS, DemoReport, Mark, Option, Outcome

_STYLE: Final = """\
:root {
  color-scheme: light dark;
  --paper: #faf9f6; --card: #ffffff; --ink: #1d2024; --soft: #5c626b; --line: #e3e0d8;
  --right: #14713a; --right-ground: #e2f3e7; --wrong: #a8201a; --wrong-ground: #fbe6e3; --bar: #c9d8ee;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --card: #1e2125; --ink: #e9e7e2; --soft: #a0a6ae; --line: #32363c;
    --right: #7fd69b; --right-ground: #183524; --wrong: #ff9d92; --wrong-ground: #46201d; --bar: #2f4568;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
header, main, footer { max-width: 66rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
h1 { margin: 0 0 .25rem; font-size: 1.9rem; line-height: 1.2; letter-spacing: -.01em; }
h2 { margin: 0; font-size: 1.05rem; }
p { margin: .25rem 0; }
footer { padding-bottom: 3rem; }
header p, footer p, .soft { color: var(--soft); }
code { font: .92em/1.4 ui-monospace, monospace; }
.scores {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .75rem; margin: 1.5rem 0; padding: 0;
}
.scores div { padding: .75rem 1rem; border: 1px solid var(--line); border-radius: .75rem; background: var(--card); }
.scores dt { color: var(--soft); font-size: .9rem; }
.scores dd { margin: 0; font-size: 1.5rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.scores dd small { color: var(--soft); font-size: .9rem; font-weight: 400; }
article {
  display: grid; grid-template-columns: 14rem minmax(0, 1fr); gap: 1.5rem; margin: 1.25rem 0; padding: 1.25rem;
  border: 1px solid var(--line); border-radius: 1rem; background: var(--card);
}
figure { align-self: start; position: sticky; top: 1.25rem; margin: 0; }
figure img { display: block; width: 100%; height: auto; border-radius: .5rem; }
figcaption { margin-top: .4rem; color: var(--soft); font-size: .85rem; }
.marks { margin: 0; padding: 0; list-style: none; }
.marks > li { padding: .7rem 0; border-top: 1px solid var(--line); }
.marks > li:first-child { padding-top: 0; border-top: 0; }
.head { display: flex; gap: .6rem; align-items: baseline; }
.head h3 { flex: 1; margin: 0; color: var(--soft); font-size: .9rem; font-weight: 500; }
.mark { padding: .05rem .55rem; border-radius: 1rem; font-size: .8rem; font-weight: 650; }
.mark.right { background: var(--right-ground); color: var(--right); }
.mark.wrong { background: var(--wrong-ground); color: var(--wrong); }
.said { font-weight: 600; overflow-wrap: anywhere; }
table { width: 100%; margin-top: .4rem; border-collapse: collapse; font-size: .93rem; }
th { color: var(--soft); font-size: .8rem; font-weight: 500; text-align: left; }
th, td { padding: .2rem .75rem .2rem 0; vertical-align: top; }
td:first-child { width: 6rem; font-variant-numeric: tabular-nums; }
td:last-child { width: 10.5rem; color: var(--soft); }
td.true { color: var(--right); font-weight: 600; }
.bar { display: block; padding: 0 .3rem; border-radius: .25rem;
  background: linear-gradient(to right, var(--bar) var(--share), transparent var(--share)); }
@media (max-width: 42rem) { article { grid-template-columns: 1fr; } figure { position: static; max-width: 16rem; } }
@media print { article { break-inside: avoid; } }
"""

# Nothing may be fetched or run, whatever a model may have put into its words.
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render_page(report: DemoReport) -> str:
    """The page of a report. Its pictures must still be where the report says they are."""
    right, of = report.score()
    pictures = "One picture" if len(report.outcomes) == 1 else f"{len(report.outcomes)} pictures"
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>blip2tools demo: {right} of {of} right</title>
<style>
{_STYLE}</style>
</head>
<body>
<header>
<h1>What the demo model saw</h1>
<p>{pictures}, drawn for this run from seed {report.seed}. Their file names give nothing away; every answer
came from the pixels, through a real MCP server.</p>
<dl class="scores">
{_lines(_score_box(TASK_NAMES[task], *report.score(task)) for task in TASKS)}
{_score_box("All", right, of)}
</dl>
</header>
<main>
{_lines(_article(number, outcome) for number, outcome in enumerate(report.outcomes, start=1))}
</main>
<footer>
<p>{report.start_seconds:.1f} s to start the server and load the model, {report.seconds:.1f} s for {of} calls.
An answer is right only if it is the truth word for word.</p>
<p>The demo model is a BLIP-2 of {_millions("captioner")} million parameters, its matcher has {_millions("matcher")} million.
They know drawn shapes and nothing else. The same pictures again:
<code>{escape(report.command)}</code></p>
</footer>
</body>
</html>
"""


def _millions(kind: Kind) -> str:
    """Parameters of a bundled model, counted in the headers of its files."""
    return f"{weights_of(demo_folder(kind)).total / 1e6:.2f}"


def _score_box(name: str, right: int, of: int) -> str:
    return f"<div><dt>{name}</dt><dd>{right} <small>of {of} right</small></dd></div>"


def _article(number: int, outcome: Outcome) -> str:
    picture = base64.b64encode(outcome.picture.read_bytes()).decode("ascii")
    name = escape(outcome.picture.name)
    return f"""\
<article aria-labelledby="picture-{number}">
<figure>
<img src="data:image/png;base64,{picture}" width="224" height="224" alt="{escape(outcome.truth)}">
<figcaption><h2 id="picture-{number}">{name}</h2>{outcome.seconds:.1f} s for {len(outcome.marks)} calls</figcaption>
</figure>
<ul class="marks">
{_lines(_mark(mark) for mark in outcome.marks)}
</ul>
</article>"""


def _mark(mark: Mark) -> str:
    title = {
        "caption": "What is in the picture?",
        "match": "Which of these statements fits best?",
    }.get(mark.task, mark.asked)
    head = f'<div class="head"><h3>{escape(title)}</h3><span class="mark {mark.verdict}">{mark.verdict}</span></div>'
    if mark.options:
        return f"<li>{head}{_table(mark.options)}</li>"
    said = f'<p class="said">{escape(mark.said)} <span class="soft">{mark.probability:.2f}</span></p>'
    return f'<li>{head}{said}<p class="soft">The truth: {escape(mark.truth)}</p></li>'


def _table(options: Iterable[Option]) -> str:
    """The offered texts in the model's order; the first row is its answer."""
    rows = _lines(
        f'<tr><td>{option.probability:.2f}</td><td><span class="bar" style="--share:{100 * option.probability:.1f}%">'
        f'{escape(option.text)}</span></td><td class="{"true" if option.truth == "true" else "false"}">'
        f"{escape(option.truth)}</td></tr>"
        for option in options
    )
    return (
        '<table><thead><tr><th scope="col">Probability</th><th scope="col">Offered</th><th scope="col">In truth</th>'
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(parts)
