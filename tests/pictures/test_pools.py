"""Slow work does not hold up other callers, and ends when cancelled: files, folders, addresses and decoding."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

from blip2tools import Vision
from blip2tools.call import CALLER, STOP, Stop
from blip2tools.engine.line import Admission
from blip2tools.errors import BusyError, CancelledError, DeadlineError, FetchFailedError, VisionError
from blip2tools.pictures import signs
from blip2tools.pictures.decoder import AT_ONCE
from blip2tools.pictures.fetch import fetch
from blip2tools.pictures.pools import Pool
from tests.pictures.test_decoder import encoded
from tests.pictures.test_fetch import SETTINGS as WEB
from tests.pictures.test_fetch import Server
from tests.support import forked

linux = pytest.mark.skipif(sys.platform != "linux", reason="stops the decoder's process by its number")


@pytest.fixture
def pool():
    one = Pool("test", 1)
    yield one
    one.close()


@pytest.fixture
def eyes(folder):
    with Vision.load(model="demo", allowed_dirs=(folder,), threads=1) as one:
        yield one


async def until(true, seconds=30.0):
    """Waits for another thread or process, up to a limit."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        await asyncio.sleep(0.01)


async def as_caller(name, work):
    CALLER.set(name)
    return await work


def decoders(eyes):
    return {one._process.pid for one in eyes._decoder._all}


class Stopped:
    """The next two decoders do nothing: SIGSTOP, which no process can refuse."""

    def __init__(self, eyes):
        self._eyes = eyes
        self._start = eyes._decoder._take
        self.pids = set()

    def __enter__(self):
        def take():
            process = self._start()
            process.start()
            if len(self.pids) < AT_ONCE:
                os.kill(process._process.pid, signal.SIGSTOP)
                self.pids.add(process._process.pid)
            return process

        self._eyes._decoder._seconds = 100.0  # only what is cancelled ends
        self._eyes._decoder._take = take
        return self

    def __exit__(self, *_):
        self._eyes._decoder._take = self._start


def fresh(number):
    """A new picture."""
    return encoded(Image.new("RGB", (40 + number, 30), "red"))


class TestTurns:
    async def test_one_callers_many_do_not_hold_up_anothers_one(self, pool):
        order, go_on = [], threading.Event()
        first = asyncio.ensure_future(as_caller("many", pool.run(lambda: go_on.wait(100))))
        many = [
            asyncio.ensure_future(as_caller("many", pool.run(lambda number=number: order.append(number))))
            for number in range(20)
        ]
        await asyncio.sleep(0)
        one = asyncio.ensure_future(as_caller("one", pool.run(lambda: order.append("one"))))
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(first, one, *many)
        assert order.index("one") <= 1
        assert [number for number in order if number != "one"] == list(range(20))

    async def test_who_has_something_under_way_comes_after_who_has_nothing(self):
        pool, order, go_on = Pool("test", 2), [], [threading.Event(), threading.Event()]
        try:
            slow = [asyncio.ensure_future(as_caller("many", pool.run(event.wait))) for event in go_on]
            await until(lambda: len(pool._running) == 2)
            more = asyncio.ensure_future(as_caller("many", pool.run(lambda: order.append("many"))))
            await asyncio.sleep(0)
            one = asyncio.ensure_future(as_caller("one", pool.run(lambda: order.append("one"))))
            await asyncio.sleep(0)
            go_on[0].set()
            await one
            assert order[0] == "one"
            go_on[1].set()
            await asyncio.gather(more, *slow)
        finally:
            pool.close()

    async def test_a_thread_of_one_lane_waits_for_another(self, pool):
        other, go_on = Pool("other", 1), threading.Event()
        try:
            assert await as_caller("who", pool.run(lambda: other.wait(CALLER.get))) == "who"
            with pytest.raises(ZeroDivisionError):
                await pool.run(lambda: other.wait(lambda: 1 / 0))
            busy = asyncio.ensure_future(other.run(lambda: go_on.wait(100)))
            await until(lambda: other._running)
            waits = asyncio.ensure_future(pool.run(lambda: other.wait(lambda: 1)))
            await until(lambda: other._callers)
            waits.cancel()
            await asyncio.wait([waits])
            assert await pool.run(lambda: 2) == 2, "the thread waits on"
            assert not other._callers
            go_on.set()
            await busy
        finally:
            other.close()

    async def test_what_is_cancelled_in_line_is_never_done_and_let_go(self, pool):
        started, go_on, done = threading.Event(), threading.Event(), []
        busy = asyncio.ensure_future(pool.run(lambda: started.set() or go_on.wait(100)))
        await until(started.is_set)
        waiting = [asyncio.ensure_future(pool.run(lambda: done.append(1))) for _ in range(3)]
        await asyncio.sleep(0)
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)
        assert not any(pool._callers.values()), "it still holds what was to be done"
        go_on.set()
        assert await busy
        assert await pool.run(lambda: "next") == "next"
        assert not done

    async def test_an_error_is_the_callers_and_the_next_is_done(self, pool):
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 / 0)
        assert await pool.run(lambda: 1) == 1

    async def test_without_room_for_a_thread(self, pool, monkeypatch):
        def full(*_):
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", full)
            with pytest.raises(BusyError):
                await pool.run(lambda: 1)
        assert not pool._callers, "it still holds what was to be done"
        assert await pool.run(lambda: 1) == 1

    async def test_closing_ends_all_of_it(self, pool):
        started = threading.Event()

        def work():
            started.set()
            wake = threading.Event()
            with STOP.get().ending(wake.set):
                assert wake.wait(100)
            STOP.get().check()

        running, waiting = (asyncio.ensure_future(pool.run(work)) for _ in range(2))
        await until(started.is_set)
        pool.close()
        pool.close()
        for outcome in await asyncio.gather(running, waiting, return_exceptions=True):
            assert isinstance(outcome, CancelledError), repr(outcome)
        with pytest.raises(CancelledError, match="closed"):
            await pool.run(work)


class TestStop:
    def test_what_begins_after_it_ends_at_once(self):
        stop, ended = Stop(), threading.Event()
        stop.check()
        stop.set()
        with pytest.raises(CancelledError):
            stop.check()
        with stop.ending(ended.set):
            assert ended.is_set()
        assert stop.is_set()

    def test_what_is_over_is_left_alone(self):
        stop, ended = Stop(), threading.Event()
        with stop.ending(ended.set):
            pass
        stop.set()
        assert not ended.is_set()

    def test_one_that_cannot_be_ended_leaves_the_others(self, caplog):
        stop, ended = Stop(), threading.Event()
        with stop.ending(lambda: 1 / 0), stop.ending(ended.set):
            stop.set()
        assert ended.is_set()
        assert "could not be ended" in caplog.text


class TestPlaces:
    def test_one_caller_leaves_places_for_others(self):
        admission, inside = Admission(8), ExitStack()
        CALLER.set("many")
        with inside:
            for _ in range(7):
                inside.enter_context(admission.one())
            with pytest.raises(BusyError, match="6 of your calls"), admission.one():
                pass
            CALLER.set("other")
            with admission.one():
                pass
        CALLER.set("many")
        with admission.one():
            assert admission._of == {"many": 1}

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork")
    def test_a_fork_is_told_that_it_is_one(self, folder, picture):
        code = (
            "import os, sys, asyncio, warnings\n"
            "warnings.simplefilter('ignore', DeprecationWarning)\n"
            "from blip2tools import Vision, VisionError\n"
            "eyes = Vision.load(model='demo', threads=1)\n"
            "eyes.keep(sys.argv[1])\n"
            "if os.fork():\n"
            "    os.wait(); print(eyes.caption(sys.argv[1]).text)\n"
            "else:\n"
            "    for call in (eyes.keep, lambda path: asyncio.run(eyes.acaption(path))):\n"
            "        try: call(sys.argv[1])\n"
            "        except VisionError as error: print(error.code, flush=True)\n"
            "    os._exit(0)\n"
        )
        words = [sys.executable, "-c", code, str(picture.path)]
        done = forked.run(words, text=True)
        assert done.stdout.splitlines() == ["model_unavailable"] * 2 + [picture.caption], done.stderr


@linux
class TestSlowPictures:
    async def test_a_picture_that_is_kept_waits_for_no_decoder(self, eyes, picture):
        handle = (await eyes.acaption(picture.path)).image.handle
        with Stopped(eyes) as stopped:
            slow = [asyncio.ensure_future(eyes.acaption(fresh(number))) for number in range(6)]
            await until(lambda: len(stopped.pids) == AT_ONCE)
            assert (await eyes.acaption(handle)).text == picture.caption
            assert (await eyes.acaption(picture.path)).text == picture.caption
            assert picture.path.name in [Path(one.path).name for one in (await eyes.alist_images()).images]
            assert not any(one.done() for one in slow)
            for one in slow:
                one.cancel()
            await asyncio.wait(slow)

    async def test_a_decode_that_nobody_waits_for_ends(self, eyes, picture):
        """Its own limit is 100 s here; every one of the processes that hang is killed, and the next picture decoded."""
        with Stopped(eyes) as stopped:
            slow = [asyncio.ensure_future(eyes.acaption(fresh(number))) for number in range(2)]
            await until(lambda: len(stopped.pids) == AT_ONCE)
            for one in slow:
                one.cancel()
            await asyncio.wait(slow)
        assert (await eyes.acaption(picture.path)).text == picture.caption
        await until(lambda: not stopped.pids & decoders(eyes))

    async def test_so_does_one_that_is_out_of_time(self, folder, picture):
        with Vision.load(model="demo", allowed_dirs=(folder,), threads=1, deadline_s=1) as eyes:
            with Stopped(eyes) as stopped, pytest.raises(DeadlineError):
                await eyes.acaption(fresh(0))
            await until(lambda: not stopped.pids & decoders(eyes))


class TestSlowAddresses:
    async def test_they_hold_up_no_file(self, folder, picture, monkeypatch):
        def slow(url, settings):
            wake = threading.Event()
            with STOP.get().ending(wake.set):
                assert wake.wait(100)
            STOP.get().check()

        monkeypatch.setattr("blip2tools.pictures.fetch.fetch", slow)
        with Vision.load(model="demo", allowed_dirs=(folder,), threads=1, allow_urls=True) as eyes:
            slow = [asyncio.ensure_future(eyes.acaption(f"https://slow.example/{n}.png")) for n in range(20)]
            await asyncio.sleep(0.1)
            assert (await eyes.acaption(picture.path)).text == picture.caption
            assert (await eyes.alist_images()).images
            assert not any(one.done() for one in slow)
            for one in slow:
                one.cancel()
            await asyncio.wait(slow)

    async def test_a_fetch_that_nobody_waits_for_ends(self, pool):
        """In each of its waits: for a name, for the head, in the body."""
        asked, hangs = threading.Event(), threading.Event()

        def resolve(host, port):
            asked.set()
            hangs.wait(20)
            return []

        def silent(connection, _):
            asked.set()
            connection.recv(1)
            raise OSError  # the client has gone

        def stalls(connection, _):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
            silent(connection, _)

        async def given_up(url, **options):
            asked.clear()
            ended = threading.Event()

            def work():
                try:
                    fetch(url, WEB, judge=lambda address: True, total_s=60, **options)
                finally:
                    ended.set()

            going = asyncio.ensure_future(pool.run(work))
            await until(asked.is_set)
            going.cancel()
            await asyncio.wait([going])
            await until(ended.is_set)

        await given_up("http://slow.example/x.png", resolve=resolve)
        hangs.set()
        for reply in (silent, stalls):
            server = Server(reply)
            try:
                await given_up(f"http://127.0.0.1:{server.port}/x.png", ports=(server.port,))
                await until(server.closed_by_client.is_set)
            finally:
                server.close()

    def test_names_that_are_looked_up_for_ever_have_a_bound(self, monkeypatch):
        hangs, done = threading.Event(), []
        monkeypatch.setattr("blip2tools.pictures.fetch._resolving", threading.BoundedSemaphore(2))

        def resolve(host, port):
            hangs.wait(20)
            done.append(host)
            return []

        def look_up():
            with pytest.raises(VisionError) as refused:
                fetch("http://slow.example/x.png", WEB, resolve=resolve, total_s=0.05)
            return refused.value.code

        assert [look_up() for _ in range(4)] == ["timeout", "timeout", "busy", "busy"]
        hangs.set()
        until = time.monotonic() + 20
        while look_up() == "busy":
            assert time.monotonic() < until
        assert len(done) == 3

    def test_without_room_for_a_thread(self, monkeypatch):
        def full(*_):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr("blip2tools.pictures.fetch._resolving", threading.BoundedSemaphore(1))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", full)
            with pytest.raises(BusyError, match="another thread"):
                fetch("http://slow.example/x.png", WEB)
        with pytest.raises(FetchFailedError):
            fetch("http://slow.example/x.png", WEB, resolve=lambda host, port: [])


class TestSlowFolders:
    async def test_a_listing_that_nobody_waits_for_ends(self, tmp_path, picture, monkeypatch):
        for number in range(300):
            (tmp_path / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
        looked, going_on = [], threading.Event()
        with Vision.load(model="demo", preload=False, allowed_dirs=(tmp_path,)) as eyes:

            def slow(work):
                def looks(*given):
                    looked.append(1)
                    going_on.wait(20)
                    return work(*given)

                return looks

            monkeypatch.setattr(eyes._verbs.sources, "_size_of", slow(eyes._decoder.size_of))
            for number, work in enumerate((eyes.alist_images, lambda: eyes.akeep("latest"))):
                if number:  # it looks at no header, and ends while it looks for the newest
                    monkeypatch.setattr(signs, "in_name", slow(signs.in_name))
                looked.clear()
                going_on.clear()
                call = asyncio.ensure_future(work())
                await until(lambda: looked)
                call.cancel()
                await asyncio.wait([call])
                going_on.set()
                await until(lambda: not eyes._pools.folders._running)
                assert len(looked) <= 2, "it went on"
