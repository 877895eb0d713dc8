"""A model lent to the commands of the same user: same output, no torch, and nothing lost when the server goes."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from blip2tools import Vision, checkpoints
from blip2tools.cli import asking
from blip2tools.errors import CorruptImageError, InvalidInputError
from blip2tools.server.local import listening, place
from blip2tools.settings import Settings
from tests.conftest import REPOSITORY, handle_of, run_cli

pytestmark = pytest.mark.skipif(not place.supported(), reason="sockets of POSIX that tell who is at the other end")

DEMO = {"model": "demo", "threads": 1, "use_server": True}
USED = {"BLIP2TOOLS_USE_SERVER": "1"}
LINE = "answered by the server that runs already (pid "


@pytest.fixture(scope="module")
def lender():
    with Vision.load(**DEMO, allowed_dirs=()) as eyes:
        yield eyes


@pytest.fixture(scope="module")
def loaded():
    with Vision.load(**DEMO) as eyes:
        yield eyes


@pytest.fixture
def borrower():
    with Vision.load(preload=False, **DEMO) as eyes:
        yield eyes


@pytest.fixture
def place_to_listen(tmp_path, monkeypatch):
    """A folder for sockets of this test alone."""
    monkeypatch.setattr(place, "folders", lambda settings: iter([tmp_path / "run"]))
    return tmp_path / "run"


def until(true, what):
    limit = time.monotonic() + 60
    while not true():
        assert time.monotonic() < limit, what
        time.sleep(0.01)


@contextmanager
def lent(vision, folder):
    with listening.lent(vision):
        until(lambda: folder.exists() and any(_listens(path) for path in folder.iterdir()), "it does not listen")
        [path] = folder.iterdir()
        yield path


def _listens(path):
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.connect(str(path))
        return True
    return False


def asked(vision, verb, *images, **options):
    """What each picture gives, through a server if there is one."""
    eyes = asking.Eyes(vision, checkpoints.locate(vision.settings))

    async def all_of_them():
        return await asyncio.gather(
            *(getattr(eyes, f"a{verb}")(image, **options) for image in images), return_exceptions=True
        )

    return vision.run(all_of_them())


# With processes


def test_commands_write_the_same_through_a_server(picture, pictures, tmp_path, start_server):
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.path.read_bytes()[:300])
    images = [str(one.path) for one in pictures[:2]] + [str(broken), str(tmp_path / "missing.png")]
    server = start_server("--model", "demo", "--threads", "1", "--preload", env=USED)
    server.initialize()
    commands = [
        ("caption", *images, "--json"),
        ("caption", *images[:2], "--num-captions", "2", "--style", "detailed"),
        ("ask", images[0], "what color is it?", "-c", "red", "-c", "blue"),
        ("match", images[1], handle_of(picture.path.read_bytes()), "-t", "a red ring", "-t", "caf\u00e9"),
        ("survey", images[0], "--rows", "1"),
        ("caption", images[0], "--num-captions", "9"),
        ("caption", images[3], "--num-captions", "9"),
        ("ask", images[2], "-q", ""),
    ]
    server.call("caption_image", image=f"data:image/png;base64,{_base64(picture.path)}")  # it is loaded now
    for words in commands:
        words = [*words, "--model", "demo"]
        own, lent = run_cli(*words), run_cli(*words, env=USED)
        assert (lent.stdout, lent.returncode) == (own.stdout, own.returncode)
        lines = lent.stderr.splitlines()
        told = [line for line in lines if line.startswith(LINE)]
        assert sorted(line for line in lines if line not in told) == sorted(own.stderr.splitlines())
        if own.stdout:
            assert told == [f"{LINE}{server.process.pid})"]
        else:
            assert len(told) <= 1
    [path] = _sockets()
    assert path.lstat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert picture.caption not in server.log
    assert server.end() == 0
    assert _sockets() == []


def _sockets():
    folder = Settings.load().cache_folder / "run"
    return [path for path in folder.iterdir() if path.is_socket()]


def _base64(path):
    import base64

    return base64.b64encode(path.read_bytes()).decode()


def test_what_a_killed_server_leaves_behind_is_removed(picture, start_server):
    server = start_server("--model", "demo", "--threads", "1", env=USED)
    server.initialize()
    until(_sockets, "it does not listen")
    server.process.kill()
    server.end()
    [path] = _sockets()
    done = run_cli("caption", str(picture.path), "--model", "demo", env=USED)
    assert picture.caption in done.stdout
    assert LINE not in done.stderr
    assert not path.exists()


RUN = """
import json, sys
from blip2tools.cli import main
status = main(sys.argv[1:])
print(json.dumps([status, sorted({"torch", "numpy", "PIL", "mcp", "transformers"} & set(sys.modules))]), file=sys.stderr)
"""


def test_a_command_with_a_server_imports_no_model(lender, picture):
    with listening.lent(lender):
        until(_sockets, "it does not listen")
        words = [sys.executable, "-c", RUN, "caption", str(picture.path), "--model", "demo", "--threads", "1"]
        done = subprocess.run(
            words, env={**os.environ, **USED}, cwd=REPOSITORY, capture_output=True, text=True, timeout=250, check=True
        )
    assert picture.caption in done.stdout
    assert json.loads(done.stderr.splitlines()[-1]) == [0, []]
    assert f"{LINE}{os.getpid()})" in done.stderr
    assert _sockets() == []


# The two sides


def test_what_is_lent_says_the_same(lender, loaded, borrower, picture, place_to_listen):
    options = {"num_captions": 2, "region": [0.0, 0.0, 1.0, 0.9]}
    with lent(lender, place_to_listen):
        [result] = asked(borrower, "caption", str(picture.path), **options)
        assert not borrower.loaded
        [broken, wrong] = [
            asked(borrower, "caption", "data:image/png;base64,iVBORw0KGgo=")[0],
            asked(borrower, "caption", str(picture.path), num_captions=9)[0],
        ]
    assert result == loaded.caption(str(picture.path), **options)
    assert isinstance(broken, CorruptImageError)
    assert isinstance(wrong, InvalidInputError)
    assert not place_to_listen.exists() or list(place_to_listen.iterdir()) == []


def test_a_servers_clients_learn_nothing_of_it(lender, borrower, pictures, place_to_listen):
    before = lender.handles()
    with lent(lender, place_to_listen):
        [result] = asked(borrower, "caption", str(pictures[4].path))
    assert result.image.handle not in lender.handles() == before
    assert not lender.keeps(result.image.handle)
    # The command's own next process finds it again by its handle, as without a server.
    assert asked(borrower, "caption", result.image.handle)[0].image.handle == result.image.handle


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"num_beams": 2}, False),
        ({"vqa_template": "Q: {question}"}, False),
        ({"abstain_below": 0.5}, False),
        ({"matcher": "none"}, False),
        ({"dtype": "bfloat16"}, False),
        ({"max_pixels": 1000}, False),
        ({"formats": ("PNG",)}, False),
        ({"calibration": "none"}, False),
        ({"allowed_dirs": ()}, True),
        ({"threads": 4, "store_mb": 1, "max_queue": 3, "rate_limit": 1}, True),
    ],
)
def test_the_name_tells_what_answers_depend_on(changed, same):
    def name(**settings):
        chosen = Settings.load(model="demo", **settings)
        return place.name_of(chosen, checkpoints.locate(chosen))

    assert (name() == name(**changed)) is same
    assert len(name()) == 20


def test_other_weights_have_another_name(tmp_path):
    import shutil

    from blip2tools.checkpoints.family import demo_folder

    copied = tmp_path / "model"
    shutil.copytree(demo_folder("captioner"), copied)
    settings = Settings.load(model=str(copied))
    before = place.name_of(settings, checkpoints.locate(settings))
    config = copied / "config.json"
    config.write_text(config.read_text() + " ")
    assert place.name_of(settings, checkpoints.locate(settings)) != before


def test_only_a_folder_of_the_users_own_is_used(tmp_path, monkeypatch):
    settings = Settings.load(cache_dir=tmp_path)
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    assert place.folder_to_listen_in(settings) is None
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    assert place.folder_to_listen_in(settings) is None
    folder.unlink()
    assert place.folder_to_listen_in(settings) == folder
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "name.1"))
        (folder / "name.1").chmod(0o600)
        assert place.sockets(settings, "name") == [folder / "name.1"]
        (folder / "name.1").chmod(0o666)
        assert place.sockets(settings, "name") == []
        (folder / "name.1").chmod(0o600)
        (folder / "name.2").symlink_to(folder / "name.1")
        assert place.sockets(settings, "name") == [folder / "name.1"]
        folder.chmod(0o750)
        assert place.sockets(settings, "name") == []


def test_of_another_user_nothing_is_taken(lender, borrower, picture, place_to_listen, monkeypatch):
    with lent(lender, place_to_listen), monkeypatch.context() as patch:
        patch.setattr(place, "is_own_peer", lambda connection: False)
        [result] = asked(borrower, "caption", str(picture.path))
        assert borrower.loaded
    assert result.text == picture.caption


def test_an_address_that_is_too_long_is_none(lender, tmp_path, monkeypatch):
    folder = tmp_path / ("long" * 30)
    monkeypatch.setattr(place, "folders", lambda settings: iter([folder]))
    with listening.lent(lender) as one:
        until(lambda: not one._thread.is_alive(), "it listens")
    assert list(folder.iterdir()) == []


def test_switched_off_it_is_not_there(borrower, place_to_listen):
    with Vision.load(preload=False, model="demo", use_server=False) as eyes, listening.lent(eyes) as one:
        assert not one._thread.is_alive()
    assert not place_to_listen.exists()


def spoken(path, *parts):
    """What the server sends back, to the end."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        with suppress(BrokenPipeError):
            for part in parts:
                connection.sendall(part)
        said = b""
        with suppress(ConnectionResetError):
            while more := connection.recv(2**16):
                said += more
    return said


@pytest.mark.parametrize(
    "head",
    [
        {},
        {"verb": "index", "options": {}, "bytes": 3},
        {"verb": "caption", "options": {"image": "/etc/passwd"}, "bytes": 3},
        {"verb": "caption", "options": {"return_errors": True}, "bytes": 3},
        {"verb": "caption", "options": [], "bytes": 3},
        {"verb": "caption", "options": {}, "bytes": 0},
        {"verb": "caption", "options": {}, "bytes": True},
        {"verb": "caption", "options": {}, "bytes": 2**40},
        {"verb": ["caption"], "options": {}, "bytes": 3},
    ],
)
def test_other_questions_are_refused(lender, place_to_listen, head):
    with lent(lender, place_to_listen) as path:
        assert spoken(path, place.framed(head)) == place.framed({"go": False})


def test_what_is_no_message_ends_the_connection(lender, picture, borrower, place_to_listen, monkeypatch):
    monkeypatch.setattr(listening, "HEAD_S", 0.2)
    with lent(lender, place_to_listen) as path:
        for said in (b"\xff\xff\xff\xff", b"\0\0\0\2[]", b"\0\0\0\2{]", b"GET / HTTP/1.1\r\n\r\n", b"\0\0"):
            assert spoken(path, said) == b""
        [result] = asked(borrower, "caption", str(picture.path))
        assert not borrower.loaded
    assert result.text == picture.caption


def test_too_many_connections_and_bytes_are_refused(lender, place_to_listen, monkeypatch):
    head = place.framed({"verb": "caption", "options": {}, "bytes": 1000})
    monkeypatch.setattr(listening, "MAX_HELD", 1500)
    with lent(lender, place_to_listen) as path, socket.socket(socket.AF_UNIX) as first:
        first.connect(str(path))
        first.sendall(head)
        assert b'"go": true' in first.recv(1000)
        assert spoken(path, head) == place.framed({"go": False})
        monkeypatch.setattr(listening, "MAX_CONNECTIONS", 1)
        small = place.framed({"verb": "caption", "options": {}, "bytes": 1})
        assert spoken(path, small) == place.framed({"go": False})


def test_who_leaves_ends_the_work(lender, pictures, place_to_listen):
    data = pictures[5].path.read_bytes()
    head = place.framed({"verb": "survey", "options": {"rows": 4, "columns": 4}, "bytes": len(data)})
    before = lender.status().queue
    with lent(lender, place_to_listen) as path, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(head)
        connection.recv(1000)
        connection.sendall(data)
        until(lambda: lender.status().queue.running, "it does not begin")
        connection.close()
        until(lambda: lender.status().queue.cancelled > before.cancelled, "it goes on")
        until(lambda: not lender.status().queue.running and not lender.status().queue.waiting, "it goes on")


def test_a_model_that_is_not_loaded_is_not_lent(borrower, place_to_listen):
    with lent(borrower, place_to_listen) as path:
        head = place.framed({"verb": "caption", "options": {}, "bytes": 3})
        assert spoken(path, head) == place.framed({"go": False})
    assert not borrower.loaded


# Servers that fail


def fake(path, answers):
    """A server that says these bytes to each that connects, after what it was sent, and hangs up; `None` says nothing."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen()
    kept = []

    def serve():
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                kept.append(connection)
                for answer in answers:
                    connection.recv(2**20)
                    if answer is None:
                        break
                    connection.sendall(answer)
                else:
                    connection.close()

    threading.Thread(target=serve, daemon=True).start()
    return listener, kept


GO = place.framed({"go": True, "pid": 7})
FAILING = {
    "refuses": [place.framed({"go": False})],
    "hangs up": [b""],
    "says nothing": [None],
    "speaks otherwise": [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    "says no pid": [place.framed({"go": True}), place.framed({"result": {}, "of_all": []})],
    "vanishes": [GO],
    "says half of it": [GO, place.framed({"result": {"text": "wrong"}})[:-5]],
    "is another version": [GO, place.framed({"result": {"text": "wrong"}, "of_all": []})],
    "is busy": [GO, place.framed({"error": {"code": "busy", "message": "later"}})],
    "is closing": [GO, place.framed({"error": {"code": "cancelled", "message": "closed"}})],
    "floods": [GO, b"\xff\xff\xff\xff"],
}


@pytest.mark.parametrize("answers", FAILING.values(), ids=FAILING)
def test_whatever_fails_the_command_looks_itself(loaded, pictures, place_to_listen, monkeypatch, capsys, answers):
    monkeypatch.setattr(asking, "GREETING_S", 0.3)
    place_to_listen.mkdir(mode=0o700)
    name = place.name_of(loaded.settings, checkpoints.locate(loaded.settings))
    listener, kept = fake(place_to_listen / f"{name}.7", answers)
    with listener:
        found = asked(loaded, "caption", *(str(one.path) for one in pictures[:2]))
    assert [one.text for one in found] == [one.caption for one in pictures[:2]]
    assert kept, "it was not asked"
    assert capsys.readouterr().err == ""
    for connection in kept:
        connection.close()


def test_the_next_server_is_asked(lender, borrower, picture, place_to_listen, capsys):
    with lent(lender, place_to_listen) as path:
        listener, _ = fake(path.with_suffix(".7"), FAILING["vanishes"])
        with listener:
            [result] = asked(borrower, "caption", str(picture.path))
    assert not borrower.loaded
    assert result.text == picture.caption
    assert capsys.readouterr().err == f"{LINE}{os.getpid()})\n"
