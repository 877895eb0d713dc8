"""Forms of WebP, AVIF, GIF and BMP."""

from __future__ import annotations

import struct

from PIL import Image

from tests.pictures.forms import containers as c
from tests.pictures.forms import profiles as p
from tests.pictures.forms.grid import COLOURS, GREYS, SIZE, grid
from tests.pictures.forms.jpeg import Forms, rgb_profiles

SWAPPED = p.matrix_profile(p.SWAPPED, p.SRGB_CURVE)
_SOME = (
    *(
        "srgb_v4",
        "p3",
        "adobe",
        "prophoto",
        "linear",
        "gamma18",
        "swapped",
        "table_both",
        "table_a2b1",
        "table_mab",
        "cicp_tag_linear",
    ),
    *("of_grey", "of_inks", "cut_off", "rubbish", "curves_differ", "p3_absolute"),
)


def _alpha(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(grid([255, 255, 255, 255, 128, 64, 200, 0] * 4, "L"))
    return image


def webp() -> Forms:
    lossless = c.saved(grid(), "WEBP", lossless=True)
    lossy = c.saved(grid(), "WEBP", quality=95)
    alpha = c.saved(_alpha(grid()), "WEBP", lossless=True, exact=True)
    lossy_alpha = c.saved(_alpha(grid()), "WEBP", quality=95, exact=True)
    pixels = c.bitstream(lossless)
    icc, exif, xmp = c.riff(b"ICCP", SWAPPED), c.riff(b"EXIF", c.exif(6)), c.riff(b"XMP ", c.XMP)
    head = c.vp8x
    other = grid(tuple(reversed(COLOURS)))

    def anim(
        *frames: bytes, alpha: bool = False, ground: bytes = b"\0\0\xff\xff", more: bytes = b"", icc: bool = False
    ) -> bytes:
        return c.webp(head(SIZE, animated=True, alpha=alpha, icc=icc), more, c.riff(b"ANIM", ground + b"\0\0"), *frames)

    def frame(image: Image.Image, at: tuple[int, int] = (0, 0), flags: int = 0, **options: object) -> bytes:
        stream = c.bitstream(c.saved(image, "WEBP", **{"lossless": True, "exact": True, **options}))
        place = b"".join(
            value.to_bytes(3, "little") for value in (at[0] // 2, at[1] // 2, image.width - 1, image.height - 1, 100)
        )
        return c.riff(b"ANMF", place + bytes((flags,)) + stream)

    forms = {
        "webp_lossless": lossless,
        "webp_lossy": lossy,
        "webp_alpha": alpha,
        "webp_lossy_alpha": lossy_alpha,
        "webp_icc_no_flag": c.webp(head(SIZE), icc, pixels),
        "webp_icc_no_header": c.webp(pixels, icc),
        "webp_icc_behind": c.webp(head(SIZE, icc=True), pixels, icc),
        "webp_icc_flag_only": c.webp(head(SIZE, icc=True), pixels),
        "webp_icc_twice": c.webp(
            head(SIZE, icc=True), icc, c.riff(b"ICCP", p.matrix_profile(p.SRGB, p.gamma(1.0))), pixels
        ),
        "webp_icc_alpha": c.webp(head(SIZE, icc=True, alpha=True), icc, c.bitstream(alpha)),
        "webp_icc_lossy": c.webp(head(SIZE, icc=True), icc, c.bitstream(lossy)),
        "webp_icc_lossy_alpha": c.webp(head(SIZE, icc=True, alpha=True), icc, c.bitstream(lossy_alpha)),
        "webp_exif": c.webp(head(SIZE, exif=True), pixels, exif),
        "webp_exif_prefixed": c.webp(head(SIZE, exif=True), pixels, c.riff(b"EXIF", b"Exif\0\0" + c.exif(6))),
        "webp_exif_before": c.webp(head(SIZE, exif=True), exif, pixels),
        "webp_exif_saved": c.saved(grid(), "WEBP", lossless=True, exif=b"Exif\0\0" + c.exif(6)),
        "webp_xmp": c.webp(head(SIZE, xmp=True), pixels, xmp),
        "webp_exif_icc": c.webp(head(SIZE, exif=True, icc=True), icc, pixels, exif),
        "webp_unknown_chunk": c.webp(head(SIZE), c.riff(b"ABCD", b"words"), pixels),
        "webp_alpha_flag_off": c.webp(head(SIZE), c.bitstream(alpha)),
        "webp_lossy_alpha_flag_off": c.webp(head(SIZE), c.bitstream(lossy_alpha)),
        "webp_tail": lossless + b"tail" * 20,
        "webp_animated": anim(frame(grid()), frame(other)),
        "webp_animated_alpha": anim(frame(_alpha(grid())), frame(other), alpha=True),
        "webp_animated_alpha_no_flag": anim(frame(_alpha(grid())), frame(other)),
        "webp_animated_partial": anim(frame(grid().crop((0, 0, 32, 16)), (16, 8)), frame(other)),
        "webp_animated_partial_alpha": anim(frame(grid().crop((0, 0, 32, 16)), (16, 8)), frame(other), alpha=True),
        "webp_animated_partial_ground": anim(frame(grid().crop((0, 0, 32, 16))), frame(other), ground=b"\0\xff\0\xff"),
        "webp_animated_icc": anim(frame(grid()), frame(other), more=icc, icc=True),
        "webp_animated_lossy": anim(frame(grid(), lossless=False, quality=95), frame(other)),
        "webp_animated_one": anim(frame(grid())),
        "webp_animated_no_blend": anim(frame(_alpha(grid()), flags=2), frame(other), alpha=True),
        "webp_animated_dispose": anim(frame(_alpha(grid()), flags=1), frame(other), alpha=True),
    }
    profiles = rgb_profiles()
    for name in _SOME:
        forms[f"webp_icc_{name}"] = c.webp(head(SIZE, icc=True), c.riff(b"ICCP", profiles[name]), pixels)
    return forms


def avif() -> Forms:
    options = {"quality": 100, "subsampling": "4:4:4", "speed": 10}
    base = c.saved(grid(), "AVIF", **options)
    alpha = c.saved(_alpha(grid()), "AVIF", **options)
    grey = c.saved(grid(GREYS, "L"), "AVIF", quality=100, subsampling="4:0:0", speed=10)
    forms = {
        "avif_plain": base,
        "avif_alpha": alpha,
        "avif_420": c.saved(grid(), "AVIF", quality=100, speed=10),
        "avif_grey": grey,
    }
    profiles = rgb_profiles()
    for name in _SOME:
        forms[f"avif_icc_{name}"] = c.saved(grid(), "AVIF", icc_profile=profiles[name], **options)
    at = base.index(b"colrnclx") + 8
    own = struct.unpack(">HHHB", base[at : at + 7])
    for name, (primaries, transfer) in {
        "srgb": (1, 13),
        "709": (1, 1),
        "p3": (12, 13),
        "2020": (9, 13),
        "2020_10": (9, 14),
        "601": (6, 6),
        "470bg": (5, 5),
        "470m": (4, 4),
        "gamma22": (1, 4),
        "gamma28": (1, 5),
        "linear": (1, 8),
        "unknown": (2, 2),
        "unknown_transfer": (12, 2),
        "unknown_primaries": (2, 8),
        "pq": (9, 16),
        "hlg": (9, 18),
        "pq_709": (1, 16),
        "pq_p3": (12, 16),
        "log": (1, 9),
        "240m": (7, 7),
        "dci_p3": (11, 13),
        "p3_709": (12, 1),
        "reserved": (0, 0),
        "iec61966_2_4": (1, 11),
        "film": (8, 13),
        "428": (10, 17),
        "2020_709": (9, 1),
    }.items():
        forms[f"avif_nclx_{name}"] = (
            base[:at] + struct.pack(">HHHB", primaries, transfer, own[2], own[3]) + base[at + 7 :]
        )
    icc_box = c.box(b"colr", b"prof" + SWAPPED)
    nclx = c.box(b"colr", b"nclx" + struct.pack(">HHHB", 1, 8, own[2], own[3]))
    forms["avif_nclx_then_icc"] = c.with_property(base, icc_box)
    forms["avif_icc_then_nclx_linear"] = c.with_property(
        c.saved(grid(), "AVIF", icc_profile=SWAPPED, **options), nclx, drop=()
    )
    forms["avif_icc_restricted"] = c.saved(grid(), "AVIF", icc_profile=SWAPPED, **options).replace(
        b"colrprof", b"colrrICC"
    )
    forms["avif_no_colr"] = c.with_property(base, b"", drop=(b"colr",))
    forms["avif_two_nclx"] = c.with_property(base, nclx)
    for angle in range(4):
        forms[f"avif_irot_{angle}"] = c.with_property(base, c.box(b"irot", bytes((angle,))))
    for axis in range(2):
        forms[f"avif_imir_{axis}"] = c.with_property(base, c.box(b"imir", bytes((axis,))))
    forms["avif_irot_imir"] = c.with_property(c.with_property(base, c.box(b"irot", b"\1")), c.box(b"imir", b"\1"))
    forms["avif_imir_irot"] = c.with_property(c.with_property(base, c.box(b"imir", b"\1")), c.box(b"irot", b"\1"))
    for n in (3, 5, 6, 7, 8):
        saved = c.saved(grid(), "AVIF", exif=b"Exif\0\0" + c.exif(n), **options)
        forms[f"avif_saved_exif_{n}"] = saved
        forms[f"avif_exif_only_{n}"] = c.with_property(saved, b"", drop=(b"irot", b"imir"))
    forms["avif_xmp"] = c.saved(grid(), "AVIF", xmp=c.XMP, **options)
    forms["avif_irot_icc"] = c.with_property(
        c.saved(grid(), "AVIF", icc_profile=SWAPPED, **options), c.box(b"irot", b"\1")
    )
    forms["avif_animated"] = c.saved(
        grid(), "AVIF", save_all=True, append_images=[grid(tuple(reversed(COLOURS)))], **options
    )
    forms["avif_alpha_icc"] = c.saved(_alpha(grid()), "AVIF", icc_profile=SWAPPED, **options)
    forms["avif_clli_pq"] = c.with_property(forms["avif_nclx_pq"], c.box(b"clli", struct.pack(">HH", 400, 100)))
    return forms


def gif() -> Forms:
    image = grid().quantize(32, dither=Image.Dither.NONE)
    base = c.saved(image, "GIF")

    def made(
        frame: Image.Image,
        at: tuple[int, int],
        *,
        screen: tuple[int, int] = SIZE,
        ground: int = 0,
        key: int | None = None,
        local: bool = False,
        interlaced: bool = False,
        more: bytes = b"",
        loop: bool = False,
    ) -> bytes:
        palette = b"".join(bytes(colour) for colour in COLOURS)
        data = (
            b"GIF89a"
            + struct.pack("<HHBBB", *screen, 0x84 if not local else 0, ground, 0)
            + (b"" if local else palette)
        )
        data += more
        if loop:
            data += b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
        if key is not None:
            data += b"\x21\xf9\x04" + bytes((1, 10, 0, key, 0))
        data += _image(frame, at, palette if local else b"", interlaced)
        return data + b";"

    def _image(frame: Image.Image, at: tuple[int, int], local: bytes, interlaced: bool = False) -> bytes:
        flags = (0x84 if local else 0) | (0x40 if interlaced else 0)
        rows = [frame.crop((0, y, frame.width, y + 1)).tobytes() for y in range(frame.height)]
        if interlaced:
            order = [
                *range(0, frame.height, 8),
                *range(4, frame.height, 8),
                *range(2, frame.height, 4),
                *range(1, frame.height, 2),
            ]
            rows = [rows[y] for y in order]
        return b"\x2c" + struct.pack("<HHHHB", *at, *frame.size, flags) + local + _lzw(b"".join(rows)) + b"\0"

    indices = Image.new("L", (8, 4))
    indices.putdata(list(range(32)))
    full = indices.resize(SIZE, Image.Resampling.NEAREST)
    part = full.crop((0, 0, 32, 16))
    two = made(part, (16, 8))[:-1] + _image(full, (0, 0), b"") + b";"
    return {
        "gif_plain": base,
        "gif_hand": made(full, (0, 0)),
        "gif_partial": made(part, (16, 8)),
        "gif_partial_ground_2": made(part, (16, 8), ground=2),
        "gif_partial_key": made(part, (16, 8), key=3),
        "gif_partial_local": made(part, (16, 8), local=True),
        "gif_partial_corner": made(part, (0, 0), ground=5),
        "gif_partial_animated": two,
        "gif_key": made(full, (0, 0), key=9),
        "gif_key_white": made(full, (0, 0), key=1),
        "gif_local": made(full, (0, 0), local=True),
        "gif_interlaced": made(full, (0, 0), interlaced=True),
        "gif_beyond_screen": made(full, (32, 16)),
        "gif_screen_small": made(full, (0, 0), screen=(32, 16)),
        "gif_icc": made(
            full,
            (0, 0),
            more=b"\x21\xff\x0bICCRGBG1012"
            + b"".join(
                bytes((len(part_),)) + part_ for part_ in (SWAPPED[i : i + 255] for i in range(0, len(SWAPPED), 255))
            )
            + b"\0",
        ),
        "gif_animated": c.saved(
            image, "GIF", save_all=True, append_images=[grid(tuple(reversed(COLOURS))).quantize(32)], loop=0
        ),
        "gif_comment": made(full, (0, 0), more=b"\x21\xfe\x05words\0"),
        "gif_xmp": made(
            full, (0, 0), more=b"\x21\xff\x0bXMP DataXMP" + c.XMP + b"\1" + bytes(range(255, -1, -1)) + b"\0"
        ),
        "gif_key_without_use": made(full, (0, 0), key=200),
    }


def _lzw(indices: bytes) -> bytes:
    """LZW that never compresses: a clear code before every few indices keeps the codes at nine bits."""
    codes = []
    for begin in range(0, len(indices), 200):
        codes += [256, *indices[begin : begin + 200]]
    codes.append(257)
    number, bits, out = 0, 0, bytearray()
    for code in codes:
        number |= code << bits
        bits += 9
        while bits >= 8:
            out.append(number & 255)
            number >>= 8
            bits -= 8
    out += bytes((number & 255,)) if bits else b""
    return b"\x08" + b"".join(
        bytes((len(out[i : i + 255]),)) + bytes(out[i : i + 255]) for i in range(0, len(out), 255)
    )


def bmp() -> Forms:
    base = c.saved(grid(), "BMP")
    raw = grid().transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    bgr = b"".join(bytes(reversed(pixel)) for pixel in raw.get_flattened_data())
    alpha = _alpha(grid()).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    bgra = b"".join(bytes((blue, green, red, opaque)) for red, green, blue, opaque in alpha.get_flattened_data())
    opaque = b"".join(bytes((*reversed(pixel), 255)) for pixel in raw.get_flattened_data())
    unused = b"".join(bytes((*reversed(pixel), 0)) for pixel in raw.get_flattened_data())

    def made(
        pixels: bytes,
        bits: int,
        *,
        version: int = 5,
        compression: int = 0,
        masks: tuple[int, ...] = (),
        space: int = 0x73524742,
        ends: bytes = b"\0" * 36,
        gammas: bytes = b"\0" * 12,
        icc: bytes = b"",
        height: int = SIZE[1],
        palette: bytes = b"",
        colours: int = 0,
    ) -> bytes:
        size = {3: 40, 4: 108, 5: 124}[version]
        header = struct.pack(
            "<IiiHHIIiiII", size, SIZE[0], height, 1, bits, compression, len(pixels), 2835, 2835, colours, 0
        )
        if version > 3:
            header += struct.pack("<4I", *(masks or (0, 0, 0, 0))) + struct.pack("<I", space) + ends + gammas
        if version == 5:
            header += struct.pack("<IIII", 4, size + len(palette) + len(pixels) if icc else 0, len(icc), 0)
        extra = struct.pack("<3I", *masks[:3]) if version == 3 and compression == 3 else b""
        offset = 14 + size + len(extra) + len(palette)
        return (
            b"BM"
            + struct.pack("<IHHI", offset + len(pixels) + len(icc), 0, 0, offset)
            + header
            + extra
            + palette
            + pixels
            + icc
        )

    full = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    embedded, calibrated = 0x4D424544, 0
    swapped_ends = b"".join(
        struct.pack("<3i", *(round(v * 2**30) for v in (row[0], row[1], row[2])))
        for row in zip(*p.to_d50(p.SWAPPED), strict=True)
    )
    gammas = struct.pack("<3I", *[round(1.0 * 65536)] * 3)
    five = b"".join(struct.pack("<H", (r >> 3) << 10 | (g >> 3) << 5 | b >> 3) for r, g, b in raw.get_flattened_data())
    six = b"".join(struct.pack("<H", (r >> 3) << 11 | (g >> 2) << 5 | b >> 3) for r, g, b in raw.get_flattened_data())
    palette = b"".join(bytes((*reversed(colour), 0)) for colour in COLOURS)
    indices = Image.new("L", (8, 4))
    indices.putdata(list(range(32)))
    eight = indices.resize(SIZE, Image.Resampling.NEAREST).transpose(Image.Transpose.FLIP_TOP_BOTTOM).tobytes()
    rle = (
        b"".join(b"".join(bytes((8, eight[y * 64 + x])) for x in range(0, 64, 8)) + b"\0\0" for y in range(32))
        + b"\0\1"
    )
    return {
        "bmp_plain": base,
        "bmp_v3": made(bgr, 24, version=3),
        "bmp_v4": made(bgr, 24, version=4),
        "bmp_v5": made(bgr, 24),
        "bmp_icc": made(bgr, 24, space=embedded, icc=SWAPPED),
        "bmp_icc_linear": made(bgr, 24, space=embedded, icc=p.matrix_profile(p.SRGB, p.gamma(1.0))),
        "bmp_icc_32": made(opaque, 32, space=embedded, icc=SWAPPED),
        "bmp_icc_cut": made(bgr, 24, space=embedded, icc=SWAPPED)[:-20],
        "bmp_icc_not_embedded": made(bgr, 24, icc=SWAPPED),
        "bmp_icc_v4": made(bgr, 24, version=4, space=embedded),
        "bmp_icc_indexed": made(eight, 8, space=embedded, icc=SWAPPED, palette=palette, colours=32),
        "bmp_calibrated": made(bgr, 24, space=calibrated, ends=swapped_ends, gammas=gammas),
        "bmp_calibrated_v4": made(bgr, 24, version=4, space=calibrated, ends=swapped_ends, gammas=gammas),
        "bmp_32_v3": made(opaque, 32, version=3),
        "bmp_32_v3_unused": made(unused, 32, version=3),
        "bmp_32_v3_alpha": made(bgra, 32, version=3),
        "bmp_32_v4_alpha_mask": made(bgra, 32, version=4, masks=full),
        "bmp_32_v5_alpha_mask": made(bgra, 32, masks=full),
        "bmp_32_v5_alpha_mask_fields": made(bgra, 32, masks=full, compression=3),
        "bmp_32_v4_fields": made(bgra, 32, version=4, masks=full, compression=3),
        "bmp_32_v5_fields_no_alpha": made(bgra, 32, masks=(0xFF0000, 0xFF00, 0xFF, 0), compression=3),
        "bmp_32_v5_unused": made(unused, 32, masks=full),
        "bmp_32_v5_fields_unused": made(unused, 32, masks=full, compression=3),
        "bmp_32_v5_opaque": made(opaque, 32, masks=full),
        "bmp_32_v5_no_mask": made(bgra, 32),
        "bmp_16_555": made(five, 16, version=3),
        "bmp_16_565": made(six, 16, version=3, compression=3, masks=(0xF800, 0x7E0, 0x1F)),
        "bmp_8": made(eight, 8, version=3, palette=palette, colours=32),
        "bmp_8_rle": made(rle, 8, version=3, compression=1, palette=palette, colours=32),
        "bmp_top_down": made(
            b"".join(bytes(reversed(pixel)) for pixel in grid().get_flattened_data()), 24, version=3, height=-SIZE[1]
        ),
    }


def forms() -> Forms:
    return {**webp(), **avif(), **gif(), **bmp()}
