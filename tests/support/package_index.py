"""A package index on loopback, and small wheels for it: what an installer does with them is real."""

import base64
import hashlib
import html
import http.server
import threading
import urllib.parse
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# A server that says what it heard: real enough for whoever starts it and hands a connection over.
SERVER = """
import json, os, sys, time
from pathlib import Path

if sys.argv[1:2] != ["serve"]:
    sys.exit("only serve")
if os.environ.get("STAND_IN_FAILS"):
    sys.exit("blip2tools: invalid_input: " + os.environ["STAND_IN_FAILS"])
time.sleep(float(os.environ.get("STAND_IN_PAUSE", "0")))
heard = Path(os.environ["STAND_IN_HEARD"]) if "STAND_IN_HEARD" in os.environ else None
for line in sys.stdin:
    if heard:
        with heard.open("a") as file:
            file.write(line)
    message = json.loads(line)
    if message.get("method") == "die":
        os._exit(7)
    if "id" in message:
        text = json.dumps([sys.argv[2:], os.getcwd(), message.get("params")])
        result = {"content": [{"type": "text", "text": text}], "of": message["method"]}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""


def wheel(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, str],
    needs: tuple[str, ...] = (),
    scripts: Mapping[str, str] | None = None,
) -> Path:
    """Write one wheel into `folder`."""
    about = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "Provides-Extra: mcp"]
    content = {
        **files,
        f"{about}/METADATA": "\n".join([*lines, *(f"Requires-Dist: {need}" for need in needs)]) + "\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if scripts:
        entries = "".join(f"{script} = {target}\n" for script, target in scripts.items())
        content[f"{about}/entry_points.txt"] = f"[console_scripts]\n{entries}"
    rows = []
    for path, text in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text.encode())}")
    content[f"{about}/RECORD"] = "\n".join([*rows, f"{about}/RECORD,,"]) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in content.items():
            archive.writestr(member, text)
    return path


def stand_ins(folder: Path, version: str) -> Path:
    """Small wheels in the place of the real ones: the server, mcp, and torch in a folder of its own."""
    wheel(folder, "mcp", "2.3.0", {"mcp.py": ""})
    wheel(folder / "cpu", "torch", "2.13.0", {"torch.py": "build = 'cpu'\n"})
    wheel(folder, "torch", "2.14.0", {"torch.py": "build = 'cuda'\n"})
    return wheel(
        folder,
        "blip2tools",
        version,
        {"blip2tools/__init__.py": "", "blip2tools/__main__.py": SERVER},
        needs=("torch>=2.8", "mcp>=2.3 ; extra == 'mcp'"),
        scripts={"blip2tools": "blip2tools.__main__:main"},
    )


@contextmanager
def served(folder: Path, delay_s: float = 0.0) -> Iterator[tuple[str, list[str]]]:
    """The wheels in `folder`, at `/simple/`, and those in its folder `cpu`, at `/cpu/`: the address, and what was asked for."""
    asked: list[str] = []
    wait = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            wait.wait(delay_s)
            _, kind, name, *rest = [*urllib.parse.unquote(self.path).split("/"), "", ""]
            where = folder / "cpu" if kind == "cpu" else folder
            if rest[0]:
                body, status = (where / rest[0]).read_bytes(), 200
            else:
                found = [path.name for path in where.glob("*.whl") if _normal(path.name.split("-")[0]) == name]
                links = "".join(f'<a href="{html.escape(one)}">{html.escape(one)}</a>\n' for one in found)
                body, status = f"<!DOCTYPE html><body>{links}</body>".encode(), 200 if found else 404
            self.send_response(status)
            self.send_header("Content-Type", "application/zip" if rest[0] else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_HEAD(self) -> None:  # uv asks so before it fetches a wheel
            self.do_GET()

        def log_message(self, *said: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        wait.set()
        server.shutdown()
        server.server_close()


def _normal(name: str) -> str:
    return name.replace("_", "-").lower()
