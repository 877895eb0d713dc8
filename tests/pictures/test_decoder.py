"""The decoder process: the same pixels as here, and after any failure one clear error and a good next call."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from blip2tools.errors import VisionError
from blip2tools.pictures import decoder, decoder_process
from blip2tools.pictures.decoder import Decoder, decode_here
from blip2tools.settings import Settings

posix = pytest.mark.skipif(os.name == "nt", reason="signals")
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc")

SETTINGS = Settings()
REGIONS = (None, (0.0, 0.0, 0.5, 0.5), (0.3, 0.2, 0.31, 0.9), (0.9, 0.9, 1.0, 1.0))
TARGETS = ((224, 3), (56, 2))


def noise(size: tuple[int, int], seed: int = 1) -> Image.Image:
    return Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3))


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


GOOD = encoded(noise((40, 20)))


@pytest.fixture(scope="module")
def shared() -> Iterator[Decoder]:
    one = Decoder(SETTINGS)
    yield one
    one.close()


@pytest.fixture
def own() -> Iterator[Decoder]:
    one = Decoder(SETTINGS, seconds=2)
    yield one
    one.close()


def is_well(one: Decoder) -> None:
    assert one.decode(GOOD).parts[0].tobytes() == noise((40, 20)).tobytes()


def code(call: object) -> str:
    with pytest.raises(VisionError) as caught:
        call()
    assert not any(word in str(caught.value) for word in ("0x", "Error(", "PIL", "Traceback", "status"))
    return caught.value.code


def pids(one: Decoder) -> set[int]:
    return {process._process.pid for process in one._all}


def is_gone(pid: int) -> bool:
    """Neither running nor left behind as a zombie."""
    return not Path(f"/proc/{pid}").exists()


class TestPixels:
    @pytest.mark.parametrize("targets", [(), TARGETS], ids=["full", "resized"])
    @pytest.mark.parametrize("size", [(40, 20), (1500, 1400)], ids=["small", "several-bands"])
    def test_the_same_as_decoded_here(
        self, shared: Decoder, size: tuple[int, int], targets: tuple[tuple[int, int], ...]
    ) -> None:
        data = encoded(noise(size), compress_level=0)
        there, here = shared.decode(data, REGIONS, targets), decode_here(data, SETTINGS, REGIONS, targets)
        assert (there.width, there.height, there.animated) == (*size, False)
        assert len(there.parts) == len(here.parts) == len(REGIONS) * max(1, len(targets))
        assert all(a.tobytes() == b.tobytes() for a, b in zip(there.parts, here.parts, strict=True))

    def test_resized_pixels_pass_the_models_own_step_unchanged(self, shared: Decoder) -> None:
        import torch
        from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

        from blip2tools.model import Pixels

        pixels = Pixels(BlipImageProcessorPil(size={"height": 224, "width": 224}))
        for size in ((40, 20), (1000, 700), (224, 224), (3, 900)):
            image = noise(size)
            (part,) = shared.decode(encoded(image), targets=[pixels.target]).parts
            assert torch.equal(pixels(part), pixels(image))

    def test_an_animation_says_so(self, shared: Decoder) -> None:
        frames = [noise((8, 8), seed) for seed in range(3)]
        assert shared.decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])).animated

    def test_no_part_may_be_wanted(self, own: Decoder) -> None:
        seen = own.decode(GOOD, [])
        assert (seen.width, seen.height, seen.parts) == (40, 20, ())
        is_well(own)

    def test_size_of(self, shared: Decoder) -> None:
        assert shared.size_of(GOOD) == (40, 20)

    def test_from_many_threads(self, shared: Decoder) -> None:
        sizes = [(number + 2, 7) for number in range(40)]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda size: shared.decode(encoded(noise(size))).parts[0].size, sizes))
        assert found == sizes
        assert len(pids(shared)) <= decoder.AT_ONCE


class TestRefusals:
    @pytest.mark.parametrize(
        ("data", "wanted"),
        [
            (b"", "corrupt_image"),
            (GOOD[:-40], "corrupt_image"),
            (b"words", "unsupported_image"),
            (encoded(Image.new("1", (16_385, 2))), "too_large"),
            (b"\0" * (SETTINGS.max_image_bytes + 1), "too_large"),
        ],
        ids=["empty", "cut", "text", "side", "bytes"],
    )
    def test_a_refusal_keeps_the_process(self, shared: Decoder, data: bytes, wanted: str) -> None:
        is_well(shared)
        before = pids(shared)
        assert code(lambda: shared.decode(data)) == wanted
        if data != GOOD[:-40]:
            assert code(lambda: shared.size_of(data)) == wanted
        is_well(shared)
        assert pids(shared) == before

    def test_a_region_without_width(self, shared: Decoder) -> None:
        """Regions are judged with the other arguments; here one that slipped through gives a sliver, not a fault."""
        assert [part.size for part in shared.decode(GOOD, [None, (0.5, 0, 0.5, 1)]).parts] == [(40, 20), (2, 20)]
        is_well(shared)

    def test_the_settings_decide(self) -> None:
        one = Decoder(Settings(formats=("JPEG",), max_pixels=100, max_side=30))
        try:
            assert code(lambda: one.decode(GOOD)) == "unsupported_image"
            assert code(lambda: one.decode(encoded(noise((20, 20)), "JPEG"))) == "too_large"
        finally:
            one.close()


@linux
class TestDeath:
    """Killing the process fails one picture only."""

    def kill(self, one: Decoder, sign: int) -> None:
        """Send a signal to the process at work."""
        for pid in pids(one):
            os.kill(pid, sign)

    def stop(self, one: Decoder) -> int:
        """A process that will not answer."""
        is_well(one)
        (pid,) = pids(one)
        os.kill(pid, signal.SIGSTOP)
        return pid

    @pytest.mark.parametrize("sign", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT, signal.SIGBUS])
    def test_a_crash_while_decoding(self, own: Decoder, sign: int) -> None:
        pid = self.stop(own)
        threading.Timer(0.2, self.kill, (own, sign)).start()
        threading.Timer(0.3, self.kill_if_there, (pid, signal.SIGCONT)).start()
        assert code(lambda: own.decode(GOOD)) == "corrupt_image"
        assert is_gone(pid)
        is_well(own)

    def kill_if_there(self, pid: int, sign: int) -> None:
        if not is_gone(pid):
            os.kill(pid, sign)

    def test_a_hang(self, own: Decoder) -> None:
        pid = self.stop(own)
        began = time.monotonic()
        assert code(lambda: own.decode(GOOD)) == "timeout"
        assert time.monotonic() - began < 4
        assert is_gone(pid)
        is_well(own)

    def test_a_hang_with_more_to_read_than_a_pipe_holds(self, own: Decoder) -> None:
        pid = self.stop(own)
        assert code(lambda: own.decode(encoded(noise((1000, 700)), compress_level=0))) == "timeout"
        assert is_gone(pid)
        is_well(own)

    @pytest.mark.parametrize("sign", [signal.SIGALRM, signal.SIGXCPU])
    def test_its_own_alarm_is_the_deadline(self, own: Decoder, sign: int) -> None:
        self.stop(own)
        threading.Timer(0.2, self.kill, (own, sign)).start()
        threading.Timer(0.3, self.kill, (own, signal.SIGCONT)).start()
        assert code(lambda: own.decode(GOOD)) == "timeout"
        is_well(own)

    def test_killed_while_idle_costs_no_picture(self, own: Decoder) -> None:
        is_well(own)
        (pid,) = pids(own)
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
        is_well(own)
        assert is_gone(pid)

    def test_interrupts_of_a_terminal_are_not_for_it(self, own: Decoder) -> None:
        is_well(own)
        (pid,) = pids(own)
        os.kill(pid, signal.SIGINT)
        is_well(own)
        assert pids(own) == {pid}
        assert os.getpgid(pid) != os.getpgid(0)

    def test_memory_is_bounded(self) -> None:
        """A picture within every limit that cannot be had within the memory for it."""
        is_bounded = (
            "import resource, sys\n"
            "from blip2tools.pictures import decoder_process as d\n"
            "from blip2tools.settings import Settings\n"
            "d._confine(Settings(max_pixels=1_000_000, max_image_bytes=2**20))\n"
            "b'x' * (50 * 2**20)\n"
            "try: b'x' * (200 * 2**20)\n"
            "except MemoryError: print('bounded')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", is_bounded], capture_output=True, text=True, timeout=200, check=True
        )
        assert done.stdout == "bounded\n"

    def test_it_ends_with_its_owner(self) -> None:
        """SIGKILL gives the owner no chance to clean up."""
        code = (
            "import sys, time; sys.path[:] = " + repr(sys.path) + "\n"
            "from blip2tools.pictures.decoder import Decoder; from blip2tools.settings import Settings\n"
            "one = Decoder(Settings()); one.size_of(bytes.fromhex(sys.argv[1]))\n"
            "print(next(iter(one._all))._process.pid, flush=True); time.sleep(60)\n"
        )
        owner = subprocess.Popen([sys.executable, "-c", code, GOOD.hex()], stdout=subprocess.PIPE, text=True)
        try:
            pid = int(owner.stdout.readline())
            assert not is_gone(pid)
        finally:
            owner.kill()
            owner.communicate()
        end = time.monotonic() + 10
        while not is_gone(pid) and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            assert time.monotonic() < end, "it outlived its owner"
            time.sleep(0.05)

    def test_closing_leaves_nothing(self) -> None:
        one = Decoder(SETTINGS)
        is_well(one)
        (pid,) = pids(one)
        before = len(list(Path("/proc/self/fd").iterdir()))
        one.close()
        one.close()
        assert is_gone(pid)
        assert len(list(Path("/proc/self/fd").iterdir())) == before - 2
        assert code(lambda: one.decode(GOOD)) == "cancelled"
        one.warm()
        assert not pids(one)

    def test_closing_ends_a_call_under_way(self, own: Decoder) -> None:
        pid = self.stop(own)
        threading.Timer(0.2, own.close).start()
        assert code(lambda: own.decode(GOOD)) == "cancelled"
        assert is_gone(pid)

    def test_an_interrupt_in_the_middle_of_an_answer(self, own: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
        is_well(own)
        (pid,) = pids(own)

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Image, "frombytes", interrupt)
            with pytest.raises(KeyboardInterrupt):
                own.decode(GOOD)
        assert is_gone(pid), "half an answer is still in its pipe"
        is_well(own)

    def test_a_timer_that_comes_too_late_kills_nothing(self, own: Decoder) -> None:
        is_well(own)
        (process,) = own._all
        with process.watched(60) as hurry:
            pass
        hurry()
        with process.watched(60):
            hurry()
            time.sleep(decoder.HURRY_SECONDS + 0.2)
        assert process.is_alive()

    def test_pictures_share_a_timer(self, own: Decoder) -> None:
        is_well(own)
        before = threading.active_count()
        for _ in range(5):
            is_well(own)
        assert threading.active_count() == before
        (process,) = own._all
        with process.watched(0.2):
            time.sleep(1)
        assert not process.is_alive(), "a sooner end than the one before is kept"

    def test_warm(self, own: Decoder) -> None:
        own.warm()
        (pid,) = pids(own)
        is_well(own)
        assert pids(own) == {pid}

    def test_a_closed_decoder_takes_nothing_back(self, own: Decoder) -> None:
        process = own._take()
        own.close()
        own._give_back(process)
        assert process._requests.closed

    def test_a_fork_has_its_own(self, own: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
        is_well(own)
        (mother,) = list(own._all)
        monkeypatch.setattr(os, "getpid", lambda: 0)
        is_well(own)
        (child,) = list(own._all)
        assert child is not mother
        monkeypatch.undo()
        own.close()
        assert child.is_alive(), "it is another's"
        assert mother.is_alive()
        child.end()
        mother.end()


class TestStart:
    def test_no_room_for_a_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

        one = Decoder(SETTINGS)
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", fail)
            assert code(lambda: one.decode(GOOD)) == "busy"
            one.warm()
        is_well(one)
        one.close()

    def test_a_start_that_fails_is_no_fault_of_the_picture(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        one = Decoder(SETTINGS)
        with monkeypatch.context() as patch:
            patch.setattr(decoder, "_START", "raise SystemExit(7)")
            assert code(lambda: one.decode(GOOD)) == "internal"
        assert "status 7" in caplog.text
        is_well(one)
        one.close()

    @pytest.mark.parametrize(
        "says",
        [
            "[]",
            "words",
            '{"width": 1}',
            '{"error": "no_such_code", "message": ""}',
            "{}",
            '{"width": 1, "height": null}',
        ],
    )
    def test_nonsense_from_the_process(self, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
        one = Decoder(SETTINGS)
        with monkeypatch.context() as patch:
            patch.setattr(decoder, "_START", f"print('{{}}', flush=True); print({says!r}, flush=True); input()")
            assert code(lambda: one.decode(GOOD)) == "corrupt_image"
        is_well(one)
        one.close()

    def test_pixels_beyond_the_limits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        facts = json.dumps({"width": 9, "height": 9, "animated": False})
        one = Decoder(SETTINGS)
        with monkeypatch.context() as patch:
            text = f'print("{{}}"); print({facts!r}); print(\'{{"size": [100000, 100000]}}\', flush=True); input()'
            patch.setattr(decoder, "_START", text)
            assert code(lambda: one.decode(GOOD)) == "corrupt_image"
        is_well(one)
        one.close()

    def test_it_is_light(self) -> None:
        light = (
            "import sys, blip2tools.pictures.decoder_process\n"
            "print(sorted({'torch', 'transformers', 'pydantic', 'numpy', 'mcp'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=True, timeout=200)
        assert done.stdout == "[]\n"

    def test_it_does_not_inherit_settings_or_import_from_the_working_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("json", "PIL", "resource", "blip2tools"):
            (tmp_path / f"{name}.py").write_text("raise SystemExit(9)")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("BLIP2TOOLS_TOKEN", "secret-secret-secret")
        monkeypatch.setattr(sys, "path", ["", *sys.path])
        one = Decoder(SETTINGS)
        is_well(one)
        if sys.platform == "linux":
            (pid,) = pids(one)
            assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()
        one.close()


def conversation(*requests: tuple[dict[str, object], bytes]) -> list[bytes]:
    """The answers of the child's code, run in this process."""
    asked = b"".join(json.dumps({**head, "bytes": len(data)}).encode() + b"\n" + data for head, data in requests)
    replies = io.BytesIO()
    decoder_process.serve(io.BytesIO(asked), replies, SETTINGS, 60)
    return replies.getvalue().splitlines()


class TestProtocol:
    def test_sizes_refusals_and_pictures(self) -> None:
        size, refusal, facts, image, *pixels = conversation(
            ({"regions": None}, GOOD),
            ({"regions": [None], "targets": []}, b"words"),
            ({"regions": [None], "targets": [[2, 0]]}, GOOD),
        )
        assert json.loads(size) == {"width": 40, "height": 20}
        assert json.loads(refusal)["error"] == "unsupported_image"
        assert json.loads(facts) == {"width": 40, "height": 20, "animated": False}
        assert json.loads(image) == {"size": [2, 2], "rows": 2}
        assert len(b"\n".join(pixels)) == 12
