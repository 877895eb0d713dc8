"""One drawn scene in many forms: a person sees the same picture in each, so the model must say the same about each."""

import io
import struct
import zlib

import pytest
from PIL import Image, ImageCms

from blip2tools.pictures.rendering import UPRIGHT
from tests.pictures.forms import containers as c
from tests.pictures.forms import profiles as p

pytestmark = pytest.mark.slow

BACK = {6: 8, 8: 6, 3: 3}  # the turn that undoes one


def meant(image: Image.Image, icc: bytes) -> Image.Image:
    """The numbers by which a profile of curves and a matrix shows this image."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    return ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), profile, outputMode="RGB")


def forms(scene: Image.Image, other: Image.Image) -> dict[str, bytes]:
    p3 = p.matrix_profile(p.P3, p.SRGB_CURVE)
    linear = p.matrix_profile(p.SRGB, p.IDENTITY)
    prophoto = p.matrix_profile(p.PROPHOTO, p.gamma(1.8), version=2)
    adobe = p.matrix_profile(p.ADOBE, p.gamma(2.2), version=2)
    swapped = p.matrix_profile(p.SWAPPED, p.SRGB_CURVE)
    save, chunks = c.saved, c.with_chunks
    turned = {turn: scene.transpose(UPRIGHT[BACK[turn]]) for turn in BACK}
    jpeg = save(scene, "JPEG", quality=95, subsampling=0)
    plain = save(scene, "PNG")
    apart = save(other, "PNG")
    size = scene.size
    rows = scene.tobytes()
    frame = b"".join(b"\0" + rows[3 * size[0] * y : 3 * size[0] * (y + 1)] for y in range(size[1]))
    control = c.chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, *size, 0, 0, 1, 10, 0, 0))
    animation = control + c.chunk(b"fdAT", struct.pack(">I", 1) + zlib.compress(frame))
    alpha = scene.convert("RGBA")
    lossless = save(scene, "WEBP", lossless=True)
    found = {
        "jpeg p3": save(meant(scene, p3), "JPEG", quality=95, subsampling=0, icc_profile=p3),
        "jpeg adobe": save(meant(scene, adobe), "JPEG", quality=95, subsampling=0, icc_profile=adobe),
        "jpeg turned": c.into_jpeg(save(turned[6], "JPEG", quality=95, subsampling=0), start=c.exif_segment(c.exif(6))),
        "jpeg xmp alone": c.into_jpeg(jpeg, start=c.xmp_segment()),
        "jpeg without its end": jpeg[:-2],
        "jpeg inks": save(scene.convert("CMYK"), "JPEG", quality=95),
        "png linear": save(meant(scene, linear), "PNG", icc_profile=linear),
        "png prophoto": save(meant(scene, prophoto), "PNG", icc_profile=prophoto),
        "png gamma": chunks(save(meant(scene, linear), "PNG"), c.gama(1.0)),
        "png cicp p3": chunks(save(meant(scene, p3), "PNG"), c.cicp(12, 13)),
        "png turned": chunks(save(turned[8], "PNG"), c.chunk(b"eXIf", c.exif(8))),
        "png turned behind": chunks(plain, after=c.chunk(b"eXIf", c.exif(6))),
        "png still apart": chunks(apart, c.chunk(b"acTL", struct.pack(">II", 1, 0)), animation),
        "png alpha": save(alpha, "PNG"),
        "webp swapped": save(meant(scene, swapped), "WEBP", lossless=True, icc_profile=swapped),
        "webp exif": c.webp(c.vp8x(size, exif=True), c.bitstream(lossless), c.riff(b"EXIF", c.exif(6))),
        "gif": save(scene.quantize(256), "GIF"),
        "bmp": save(scene, "BMP"),
        "avif p3": save(meant(scene, p3), "AVIF", quality=95, subsampling="4:4:4", icc_profile=p3),
    }
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    found["heic p3"] = save(meant(scene, p3), "HEIF", quality=95, chroma=444, icc_profile=p3)
    return found


def test_every_form_of_a_scene_is_captioned_alike(vision, pictures):
    for number in (1, 2):
        with Image.open(pictures[number].path) as image, Image.open(pictures[number + 2].path) as another:
            scene, other = image.convert("RGB"), another.convert("RGB")
        said = {name: vision.caption(data).text for name, data in forms(scene, other).items()}
        assert len(said) >= 12
        assert said == dict.fromkeys(said, pictures[number].caption)


def test_a_linear_picture_through_the_tools_of_an_agent(vision, pictures, folder):
    """A profile of linear light used to make pink red and yellow orange."""
    linear = p.matrix_profile(p.SRGB, p.IDENTITY)
    drawn = pictures[0]
    with Image.open(drawn.path) as image:
        data = c.saved(meant(image.convert("RGB"), linear), "PNG", icc_profile=linear)
        held = Image.open(io.BytesIO(data))
    path = folder / "linear light.png"
    path.write_bytes(data)
    try:
        for image in (str(path), data, held):
            result = vision.caption(image)
            assert result.text == drawn.caption
            assert not any("profile" in warning for warning in result.warnings)
    finally:
        path.unlink()
