"""The real server in a world of its own: names and addresses lead where a file says, and nothing else is changed.

    python -m tests.support.stubbed_network WORLD.json serve ...

WORLD.json holds `names` (host to a list of answers, the last one for ever; an answer is a list of addresses), `doors`
("address port" to a port on the loopback), `journal` (a file that gets a line for each resolution and connection) and
`total_s`. Every guard of the server is its own: only the resolver and the act of connecting are replaced.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import httpcore2

from blip2tools.cli import main as run_command
from blip2tools.pictures import fetch


def main(world_file: str, *words: str) -> int:
    world: dict[str, Any] = json.loads(Path(world_file).read_text())
    connect = httpcore2.SyncBackend.connect_tcp

    def note(*said: object) -> None:
        with Path(world["journal"]).open("a") as journal:
            journal.write(" ".join(map(str, said)) + "\n")

    def resolve(host: str, port: int) -> list[str]:
        note("resolve", host)
        answers = world["names"].get(host)
        if answers is None:
            raise OSError(-2, "Name or service not known")
        return list(answers.pop(0) if len(answers) > 1 else answers[0])

    def connect_tcp(backend: object, host: str, port: int, *rest: Any, **options: Any) -> Any:
        note("connect", host, port)
        door = world["doors"].get(f"{host} {port}")
        if door is None:
            raise httpcore2.ConnectError("nobody is there")
        return connect(backend, "127.0.0.1", door, *rest, **options)

    httpcore2.SyncBackend.connect_tcp = connect_tcp
    fetch.fetch = functools.partial(fetch.fetch, resolve=resolve, total_s=world["total_s"])
    return run_command(words)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
