"""Vision for chat programs: a vision endpoint in OpenAI's form, and a proxy that lets a text-only model see.

endpoint.py     POST /v1/chat/completions of `serve --http`: a picture and a text, answered by one tool
intent.py       which tool the text asks for
models.py       GET /v1/models, with image input
errors.py       errors in the forms of OpenAI and Anthropic
proxy.py        `proxy --upstream URL`: the application
conversation.py one request: words for pictures, the upstream's answers, and its tool calls
words.py        words for pictures, the same each time
history.py      turns with tool calls, which the client has not seen
dialect.py      the interface of the three protocols
completions.py  OpenAI's Chat Completions
responses.py    OpenAI's Responses
messages.py     Anthropic's Messages
events.py       server-sent events, with their bytes
bodies.py       bodies of requests: gzip, zstd, JSON
upstream.py     the connection to the server that has the model
"""

from __future__ import annotations
