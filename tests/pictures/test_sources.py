"""References to bytes: the grammar, and every way around the allowed folders."""

from __future__ import annotations

import base64
import binascii
import io
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from blip2tools.errors import FetchFailedError, VisionError
from blip2tools.pictures import fetch, images, newest, sources
from blip2tools.pictures.sources import Sources
from blip2tools.pictures.store import Store
from blip2tools.schemas.shown import printable
from blip2tools.settings import Settings

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX file types and links")
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc")


def picture(colour: str = "red", kind: str = "PNG", size: tuple[int, int] = (12, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


SETTINGS = Settings()
RED, GREEN, BLUE = picture("red"), picture("green"), picture("blue")
SECRET = picture("black")
DATA_URI = "data:image/png;base64," + base64.b64encode(RED).decode()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An allowed folder `jail` with a few pictures, and next to it things that must stay out of reach."""
    root = tmp_path / "jail"
    (root / "2024" / "deep").mkdir(parents=True)
    (root / "red.png").write_bytes(RED)
    (root / "2024" / "green.png").write_bytes(GREEN)
    (root / "2024" / "deep" / "blue.png").write_bytes(BLUE)
    (root / "notes.txt").write_text("no picture")
    (tmp_path / "outside.png").write_bytes(SECRET)
    (tmp_path / "jail-secret").mkdir()
    (tmp_path / "jail-secret" / "secret.png").write_bytes(SECRET)
    monkeypatch.chdir(tmp_path)
    return root


def opened_with(settings: Settings, store: Store, **options: bool) -> Sources:
    return Sources(settings, store, size_of=lambda data: images.size_of(data, settings), **options)


def opened(*folders: Path, reveal_folders: bool = True, **settings: object) -> Sources:
    return opened_with(Settings(allowed_dirs=folders, **settings), Store(2**20), reveal_folders=reveal_folders)


def refused(call: Callable[[], object], code: str | tuple[str, ...]) -> VisionError:
    with pytest.raises(VisionError) as caught:
        call()
    error = caught.value
    assert error.code in ((code,) if isinstance(code, str) else code)
    assert error.message[0].isupper()
    assert error.message[-1] in ".?"
    assert not any(
        foreign in error.message for foreign in ("0x", "Errno", "/site-packages/", "_io.", "\n", "\x1b", "\0")
    )
    return error


class TestPaths:
    @pytest.mark.parametrize(
        ("reference", "data"),
        [
            ("red.png", RED),
            ("./red.png", RED),
            ("@red.png", RED),
            ("2024/green.png", GREEN),
            ("2024/../red.png", RED),
            ("2024/deep/blue.png", BLUE),
            ("jail/red.png", RED),
            ("{root}/red.png", RED),
            ("@{root}/2024/green.png", GREEN),
            ("{root}/../jail/red.png", RED),
            ("file://{root}/red.png", RED),
            ("file://localhost{root}/red.png", RED),
            ("FILE:{root}/red.png", RED),
            ("file:red.png", RED),
            ("file://{root}/r%65d.png", RED),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_readable(self, root: Path, reference: str, data: bytes) -> None:
        reference = reference.format(root=root)
        source = opened(root).read(reference)
        assert source.data == data
        assert source.label == reference.removeprefix("@")

    @pytest.mark.parametrize(
        "reference",
        [
            pytest.param("../outside.png", id="P2-up"),
            pytest.param("../../../../../../etc/passwd", id="P2-etc"),
            pytest.param("2024/../../outside.png", id="P2-nested"),
            pytest.param("jail/../jail-secret/secret.png", id="P2-named-root"),
            pytest.param("{tmp}/outside.png", id="P2-absolute"),
            pytest.param("{tmp}/jail-secret/secret.png", id="P3-prefix"),
            pytest.param("{root}/../jail-secret/secret.png", id="P3-up-prefix"),
            pytest.param("file://{tmp}/outside.png", id="P7-file-uri"),
            pytest.param("file:%2e%2e/outside.png", id="P7-encoded"),
            pytest.param("file://{root}/%2e%2e/outside.png", id="P7-encoded-up"),
            pytest.param("file://evil.example/red.png", id="P7-remote-host"),
            pytest.param("/proc/self/environ", id="P8-environ"),
            pytest.param("/proc/self/mem", id="P8-mem"),
            pytest.param("/dev/zero", id="P8-zero"),
            pytest.param("/dev/stdin", id="P8-stdin"),
            pytest.param("/dev/fd/0", id="P8-fd"),
            pytest.param("~/red.png", id="P12-home"),
            pytest.param("\\\\server\\share\\x.png", id="P12-unc"),
            pytest.param("//server/share/x.png", id="P12-double-slash"),
            pytest.param("{tmp}/nothing-here.png", id="P13-missing-outside"),
            pytest.param("{tmp}/jail-secret", id="P13-folder-outside"),
            pytest.param("ftp://example.com/x.png", id="U1-ftp"),
            pytest.param("gopher://127.0.0.1/x", id="U1-gopher"),
            pytest.param("s3://bucket/x.png", id="U1-s3"),
            pytest.param("jar:file:///x!/y", id="U1-jar"),
            pytest.param("javascript:alert(1)", id="U1-javascript"),
            pytest.param("http://example.com/x.png", id="U-off-http"),
            pytest.param("HTTPS://example.com/x.png", id="U-off-https"),
        ],
    )
    def test_not_allowed(self, root: Path, reference: str) -> None:
        reference = reference.format(root=root, tmp=root.parent)
        error = refused(lambda: opened(root).read(reference), "not_allowed")
        assert str(root.parent / "outside.png") not in error.message
        assert "secret.png" not in error.message
        assert opened(root).read("red.png").data == RED

    def test_P1_no_folder_names_the_flag(self, tmp_path: Path) -> None:
        closed = opened()
        for reference in ("red.png", "/etc/passwd", "latest", "file:///etc/passwd", "~/x.png"):
            error = refused(lambda name=reference: closed.read(name), "not_allowed")
            assert "--allow-dir" in error.message
            assert "BLIP2TOOLS_ALLOWED_DIRS" in error.message
        refused(lambda: closed.list_images(None, 5), "not_allowed")
        assert closed.read(DATA_URI).data == RED, "inline pictures need no folder"

    def test_P2_message_names_the_folders_or_their_last_part(self, root: Path) -> None:
        shown = refused(lambda: opened(root).read("/etc/passwd"), "not_allowed")
        assert str(root) in shown.message
        hidden = refused(lambda: opened(root, reveal_folders=False).read("/etc/passwd"), "not_allowed")
        assert str(root) not in hidden.message
        assert "jail" in hidden.message
        assert opened(root, reveal_folders=False).described_folders() == ["jail"]
        assert opened(root).described_folders() == [str(root)]

    def test_P2_many_folders_are_not_all_named(self, tmp_path: Path) -> None:
        folders = [tmp_path / f"folder{number}" for number in range(8)]
        for folder in folders:
            folder.mkdir()
        error = refused(lambda: opened(*folders).read("/etc/passwd"), "not_allowed")
        assert "and 3 more" in error.message
        assert "folder7" not in error.message

    def test_P13_outside_tells_nothing_about_what_exists(self, root: Path) -> None:
        there, link = root.parent / "outside.png", root / "link.png"
        link.symlink_to(there)
        gone = root / "gone.png"
        gone.symlink_to(root.parent / "nothing.png")
        loop = root.parent / "loop.png"
        loop.symlink_to(loop)
        names = [there, root.parent / "nothing.png", root.parent, link, gone, loop, "/etc", "/nowhere/x", "../../x"]
        messages = {refused(lambda name=name: opened(root).read(str(name)), "not_allowed").message for name in names}
        assert len(messages) == 1

    @posix
    def test_P4_P5_links(self, root: Path) -> None:
        outside = root.parent / "jail-secret"
        (root / "file-link.png").symlink_to(outside / "secret.png")
        (root / "folder-link").symlink_to(outside)
        (root / "chain.png").symlink_to(root / "file-link.png")
        (root / "loop.png").symlink_to(root / "loop.png")
        (root / "a").symlink_to(root / "b")
        (root / "b").symlink_to(root / "a")
        (root / "inside.png").symlink_to(root / "2024" / "green.png")
        (root / "relative.png").symlink_to("2024/../red.png")
        for name in ("file-link.png", "folder-link/secret.png", "chain.png", "folder-link"):
            refused(lambda name=name: opened(root).read(name), "not_allowed")
        for name in ("loop.png", "a", "a/x.png"):
            refused(lambda name=name: opened(root).read(name), "not_found")
        assert opened(root).read("inside.png").data == GREEN
        assert opened(root).read("relative.png").data == RED
        listed = {Path(image.path).name for image in opened(root).list_images(None, 50).images}
        assert listed == {"inside.png", "relative.png", "red.png", "green.png"}

    @posix
    def test_P5_a_root_behind_a_link(self, root: Path) -> None:
        (root.parent / "alias").symlink_to(root)
        box = opened(root.parent / "alias")
        assert box.folders == (root,)
        assert box.read(str(root.parent / "alias" / "red.png")).data == RED

    @linux
    @pytest.mark.parametrize("part", ["file", "folder"])
    def test_P6_swaps_between_judging_and_opening(self, root: Path, part: str) -> None:
        target = root / "swap" / "x.png"
        target.parent.mkdir()
        target.write_bytes(RED)
        evil = root.parent / "evil"
        evil.mkdir()
        (evil / "x.png").write_bytes(SECRET)
        one, other = (target, evil / "x.png") if part == "file" else (target.parent, evil)
        stop = threading.Event()

        def swap() -> None:
            aside = root.parent / "aside"
            while not stop.is_set():
                one.rename(aside)
                one.symlink_to(other)
                one.unlink()
                aside.rename(one)

        box = opened(root)
        thread = threading.Thread(target=swap)
        thread.start()
        results = set()
        try:
            for _ in range(1000):
                try:
                    results.add(box.read("swap/x.png").data)
                except VisionError as error:
                    results.add(error.code)
        finally:
            stop.set()
            thread.join()
        assert SECRET not in results
        assert results <= {RED, "not_found", "not_allowed"}

    @posix
    def test_P6_a_parent_swapped_at_the_last_moment(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder, real_open = root / "2024", os.open
        (root.parent / "jail-secret" / "green.png").write_bytes(SECRET)

        def swap(path: object, *rest: object, **options: object) -> int:
            if str(path).endswith("green.png"):
                folder.rename(root / "moved")
                folder.symlink_to(root.parent / "jail-secret")
            return real_open(path, *rest, **options)

        monkeypatch.setattr(os, "open", swap)
        refused(lambda: opened(root).read("2024/green.png"), "not_allowed")

    @posix
    def test_P6_without_proc_the_name_is_judged_again(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = Path.readlink

        def no_proc(path: Path) -> Path:
            if str(path).startswith("/proc"):
                raise FileNotFoundError
            return real(path)

        monkeypatch.setattr(Path, "readlink", no_proc)
        monkeypatch.setattr(sys, "platform", "other")
        assert opened(root).read("red.png").data == RED
        real_open = os.open

        def swap(path: object, *rest: object, **options: object) -> int:
            descriptor = real_open(path, *rest, **options)
            if str(path).endswith("red.png"):
                (root / "red.png").unlink()
                (root / "red.png").write_bytes(GREEN)
            return descriptor

        monkeypatch.setattr(os, "open", swap)
        refused(lambda: opened(root).read("red.png"), "not_found")

    @pytest.mark.parametrize(
        "reference",
        [
            *("file:", "file://", "file://localhost", "file:///%ff%fe.png", "file:///a%00b.png", "file:///%0a"),
            *("a\0b.png", "a\nb.png", "\x1b[31m.png", "a\x7f.png", "\ud800.png", "a\x85.png"),
            *("x" * 5000, "x" * 256 + ".png", "é" * 128 + ".png", "a/" * 3000 + "x.png"),
            *("", " ", "@", "@ ", "\t"),
        ],
        ids=lambda text: f"P11-{text[:12]!r}-{len(text)}",
    )
    def test_P11_no_path_at_all(self, root: Path, reference: str) -> None:
        refused(lambda: opened(root).read(reference), "invalid_input")

    @pytest.mark.parametrize("name", ["$HOME/red.png", "~root/red.png", "C:\\red.png", "x:y", "100%.png", "r%65d.png"])
    def test_P12_everything_else_is_literal(self, root: Path, name: str) -> None:
        refused(lambda: opened(root).read(name), "not_found")
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(GREEN)
        assert opened(root).read(name).data == GREEN

    def test_a_colon_in_a_file_name(self, root: Path) -> None:
        refused(lambda: opened(root).read("shot:1.png"), "not_allowed")
        (root / "shot:1.png").write_bytes(GREEN)
        assert opened(root).read("shot:1.png").data == GREEN

    def test_P12_home(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(root))
        monkeypatch.setenv("USERPROFILE", str(root))
        assert opened(root).read("~/red.png").data == RED
        refused(lambda: opened(root).read("file:~/red.png"), "not_found")

    def test_P12_no_home(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def homeless(_: Path) -> Path:
            raise RuntimeError("Could not determine home directory.")

        box = opened(root)
        monkeypatch.setattr(Path, "expanduser", homeless)
        refused(lambda: box.read("~/red.png"), "not_found")

    @posix
    def test_P9_special_files(self, root: Path) -> None:
        os.mkfifo(root / "fifo.png")
        (root / "folder.png").mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            here = Path.cwd()
            os.chdir(root)  # the path of a socket has about 100 characters
            listener.bind("socket.png")
            os.chdir(here)
            began = time.perf_counter()
            for name in ("fifo.png", "folder.png", "socket.png", "2024", "."):
                refused(lambda name=name: opened(root).read(name), "not_allowed")
            assert time.perf_counter() - began < 5
            assert len(opened(root).list_images(None, 50).images) == 2

    @posix
    def test_P9_a_fifo_swapped_in_does_not_hang(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        os.mkfifo(root / "fifo.png")
        regular = (root / "red.png").lstat()
        real = Path.lstat
        monkeypatch.setattr(Path, "lstat", lambda path: regular if path.name == "fifo.png" else real(path))
        refused(lambda: opened(root).read("fifo.png"), "not_allowed")

    @posix
    def test_P10_hard_links_are_inside(self, root: Path) -> None:
        os.link(root.parent / "outside.png", root / "hard.png")
        assert opened(root).read("hard.png").data == SECRET

    @posix
    def test_P10_world_writable_folders_are_reported(self, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            opened(root)
            assert not caplog.records
            root.chmod(0o777)
            opened(root)
        assert "anybody" in caplog.text

    def test_P13_unreadable_is_not_found(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(*_: object, **__: object) -> int:
            raise PermissionError(13, "Permission denied", "/real/path")

        monkeypatch.setattr(os, "open", denied)
        error = refused(lambda: opened(root).read("red.png"), "not_found")
        assert "/real/path" not in error.message

    def test_P13_suggestions(self, root: Path) -> None:
        box = opened(root)
        assert '"2024/green.png"' not in refused(lambda: box.read("xyz.png"), "not_found").message
        assert str(root / "red.png") in refused(lambda: box.read("Red.pgn"), "not_found").message
        assert "blue.png" in refused(lambda: box.read("2024/deep/blu.png"), "not_found").message
        assert "green.png" in refused(lambda: box.read("gren.png"), "not_found").message
        assert "list_images" in refused(lambda: box.read("nothing-like-it"), "not_found").message
        hidden = opened(root, reveal_folders=False)
        error = refused(lambda: hidden.read("gren.png"), "not_found")
        assert '"2024/green.png"' in error.message
        assert str(root) not in error.message

    def test_a_path_that_changes_while_it_is_resolved(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        box, trusted = opened(root), opened_with(Settings(), Store(100), trusted=True)

        def gone(*_: object) -> str:
            raise FileNotFoundError(2, "No such file", "/real/path")

        monkeypatch.setattr(os.path, "realpath", gone)
        refused(lambda: box.read("red.png"), "not_allowed")
        refused(lambda: trusted.read("red.png"), "not_found")
        assert box.list_images(None, 5).images == ()

    def test_a_file_that_goes_while_it_is_listed(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def gone(*_: object) -> os.stat_result:
            raise FileNotFoundError

        box = opened(root)
        monkeypatch.setattr(Path, "lstat", gone)
        assert box.list_images(None, 5).images == ()

    def test_P13_names_on_the_disk_are_printable(self, root: Path) -> None:
        (root / "photo\x1b[31m\n.png").write_bytes(RED)
        message = refused(lambda: opened(root).read("photo.png"), "not_found").message
        assert message.isprintable()
        assert "31m" not in message

    @posix
    def test_P14_sparse_terabyte(self, root: Path) -> None:
        with (root / "huge.png").open("wb") as file:
            file.truncate(2**40)
        refused(lambda: opened(root).read("huge.png"), "too_large")

    def test_P14_a_growing_file_is_read_up_to_its_limit(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (root / "grows.png").write_bytes(b"x" * 1024)
        real = os.fstat

        def grow(descriptor: int) -> os.stat_result:
            status = real(descriptor)
            (root / "grows.png").write_bytes(b"x" * 5000)
            return status

        monkeypatch.setattr(os, "fstat", grow)
        refused(lambda: opened(root, max_image_bytes=1024).read("grows.png"), "too_large")

    def test_P15_empty(self, root: Path) -> None:
        (root / "empty.png").touch()
        refused(lambda: opened(root).read("empty.png"), "corrupt_image")

    def test_P16_deleted_meanwhile(self, root: Path) -> None:
        box = opened(root)
        path = box._folders.locate("red.png")
        path.unlink()
        refused(lambda: box._folders.read(path, 10_000), "not_found")

    def test_P16_a_failing_disk(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Broken(io.BufferedReader):
            def read(self, *_: object) -> bytes:
                raise OSError(5, "Input/output error", "/real/path")

        box = opened(root)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdopen", lambda descriptor, mode: Broken(io.FileIO(descriptor, mode)))
            refused(lambda: box.read("red.png"), "not_found")
        assert box.read("red.png").data == RED

    @pytest.mark.parametrize(
        "reference",
        [
            "/mnt/user-data/uploads/cat.png",
            "/home/claude/cat.png",
            "/mnt/data/cat.png",
            "sandbox:/mnt/data/cat.png",
            "attachment://cat.png",
            "file-service://file-abc123",
            "blob:https://chat.example/1-2-3",
        ],
    )
    def test_sandbox_paths_say_whose_they_are(self, root: Path, reference: str) -> None:
        error = refused(lambda: opened(root).read(reference), "not_allowed")
        assert "another machine" in error.message
        assert "data:" in error.message

    @pytest.mark.skipif(os.name == "nt", reason="there a drive is a drive")
    @pytest.mark.parametrize("reference", ["C:\\Users\\me\\cat.png", "d:/pictures/cat.png"])
    def test_a_drive_where_there_are_none(self, root: Path, reference: str) -> None:
        error = refused(lambda: opened(root).read(reference), "not_found")
        assert "another machine" in error.message
        assert str(root) in error.message

    def test_a_missing_file_names_its_neighbours_or_the_folders(self, root: Path) -> None:
        assert "red.png" in refused(lambda: opened(root).read("Red.jpg"), "not_found").message
        assert str(root) in refused(lambda: opened(root).read("nothing-like-it"), "not_found").message

    def test_sandbox_prefixes_are_whole_parts(self, root: Path) -> None:
        assert "another machine" not in refused(lambda: opened(root).read("/mnt/database/x.png"), "not_allowed").message

    def test_a_drive_that_is_an_allowed_share(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(root), "drive", "//server/share")
        refused(lambda: opened(root).read("//server/share/x.png"), "not_allowed")


class TestSeveralFolders:
    @pytest.fixture
    def box(self, root: Path) -> Sources:
        other = root.parent / "other"
        other.mkdir()
        (other / "red.png").write_bytes(BLUE)
        (other / "only.png").write_bytes(GREEN)
        return opened(root, other, reveal_folders=False)

    def test_the_first_that_has_it(self, box: Sources) -> None:
        assert box.read("red.png").data == RED
        assert box.read("only.png").data == GREEN
        assert box.read("other/red.png").data == BLUE

    def test_listed_names_lead_back(self, box: Sources) -> None:
        listed = {image.path for image in box.list_images(None, 50).images}
        assert listed == {"jail/red.png", "jail/2024/green.png", "other/red.png", "other/only.png"}
        for path in listed:
            assert box.read(path).data

    @pytest.mark.parametrize("reveal", [True, False])
    @pytest.mark.parametrize(
        ("folders", "files"),
        [
            (["a/pics", "b/pics"], ["a/pics/x.png", "b/pics/x.png", "b/pics/y.png"]),
            (["a/pics", "b/pics", "pics-2"], ["a/pics/x.png", "b/pics/x.png", "pics-2/x.png"]),
            (["A", "B"], ["A/B/y.png", "B/y.png", "B/A/y.png", "A/y.png"]),
            (["A", "A/B"], ["A/B/y.png", "A/y.png"]),
            (["A"], ["A/A/y.png", "A/y.png"]),
            (["one"], ["one/@2x.png", "one/2x.png", "one/http:z.png", "one/file:z.png", "one/data:z.png"]),
            (["one"], ["one/~/t.png", "one/~.png", "one/@/t.png", "one/C:z.png", "one/s:z.png", "one/latest/t.png"]),
            (["@one", "~"], ["@one/t.png", "~/t.png"]),
        ],
    )
    def test_every_name_that_is_told_leads_back(self, tmp_path: Path, folders, files, reveal) -> None:
        """In a listing, as a completion, and as advice for a wrong name."""
        told: dict[bytes, Path] = {}
        for number, name in enumerate(files):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(size=(10 + number, 9)))
            told[path.read_bytes()] = path
        box = opened(*(tmp_path / folder for folder in folders), reveal_folders=reveal)
        listed = box.list_images(None, 50).images
        assert len(listed) == len(files)
        for one in listed:
            assert images.size_of(box.read(one.path).data, SETTINGS) == (one.width, one.height)
        assert {told[box.read(one.path).data] for one in listed} == set(told.values())
        assert {told[box.read(name).data] for name in box.suggest("", 50)} == set(told.values())
        for name in box.described_folders():
            assert box.list_images(name, 50).images

    @posix
    def test_names_that_nobody_can_say_are_spelled_out(self, root: Path) -> None:
        """Characters that reorder text, hide or break a line are escaped; a Mac's narrow space and joiners are kept."""
        names = ("a\u202egnp.png", "b\u2028.png", "c\u200d.png", "d 9.41\u202fAM.png", "e\u00a0.png", "f\n.png")
        for number, name in enumerate((*names, os.fsdecode(b"g\xff.png"))):
            (root / name).write_bytes(picture(size=(20 + number, 9)))
        listed = opened(root).list_images(None, 50).images
        told = ["a\\u202egnp.png", "b\\u2028.png", "c\u200d.png", "d 9.41\u202fAM.png", "e\u00a0.png", "f\\u000a.png"]
        told += ["g\\xff.png"]
        assert sorted(Path(one.path).name for one in listed) == sorted([*told, "green.png", "red.png"])
        assert sorted(opened(root).suggest("", 50)) == sorted([*told, "2024/green.png", "red.png"])
        for one in listed:
            assert images.size_of(opened(root).read(one.path).data, SETTINGS) == (one.width, one.height)

    def test_nested_folders_list_a_picture_once(self, root: Path) -> None:
        listed = [image.path for image in opened(root, root / "2024").list_images(None, 50).images]
        assert sorted(listed) == [
            str(root / "2024" / "deep" / "blue.png"),
            str(root / "2024" / "green.png"),
            str(root / "red.png"),
        ]


class TestFolders:
    @pytest.mark.parametrize("folder", ["/", "/proc", "/proc/self", "/sys", "/dev"])
    @linux
    def test_P8_roots_that_are_never_opened(self, folder: str) -> None:
        error = refused(lambda: opened(Path(folder)), "invalid_input")
        assert folder in error.message

    @linux
    def test_P8_not_by_a_link_either(self, tmp_path: Path) -> None:
        (tmp_path / "all").symlink_to("/")
        refused(lambda: opened(tmp_path / "all"), "invalid_input")

    @pytest.mark.parametrize("name", ["missing", "file.txt", "nul\0"])
    def test_configured_folders_must_exist(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file.txt").touch()
        error = refused(lambda: opened(tmp_path / name), "invalid_input")
        assert name.rstrip("\0") in error.message

    def test_configured_home_is_expanded(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(root))
        monkeypatch.setenv("USERPROFILE", str(root))
        assert opened(Path("~/2024")).folders == (root / "2024",)

    def _default(self) -> tuple[Path, ...]:
        return opened_with(Settings(), Store(100)).folders

    def test_the_working_directory_by_default(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(root)
        assert self._default() == (root,)
        assert opened_with(Settings(), Store(100)).read("red.png").data == RED

    @posix
    @pytest.mark.parametrize(
        ("here", "home"),
        [
            ("/", "/home/me"),
            ("/home", "/home/me"),
            ("/home/me", "/home/me"),
            ("/home/you", "/home/me"),
            ("/root", "/x"),
        ],
    )
    def test_P1_no_default_in_a_home(self, here: str, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Path, "cwd", lambda: Path(here))
        monkeypatch.setattr(Path, "home", lambda: Path(home))
        assert self._default() == ()

    @linux
    def test_P1_no_default_in_proc(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir("/proc/self")
        assert self._default() == ()

    @posix
    def test_a_folder_beside_roots_home_is_a_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Path, "home", lambda: Path("/root"))
        monkeypatch.setattr(Path, "cwd", lambda: Path("/usr"))
        assert self._default() == (Path(os.path.realpath("/usr")),)

    @pytest.mark.parametrize("error", [FileNotFoundError, RuntimeError])
    def test_no_working_directory_or_home(self, error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
        def fail() -> Path:
            raise error

        monkeypatch.setattr(Path, "home" if error is RuntimeError else "cwd", fail)
        assert self._default() == ()


class TestTrusted:
    def test_reads_anywhere(self, root: Path) -> None:
        box = opened_with(Settings(), Store(100), trusted=True)
        assert box.read(str(root.parent / "outside.png")).data == SECRET
        assert box.read("outside.png").data == SECRET
        assert box.read("jail/red.png").data == RED
        assert box.folders == (root.parent,)

    def test_missing(self, root: Path) -> None:
        box = opened_with(Settings(), Store(100), trusted=True)
        error = refused(lambda: box.read("outsid.png"), "not_found")
        assert "outside.png" in error.message
        assert "chat client" in refused(lambda: box.read("/mnt/user-data/uploads/x.png"), "not_found").message

    @linux
    def test_still_regular_files_only(self, root: Path) -> None:
        box = opened_with(Settings(max_image_bytes=1024), Store(100), trusted=True)
        refused(lambda: box.read("/dev/zero"), "not_allowed")
        refused(lambda: box.read(str(root)), "not_allowed")
        (root / "big.png").write_bytes(b"x" * 1025)
        refused(lambda: box.read(str(root / "big.png")), "too_large")
        refused(lambda: box.read(str(root / "big.png") + "\0"), "invalid_input")

    def test_allowed_folders_win(self, root: Path) -> None:
        box = opened_with(Settings(allowed_dirs=(root,)), Store(100), trusted=True)
        refused(lambda: box.read(str(root.parent / "outside.png")), "not_allowed")

    def test_no_default_folder(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        monkeypatch.setattr(Path, "home", lambda: root.parent)
        box = opened_with(Settings(), Store(100), trusted=True)
        assert box.folders == ()
        assert box.read("outside.png").data == SECRET
        refused(lambda: box.read("latest"), "not_found")
        assert box.list_images(str(root), 9).images[0].width == 12


class TestData:
    @pytest.mark.parametrize(
        "header",
        [
            *("data:image/png;base64,", "data:image/png;charset=x;base64,", "data:image/jpeg;base64,", "data:;base64,"),
            *("DATA:IMAGE/PNG;BASE64,", "@data:image/png;base64,", 'data:image/png;name="a b.png";base64,'),
            "data:application/octet-stream;base64,",
        ],
    )
    def test_D1_good(self, header: str) -> None:
        source = opened().read(header + base64.b64encode(RED).decode())
        assert source.data == RED
        assert f"{len(RED):,} bytes" in source.label
        assert len(source.label) < 100

    @pytest.mark.parametrize(
        "uri",
        [
            pytest.param("data:image/png;base64", id="no-comma"),
            pytest.param("data:", id="nothing"),
            pytest.param("data:image/png,%89PNG", id="percent-encoded"),
            pytest.param("data:image/png;base64,iVBO Rw0K", id="space"),
            pytest.param("data:image/png;base64,iVBORw0KG", id="length"),
            pytest.param("data:image/png;base64,iVBORw0K=", id="excess-padding"),
            pytest.param("data:image/png;base64,iVBORw0=====", id="endless-padding"),
            pytest.param("data:image/png;base64,iVBORw0K====", id="padding-alone"),
            pytest.param("data:image/png;base64,=iVBORw0K", id="padding-first"),
            pytest.param("data:image/png;base64,iVB=ORw0K", id="padding-inside"),
            pytest.param("data:image/png;base64,iVBOé", id="non-ascii"),
            pytest.param("data:image/png;base64,iVBO\0", id="nul"),
            pytest.param("data:image/png;base64,iVBO\ud800", id="surrogate"),
            pytest.param("data:image/png;base64;base64,iVBO", id="twice"),
            pytest.param("data:" + "x" * 300 + ";base64,iVBO", id="long-header"),
            pytest.param("data:data:image/png;base64,iVBO", id="D5-nested"),
            pytest.param("data:/etc/passwd", id="D5-path"),
            pytest.param("data:image/png\n;base64,iVBO", id="header-newline"),
        ],
    )
    def test_D2_malformed(self, uri: str) -> None:
        refused(lambda: opened().read(uri), "invalid_input")

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda text: " " + text, id="space-after-comma"),
            pytest.param(lambda text: f"\n{text}\r\n", id="line-ends-around"),
            pytest.param(lambda text: re.sub(r"(.{76})", r"\1\r\n", text), id="lines-of-mime"),
            pytest.param(lambda text: re.sub(r"(.{64})", r"\1\n    ", text), id="indented-lines"),
            pytest.param(lambda text: text.translate(str.maketrans("+/", "-_")), id="url-safe"),
            pytest.param(lambda text: text.rstrip("="), id="no-padding"),
            pytest.param(lambda text: text.translate(str.maketrans("+/", "-_")).rstrip("="), id="url-safe-no-padding"),
            pytest.param(lambda text: quote(text, safe=""), id="percent-encoded"),
        ],
    )
    def test_D1_what_programs_make_of_base64(self, change) -> None:
        for data in (RED, RED + b"\xfb\xff", RED + b"\xfb\xff\xfe"):  # every length of padding, + and /
            encoded = base64.b64encode(data).decode()
            assert opened().read("data:image/png;base64," + change(encoded)).data == data

    def test_D5_a_file_called_like_a_data_uri_is_never_read(self, root: Path) -> None:
        (root / "data:image").mkdir()
        (root / "data:image" / "png,x").write_bytes(SECRET)
        refused(lambda: opened(root).read("data:image/png,x"), "invalid_input")

    def test_D_empty(self) -> None:
        refused(lambda: opened().read("data:image/png;base64,"), "corrupt_image")

    def test_D3_too_large_before_decoding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def forbidden(*_: object, **__: object) -> bytes:
            raise AssertionError("decoded")

        monkeypatch.setattr(binascii, "a2b_base64", forbidden)
        uri = "data:image/png;base64," + "A" * 60_000_000
        began = time.perf_counter()
        refused(lambda: opened().read(uri), "too_large")
        assert time.perf_counter() - began < 1

    def test_D3_exactly_the_limit(self) -> None:
        box = opened(max_image_bytes=1024)
        assert len(box.read("data:;base64," + base64.b64encode(b"x" * 1024).decode()).data) == 1024
        refused(lambda: box.read("data:;base64," + base64.b64encode(b"x" * 1030).decode()), "too_large")

    @pytest.mark.parametrize(
        "kind", ["text/html;base64,PGI+", "image/svg+xml;base64,PGI+", "text/plain,x", "image/svg+xml,<svg/>"]
    )
    def test_D4_other_types(self, kind: str) -> None:
        refused(lambda: opened().read("data:" + kind), "unsupported_image")

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
    def test_D6_bare_base64(self, root: Path, kind: str) -> None:
        text = base64.b64encode(picture(kind=kind, size=(40, 40))).decode()
        for reference in (text, "@" + text, text.rstrip("=") * 400):
            error = refused(lambda name=reference: opened(root).read(name), "invalid_input")
            assert "base64" in error.message


class TestHandles:
    def test_a_handle_leads_back(self, root: Path) -> None:
        store = Store(2**20)
        box = opened_with(Settings(allowed_dirs=(root,)), store)
        handle = store.put(SECRET)
        assert box.read(handle).data == SECRET
        assert box.read("@" + handle).label == handle

    def test_an_expired_handle_names_the_remedy(self, root: Path) -> None:
        error = refused(lambda: opened(root).read("img_0123456789abcdef"), "not_found")
        assert "again" in error.message

    def test_a_longer_name_is_a_file(self, root: Path) -> None:
        (root / "img_0123456789abcdef.png").write_bytes(GREEN)
        assert opened(root).read("img_0123456789abcdef.png").data == GREEN


class TestLatestAndListing:
    @pytest.fixture
    def box(self, root: Path) -> Iterator[Sources]:
        for age, path in enumerate(
            [root / "2024" / "green.png", root / "red.png", root / "2024" / "deep" / "blue.png"]
        ):
            os.utime(path, (1_700_000_000 - age, 1_700_000_000 - age))
        return opened(root)

    def test_latest(self, box: Sources, root: Path) -> None:
        source = box.read("latest")
        assert source.data == GREEN
        assert source.label == "latest (2024/green.png)"
        assert box.read("@latest").data == GREEN

    def test_latest_is_no_other_picture(self, box: Sources, root: Path) -> None:
        (root / ".hidden.png").write_bytes(SECRET)
        (root / "notes.txt").write_text("no picture")
        assert box.read("latest").data == GREEN
        (root / "writing.png").write_bytes(b"")
        assert "writing.png" in refused(lambda: box.read("latest"), "corrupt_image").message
        later = time.time() + 5
        (root / "control\n.png").write_bytes(SECRET)
        os.utime(root / "control\n.png", (later, later))
        source = box.read("latest")
        assert (source.data, source.label) == (SECRET, "latest (control\\u000a.png)")

    def test_latest_of_nothing(self, tmp_path: Path) -> None:
        refused(lambda: opened(tmp_path).read("latest"), "not_found")

    def test_listing(self, box: Sources, root: Path) -> None:
        listing = box.list_images(None, 20)
        assert [image.path for image in listing.images] == [str(root / "2024" / "green.png"), str(root / "red.png")]
        first = listing.images[0]
        assert (first.width, first.height, first.bytes) == (12, 8, len(GREEN))
        assert first.modified.isoformat() == "2023-11-14T22:13:20+00:00"
        assert not listing.truncated
        for image in listing.images:
            assert box.read(image.path).data

    @pytest.mark.parametrize(("limit", "truncated"), [(1, True), (2, True), (3, False)])
    def test_truncated(self, box: Sources, root: Path, limit: int, truncated: bool) -> None:
        (root / "text.png").write_text("no picture")
        os.utime(root / "text.png", (1, 1))
        listing = box.list_images(None, limit)
        assert len(listing.images) + len(listing.unreadable) == limit
        assert listing.truncated == truncated

    @pytest.mark.parametrize("folder", ["2024", "./2024", "jail/2024", "{root}/2024", "2024/deep/.."])
    def test_a_folder(self, box: Sources, root: Path, folder: str) -> None:
        listing = box.list_images(folder.format(root=root), 20)
        assert [Path(image.path).name for image in listing.images] == ["green.png", "blue.png"]

    @pytest.mark.parametrize(
        ("folder", "code"),
        [
            ("..", "not_allowed"),
            ("/etc", "not_allowed"),
            ("/nowhere", "not_allowed"),
            ("2025", "not_found"),
            ("red.png", "invalid_input"),
            ("a\0b", "invalid_input"),
        ],
    )
    def test_refused_folders(self, box: Sources, folder: str, code: str) -> None:
        refused(lambda: box.list_images(folder, 20), code)

    def test_only_readable_pictures_are_listed(self, root: Path) -> None:
        for path in (root / "2024" / "green.png", root / "red.png"):
            path.unlink()
        (root / "photo.webp").write_bytes(picture(kind="WEBP", size=(30, 20)))
        (root / "large.png").write_bytes(picture(size=(300, 200)))
        (root / "heavy.jpg").write_bytes(picture(kind="JPEG") + b"\0" * 5000)
        (root / "photo.tif").write_bytes(picture(kind="TIFF"))
        (root / "wrong.jpg").write_bytes(picture(kind="TIFF"))
        (root / "cut.png").write_bytes(RED[:20])
        listing = opened(root, max_side=100, max_image_bytes=4096).list_images(None, 20)
        assert [(Path(image.path).name, image.width) for image in listing.images] == [("photo.webp", 30)]
        assert {Path(one.path).name: one.error.code for one in listing.unreadable} == {
            "large.png": "too_large",
            "heavy.jpg": "too_large",
            "photo.tif": "unsupported_image",
            "wrong.jpg": "unsupported_image",
            "cut.png": "corrupt_image",
        }

    def test_a_header_far_back(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "HEAD_BYTES", 20)
        assert len(opened(root).list_images(None, 20).images) == 2

    def test_a_search_has_an_end(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Then no picture is reported as the newest."""
        monkeypatch.setattr(newest, "SCAN_S", -1.0)
        listing = opened(root).list_images(None, 20)
        assert listing.truncated
        assert "smaller folder" in listing.warnings[0]
        refused(lambda: opened(root).read("latest"), "timeout")

    def test_slow_headers_end_a_listing(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "LISTING_S", -1.0)
        listing = opened(root).list_images(None, 20)
        assert (listing.images, listing.truncated) == ((), True)

    @posix
    def test_a_folder_that_cannot_be_listed(self, box: Sources, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.scandir

        def deny(path: Path) -> object:
            if Path(path).name == "2024":
                raise PermissionError
            return real(path)

        monkeypatch.setattr(os, "scandir", deny)
        assert [Path(image.path).name for image in box.list_images(None, 20).images] == ["red.png"]

    def test_shown_outside_every_root(self, root: Path) -> None:
        box = opened(root, reveal_folders=False)
        assert box._folders.shown(Path("/elsewhere/x.png")) == "x.png"


class TestUrls:
    URL = "https://example.com/cat.png"

    def _answer(self, monkeypatch: pytest.MonkeyPatch, body: bytes) -> Sources:
        monkeypatch.setattr(fetch, "fetch", lambda url, settings: body)
        return opened(allow_urls=True)

    def test_switched_off_names_the_flag(self) -> None:
        assert "--allow-urls" in refused(lambda: opened().read(self.URL), "not_allowed").message

    def test_a_picture(self, monkeypatch: pytest.MonkeyPatch) -> None:
        source = self._answer(monkeypatch, RED).read("@" + self.URL)
        assert source == sources.Source(RED, self.URL, fetched=True)

    def test_U15_U18_one_sentence_for_everything_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        bodies = [b"<html>", b'{"token": "secret"}', b"root:x:0:0", b"%PDF", b"\0" * 9]
        messages = {
            refused(lambda body=body: self._answer(monkeypatch, body).read(self.URL), "fetch_failed").message
            for body in bodies
        }
        assert len(messages) == 1
        assert "secret" not in messages.pop()

    def test_errors_of_the_fetch_pass(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> bytes:
            raise FetchFailedError("Gone.")

        monkeypatch.setattr(fetch, "fetch", fail)
        refused(lambda: opened(allow_urls=True).read(self.URL), "fetch_failed")

    @pytest.mark.parametrize("url", ["http:/x", "http:x", "http://", "https:"])
    def test_U1_incomplete(self, url: str) -> None:
        refused(lambda: opened(allow_urls=True).read(url), "invalid_input")

    def test_a_very_long_reference(self) -> None:
        refused(lambda: opened(allow_urls=True).read(self.URL + "?" + "x-" * 5000), "invalid_input")


@pytest.mark.parametrize(
    ("text", "limit", "wanted"),
    [
        ("plain", 10, "plain"),
        ("a\x1b[31m\n\u202eb\ud800", 20, "a�[31m��b�"),
        ("0123456789", 10, "0123456789"),
        ("0123456789A", 10, "0123…6789A"),
    ],
)
def test_printable(text: str, limit: int, wanted: str) -> None:
    assert printable(text, limit) == wanted
    assert len(printable(text, limit)) <= limit


def test_labels_are_bounded_and_printable(root: Path) -> None:
    name = "x" * 200 + "\u202e.png"
    (root / name).write_bytes(RED)
    label = opened(root).read("./" * 100 + name).label
    assert len(label) <= sources.MAX_LABEL
    assert label.isprintable()


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@linux
def test_no_descriptor_is_left_open(root: Path) -> None:
    box = opened(root)
    before = _descriptors()
    for _ in range(50):
        box.read("red.png")
        box.list_images(None, 5)
        for name in ("missing.png", "2024", "../outside.png"):
            with pytest.raises(VisionError):
                box.read(name)
    assert _descriptors() == before


class TestKnown:
    """Facts about pictures without decoding them."""

    def test_about_a_handle(self, root: Path) -> None:
        store = Store(2**20)
        box = opened_with(Settings(allowed_dirs=(root,)), store)
        facts = box.about(store.put(RED))
        assert (facts.format, facts.width, facts.height, facts.bytes) == ("PNG", 12, 8, len(RED))
        refused(lambda: box.about("img_0123456789abcdef"), "not_found")

    def test_suggestions_by_path_and_by_name(self, root: Path) -> None:
        (root / "deep").mkdir()
        (root / "deep" / "Redder.png").write_bytes(RED)
        (root / "red\x1b.png").write_bytes(RED)
        box = opened(root)
        assert set(box.suggest("re", 9)) == {"red.png", "deep/Redder.png", "red\\u001b.png"}
        assert box.suggest("@DEEP/", 9) == ["deep/Redder.png"]
        assert box.suggest(str(root / "deep"), 9) == [str(root / "deep" / "Redder.png")]
        assert len(box.suggest("", 1)) == 1
        assert box.suggest("nothing-like-it", 9) == []
        assert opened().suggest("", 9) == []

    def test_an_address_of_a_kind_without_end_is_not_repeated(self, root: Path) -> None:
        error = refused(lambda: opened(root).read("x" * 5000 + "://a"), "not_allowed")
        assert len(error.message) < 200
