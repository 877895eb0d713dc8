"""The tools over the Model Context Protocol: `mcp.build_server` for any transport, `stdio.serve_stdio`, and `http/`.

mcp.py        the catalogue as an MCP server
prompts.py    its prompts
resources.py  its resources: kept pictures
stdio.py      standard input and output, line by line and bounded
http/         many clients at once: MCP, JSON routes, metrics and the page behind one guard
"""

from __future__ import annotations
