"""The plugin as a host starts it: bare Python, an empty home, a working directory in the plugin, packages from loopback."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blip2tools.__version__ import __version__
from blip2tools.launcher.catalogue import UNKNOWN_PLACES
from tests.conftest import REPOSITORY, StdioServer
from tests.server.test_mcp import MODERN
from tests.support.package_index import served, stand_ins

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups of POSIX")

CALL = {"name": "caption_image", "arguments": {"image": "x.png"}}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    stand_ins(folder, __version__)
    return folder


@pytest.fixture
def home(tmp_path):
    """An empty home, and the plugin copied elsewhere."""
    shutil.copytree(REPOSITORY / "plugin", tmp_path / "plugin", ignore=shutil.ignore_patterns("wheels"))
    (tmp_path / "home").mkdir()
    return tmp_path


def environment(home, url=None, **more):
    """Variables as a client passes them on, and which packages there are."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    index = (
        {}
        if url is None
        else {
            "PIP_INDEX_URL": f"{url}/simple/",
            "UV_DEFAULT_INDEX": f"{url}/simple/",
            "BLIP2TOOLS_TORCH_INDEX": f"{url}/cpu/",
        }
    )
    quick = {"PIP_RETRIES": "0", "PIP_TIMEOUT": "5", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_COMPILE": "1"}
    return {**kept, **quick, **index, "HOME": str(home / "home"), **more}


class Plugin(StdioServer):
    """The launcher, as `mcp.json` tells a host to start it."""

    def __init__(self, home, url=None, arguments=(), python=sys.executable, **more):
        words = json.loads((home / "plugin" / "mcp.json").read_text())["mcpServers"]["blip2tools"]
        program = [word.replace("${PLUGIN_ROOT}", str(home / "plugin")) for word in words["args"]]
        self.begun = time.monotonic()
        command = [str(python), "-I", "-S", *program, *arguments]
        self._start(command, home / "plugin", environment(home, url, **more), start_new_session=True)

    def cpu_s(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def called(self, number):
        """A call's result and the progress that was told before."""
        told = []
        while True:
            message = json.loads(self.lines.get(timeout=100))
            if message.get("id") == number:
                return message["result"], told
            told.append(message["params"])

    def until_there(self):
        """The first call's result that comes from the server."""
        until = time.monotonic() + 200
        while "of" not in (result := self.request("tools/call", **CALL)["result"]):
            assert time.monotonic() < until, result
            time.sleep(0.5)
        return result


def places(home):
    folder = home / "home" / ".local" / "share" / "blip2tools" / "plugin"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


WHOLE = [f"{__version__}-index", "install.log", "lock"]


def python_of_its_own(home, *, pip):
    """A Python that only this test uses: whatever is installed into it by mistake harms nobody."""
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", home / "own"], check=True)
    if pip:
        (packages,) = (home / "own").glob("lib/python3*/site-packages")
        (packages / "pip").symlink_to(Path(importlib.util.find_spec("pip").origin).parent)
    return home / "own" / "bin" / "python"


def assert_whole(home, *, pip):
    """One environment and nothing half done; its scripts know where it is, and it has a pip of its own or has none."""
    assert places(home) == WHOLE
    place = home / "home/.local/share/blip2tools/plugin" / WHOLE[0]
    script = place / "bin" / "blip2tools"
    assert str(script.parent / "python") in script.read_text(), "it was made elsewhere"
    installed = {path.name.partition("-")[0] for path in place.glob("lib/python3*/site-packages/*.dist-info")}
    assert installed - {"setuptools"} == {"blip2tools", "mcp", "torch"} | ({"pip"} if pip else set())


@pytest.mark.slow
def test_from_nothing_to_the_first_call(home, wheels):
    """Answered at once, told how far it is, handed over; the small build of torch; nothing is left in the plugin's folder.

    Two clients start it at the same time, and it is installed once. By a Python that has no pip, as some systems' has none.
    """
    bare = python_of_its_own(home, pip=False)
    before = sorted(path.relative_to(home) for path in (home / "plugin").rglob("*"))
    with served(wheels) as (url, asked):
        plugin = Plugin(home, url, ["--model", "demo"], bare, STAND_IN_HEARD=str(home / "heard"))
        said = plugin.initialize()
        listed = plugin.request("tools/list")["result"]["tools"]
        assert plugin.cpu_s() <= 1
        assert said["instructions"].endswith(UNKNOWN_PLACES)
        assert len(listed) >= 7
        plugin.send(
            {
                "jsonrpc": "2.0",
                "id": "early",
                "method": "tools/call",
                "params": {**CALL, "_meta": {"progressToken": "t"}},
            }
        )
        plugin.send({"jsonrpc": "2.0", "id": "gone", "method": "tools/call", "params": CALL})
        plugin.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "gone"}})
        assert plugin.request("ping")["result"] == {}
        other = Plugin(home, url, python=bare)
        other.initialize()
        early, told = plugin.called("early")
        assert [one["progress"] for one in told] == sorted({one["progress"] for one in told})
        assert all("being installed" in one["message"] for one in told)
        if "of" not in early:
            assert early["isError"]
            assert early["content"][0]["text"].startswith(
                "busy: The vision server is not there yet: it is being installed"
            )
            early = plugin.until_there()
        arguments, folder, _ = json.loads(early["content"][0]["text"])
        assert (arguments, folder) == (["--model", "demo"], str(home / "home")), (
            "the plugin's own folder is no place for pictures"
        )
        assert plugin.end(10) == 0
        assert other.until_there()
        assert other.end(10) == 0
        assert asked.count("/simple/mcp/") == 1
    heard = [json.loads(line) for line in (home / "heard").read_text().splitlines()]
    methods = [one["method"] for one in heard]
    assert methods[:4] == ["server/discover", "initialize", "notifications/initialized", "tools/list"]
    assert set(methods[4:]) == {"tools/call"}, "what was answered is not asked again, and what was cancelled never"
    numbers = [one["id"] for one in heard if "id" in one]
    assert len(set(numbers)) == len(numbers)
    assert "gone" not in numbers
    assert "/cpu/torch/torch-2.13.0-py3-none-any.whl" in asked
    assert not any("torch-2.14.0" in path for path in asked)
    assert_whole(home, pip=shutil.which("uv") is None)
    assert sorted(path.relative_to(home) for path in (home / "plugin").rglob("*")) == before


@pytest.mark.slow
def test_a_failed_installation_is_a_sentence_in_every_answer_and_is_tried_again(home, wheels):
    """By a Python with a pip, which installs for the environment; variables lead neither of the two elsewhere."""
    python = python_of_its_own(home, pip=importlib.util.find_spec("pip") is not None)
    elsewhere = home / "elsewhere"
    for need in ("mcp-2.3.0", "torch-2.13.0"):
        (elsewhere / f"{need}.dist-info").mkdir(parents=True)
        (elsewhere / f"{need}.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: {}\nVersion: {}\n".format(*need.split("-"))
        )
    variables = {"PYTHONPATH": str(elsewhere), "_PIP_RUNNING_IN_SUBPROCESS": "1"}
    with served(home / "nothing") as (url, _):
        plugin = Plugin(home, url, python=python, **variables)
        plugin.initialize()
        until = time.monotonic() + 200
        while not (said := plugin.request("tools/call", **CALL)["result"])["content"][0]["text"].startswith("model_un"):
            assert time.monotonic() < until
        for answer in (said, plugin.request("tools/call", **CALL)["result"]):
            assert answer["isError"]
            assert answer["_meta"]["blip2tools/code"] == "model_unavailable"
            assert "does not have this version of blip2tools" in answer["content"][0]["text"]
        assert "does not have" in plugin.request("prompts/get", name="verify")["error"]["message"]
        assert len(plugin.request("tools/list")["result"]["tools"]) >= 7
        shutil.copytree(wheels, home / "nothing", dirs_exist_ok=True)
        assert plugin.until_there()
        assert plugin.end(10) == 0
    assert_whole(home, pip=importlib.util.find_spec("pip") is None and shutil.which("uv") is None)
    assert [path.name for path in python.parents[1].glob("lib/python3*/site-packages/*")] in ([], ["pip"])
    assert "blip2tools: The package index does not have" in plugin.log


def test_a_server_that_cannot_start_says_why(home, wheels, tmp_path):
    fails = Plugin(home, BLIP2TOOLS_PYTHON=str(tmp_path / "python"), STAND_IN_FAILS="There is no model x.")
    (tmp_path / "python").write_text(
        f'#!/bin/sh\nexport PYTHONPATH={next(wheels.glob("blip2tools-*.whl"))}\nshift\nexec {sys.executable} "$@"\n'
    )
    fails.initialize()
    (tmp_path / "python").chmod(0o755)
    while "There is no model x." not in fails.request("tools/call", **CALL)["result"]["content"][0]["text"]:
        time.sleep(0.5)
    assert fails.end(10) == 0
    assert places(home) == []


@pytest.fixture
def ready(home, wheels, tmp_path):
    """A plugin whose server is there; it takes a second to start."""
    python = tmp_path / "python"
    package = next(wheels.glob("blip2tools-*.whl"))
    python.write_text(f'#!/bin/sh\nexport PYTHONPATH={package}\nshift\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)

    def start(**more):
        heard = {"STAND_IN_HEARD": str(home / "heard"), "STAND_IN_PAUSE": "1"}
        return Plugin(home, BLIP2TOOLS_PYTHON=str(python), **{**heard, **more})

    return start


def test_no_message_is_lost_or_doubled_while_it_is_handed_over(ready, home):
    """Both before and after, in one stream that never pauses."""
    plugin = ready()
    plugin.initialize()
    count = 1500
    for number in range(count):  # in a second and a half
        plugin.send({"jsonrpc": "2.0", "id": f"n{number}", "method": "tools/call", "params": {**CALL, "n": number}})
        if number % 50 == 0:
            plugin.send(
                {
                    "jsonrpc": "2.0",
                    "method": "notifications/progress",
                    "params": {"progressToken": number, "progress": 1},
                }
            )
            time.sleep(0.05)
    answers = [json.loads(plugin.lines.get(timeout=60)) for _ in range(count)]
    assert [one["id"] for one in answers] == [f"n{number}" for number in range(count)]
    assert all(json.loads(one["result"]["content"][0]["text"])[2]["n"] == number for number, one in enumerate(answers))
    large = {**CALL, "pad": "x" * 5_000_000}
    assert len(plugin.request("tools/call", **large)["result"]["content"][0]["text"]) > 5_000_000
    assert plugin.end(10) == 0
    heard = [json.loads(line) for line in (home / "heard").read_text().splitlines()]
    assert [one["params"]["progressToken"] for one in heard if one["method"] == "notifications/progress"] == list(
        range(0, count, 50)
    )


def test_the_newer_era_and_discovery_that_decides_nothing(ready, home):
    plugin = ready()
    assert "2026-07-28" in plugin.request("server/discover", **MODERN)["result"]["supportedVersions"]
    listed = plugin.request("tools/list", **MODERN)["result"]
    assert listed["resultType"] == "complete"
    assert plugin.request("tools/call", **CALL, **MODERN)["result"]["of"] == "tools/call"
    assert plugin.end(10) == 0
    methods = [json.loads(line)["method"] for line in (home / "heard").read_text().splitlines()]
    assert methods == ["server/discover", "tools/list", "tools/call"]


def test_a_first_line_above_the_limit_is_answered_under_its_id(ready):
    plugin = ready(STAND_IN_PAUSE="30")
    plugin.initialize()
    answer = plugin.request("tools/call", name="caption_image", arguments={"image": "x" * 13_000_000})
    assert answer["error"]["message"].startswith("too_large: ")
    assert plugin.end(10) == 0


@pytest.mark.parametrize("when", ["starting", "running"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, None])
def test_a_signal_or_the_end_of_input_ends_both(ready, home, when, number):
    plugin = ready(STAND_IN_PAUSE="0.3")
    plugin.initialize()
    if when == "running":
        assert plugin.until_there()
    child = next(iter(children(plugin.process.pid)), None)
    begun = time.monotonic()
    if number is not None:
        plugin.process.send_signal(number)
        assert plugin.process.wait(20) == 128 + number
    assert plugin.end(20) == (0 if number is None else 128 + number)
    assert time.monotonic() - begun < 10
    while child is not None and state(child) != "Z":
        assert time.monotonic() - begun < 20
        time.sleep(0.05)


def test_a_server_that_dies_ends_the_connection_with_its_status(ready):
    plugin = ready(STAND_IN_PAUSE="0")
    plugin.initialize()
    assert plugin.until_there()
    plugin.send({"jsonrpc": "2.0", "id": 5, "method": "die"})
    assert plugin.process.wait(20) == 7
    plugin.end(20)


def children(pid):
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def kill_at(home, url, seconds, group):
    plugin = Plugin(home, url)
    plugin.initialize()
    time.sleep(seconds)
    (os.killpg if group else os.kill)(plugin.process.pid, signal.SIGKILL)
    plugin.process.wait()
    plugin.end(20)


@pytest.mark.long
def test_killed_at_ten_moments_it_leaves_nothing_half_done(home, wheels):
    """By turns the launcher alone, and all that it has started in its group. Here with the wheel in the plugin's folder."""
    (home / "plugin" / "wheels").mkdir()
    shutil.copy(next(wheels.glob("blip2tools-*.whl")), home / "plugin" / "wheels")
    with served(wheels, delay_s=0.1) as (url, asked):
        for number in range(10):
            kill_at(home, url, 1.5 * number, group=number % 2 == 1)
        plugin = Plugin(home, url)
        plugin.initialize()
        assert plugin.until_there()
        assert plugin.end(20) == 0
        assert not any("/blip2tools/" in path for path in asked)
    name, *rest = places(home)
    assert name.startswith(f"{__version__}-")
    assert rest == WHOLE[1:]


@pytest.mark.parametrize("python", ["python3.9", "python3.10"])
def test_an_older_python_answers_too(home, python):
    program = shutil.which(python)
    if program is None or subprocess.run([program, "-c", ""], capture_output=True).returncode:
        pytest.skip(f"there is no {python}")
    plugin = Plugin.__new__(Plugin)
    words = [program, "-I", "-S", str(home / "plugin" / "launch.py")]
    plugin._start(words, home, environment(home, "http://127.0.0.1:1", PATH=str(Path(program).parent)))
    assert plugin.initialize()["serverInfo"]["version"] == __version__
    assert plugin.request("prompts/list")["result"]["prompts"]
    assert plugin.end(10) == 0
