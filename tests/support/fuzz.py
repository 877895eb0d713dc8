"""Fuzzing of pictures and references: `python -m tests.support.fuzz pictures --minutes 60`, or `references`.

With atheris (on Linux: `pip install atheris`) mutations are guided by the coverage of this package and of Pillow's Python code;
without it they are blind. Either way they start from the seeds here and from `--corpus`, a folder in which new finds are
kept. It ends at the first input that breaks a promise, and writes that input into the corpus folder as `finding-<digest>`.
"""

from __future__ import annotations

import argparse
import atexit
import base64
import contextlib
import hashlib
import io
import os
import random
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

Check = Callable[[bytes], None]

FOREIGN = ("0x", "_io.", "site-packages", "Error(", "Traceback", "\n", "\x1b")
REGIONS = (None, (0.2, 0.3, 0.7, 0.4))
MOST_WORDS = 1000  # characters of an error
MOST_PIXELS = 2**20  # small enough that a mutation costs milliseconds


class BrokenPromiseError(AssertionError):
    """A promise that an input breaks."""


def judge_error(error: Exception, given: str = "") -> None:
    """Every error says one sentence of ours, which may quote what was given."""
    from blip2tools.errors import ERROR_CODES

    text = str(error)
    if (
        error.code not in ERROR_CODES
        or error.code == "internal"
        or len(text) > MOST_WORDS
        or (any(word in text and word.lower() not in given.lower() for word in FOREIGN))
    ):
        raise BrokenPromiseError(text)


def pictures() -> tuple[Check, list[bytes]]:
    """Bytes as a picture: pixels within the limits, or one of our errors."""
    from PIL import Image

    from blip2tools.errors import VisionError
    from blip2tools.pictures import images
    from blip2tools.pictures.decoder import decode_here
    from blip2tools.settings import Settings

    settings = Settings(
        formats=("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"), max_pixels=MOST_PIXELS, max_image_bytes=2**18
    )
    images.warm()

    def check(data: bytes) -> None:
        size = None
        with contextlib.suppress(VisionError):
            size = images.size_of(data, settings)
        try:
            full = decode_here(data, settings, REGIONS, [])
            small = decode_here(data, settings, REGIONS, [(16, 3)])
        except VisionError as error:
            judge_error(error)
            return
        if size is None or sorted(size) != sorted((full.width, full.height)):
            raise BrokenPromiseError(f"{size} by its header, {full.width} x {full.height} decoded")
        if full.width * full.height > MOST_PIXELS or full.parts[0].size != (full.width, full.height):
            raise BrokenPromiseError("beyond the limits")
        if any(part.mode != "RGB" or part.info for part in (*full.parts, *small.parts)):
            raise BrokenPromiseError("not plain RGB")

    drawn = Image.linear_gradient("L").resize((24, 16))
    seeds = []
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "MPO"):
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"):
            for options in ({}, {"progressive": True, "exif": orientation(6)}, {"lossless": True, "save_all": True}):
                buffer = io.BytesIO()
                with contextlib.suppress(OSError, ValueError, KeyError):
                    drawn.convert(mode).save(buffer, kind, **options)
                    seeds.append(buffer.getvalue())
    return check, list(dict.fromkeys(seeds))


def orientation(value: int) -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def references() -> tuple[Check, list[bytes]]:
    """Text as a reference: bytes from inside the allowed folder, or one of our errors; never those of a file outside."""
    from blip2tools.errors import VisionError
    from blip2tools.pictures.fetch import fetch
    from blip2tools.pictures.sources import Sources
    from blip2tools.pictures.store import Store
    from blip2tools.settings import Settings

    above = Path(tempfile.mkdtemp(prefix="fuzz-"))
    atexit.register(shutil.rmtree, above, ignore_errors=True)
    root = above / "jail"
    for folder in (root / "a", above / "jail2"):
        folder.mkdir(parents=True)
    secret, mine = b"a secret outside", b"\x89PNG\r\n\x1a\nmine"
    for path in (above / "s.png", above / "jail2" / "s.png"):
        path.write_bytes(secret)
    for path in (root / "m.png", root / "a" / "m.png", root / "x:y.png"):
        path.write_bytes(mine)
    (root / "link").symlink_to(above)
    (root / "s.png").symlink_to(above / "s.png")
    os.mkfifo(root / "fifo.png")
    settings = Settings(allowed_dirs=(root,), max_image_bytes=4096)
    web = Settings(allow_urls=True, max_image_bytes=4096)
    store = Store(2**16)
    sources = Sources(settings, store, size_of=lambda data: (2, 2))
    known = {mine, store_a := b"kept before"}
    handle = store.put(store_a)

    def check(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        text = text.replace("{root}", str(root)).replace("{above}", str(above))
        try:
            source = sources.read(text)
        except VisionError as error:
            judge_error(error, text)
            if "secret" in str(error):
                raise BrokenPromiseError(str(error)) from error
        else:
            if source.data not in known and not text.lstrip("@").lower().startswith("data:"):
                raise BrokenPromiseError(f"{source.data!r} from {text!r}")
            if not source.label.isprintable() or len(source.label) > 300:
                raise BrokenPromiseError(source.label)
        try:
            fetch(text, web, resolve=lambda host, port: ["93.184.215.14"], judge=lambda address: False)
        except VisionError as error:
            judge_error(error, text)
        else:
            raise BrokenPromiseError("something was fetched")

    inline = "data:image/png;charset=x;base64," + base64.b64encode(mine).decode()
    seeds = [
        *("m.png", "@a/m.png", "./a/../m.png", "{root}/m.png", "{root}/../s.png", "{above}/jail2/s.png", "link/s.png"),
        *(
            "~/m.png",
            "file://{root}/m.png",
            "file:{root}/%2e%2e/s.png",
            "file://host/x",
            "x:y.png",
            "fifo.png",
            "latest",
        ),
        *(
            "http://example.com/a.png",
            "https://user@[::1]:443/x?y#z",
            "http://0x7f.1/",
            "//h/x",
            "C:\\x",
            "\\\\server\\s",
        ),
        *(handle, f"blip2://images/{handle}", inline, inline.upper(), "data:,x", "s.png", "iVBORw0KGgo" + "A" * 40),
    ]
    return check, [seed.encode() for seed in seeds]


TARGETS = {"pictures": pictures, "references": references}


def mend(data: bytes) -> bytes:
    """A PNG with its checksums right again, which no mutation would ever hit."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    out, position = bytearray(data[:8]), 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        body = data[position + 4 : position + 8 + length]
        if position + 12 + length > len(data):
            break
        out += data[position : position + 4] + body + struct.pack(">I", zlib.crc32(body))
        position += 12 + length
    return bytes(out + data[position:])


def mutated(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """One to four blind changes."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(changed) + 1)
        match chance.randrange(6):
            case 0:
                changed[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                changed[place : place + 4] = chance.choice(
                    (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\1\0")
                )
            case 2:
                del changed[place : place + chance.randint(1, 64)]
            case 3:
                changed[place:place] = changed[place : place + chance.randint(1, 64)]
            case 4:
                start = chance.randrange(len(other) + 1)
                changed[place : place + 16] = other[start : start + chance.randint(1, 64)]
            case _:
                del changed[place:]
    return bytes(changed)


def blind(check: Check, seeds: list[bytes], seconds: float, seed: int) -> int:
    """Mutations without guidance until the time is over; how many there were."""
    chance = random.Random(seed)
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end or not count:
        data = mutated(chance.choice(seeds), chance.choice(seeds), chance)
        check(mend(data) if chance.random() < 0.7 else data)
        count += 1
    return count


def guided(name: str, corpus: Path, seconds: float, seed: int) -> None:
    """Mutations guided by coverage. Never returns: libFuzzer ends the process."""
    with atheris.instrument_imports(include=["blip2tools", "PIL"]):
        check, seeds = TARGETS[name]()
    for one in seeds:
        (corpus / hashlib.sha256(one).hexdigest()[:16]).write_bytes(one)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        changed = atheris.Mutate(data, most)
        return mend(changed)[:most] if seed % 3 else changed

    options = [
        f"-max_total_time={seconds:.0f}",
        f"-seed={seed}",
        "-timeout=120",
        "-rss_limit_mb=2048",
        "-max_len=16384",
    ]
    options += ["-print_final_stats=1", f"-artifact_prefix={corpus}/finding-", str(corpus)]
    atheris.Setup([sys.argv[0], *options], kept(check, corpus), custom_mutator=mutate)
    atheris.Fuzz()


def kept(check: Check, corpus: Path) -> Check:
    """`check`, and an input that it does not survive is written down."""

    def checked(data: bytes) -> None:
        try:
            check(data)
        except BaseException:
            (corpus / f"finding-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
            raise

    return checked


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, help="inputs to start from, and where new ones are kept")
    parser.add_argument("--blind", action="store_true", help="without atheris")
    given = parser.parse_args(words)
    corpus = given.corpus or Path(tempfile.mkdtemp(prefix="fuzz-corpus-"))
    corpus.mkdir(parents=True, exist_ok=True)
    if atheris is not None and not given.blind:
        guided(given.target, corpus, given.minutes * 60, given.seed)
    check, seeds = TARGETS[given.target]()
    seeds += [path.read_bytes() for path in sorted(corpus.iterdir())]
    count = blind(kept(check, corpus), seeds, given.minutes * 60, given.seed)
    print(  # noqa: T201
        f"{count:,} executions of {given.target} in {given.minutes:g} minutes, seed {given.seed}: nothing found"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
