"""Names that a model retyped, over MCP: a single look-alike is found, several lead to a question, and none leads outside."""

from __future__ import annotations

import base64
import os
import random
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from blip2tools.errors import VisionError
from blip2tools.pictures import images
from blip2tools.pictures.names import Likeness, distinctly, fold, printably, readings, spelled, unspelled, unwrapped
from blip2tools.pictures.sources import Sources
from blip2tools.pictures.store import Store
from blip2tools.settings import Settings
from tests.pictures.test_newest import Eyes, encoded, looking

__all__ = ["looking"]
posix = pytest.mark.skipif(os.name == "nt", reason="names that Windows does not take")
NARROW = "Screenshot 2026-11-27 at 9.41.07\u202fAM.png"


@pytest.fixture
def eyes(looking) -> Iterator[Eyes]:
    vision, folder = looking
    yield Eyes(vision, folder)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


RETYPED = {
    "a Mac's narrow space": (NARROW, NARROW.replace("\u202f", " ")),
    "the narrow space left out of a longer one": ("a \u00a0b.png", "a b.png"),
    "NFC for NFD": ("cafe\u0301.png", "caf\u00e9.png"),
    "NFD for NFC": ("caf\u00e9.png", "cafe\u0301.png"),
    "Hangul in parts": ("\u1112\u1161\u11ab.png", "\ud55c.png"),
    "a typographic apostrophe": ("John\u2019s photo.png", "John's photo.png"),
    "typographic quotes": ("\u201cnice\u201d.png", '"nice".png'),
    "an acute accent for an apostrophe": ("it\u00b4s.png", "it's.png"),
    "an en dash": ("2024 \u2013 2025.png", "2024 - 2025.png"),
    "a hyphen that does not break": ("a\u2011b.png", "a-b.png"),
    "a minus": ("a\u2212b.png", "a-b.png"),
    "case": ("IMG_0001.JPG", "img_0001.jpg"),
    "a sharp s": ("stra\u00dfe.png", "STRASSE.png"),
    "fullwidth letters": ("\uff29\uff2d\uff27\uff11.png", "IMG1.png"),
    "an ellipsis": ("wait\u2026.png", "wait....png"),
    "a joiner left out": ("\u0639\u06a9\u0633\u200c\u0647\u0627.png", "\u0639\u06a9\u0633\u0647\u0627.png"),
    "a selector of emoji": ("\u2764\ufe0f.png", "\u2764.png"),
    "a mark of direction": ("\u200eWhatsApp Image.png", "WhatsApp Image.png"),
    "an ideographic space": ("\u5199\u771f\u30001.png", "\u5199\u771f 1.png"),
    "two spaces": ("a  b.png", "a b.png"),
    "a space behind": ("a.png", "a.png "),
    "a folder's name": ("Bilder \u2013 Caf\u00e9/\u00c4.png", "bilder - cafe\u0301/A\u0308.PNG"),
    "escapes of JSON, doubled": (NARROW, NARROW.replace("\u202f", "\\u202f")),
    "a pair of escapes": ("\U0001f600.png", "\\ud83d\\ude00.png"),
    "a shell's escapes": ("My Pictures/a (1).png", "My\\ Pictures/a\\ \\(1\\).png"),
    "double quotes": ("My Pictures/a.png", '"My Pictures/a.png"'),
    "single quotes": ("a b.png", "'a b.png'"),
    "backticks": ("a b.png", "`a b.png`"),
    "quotes of a shell within": ("a b.png", "a' 'b.png"),
    "what ls prints": ("a\u202fb.png", "'a'$'\\342\\200\\257''b.png'"),
    "markdown": ("a b.png", "![what it shows](a b.png)"),
    "markdown with a title": ("a.png", '[a](a.png "the title")'),
    "markdown in angle brackets": ("a b.png", "![](<a b.png>)"),
    "markdown, percent-encoded": ("My Pictures/a.png", "![x](My%20Pictures/a.png)"),
    "an embed": ("a b.png", "![[a b.png|200]]"),
    "HTML": ("a b.png", '<img width="9" src="a b.png">'),
    "a file address in markdown": ("a b.png", "[a](file:a%20b.png)"),
    "backslashes": ("2024/a.png", "2024\\a.png"),
    "a line's end": ("a.png", "a.png\n"),
}


@posix
@pytest.mark.parametrize(("name", "written"), RETYPED.values(), ids=RETYPED)
async def test_a_retyped_name_finds_its_file(eyes: Eyes, name, written):
    eyes.write(name, encoded(size=(40, 30)))
    eyes.write("other.png", encoded(size=(24, 24)))
    for reference in (written, f"@{written}", f"{eyes.folder}/{written}"):
        if reference == f"{eyes.folder}/{written}" and written[0] in "\"'`![<":
            continue
        code, text, content = await eyes.call("caption_image", image=reference)
        assert code is None, (reference, text)
        assert content["image"]["width"] == 40
    assert Path(name).suffix in text


@posix
@pytest.mark.parametrize(
    "names",
    [
        ("caf\u00e9.png", "cafe\u0301.png"),
        (NARROW, NARROW.replace("\u202f", "\u00a0")),
        ("A.png", "a.png"),
        ("a\u2013b.png", "a\u2014b.png", "a\u2212b.png"),
        ("John\u2019s.png", "John\u02bcs.png"),
        ("Fotos/a.png", "fotos/a.png"),
        ("x\u200b.png", "x\u200d.png", "x\u2060.png"),
        *[("a\u00e9\\u202e.png", "ae\u0301\\u202e.png")],
    ],
    ids=lambda names: ascii(names)[:40],
)
async def test_several_that_look_so_are_a_question(eyes: Eyes, names):
    for number, name in enumerate(names):
        eyes.write(name, encoded(size=(40 + number, 30)))
    written = "".join(fold(names[0]).replace("a.png", "A.PNG"))
    if written in names:
        written = written.upper()
    code, text, _ = await eyes.call("caption_image", image=written)
    assert code == "not_found"
    assert text.isprintable()
    shown = re.findall(r'"([^"]+)"', text)[1:]
    assert len(set(shown)) == len(names), text
    found = set()
    for reference in (*shown, *names):
        code, said, content = await eyes.call("caption_image", image=reference)
        assert code is None, (reference, said)
        found.add(content["image"]["width"])
    assert found == {40 + number for number in range(len(names))}


async def test_the_question_says_what_its_escapes_are(eyes: Eyes):
    for name in (NARROW, NARROW.replace("\u202f", "\u00a0")):
        eyes.write(name, encoded())
    text = (await eyes.call("caption_image", image=NARROW.replace("\u202f", " ")))[1]
    assert "\\u202f is NARROW NO-BREAK SPACE" in text
    assert "\\u00a0 is NO-BREAK SPACE" in text


@posix
async def test_a_name_that_is_exactly_so_wins(eyes: Eyes):
    pairs = [
        ("caf\u00e9.png", "cafe\u0301.png"),
        ('"a.png"', "a.png"),
        ("My\\ b.png", "My b.png"),
        ("c\\d.png", "c/d.png"),
        ("![e](e.png)", "e.png"),
        ("f%20g.png", "f g.png"),
        ("h\\u00e9.png", "h\u00e9.png"),
        (" i.png", "i.png"),
    ]
    for exact, other in pairs:
        eyes.write(exact, encoded(size=(40, 30)))
        eyes.write(other, encoded(size=(24, 24)))
    for exact, other in pairs:
        for name, width in ((exact, 40), (other, 24)):
            assert (await eyes.call("caption_image", image=name))[2]["image"]["width"] == width, name


async def test_folders_to_list_are_found_as_well(eyes: Eyes):
    eyes.write("Caf\u00e9 \u2013 2024/a.png", encoded())
    for folder in (
        "cafe\u0301 - 2024",
        '"Caf\u00e9 \u2013 2024"',
        "Caf\u00e9\\ \u2013\\ 2024",
        f"file:{eyes.folder}/caf%C3%A9 - 2024",
    ):
        assert len((await eyes.call("list_images", folder=folder))[2]["images"]) == 1, folder


@posix
async def test_nothing_leads_outside(eyes: Eyes, tmp_path):
    """By no spelling: folded names are compared with what a folder has, and links are judged where they lead."""
    outside = tmp_path / "Secr\u00e9t.png"
    outside.write_bytes(encoded(size=(99, 99)))
    (eyes.folder / "L\u00efnk.png").symlink_to(outside)
    (eyes.folder / "F\u00f6lder").symlink_to(tmp_path)
    up = os.path.relpath(tmp_path, eyes.folder)
    for reference in (
        "li\u0308nk.png",
        "LI\u0308NK.PNG",
        "fo\u0308lder/secre\u0301t.png",
        "F\u00f6lder/SECR\u00c9T.png",
        f"{up}/secre\u0301t.png",
        f"'{up}/Secr\u00e9t.png'",
        f"[x]({up}/Secr%C3%A9t.png)",
        f"{tmp_path}/secre\u0301t.png",
        f'"{outside}"',
        f"<{outside.as_uri()}>",
        f"[x]({outside.as_uri()})",
        up.replace("/", "\\") + "\\Secr\u00e9t.png",
        "\uff0e\uff0e/" * 9 + "etc/passwd",
        "\u2025/" * 9 + "etc/passwd",
        "\\u002e\\u002e/" * 9 + "etc/passwd",
        "$'\\056\\056/\\056\\056/etc/passwd'",
        "[x](%2e%2e/%2e%2e/%2e%2e/etc/passwd)",
    ):
        code, text, _ = await eyes.call("caption_image", image=reference)
        assert code in ("not_allowed", "not_found"), (reference, text)
        assert "Secr" not in text.replace(outside.as_uri(), "") or "Secr" in reference
    for folder in ("fo\u0308lder", f"'{tmp_path}'", up):
        assert (await eyes.call("list_images", folder=folder))[0] in ("not_allowed", "not_found")


@pytest.mark.skipif(os.name == "nt", reason="there a drive is a drive")
@pytest.mark.parametrize(
    "reference",
    [
        *(
            "C:\\Users\\me\\cat.png",
            "C:/Users/me/cat.png",
            "file:///C:/Users/me/cat.png",
            "file:///c%3A/Users/me/cat.png",
        ),
        *(
            "file://C:/Users/me/cat.png",
            "file:C:\\Users\\me\\cat.png",
            "file:///C|/Users/me/cat.png",
            "file:/C:/cat.png",
        ),
        *("file://localhost/C:/cat.png", '"C:\\Users\\me\\cat.png"', "[cat](file:///C:/Users/me/cat.png)"),
    ],
)
async def test_a_drive_is_another_machine_however_it_is_written(eyes: Eyes, reference):
    code, text, _ = await eyes.call("caption_image", image=reference)
    assert code == "not_found"
    assert "another machine" in text
    assert "data: URI" in text


async def test_what_is_not_a_file_may_be_wrapped_too(eyes: Eyes):
    eyes.write("a.png", encoded(size=(40, 30)))
    _, _, content = await eyes.call("caption_image", image=" latest ")
    handle = content["image"]["handle"]
    for reference in (
        '"latest"',
        "`latest`",
        "Latest",
        "@latest",
        f"<{handle}>",
        f'"{handle}"',
        f"![x](blip2://images/{handle})",
    ):
        assert (await eyes.call("caption_image", image=reference))[2]["image"]["width"] == 40, reference
    data = "data:image/png;base64," + base64.b64encode(encoded(size=(41, 30))).decode()
    long = "data:image/png;base64," + base64.b64encode(encoded("BMP", size=(42, 300))).decode()
    for reference, width in ((f"![x]({data})", 41), (f'"{data}"', 41), (f"![x]({long})", 42), (f"<{long}>", 42)):
        assert (await eyes.call("caption_image", image=reference))[2]["image"]["width"] == width, reference[:20]
    assert "--allow-urls" in (await eyes.call("caption_image", image="![x](https://example.com/a.png)"))[1]


def test_allowed_folders_whose_names_were_retyped(tmp_path):
    root = tmp_path / "Bild\u00e9r"
    root.mkdir()
    (root / "a.png").write_bytes(encoded())
    settings = Settings(allowed_dirs=(root,))
    for trusted in (False, True):
        box = Sources(settings, Store(2**20), size_of=lambda data: images.size_of(data, settings), trusted=trusted)
        assert box.read(f"{tmp_path}/bilde\u0301r/A.png").data
        assert box.read("bilde\u0301r/A.png").data
    trusted_anywhere = Sources(Settings(), Store(2**20), size_of=lambda data: (1, 1), trusted=True)
    assert trusted_anywhere.read(f"{tmp_path}/bilde\u0301r/A.png").data


# ---- the functions themselves ----


def test_folding_is_stable():
    chance = random.Random(7)
    for _ in range(2000):
        name = "".join(
            chr(
                chance.choice(
                    [chance.randrange(32, 0x250), chance.randrange(0x2000, 0x2070), chance.randrange(0x10000)]
                )
            )
            for _ in range(8)
        )
        once = fold(name)
        assert fold(once) == once, ascii(name)
        for form in ("NFC", "NFD"):
            assert fold(unicodedata.normalize(form, name)) == once, (form, ascii(name))


def test_spellings_are_told_apart():
    chance = random.Random(8)
    letters = ["a", "\\", "u", "0", "\u202e", "\n", "\udcff", "\u00e9", "e\u0301", "\u200c", "\U0001f600"]
    names = {"".join(chance.choices(letters, k=chance.randrange(1, 7))) for _ in range(3000)}
    for spell in (spelled, printably, distinctly):
        written = {}
        for name in names:
            text = spell(name)
            assert text.encode("utf-8")
            assert Likeness(text).is_same(name)
            if text != name:
                assert written.setdefault(text, name) == name
    assert printably("\u200c\u202f") == "\\u200c\\u202f"
    assert spelled("\u200c\u202f") == "\u200c\u202f"


@pytest.mark.parametrize(
    ("text", "inner"),
    [
        ("a.png", "a.png"),
        (' "a.png" ', "a.png"),
        ("'it's.png'", "it's.png"),
        ("[a](b c.png)", "b c.png"),
        ("[a](b.png 'title (2)')", "b.png"),
        ("[a](b (1).png)", "b (1).png"),
        ('![a](<b.png> "t")', "b.png"),
        ("\u201ea.png\u201c", "a.png"),
        ('""', '""'),
        ("[a]", "[a]"),
        ("[a](b", "[a](b"),
        ("<a href='b.png'>", "b.png"),
    ],
)
def test_unwrapped(text, inner):
    assert unwrapped(text) == inner


def test_readings_begin_with_what_is_written():
    for text in ("a.png", '"a b.png"', "My\\ a.png", "a\\b.png", "it's.png", "C:\\a b.png"):
        assert readings(text)[0] == text
    assert readings("it's.png") == ["it's.png"]
    assert "C:/a b.png" not in readings("C:\\a b.png")
    assert unspelled("\\u{1f600}\\x41\\U0001f600") == "\U0001f600A\U0001f600"
    assert unspelled("\\UFFFFFFFF") == "\\UFFFFFFFF"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 8000,
        "![a](" + " " * 8000 + "x",
        "<img " + "a=" * 4000,
        "'" * 8001,
        "\\" * 8001,
        "$'" * 4000,
        "[](" + ' "' * 4000,
    ],
)
def test_hostile_texts_cost_little(text):
    import time

    began = time.process_time()
    readings(text)
    fold(text)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("text", ["file:\ud800/a.png", "file:///a\udcff.png", "file:/\udfffb%41.png"])
def test_a_file_uri_with_half_a_character_is_refused_like_a_path(text, tmp_path):
    with pytest.raises(VisionError) as refused:
        Sources(Settings(allowed_dirs=(tmp_path,)), Store(2**10), size_of=lambda data: (2, 2)).read(text)
    assert refused.value.code in ("invalid_input", "not_found", "not_allowed")
