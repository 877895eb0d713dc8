#!/usr/bin/env bash
# Versions: uvicorn 0.54.0 with h11 0.16.0 (PyPI, Python 3.11) on Linux.
#
# Behaviour: asyncio turns Nagle's algorithm off only on sockets whose protocol number is IPPROTO_TCP. A listening socket made in the
# usual way, `socket.socket(AF_INET, SOCK_STREAM)`, has the number 0, and so has every connection that it accepts. A server that is
# given such a socket (`Server.run(sockets=[...])`) writes the head and the body of an answer separately, so the body waits
# for the acknowledgement of the head, which a client on Linux delays by 40 ms when the connection is kept alive. With
# `socket.socket(AF_INET, SOCK_STREAM, IPPROTO_TCP)` the option is set and nothing waits. Both sides do what they document.
#
# Seen on 2026-11-27 (2 busy cores; the medians vary, the option does not):
#   proto 0: TCP_NODELAY False, median 45 ms
#   proto 6: TCP_NODELAY True, median 4 ms
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet uvicorn==0.54.0 h11==0.16.0 > pip.log 2>&1
cat > serve.py <<'PY'
import http.client, socket, statistics, sys, threading, time
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

seen = []

class Protocol(H11Protocol):
    def connection_made(self, transport):
        option = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        seen.append(bool(option))
        super().connection_made(transport)

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

number = int(sys.argv[1])
listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, number)
listener.bind(("127.0.0.1", 0))
listener.listen()
server = uvicorn.Server(uvicorn.Config(app, http=Protocol, log_level="error", lifespan="off"))
threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
client = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1])
times = []
for _ in range(30):
    begun = time.perf_counter()
    client.request("GET", "/")
    client.getresponse().read()
    times.append(1000 * (time.perf_counter() - begun))
print(f"proto {number}: TCP_NODELAY {seen[0]}, median {statistics.median(times):.0f} ms")
server.should_exit = True
PY
venv/bin/python serve.py 0 | tee none.txt
venv/bin/python serve.py 6 | tee tcp.txt
grep -q "TCP_NODELAY False" none.txt
grep -q "TCP_NODELAY True" tcp.txt
