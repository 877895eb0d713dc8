"""A real HTTP server in a process of its own, on a free port of loopback."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2

from blip2tools import Vision
from blip2tools.server.http.serve import Listener, build_http_server
from blip2tools.settings import environment_without_settings
from tests.support import forked

TOKEN = "a-token-for-tests-0123456789"


class HttpProcess:
    """`blip2tools serve --http`, its address, and what it writes to its log; `fresh` as for `StdioServer`."""

    def __init__(
        self,
        *arguments: str,
        env: dict[str, str] | None = None,
        ready: bool = True,
        prefix: tuple[str, ...] = (),
        fresh: bool = False,
    ) -> None:
        clean = environment_without_settings(keep=["cache_dir", "use_server"])
        self.token = (env or {}).get("BLIP2TOOLS_TOKEN")
        self.process = (subprocess.Popen if fresh else forked.start)(
            [
                *prefix,
                sys.executable,
                "-W",
                "error",
                "-m",
                "blip2tools",
                "serve",
                "--http",
                "--port",
                "0",
                "--threads",
                "1",
                *arguments,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**clean, "OMP_NUM_THREADS": "1", **(env or {})},
        )
        self.lines: list[str] = []
        self._address = threading.Event()
        self.url, self.stdout = "", b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._address.wait(200) or not self.url:
            self.process.kill()
            raise AssertionError(self.log)
        if ready:
            self.wait_until_ready()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line.decode())
            if found := re.search(r"serving MCP at (\S+)/mcp", self.lines[-1]):
                self.url = found[1]
                self._address.set()
        self._address.set()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def client(self, **options: Any) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers=self.headers, timeout=200, trust_env=False, **options)

    def wait_until_ready(self, timeout: float = 200) -> None:
        with self.client() as client:
            until = time.monotonic() + timeout
            while client.get("/readyz").status_code != 200:
                assert time.monotonic() < until, self.log
                time.sleep(0.1)

    def metrics(self) -> dict[str, float]:
        """Numbers by name, or by name and labels as they are written."""
        with self.client() as client:
            lines = client.get("/metrics").text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    def end(self, number: int | None = signal.SIGTERM, timeout: float = 100) -> int:
        if number is not None and self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(timeout)
        self._reader.join(timeout)
        if not self.process.stdout.closed:
            self.stdout = self.process.stdout.read()
            self.process.stdout.close()
            self.process.stderr.close()
        return status

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end(None)


class HttpThread:
    """The same server in a thread of the tests' process, where a process of its own would only cost time."""

    def __init__(self, vision: Vision, *, host: str = "127.0.0.1", port: int = 0, page: bool = True) -> None:
        self.token = vision.settings.token.get_secret_value() if vision.settings.token else None
        self._listener = Listener(host, port, vision.settings)
        self.url = self._listener.url
        self._server = build_http_server(vision, self._listener, page=page)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener.socket]})
        self._thread.start()

    headers = HttpProcess.headers
    client = HttpProcess.client
    metrics = HttpProcess.metrics

    def end(self) -> None:
        self._server.should_exit = True
        self._thread.join(100)
        self._listener.__exit__(None, None, None)


def memory_peak(pid: int) -> int:
    """The largest resident size that a process has had, bytes (Linux)."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) * 1024
