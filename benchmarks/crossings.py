"""How many rooms a fresh picture passes through: `python -m benchmarks.crossings`.

One call of `caption_image` over MCP, the first after the model was loaded, is followed by a profiler hook in every thread of this
process. Two numbers say how far apart the code of one call lies: how many of the package's files it enters, and how often a call
goes from one name at the package's top level to another, directly or by way of foreign code.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import blip2tools

PACKAGE = Path(blip2tools.__file__).parent


@dataclass(slots=True)
class Way:
    """The files and names that one call entered.

    Attributes:
        files: paths below the package, and how many frames each had.
        crossings: (from, to) names at the top level, and how often.
    """

    files: Counter[str] = field(default_factory=Counter)
    crossings: Counter[tuple[str, str]] = field(default_factory=Counter)
    counting: bool = False

    def hook(self, frame: FrameType, event: str, argument: Any) -> None:
        """See `sys.setprofile`."""
        if not self.counting or event != "call" or (entered := _file(frame)) is None:
            return
        self.files[entered] += 1
        caller = frame.f_back
        while caller is not None and _file(caller) is None:
            caller = caller.f_back
        if caller is not None and (before := _room(_file(caller) or "")) != (now := _room(entered)):
            self.crossings[before, now] += 1

    @contextmanager
    def followed(self) -> Iterator[None]:
        """While the block runs, calls count."""
        self.counting = True
        try:
            yield
        finally:
            self.counting = False


def _file(frame: FrameType) -> str | None:
    path = frame.f_code.co_filename
    return path[len(str(PACKAGE)) + 1 :] if path.startswith(f"{PACKAGE}/") else None


def _room(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


async def follow(way: Way, seed: int) -> str:
    """Serve the demo model, caption one drawn picture, and give the text that a client reads."""
    from mcp import Client

    from blip2tools import Vision
    from blip2tools.demo.draw import draw
    from blip2tools.demo.world import sample_scene
    from blip2tools.server.mcp import build_server

    with tempfile.TemporaryDirectory() as folder:
        draw(sample_scene(random.Random(seed))).save(Path(folder) / "fresh.png")
        with Vision.load(model="demo", matcher="auto", allowed_dirs=(folder,), threads=1) as vision:
            async with Client(build_server(vision)) as client:
                with way.followed():
                    result = await client.call_tool("caption_image", {"image": "fresh.png"})
    return str(result.content[0].text)  # type: ignore[union-attr]


def main(argv: Sequence[str] | None = None) -> int:
    """Count and print.

    Args:
        argv: the words after the program's name; the process's own by default.

    Returns:
        The exit status: 0.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crossings", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="draws the picture (default 0)")
    arguments = parser.parse_args(argv)
    way = Way()
    # Threads that are started later have the hook too; those of this package all are.
    threading.setprofile(way.hook)
    sys.setprofile(way.hook)
    try:
        text = asyncio.run(follow(way, arguments.seed))
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    lines = [text.partition("\n")[0], f"{len(way.files)} files, {way.crossings.total()} crossings"]
    lines += [f"{count:5}  {before} -> {now}" for (before, now), count in way.crossings.most_common()]
    lines += [f"{count:5}  {file}" for file, count in sorted(way.files.items())]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
