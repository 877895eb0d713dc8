"""Paths that try to leave the allowed folders, through a real server; the ids name the cases of `safety_cases.py`."""

from __future__ import annotations

import os
import random
import shutil
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import StdioServer
from tests.support.face import foreign_text

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX file types and links")
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc")

REFUSED = [
    ("P2-up", "../outside.png", "not_allowed"),
    ("P2-etc", "../../../../../../../../etc/passwd", "not_allowed"),
    ("P2-nested", "deep/../../outside.png", "not_allowed"),
    ("P2-by-name", "jail/../jail-secret/secret.png", "not_allowed"),
    ("P2-absolute", "{world}/outside.png", "not_allowed"),
    ("P2-marked", "@{world}/outside.png", "not_allowed"),
    ("P3-sibling", "{world}/jail-secret/secret.png", "not_allowed"),
    ("P3-sibling-up", "{jail}/../jail-secret/secret.png", "not_allowed"),
    ("P3-sibling-bare", "{world}/jail-secret", "not_allowed"),
    ("P4-file", "link.png", "not_allowed"),
    ("P4-chain", "chain.png", "not_allowed"),
    ("P4-folder", "linked/secret.png", "not_allowed"),
    ("P4-folder-itself", "linked", "not_allowed"),
    ("P4-nowhere", "lost.png", "not_allowed"),
    ("P4-loop", "loop.png", "not_found"),
    ("P4-ring", "ring-a/x.png", "not_found"),
    ("P7-outside", "file://{world}/outside.png", "not_allowed"),
    ("P7-host", "file://other.example/good.png", "not_allowed"),
    ("P7-upper", "FILE://{world}/outside.png", "not_allowed"),
    ("P7-encoded", "file:%2e%2e/outside.png", "not_allowed"),
    ("P7-encoded-slash", "file:%2e%2e%2foutside.png", "not_allowed"),
    ("P7-encoded-twice", "file:%252e%252e/outside.png", "not_found"),
    ("P7-plain-is-not-decoded", "%2e%2e/outside.png", "not_found"),
    ("P7-not-utf8", "file:///%ff%fe.png", "invalid_input"),
    ("P8-environ", "/proc/self/environ", "not_allowed"),
    ("P8-mem", "/proc/self/mem", "not_allowed"),
    ("P8-zero", "/dev/zero", "not_allowed"),
    ("P8-stdin", "/dev/stdin", "not_allowed"),
    ("P8-fd", "/dev/fd/0", "not_allowed"),
    ("P9-fifo", "fifo.png", "not_allowed"),
    ("P9-folder", "folder.png", "not_allowed"),
    ("P9-root", ".", "not_allowed"),
    ("P11-nul", "a\0b.png", "invalid_input"),
    ("P11-newline", "a\nb.png", "invalid_input"),
    ("P11-escape", "\x1b[31mred.png", "invalid_input"),
    ("P11-c1", "a\x85.png", "invalid_input"),
    ("P11-surrogate", "\ud800.png", "invalid_input"),
    ("P11-long", "x" * 5000, "invalid_input"),
    ("P11-component", "x" * 256 + ".png", "invalid_input"),
    ("P11-bytes", "é" * 128 + ".png", "invalid_input"),
    ("P11-deep", "a/" * 3000 + "x.png", "invalid_input"),
    ("P11-blank", "   ", "invalid_input"),
    ("P11-mark-alone", "@", "invalid_input"),
    ("P12-home", "~/outside.png", "not_allowed"),
    ("P12-user", "~root/x.png", "not_found"),
    ("P12-variable", "$HOME/x.png", "not_found"),
    ("P12-drive", "C:\\x.png", "not_found"),
    ("P12-share", "\\\\server\\share\\x.png", "not_allowed"),
    ("P12-double-slash", "//server/share/x.png", "not_allowed"),
    ("P12-colon", "x:y", "not_found"),
    ("P12-scheme", "xy:z", "not_allowed"),
    ("P13-missing", "nothing-here.png", "not_found"),
    ("P13-missing-outside", "{world}/nothing-here.png", "not_allowed"),
    ("P13-there-outside", "/etc/hostname", "not_allowed"),
    ("P14-sparse", "sparse.png", "too_large"),
    ("P15-empty", "empty.png", "corrupt_image"),
    ("I1-text", "notes.png", "unsupported_image"),
]
HIDDEN = ("jail-secret", "secret words", "hostname", "passwd:")


@posix
@pytest.mark.parametrize(("reference", "code"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(face, jail, reference, code):
    reference = reference.format(world=jail.parent, jail=jail)
    answer = face.refused(code, image=reference)
    said = answer.text.replace(reference.removeprefix("@"), "")
    assert str(jail.parent / "outside") not in said
    assert not any(hidden in said for hidden in HIDDEN), said
    if answer.code == "not_allowed" and "outside the folders" in said:
        assert str(jail) in said


@posix
@pytest.mark.parametrize(
    "reference",
    [
        pytest.param("good.png", id="P5-name"),
        pytest.param("inside.png", id="P5-link-inside"),
        pytest.param("{jail}/../jail/good.png", id="P5-up-and-back"),
        pytest.param("file://{jail}/good.png", id="P7-inside"),
        pytest.param("FILE:good.png", id="P7-upper"),
        pytest.param("file:g%6fod.png", id="P7-decoded-once"),
        pytest.param("hard.png", id="P10-hard-link"),
        pytest.param("~/jail/good.png", id="P12-home"),
        pytest.param("@good.png", id="marked"),
    ],
)
def test_read(face, jail, reference):
    assert face.works(image=reference.format(jail=jail))["image"]["width"]


@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("..", "not_allowed"),
        ("../jail-secret", "not_allowed"),
        ("/", "not_allowed"),
        ("linked", "not_allowed"),
        ("good.png", "invalid_input"),
        ("no-such", "not_found"),
        ("a\0", "invalid_input"),
    ],
)
@posix
def test_P2_folders_to_list(face, folder, code):
    answer = face.refused(code, "list_images", folder=folder)
    assert "secret.png" not in answer.text
    listed = face.works("list_images")["images"]
    assert {Path(one["path"]).name for one in listed} == {"good.png", "inner.png", "inside.png", "hard.png"}


def test_P13_one_sentence_for_all_that_is_outside(face, jail):
    """Whether something is there must not be revealed."""
    there, gone = (face.refused("not_allowed", image=str(jail.parent / name)) for name in ("outside.png", "none.png"))
    assert there.text == gone.text


@linux
def test_P9_special_files_are_quick(face, jail):
    """Opening a pipe without a writer would wait for ever."""
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(jail)  # the path of a socket has about 100 characters
        listener.bind("socket.png")
        os.chdir(here)
        try:
            for name in ("fifo.png", "socket.png", "folder.png", "/dev/tty", "/dev/null"):
                fastest = min(face.refused("not_allowed", image=name).seconds for _ in range(3))
                assert fastest < 2, name
        finally:
            (jail / "socket.png").unlink()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_P13_unreadable(face, jail):
    (jail / "locked.png").write_bytes((jail / "good.png").read_bytes())
    (jail / "locked.png").chmod(0)
    try:
        face.refused("not_found", image="locked.png")
    finally:
        (jail / "locked.png").unlink()


@linux
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_P6_swapped_while_it_is_read(face, jail, kind):
    """A name that is a picture now and a link to somewhere else a moment later never gives what is outside."""
    swap = jail / f"swap-{kind}"
    swap.mkdir()
    (swap / "x.png").write_bytes((jail / "good.png").read_bytes())
    target, elsewhere = (
        (swap / "x.png", jail.parent / "outside.png") if kind == "file" else (swap, jail.parent / "evil")
    )
    (jail.parent / "evil").mkdir(exist_ok=True)
    (jail.parent / "evil" / "x.png").write_bytes((jail.parent / "outside.png").read_bytes())
    aside, stop = jail / "aside", threading.Event()

    def churn():
        while not stop.is_set():
            target.rename(aside)
            target.symlink_to(elsewhere)
            time.sleep(0)
            target.unlink()
            aside.rename(target)

    thread = threading.Thread(target=churn)
    thread.start()
    seen = set()
    try:
        for _ in range(150):
            answer = face.judged("caption_image", image=f"swap-{kind}/x.png")
            seen.add(answer.code or answer.content["image"]["width"])
    finally:
        stop.set()
        thread.join()
        shutil.rmtree(swap)
    assert seen <= {224, "not_found", "not_allowed"}, "the picture outside has 64 pixels"
    face.healthy()


@linux
def test_P14_P16_files_that_change_while_they_are_read(face, jail):
    """Growing, shrinking, vanishing, replaced by half of itself: a picture, or one clear error."""
    data, path, stop = (jail / "good.png").read_bytes(), jail / "changing.png", threading.Event()
    chance = random.Random(16)

    def churn():
        while not stop.is_set():
            match chance.randrange(4):
                case 0:
                    path.write_bytes(data)
                case 1:
                    path.write_bytes(data[: chance.randrange(len(data))])
                case 2:
                    path.unlink(missing_ok=True)
                case _ if path.exists():
                    with path.open("ab") as growing:
                        growing.write(bytes(2**20))

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        codes = {face.judged("caption_image", image="changing.png").code for _ in range(100)}
    finally:
        stop.set()
        thread.join()
        path.unlink(missing_ok=True)
    assert codes <= {None, "not_found", "not_allowed", "corrupt_image", "unsupported_image", "too_large"}
    face.healthy()


def test_P1_without_a_folder_nothing_local_is_read(picture, start_server):
    server = start_server("--model", "demo", "--threads", "1", cwd="/")
    server.initialize()
    for reference in ("etc/passwd", "/etc/passwd", "latest", "file:///etc/passwd", "~/x.png"):
        refused = server.call("caption_image", image=reference)
        assert refused["_meta"]["blip2tools/code"] == "not_allowed"
        assert "--allow-dir" in refused["content"][0]["text"]
    assert server.call("list_images")["isError"]
    assert server.call("vision_status")["structuredContent"]["limits"]["allowed_folders"] == []


def test_P8_P10_folders_that_are_refused_or_worth_a_warning(tmp_path):
    for folder in ("/", "/proc", "/dev", "/sys"):
        server = StdioServer("--model", "demo", "--allow-dir", folder)
        assert server.end() == 2
        assert server.log.startswith("invalid_input: ")
        assert server.raw == []
    tmp_path.chmod(0o777)
    server = StdioServer("--model", "demo", "--allow-dir", str(tmp_path))
    server.initialize()
    assert server.end() == 0
    assert "anybody on this machine can put files into" in server.log


def test_the_judge_of_messages_can_fail():
    """A check that cannot fail is not a check."""
    for bad in ("at 0x7f3a", "<_io.BytesIO", "OSError: x", "see /etc/passwd", "10.0.0.1 said", "a\x1b[0m", "fe80::1"):
        assert foreign_text(f"Something {bad} happened."), bad
    assert not foreign_text("Use a.b.c.d, image/png, https://example.com/x.jpg or file:///.")
