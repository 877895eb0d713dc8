"""Other failures: memory that runs out, a device that breaks, signals, full disks, clients that vanish. Real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import StdioServer
from tests.support.face import Face, Processes
from tests.support.faulty_server import STAGES

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc")

# Work for half a minute and more, so that something can happen in its middle.
LONG = ("--num-beams", "8", "--min-new-tokens", "128", "--max-new-tokens", "128", "--keep-answers", "0")


class Faulty:
    """A server whose faults are armed while it runs, and the result of its first call, when the model could not be loaded."""

    face: Face

    def __init__(self, jail, picture, folder):
        self.armed = folder / "armed.json"
        self.arm("load", "host memory", 1)
        self.server = StdioServer(
            *("--model", "demo", "--allow-dir", str(jail), "--threads", "1", "--keep-answers", "0", "--cache-mb", "0"),
            program=("tests.support.faulty_server", str(self.armed)),
        )
        self.server.initialize()
        self.first = self.server.call("caption_image", timeout=100, image="good.png")

    def arm(self, stage, kind, times):
        partial = self.armed.with_suffix(".new")
        partial.write_text(json.dumps({"stage": stage, "kind": kind, "times": times}))
        partial.replace(self.armed)


@pytest.fixture(scope="module")
def faulty(jail, picture, tmp_path_factory):
    one = Faulty(jail, picture, tmp_path_factory.mktemp("faulty"))
    until(lambda: not one.server.call("caption_image", timeout=100, image="good.png").get("isError"), 100)
    one.face = Face(one.server, "good.png", picture.caption, [jail])
    yield one
    assert one.server.end() == 0


CALLS = {
    "see": ("caption_image", {}),
    "query": ("caption_image", {}),
    "speak": ("caption_image", {}),
    "rank": ("ask_image", {"question": "what is it?", "choices": ["a", "b"]}),
    "match": ("match_image_text", {"texts": ["a red circle"]}),
    "image features": ("match_image_text", {"texts": ["a red circle"]}),
    "text features": ("match_image_text", {"texts": ["a red circle"]}),
}


def test_E6_a_load_that_runs_out_of_memory_is_told_and_tried_again(faulty):
    assert faulty.first["_meta"]["blip2tools/code"] == "model_unavailable"
    assert "memory" in faulty.first["content"][0]["text"]
    faulty.face.healthy()


@pytest.mark.parametrize("kind", ["host memory", "device memory", "device broken"])
@pytest.mark.parametrize("stage", CALLS)
def test_E11_a_stage_that_fails_twice_costs_that_call_alone(faulty, stage, kind):
    """A single shortage of memory is repaired silently; a lasting one is one clear error; the next call works."""
    assert set(CALLS) | {"load"} == set(STAGES)
    tool, arguments = CALLS[stage]
    faulty.arm(stage, kind, 50)
    answer = faulty.face.ask(tool, {"image": "deep/inner.png", **arguments})
    faulty.arm(stage, kind, 0)
    assert answer.code == ("internal" if kind == "device broken" else "out_of_memory")
    assert not any(inside in answer.text for inside in ("0x", "CUDA", "libtorch", "assert"))
    faulty.face.healthy()
    if kind != "device broken":
        faulty.arm(stage, kind, 1)
        assert faulty.face.ask(tool, {"image": "deep/inner.png", **arguments}).code is None


def test_only_the_call_that_meets_the_fault_fails(faulty, picture):
    """Thirty at once while the device breaks for one attempt: each of the others has its right answer."""
    server = faulty.server
    faulty.arm("speak", "device broken", 1)
    for number in range(30):
        arguments = {"image": "good.png", "region": [0, 0, 1, 1 - number / 3000]}
        message = {"name": "caption_image", "arguments": arguments}
        server.send({"jsonrpc": "2.0", "id": 7000 + number, "method": "tools/call", "params": message})
    answers = {}
    while len(answers) < 30:
        message = json.loads(server.lines.get(timeout=200))
        answers[message["id"]] = message["result"]
    failed = [answer for answer in answers.values() if answer.get("isError")]
    assert len(failed) <= 1
    for number in range(30):
        if not answers[7000 + number].get("isError"):
            assert answers[7000 + number]["structuredContent"]["region"][3] == pytest.approx(1 - number / 3000)
    assert answers[7000].get("isError") or answers[7000]["structuredContent"]["text"] == picture.caption
    faulty.face.healthy()


def test_a_clock_that_jumps_by_years_changes_nothing(faulty):
    """The faulty server's clock has been jumping all the while; its deadlines use another clock."""
    listed = faulty.face.works("list_images", limit=5)
    assert listed["images"] or listed["unreadable"]
    assert faulty.face.works("vision_status")["queue"]["waiting"] == 0


# ---- signals, pipes, disks ----


@pytest.fixture
def started(jail):
    servers = []

    def start(*arguments, **options):
        words = ("--model", "demo", "--allow-dir", str(jail), "--threads", "1", *arguments)
        servers.append(StdioServer(*words, **options))
        servers[-1].initialize()
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
        server.end()


def call(server, number, **arguments):
    message = {"name": "caption_image", "arguments": {"image": "good.png", **arguments}}
    server.send({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": message})


def until(check, seconds=200):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        time.sleep(0.02)


def in_the_middle_of(server, moment):
    """Wait until the model is being loaded, or a text is being decoded."""

    def loading():
        return server.call("vision_status")["structuredContent"]["state"] not in ("ready", "not loaded")

    if moment == "decode":
        assert not server.call("match_image_text", timeout=100, image="good.png", texts=["a red circle"])["isError"]
        for number in range(8):
            call(server, 8000 + number, region=[0, 0, 1, 1 - number / 1000], num_captions=5)
        until(lambda: server.call("vision_status")["structuredContent"]["queue"]["running"] > 0)
    else:
        call(server, 8000)
        until(loading)


@posix
@pytest.mark.parametrize("moment", ["load", "decode"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_E14_a_signal_in_the_middle(started, jail, picture, moment, number):
    server = started(*LONG, fresh=moment == "load")  # from a fork it is loaded before anybody can tell
    in_the_middle_of(server, moment)
    family = Processes(server.process.pid).pids() if sys.platform == "linux" else []
    server.process.send_signal(number)
    status = server.process.wait(100)
    assert status == (-number if number == signal.SIGKILL else 128 + number)
    server.end()
    until(lambda: not any(_alive(pid) for pid in family), 100)
    assert "Traceback" not in server.log


def _alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@posix
def test_E14_nothing_is_left_that_hinders_the_next_server(face):
    """After all those deaths the next server serves the same folder."""
    face.healthy()


@linux
@pytest.mark.parametrize("moment", ["load", "decode"])
def test_E2_a_client_that_vanishes(started, moment):
    """Its input ends in the middle of work: the server ends by itself, and without a traceback."""
    server = started(*LONG, fresh=moment == "load")  # from a fork it is loaded before anybody can tell
    in_the_middle_of(server, moment)
    family = Processes(server.process.pid).pids()
    assert server.end(100) == 0
    until(lambda: not any(_alive(pid) for pid in family), 100)
    assert "Traceback" not in server.log


HASTY = """
import sys
from blip2tools import cli, engine
engine.JOIN_SECONDS = 0.0  # as if loading took far longer than anybody waits for it
sys.exit(cli.main(["serve", "--model", "demo", "--preload", "--allow-dir", sys.argv[1]]))
"""


@posix
@pytest.mark.parametrize("seconds", [0.5, 1.5, 3.0])
def test_E2_a_client_that_vanishes_while_a_slow_machine_loads(jail, seconds):
    """The thread that loads is left behind, wherever it is in native code, and the server still ends well."""
    words = [sys.executable, "-W", "error", "-c", HASTY, str(jail)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        server.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode() + b"\n")
        server.stdin.flush()
        assert server.stdout.readline()
        time.sleep(seconds)
        _, said = server.communicate(timeout=200)
        assert server.returncode == 0
        assert b"Traceback" not in said


LISTEN_NO_MORE = """
import json, os, subprocess, sys, time
words = [sys.executable, "-m", "blip2tools", "serve", "--model", "demo", "--allow-dir", sys.argv[1], "--threads", "1"]
server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=open(sys.argv[2], "wb"))
server.stdout.close()
for number in range(5):
    server.stdin.write(json.dumps({"jsonrpc": "2.0", "id": number, "method": "ping"}).encode() + b"\\n")
    server.stdin.flush()
time.sleep(0.5)
server.stdin.close()
print(server.wait(200))
"""


@posix
def test_E2_a_client_that_does_not_listen(jail, tmp_path):
    words = [sys.executable, "-W", "error", "-c", LISTEN_NO_MORE, str(jail), str(tmp_path / "log")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=250)
    assert done.stdout == "0\n"
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "Broken" not in log


POOR = 'ulimit -f 1; ulimit -n 64; umask 077; unset HOME; export TMPDIR=/nowhere; exec "$@" 2>/dev/full'


@linux
def test_S7_a_machine_without_room(started, picture):
    """No file can grow beyond a kilobyte, the log's disk is full, 64 descriptors, no home: it serves."""
    server = started(prefix=("bash", "-c", POOR, "poor"))
    until(lambda: not server.call("caption_image", timeout=100, image="good.png").get("isError"), 100)
    for _ in range(100):
        assert server.call("caption_image", image="missing.png")["isError"]
    assert server.call("caption_image", image="good.png")["structuredContent"]["text"] == picture.caption
    assert max(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in Processes(server.process.pid).pids()) < 64
    assert server.end() in (0, 120), "120: Python could not flush its own log"


@linux
def test_S1_S9_pings_are_answered_while_it_works(started):
    server = started(*LONG)
    in_the_middle_of(server, "decode")
    waits = []
    for _ in range(20):
        began = time.monotonic()
        server.request("ping")
        waits.append(time.monotonic() - began)
    assert sorted(waits)[10] < 1
    server.process.kill()
