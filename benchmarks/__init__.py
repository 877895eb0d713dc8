"""Measurements of the product as a whole that no user's command needs; not part of the installed package.

sight.py      does what an agent says come from the pixels? `python -m benchmarks.sight`
games.py      games about pictures that need looking to win
player.py     a text-only player of the games
over_mcp.py   the tools as the official MCP client receives them, for the agent of sight.py
soak.py       many callers for a long time: what grows? `python -m benchmarks.soak`
load.py       what those callers ask for
reading/      how well text is read: `python -m benchmarks.reading`
premises.py   what it costs to judge what a question takes for granted: `python -m benchmarks.premises`
crossings.py  how many files and rooms one call passes: `python -m benchmarks.crossings`

Users measure their own machines with a command: `blip2tools bench`.
"""

from __future__ import annotations
