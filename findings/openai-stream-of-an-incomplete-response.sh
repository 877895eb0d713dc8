#!/usr/bin/env bash
# OpenAI's Python client: the helper for streamed Responses has no answer for one that was cut.
#
# Versions: openai 3.57.0 (27 November 2026).
# Behaviour: a response that ends by its token limit ends its stream with `response.incomplete`, a valid last event of the API.
# `responses.stream(...)` passes that event on, and then `get_final_response()` raises RuntimeError, for it waits for
# `response.completed` alone. The text that came before is only in the events. `responses.create(...)` without a stream returns
# the same answer with status "incomplete". Whoever reads streams must look at the events' types.
# Output seen:
#   events: response.created response.incomplete
#   RuntimeError: Didn't receive a `response.completed` event.
#   whole: incomplete
set -euo pipefail
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/env"
"$home/env/bin/pip" install --quiet openai==3.57.0
"$home/env/bin/python" - <<'PYTHON'
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import openai

RESPONSE = {
    "id": "r1", "object": "response", "created_at": 1, "model": "m", "output": [], "parallel_tool_calls": True,
    "tool_choice": "auto", "tools": [], "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"},
}


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if asked.get("stream"):
            begun = {**RESPONSE, "status": "in_progress", "incomplete_details": None}
            events = [("response.created", begun), ("response.incomplete", RESPONSE)]
            body = "".join(
                f"event: {kind}\ndata: {json.dumps({'type': kind, 'sequence_number': number, 'response': said})}\n\n"
                for number, (kind, said) in enumerate(events)
            )
            kind = "text/event-stream"
        else:
            body, kind = json.dumps(RESPONSE), "application/json"
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments):
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none", max_retries=0)
with client.responses.stream(model="m", input="hi") as stream:
    kinds = [event.type for event in stream]
    print("events:", *kinds)
    assert kinds[-1] == "response.incomplete"
    try:
        stream.get_final_response()
    except RuntimeError as error:
        print(f"RuntimeError: {error}")
        assert "response.completed" in str(error)
    else:
        raise SystemExit("changed: get_final_response() now knows incomplete responses")
whole = client.responses.create(model="m", input="hi")
print("whole:", whole.status)
assert whole.status == "incomplete"
PYTHON
