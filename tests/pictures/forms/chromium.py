"""What Chromium draws: each picture on a white canvas of its natural size, read back pixel by pixel."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Without its sandbox it also starts as root in a container; it only ever sees pictures made here.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--force-color-profile=srgb"]
_AT_ONCE = 40

_DRAW = """
async (pictures) => Promise.all(pictures.map(async ([type, data]) => {
  const image = new Image();
  image.src = `data:${type};base64,${data}`;
  try { await image.decode(); } catch (error) { return null; }
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  if (!width || !height) return null;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d', {colorSpace: 'srgb'});
  context.fillStyle = '#fff';
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, width, height).data;
  let text = '';
  for (let i = 0; i < pixels.length; i += 8192) text += String.fromCharCode(...pixels.subarray(i, i + 8192));
  return [width, height, btoa(text)];
}))
"""
_TYPES = (
    (b"\xff\xd8", "jpeg"),
    (b"\x89PNG", "png"),
    (b"GIF8", "gif"),
    (b"RIFF", "webp"),
    (b"BM", "bmp"),
    (b"\xff\x0a", "jxl"),
)


def type_of(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return "image/avif"
    if data[4:8] == b"JXL ":
        return "image/jxl"
    return "image/" + next((name for start, name in _TYPES if data.startswith(start)), "x-unknown")


@contextmanager
def launched() -> Iterator[Any]:
    """A headless Chromium of the system, or of playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, NAMES)), None)
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def drawn(browser: Any, forms: Mapping[str, bytes]) -> dict[str, Image.Image | None]:
    """Each form as RGB on white; `None` for what it does not show."""
    page = browser.new_page()
    found: dict[str, Image.Image | None] = {}
    names = list(forms)
    for begin in range(0, len(names), _AT_ONCE):
        some = names[begin : begin + _AT_ONCE]
        pictures = [[type_of(forms[name]), base64.b64encode(forms[name]).decode()] for name in some]
        for name, answer in zip(some, page.evaluate(_DRAW, pictures), strict=True):
            if answer is None:
                found[name] = None
                continue
            width, height, pixels = answer
            found[name] = Image.frombytes("RGBA", (width, height), base64.b64decode(pixels)).convert("RGB")
    page.close()
    return found
