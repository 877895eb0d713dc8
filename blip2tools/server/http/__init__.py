"""The server over HTTP: `serve.serve_http`, with a `serve.Listener` that is opened before the model is loaded.

serve.py        the socket, uvicorn, and the shutdown
app.py          the routes
guard.py        who may ask for what: one layer around every route
exchange.py     one request and the progress of its answer
rate.py         the rate limit
connections.py  limits on connections without a request
sessions.py     sessions of MCP clients, and the SDK's errors in our words
bodies.py       bodies of requests: JSON, forms, pictures
metrics.py      /metrics
answers.py      bodies of answers
openapi.py      /openapi.json: all of this, described for programs
page/           the page at /
"""

from __future__ import annotations
