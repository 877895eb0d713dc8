"""Forms of a JPEG: profiles and how they are split, where the orientation stands, inks, what is cut off."""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image

from tests.pictures.forms import containers as c
from tests.pictures.forms import profiles as p
from tests.pictures.forms.grid import GREYS, grid

Forms = dict[str, bytes]


def plain(mode: str = "RGB", **options: object) -> bytes:
    image = grid(GREYS, "L") if mode == "L" else grid().convert(mode)
    return c.saved(image, "JPEG", **{"quality": 95, "subsampling": 0, **options})


def with_icc(icc: bytes, base: bytes | None = None) -> bytes:
    return c.into_jpeg(base or plain(), start=c.icc_segment(icc))


def rgb_profiles() -> Forms:
    """Profiles of RGB by name: also for the other containers."""
    srgb, linear = p.SRGB_CURVE, p.IDENTITY
    rotated = p.mft2(3, 17, p.rotated)
    real = p.mft2(3, 17, p.rgb_to_xyz(p.P3, p.srgb_to_linear))
    steps = p.sampled(p.srgb_to_linear)
    p3 = p.matrix_profile(p.P3, srgb)
    return {
        "srgb_v4": p.matrix_profile(p.SRGB, srgb),
        "srgb_v2": p.matrix_profile(p.SRGB, steps, version=2),
        "p3": p3,
        "p3_v2": p.matrix_profile(p.P3, steps, version=2),
        "dci_p3_26": p.matrix_profile(p.DCI_P3, p.gamma(2.6)),
        "adobe": p.matrix_profile(p.ADOBE, p.gamma(2.19921875), version=2),
        "prophoto": p.matrix_profile(p.PROPHOTO, p.gamma(1.8), version=2),
        "bt2020": p.matrix_profile(p.BT2020, p.parametric(3, 1 / 0.45, 1 / 1.0993, 0.0993 / 1.0993, 1 / 4.5, 0.0812)),
        "ntsc": p.matrix_profile(p.NTSC, p.gamma(2.2)),
        "linear": p.matrix_profile(p.SRGB, linear),
        "linear_v2": p.matrix_profile(p.SRGB, linear, version=2),
        "gamma18": p.matrix_profile(p.SRGB, p.gamma(1.8), version=2),
        "gamma22": p.matrix_profile(p.SRGB, p.gamma(2.2)),
        "gamma22_para": p.matrix_profile(p.SRGB, p.parametric(0, 2.2)),
        "gamma24": p.matrix_profile(p.SRGB, p.gamma(2.4)),
        "para1": p.matrix_profile(p.SRGB, p.parametric(1, 2.2, 1.0, 0.0)),
        "para2": p.matrix_profile(p.SRGB, p.parametric(2, 2.2, 0.9, 0.05, 0.01)),
        "para4": p.matrix_profile(p.SRGB, p.parametric(4, 2.4, 0.9479, 0.0521, 0.0774, 0.04045, 0.0, 0.0)),
        "l_star": p.matrix_profile(p.P3, p.sampled(lambda v: ((v + 0.16) / 1.16) ** 3 if v > 0.08 else v / 9.033)),
        "curves_differ": p.matrix_profile(p.SRGB, (p.gamma(1.4), p.gamma(2.2), p.gamma(3.0))),
        "swapped": p.matrix_profile(p.SWAPPED, srgb),
        "inverted_curve": p.matrix_profile(p.SRGB, p.sampled(lambda v: p.srgb_to_linear(1 - v))),
        "p3_absolute": p.matrix_profile(p.P3, srgb, intent=3),
        "p3_saturation": p.matrix_profile(p.P3, srgb, intent=2),
        "p3_relative": p.matrix_profile(p.P3, srgb, intent=1),
        "table_both": p.table_profile({b"A2B0": rotated, b"A2B1": real}),
        "table_both_other": p.table_profile({b"A2B0": real, b"A2B1": rotated}),
        "table_both_relative": p.table_profile({b"A2B0": real, b"A2B1": rotated}, intent=1),
        "table_both_v2": p.table_profile({b"A2B0": rotated, b"A2B1": real}, version=2),
        "table_a2b0": p.table_profile({b"A2B0": rotated}),
        "table_a2b1": p.table_profile({b"A2B1": rotated}),
        "table_a2b2": p.table_profile({b"A2B2": rotated}),
        "table_all": p.table_profile({b"A2B0": real, b"A2B1": real, b"A2B2": rotated}, intent=2),
        "table_8bit": p.table_profile({b"A2B0": p.mft1(3, 17, p.rgb_to_xyz(p.P3, p.srgb_to_linear))}, version=2),
        "table_mab": p.table_profile({b"A2B0": p.mab(3, 17, p.rotated)}),
        "table_mab_p3": p.table_profile({b"A2B0": p.mab(3, 17, p.rgb_to_xyz(p.P3, p.srgb_to_linear))}),
        "table_and_matrix": p.table_profile({**_tags(p.matrix_profile(p.SRGB, srgb)), b"A2B0": rotated}),
        "table_xyz_and_matrix": p.matrix_profile(p.P3, srgb, extra={b"A2B2": p.mft2(3, 9, p.rotated, b"XYZ ")}),
        "scanner": p.table_profile({b"A2B0": rotated}, kind=b"scnr"),
        "colour_space_class": p.table_profile({b"A2B0": rotated, b"B2A0": rotated}, kind=b"spac"),
        "cicp_tag_srgb": p.matrix_profile(p.SWAPPED, p.gamma(1.0), extra={b"cicp": p.cicp_tag(1, 13)}),
        "cicp_tag_p3": p.matrix_profile(p.SWAPPED, p.gamma(1.0), extra={b"cicp": p.cicp_tag(12, 13)}),
        "cicp_tag_gamma22": p.matrix_profile(p.SWAPPED, p.gamma(1.0), extra={b"cicp": p.cicp_tag(1, 4)}),
        "cicp_tag_linear": p.matrix_profile(p.P3, srgb, extra={b"cicp": p.cicp_tag(1, 8)}),
        "cicp_tag_709": p.matrix_profile(p.P3, srgb, extra={b"cicp": p.cicp_tag(1, 1)}),
        "cicp_tag_pq": p.matrix_profile(p.BT2020, srgb, extra={b"cicp": p.cicp_tag(9, 16)}),
        "cicp_tag_hlg": p.matrix_profile(p.BT2020, srgb, extra={b"cicp": p.cicp_tag(9, 18)}),
        "cicp_tag_unknown": p.matrix_profile(p.P3, srgb, extra={b"cicp": p.cicp_tag(2, 2)}),
        "cicp_tag_narrow": p.matrix_profile(p.P3, srgb, extra={b"cicp": p.cicp_tag(1, 13, 0, 0)}),
        "cicp_tag_matrix": p.matrix_profile(p.P3, srgb, extra={b"cicp": p.cicp_tag(1, 13, 1, 1)}),
        "cicp_tag_v2": p.matrix_profile(p.P3, steps, extra={b"cicp": p.cicp_tag(1, 8)}, version=2),
        # What does not fit, or is broken.
        "of_grey": p.grey_profile(p.gamma(1.0)),
        "of_inks": p.cmyk_profile(3),
        "of_lab": p.table_profile({b"A2B0": rotated, b"B2A0": rotated}, space=b"Lab ", kind=b"abst"),
        "cut_off": p3[:-40],
        "cut_in_header": p3[:100],
        "no_signature": p3.replace(b"acsp", b"xxxx"),
        "size_too_large": (len(p3) + 100).to_bytes(4, "big") + p3[4:],
        "size_too_small": (len(p3) - 8).to_bytes(4, "big") + p3[4:],
        "tail": p3 + b"\0" * 50,
        "no_green": p.profile({k: v for k, v in _tags(p3).items() if k != b"gXYZ"}),
        "no_curve": p.profile({k: v for k, v in _tags(p3).items() if k != b"bTRC"}),
        "rubbish": b"\xff" * 3000,
        "nonsense_curve": p.matrix_profile(p.P3, b"para\0\0\0\0" + b"\0\x09\0\0" + b"\0" * 28),
        "version_5": p3[:8] + b"\x05" + p3[9:],
        "version_9": p3[:8] + b"\x09" + p3[9:],
        "input_class": p3[:12] + b"scnr" + p3[16:],
        "output_class": p3[:12] + b"prtr" + p3[16:],
        "link_class": p3[:12] + b"link" + p3[16:],
        "named_class": p3[:12] + b"nmcl" + p3[16:],
        "odd_class": p3[:12] + b"zzzz" + p3[16:],
        "white_d65": p.matrix_profile(p.P3, srgb, extra={b"wtpt": p.xyz_tag((0.9505, 1.0, 1.0891))}),
        "zero_matrix": p.profile({**_tags(p3), **{k: p.xyz_tag((0, 0, 0)) for k in (b"rXYZ", b"gXYZ", b"bXYZ")}}),
        "half_matrix": p.profile(
            {
                **_tags(p3),
                **{
                    k + b"XYZ": p.xyz_tag([row[i] / 2 for row in p.to_d50(p.P3)])
                    for i, k in enumerate((b"r", b"g", b"b"))
                },
            }
        ),
    }


def _tags(icc: bytes) -> dict[bytes, bytes]:
    found = {}
    for i in range(int.from_bytes(icc[128:132], "big")):
        entry = icc[132 + 12 * i : 144 + 12 * i]
        at, length = int.from_bytes(entry[4:8], "big"), int.from_bytes(entry[8:12], "big")
        found[entry[:4]] = icc[at : at + length]
    return found


def grey_profiles() -> Forms:
    """Profiles for grey pictures."""
    return {
        "grey22": p.grey_profile(p.gamma(2.2)),
        "grey18": p.grey_profile(p.gamma(1.8), version=2),
        "grey10": p.grey_profile(p.gamma(1.0)),
        "grey_srgb": p.grey_profile(p.SRGB_CURVE),
        "grey_lab": p.grey_profile(p.gamma(1.0), pcs=b"Lab "),
        "grey_dot": p.grey_profile(p.sampled(lambda v: 1 - min(1.0, (1 - v) + 0.8 * v * (1 - v))), version=2),
        "grey_p3": p.matrix_profile(p.P3, p.gamma(1.8)),
        "grey_swapped": p.matrix_profile(p.SWAPPED, p.gamma(1.8)),
        "grey_tinted": p.table_profile({b"A2B0": p.mft2(3, 9, p.rotated)}),
        "grey_of_inks": p.cmyk_profile(3),
        "grey_no_curve": p.profile({}, space=b"GRAY"),
    }


def profiles() -> Forms:
    forms = {f"jpeg_icc_{name}": with_icc(icc) for name, icc in rgb_profiles().items()}
    grey = plain("L")
    forms.update({f"jpeg_l_icc_{name}": with_icc(icc, grey) for name, icc in grey_profiles().items()})
    return forms


def splits() -> Forms:
    icc = p.matrix_profile(p.SWAPPED, p.SRGB_CURVE)
    other = p.matrix_profile(p.SRGB, p.gamma(1.0))
    base = plain()
    a, b, d = c.parts_of(icc, 3)
    s = c.icc_segment
    sets = {
        "three": s(a, 1, 3) + s(b, 2, 3) + s(d, 3, 3),
        "out_of_order": s(d, 3, 3) + s(a, 1, 3) + s(b, 2, 3),
        "one_missing": s(a, 1, 3) + s(d, 3, 3),
        "last_missing": s(a, 1, 3) + s(b, 2, 3),
        "part_twice": s(a, 1, 3) + s(b, 2, 3) + s(b, 2, 3) + s(d, 3, 3),
        "part_twice_differs": s(a, 1, 3) + s(b, 2, 3) + s(bytes(len(b)), 2, 3) + s(d, 3, 3),
        "from_zero": s(a, 0, 3) + s(b, 1, 3) + s(d, 2, 3),
        "one_of_zero": s(icc, 1, 0),
        "zero_of_one": s(icc, 0, 1),
        "two_of_one": s(icc, 2, 1),
        "one_of_two": s(icc, 1, 2),
        "twice_whole": s(icc) + s(icc),
        "twice_other": s(icc) + s(other),
        "twice_other_first": s(other) + s(icc),
        "counts_differ": s(a, 1, 3) + s(b, 2, 3) + s(d, 3, 4),
        "counts_differ_first": s(a, 1, 4) + s(b, 2, 3) + s(d, 3, 3),
        "empty_part": s(icc, 1, 2) + s(b"", 2, 2),
        "empty_first": s(b"", 1, 2) + s(icc, 2, 2),
        "between_exif": s(a, 1, 3) + c.exif_segment(c.exif(1)) + s(b, 2, 3) + s(d, 3, 3),
        "fill_between": s(a, 1, 3) + b"\xff\xff\xff" + s(b, 2, 3) + s(d, 3, 3),
        "other_app2_before": c.segment(0xE2, b"MPF\0" + b"\0" * 20) + s(icc),
        "lower_case": c.segment(0xE2, b"icc_profile\0\x01\x01" + icc),
        "in_app1": c.segment(0xE1, b"ICC_PROFILE\0\x01\x01" + icc),
        "in_app3": c.segment(0xE3, b"ICC_PROFILE\0\x01\x01" + icc),
        "short": c.segment(0xE2, b"ICC_PROFILE\0\x01"),
    }
    forms = {f"jpeg_split_{name}": c.into_jpeg(base, start=content) for name, content in sets.items()}
    forms["jpeg_icc_behind_frame"] = c.into_jpeg(base, before_scan=s(icc))
    forms["jpeg_icc_before_frame"] = c.into_jpeg(base, before_frame=s(icc))
    forms["jpeg_icc_split_by_frame"] = c.into_jpeg(base, start=s(a, 1, 3) + s(b, 2, 3), before_scan=s(d, 3, 3))
    forms["jpeg_icc_behind_pixels"] = base[:-2] + s(icc) + base[-2:]
    forms["jpeg_icc_behind_end"] = base + s(icc)
    forms["jpeg_icc_progressive"] = with_icc(icc, plain(progressive=True))
    forms["jpeg_icc_large"] = c.into_jpeg(
        base,
        start=b"".join(
            s(part, number + 1, 5)
            for number, part in enumerate(c.parts_of(p.profile({**_tags(icc), b"zzzz": b"data" + bytes(250_000)}), 5))
        ),
    )
    return forms


def turned() -> Forms:
    base = plain()
    e, x = c.exif, c.exif_segment
    starts = {
        **{f"exif_{n}": x(e(n)) for n in range(10)},
        **{f"exif_big_{n}": x(e(n, order=">")) for n in (3, 5, 6, 8)},
        "exif_long": x(e(6, kind=4)),
        "exif_long_big": x(e(6, kind=4, order=">")),
        "exif_byte": x(e(6, kind=1)),
        "exif_count_2": x(e(6, count=2)),
        "exif_offset_40": x(e(6, offset=40)),
        "exif_unsorted": x(e(6, entries=[(0x0200, 3, 1, b"\1\0\0\0")])),
        "exif_second_directory": x(e(6, second=True)),
        "exif_tag_twice": x(e(6, entries=[(0x0112, 3, 1, b"\3\0\0\0")])),
        "exif_99": x(e(99)),
        "exif_no_prefix": x(e(6), prefix=b""),
        "exif_short_prefix": x(e(6), prefix=b"Exif\0"),
        "exif_ff_prefix": x(e(6), prefix=b"Exif\0\xff"),
        "exif_lower_prefix": x(e(6), prefix=b"exif\0\0"),
        "exif_twice_6_3": x(e(6)) + x(e(3)),
        "exif_twice_1_6": x(e(1)) + x(e(6)),
        "exif_broken_then_6": x(b"rubbish!") + x(e(6)),
        "exif_without_then_6": x(e(6, second=True)) + x(e(6)),
        "xmp": c.xmp_segment(),
        "xmp_then_exif_3": c.xmp_segment() + x(e(3)),
        "exif_1_then_xmp": x(e(1)) + c.xmp_segment(),
        "exif_none_then_xmp": x(e(6, second=True)) + c.xmp_segment(),
        "exif_in_app2": c.segment(0xE2, b"Exif\0\0" + e(6)),
        "exif_cut": x(e(6)[:20]),
        "exif_and_icc": x(e(6)) + c.icc_segment(p.matrix_profile(p.SWAPPED, p.SRGB_CURVE)),
        "exif_uncalibrated": x(e(1, entries=[(0xA001, 3, 1, b"\xff\xff\0\0")])),
        "exif_adobe_space": x(e(1, entries=[(0xA001, 3, 1, b"\2\0\0\0")])),
        "exif_magic_43": x(e(6).replace(b"II\x2a", b"II\x2b")),
    }
    forms = {f"jpeg_{name}": c.into_jpeg(base, start=start) for name, start in starts.items()}
    forms["jpeg_exif_behind_frame"] = c.into_jpeg(base, before_scan=x(e(6)))
    forms["jpeg_exif_before_frame"] = c.into_jpeg(base, before_frame=x(e(6)))
    forms["jpeg_exif_behind_pixels"] = base[:-2] + x(e(6)) + base[-2:]
    forms["jpeg_exif_progressive"] = c.into_jpeg(plain(progressive=True), start=x(e(8)))
    forms["jpeg_exif_grey"] = c.into_jpeg(plain("L"), start=x(e(6)))
    return forms


def kinds() -> Forms:
    base = plain()
    forms = {
        "jpeg_plain": base,
        "jpeg_420": plain(subsampling=2),
        "jpeg_422": plain(subsampling=1),
        "jpeg_progressive": plain(progressive=True),
        "jpeg_grey": plain("L"),
        "jpeg_rgb": plain(keep_rgb=True),
        "jpeg_cmyk": plain("CMYK"),
        "jpeg_restarts": plain(restart_marker_blocks=1),
        "jpeg_low_quality": plain(quality=30),
        "jpeg_tail": base + b"tail" * 100,
        "jpeg_and_png": base + c.saved(grid(), "PNG"),
        "jpeg_fill": base[:2] + b"\xff" * 40 + base[2:],
        "jpeg_comment": base[:2] + c.segment(0xFE, b"words") + base[2:],
        "jpeg_no_jfif": base[:2] + base[20:],
        "jpeg_mpo": _mpo(),
    }
    cmyk = forms["jpeg_cmyk"]
    adobe = next((begin, end) for code, begin, end in c.segments(cmyk) if code == 0xEE)
    forms["jpeg_cmyk_no_adobe"] = cmyk[: adobe[0]] + cmyk[adobe[1] :]
    forms["jpeg_ycck"] = cmyk[: adobe[1] - 1] + b"\2" + cmyk[adobe[1] :]
    forms["jpeg_adobe_rgb_as_ycc"] = c.into_jpeg(base[:2] + base[20:], start=c.segment(0xEE, b"Adobe\0\x64\0\0\0\0\1"))
    forms["jpeg_adobe_ycc_as_rgb"] = c.into_jpeg(base[:2] + base[20:], start=c.segment(0xEE, b"Adobe\0\x64\0\0\0\0\0"))
    forms["jpeg_cmyk_rgb_profile"] = with_icc(p.matrix_profile(p.SWAPPED, p.SRGB_CURVE), cmyk)
    forms["jpeg_cmyk_grey_profile"] = with_icc(p.grey_profile(p.gamma(1.0)), cmyk)
    forms["jpeg_cmyk_profile"] = with_icc(p.cmyk_profile(), plain_inks())
    forms["jpeg_cmyk_profile_v4"] = with_icc(
        p.table_profile({b"A2B0": p.mab(4, 7, p.inks_to_xyz)}, space=b"CMYK", kind=b"prtr"), plain_inks()
    )
    forms["jpeg_ycck_profile"] = with_icc(p.cmyk_profile(), forms["jpeg_ycck"])
    forms["jpeg_cmyk_broken_profile"] = with_icc(p.cmyk_profile()[:-500], cmyk)
    return forms


def plain_inks() -> bytes:
    """Inks without black: where a browser and the profile agree."""
    return c.saved(
        Image.merge("CMYK", (*(band.point(lambda v: 255 - v) for band in grid().split()), Image.new("L", grid().size))),
        "JPEG",
        quality=95,
        subsampling=0,
    )


def ends() -> tuple[Forms, Forms]:
    """Files that lack their last two bytes, or one; and, by the same names, what they were cut from.

    Chromium leaves the last row of blocks out of some of them: what counts is the whole file.
    """
    forms, whole = {}, {}
    bases: dict[str, Callable[[], bytes]] = {
        "plain": plain,
        "grey": lambda: plain("L"),
        "420": lambda: plain(subsampling=2),
        "progressive": lambda: plain(progressive=True),
        "cmyk": lambda: plain("CMYK"),
        "restarts": lambda: plain(restart_marker_blocks=1),
        "one_colour": lambda: c.saved(Image.new("RGB", (64, 32), (180, 20, 90)), "JPEG", quality=90),
        "white": lambda: c.saved(Image.new("RGB", (64, 32), "white"), "JPEG"),
        "gradient": lambda: c.saved(Image.linear_gradient("L").resize((64, 32)).convert("RGB"), "JPEG", quality=90),
        "odd_sides": lambda: c.saved(Image.radial_gradient("L").resize((61, 37)).convert("RGB"), "JPEG", quality=85),
    }
    for name, make in bases.items():
        for missing in (1, 2):
            whole[f"jpeg_end_{missing}_missing_{name}"] = make()
            forms[f"jpeg_end_{missing}_missing_{name}"] = make()[:-missing]
    return forms, whole


def _mpo() -> bytes:
    buffer = io.BytesIO()
    grid().save(
        buffer, "MPO", save_all=True, append_images=[grid().convert("L").convert("RGB")], quality=95, subsampling=0
    )
    return buffer.getvalue()


def forms() -> Forms:
    return {**kinds(), **profiles(), **splits(), **turned(), **ends()[0]}
