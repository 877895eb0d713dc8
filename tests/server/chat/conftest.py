"""A proxy in front of a scripted model that cannot see, and pictures as chat programs send them."""

from __future__ import annotations

import base64
from pathlib import Path

import httpx2
import pytest

from benchmarks.blind_upstream import BlindUpstream, Said
from benchmarks.chat_sight import proxy_in_thread
from blip2tools import Vision


def uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def shown(path: Path, protocol: str = "completions") -> dict:
    """A picture as a block of a protocol."""
    match protocol:
        case "completions":
            return {"type": "image_url", "image_url": {"url": uri(path)}}
        case "responses":
            return {"type": "input_image", "image_url": uri(path)}
    data = uri(path).partition(",")[2]
    return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}


@pytest.fixture(scope="module")
def upstream():
    running = BlindUpstream(lambda heard: Said("hello"))
    yield running
    assert not running.pictures, "a picture went on"
    running.end()


@pytest.fixture(scope="module")
def eyes(upstream, folder):
    """The demo checkpoint behind a proxy; no folder is open."""
    with Vision.load(model="demo", allowed_dirs=(), threads=1, upstream=upstream.url) as vision:
        yield vision


@pytest.fixture(scope="module")
def url(eyes):
    with proxy_in_thread(eyes, silence_s=3.0) as address:
        yield address


@pytest.fixture
def http(url):
    with httpx2.Client(base_url=url, timeout=100, trust_env=False) as client:
        yield client
