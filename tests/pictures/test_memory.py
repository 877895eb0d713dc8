"""The peak memory of a decode, by kind of picture: as `formats.cost_of` says, and never more than 512 MB."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path

import pytest
from PIL import Image

from blip2tools.errors import TooLargeError
from blip2tools.pictures import formats
from blip2tools.pictures.decoder import Decoder
from blip2tools.settings import Settings
from tests.support.face import Processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc")

TURNED = b"Exif\0\0" + struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)
KINDS = {
    "jpeg": ("RGB", "JPEG", {}),
    "jpeg-turned": ("RGB", "JPEG", {"exif": TURNED}),
    "jpeg-grey": ("L", "JPEG", {}),
    "jpeg-progressive": ("RGB", "JPEG", {"progressive": True}),
    "jpeg-progressive-444": ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
    "jpeg-cmyk": ("CMYK", "JPEG", {}),
    "jpeg-cmyk-progressive": ("CMYK", "JPEG", {"progressive": True}),
    "png-rgb": ("RGB", "PNG", {"compress_level": 1}),
    "png-rgba": ("RGBA", "PNG", {"compress_level": 1}),
    "png-16": ("I;16", "PNG", {"compress_level": 1}),
    "png-palette": ("P", "PNG", {"compress_level": 1, "transparency": 3}),
    "png-key": ("RGB", "PNG", {"compress_level": 1, "transparency": (1, 1, 1)}),
    "webp-lossy": ("RGB", "WEBP", {"method": 0}),
    "webp-lossless": ("RGB", "WEBP", {"method": 0, "lossless": True}),
    "webp-alpha": ("RGBA", "WEBP", {"method": 0}),
    "gif": ("P", "GIF", {"transparency": 3}),
    "bmp": ("RGB", "BMP", {}),
}
# Of these 50 megapixels would take more: they are refused from their headers.
REFUSED = {"jpeg-progressive-444", "jpeg-cmyk-progressive", "webp-lossy", "webp-lossless", "webp-alpha"}
WORKING = 16e6  # what a decode takes at any size: rows on their way to the sizes of the model


def picture(name: str, size: tuple[int, int]) -> bytes:
    mode, kind, options = KINDS[name]
    buffer = io.BytesIO()
    Image.new(mode, size, 7).save(buffer, kind, **options)
    return buffer.getvalue()


def peak(one: Decoder) -> int:
    """Bytes of resident memory that the process has held at most, its picture's encoded bytes among them."""
    (process,) = one._all
    status = Path(f"/proc/{process._process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def with_nothing(decoder: Decoder, name: str) -> int:
    """The peak with a tiny picture: the size of the bare process differs between machines."""
    decoder.decode(picture(name, (16, 16)), targets=[(224, 3)])
    return peak(decoder)


@pytest.fixture
def decoder():
    one = Decoder(Settings(max_image_bytes=2**28), seconds=100)
    yield one
    one.close()


@pytest.mark.parametrize("name", KINDS)
def test_as_much_as_is_said(decoder: Decoder, name: str) -> None:
    empty = with_nothing(decoder, name)
    data = picture(name, (3000, 2000))
    decoder.decode(data, targets=[(224, 3)])
    said = 2 * len(data) + 6_000_000 * formats.cost_of(formats.kind_of(data), data)
    assert peak(decoder) < empty + WORKING + said


def test_while_the_model_loads(start_server, tmp_path: Path) -> None:
    """The first call of a server is a survey of 50 megapixels: five views of it, of unknown sizes until the model is loaded."""
    (tmp_path / "large.jpg").write_bytes(picture("jpeg", (8000, 6250)))
    server = start_server("--model", "demo", "--allow-dir", str(tmp_path), "--threads", "1", fresh=True)
    server.initialize()
    said = server.call("survey_image", image="large.jpg", rows=2, columns=2)
    while "model_unavailable" in said["content"][0]["text"]:  # on a slow machine: call again, it says
        said = server.call("survey_image", image="large.jpg", rows=2, columns=2)
    assert not said.get("isError"), said["content"][0]["text"]
    processes = Processes(server.process.pid)
    # What stays is the model, and so on the safe side: it had not been loaded when the picture was decoded.
    assert processes.peak() - processes.resident() < 512e6


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
def test_fifty_megapixels(decoder: Decoder, name: str) -> None:
    empty = with_nothing(decoder, name)
    data = picture(name, (8000, 6250))
    if name in REFUSED:
        with pytest.raises(TooLargeError):
            decoder.decode(data, targets=[(224, 3)])
        assert peak(decoder) < empty + 2 * len(data) + 10e6
        return
    decoder.decode(data, targets=[(224, 3)])
    assert peak(decoder) < 512e6 + 2 * max(0, len(data) - 20 * 2**20), "what a larger file takes is its own"
