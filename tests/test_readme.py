"""The documentation tells the truth: commands print what it shows, code runs, tables are the code's, links lead somewhere."""

import argparse
import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import pytest
from PIL import Image

from blip2tools import Vision
from blip2tools.checkpoints.family import demo_folder
from blip2tools.cli import main
from blip2tools.cli.command_line import build_parser
from blip2tools.server.http.app import VERBS
from blip2tools.toolset import TOOLS
from docs.pictures import BROWSERS, words_of
from tests.conftest import REPOSITORY
from tests.support.http_process import TOKEN, HttpThread
from tests.support.readme import PAGES, README, filled

DOCS = REPOSITORY / "docs"
CARD = REPOSITORY / "blip2tools" / "demo" / "CARD.md"
TEXTS = {page.relative_to(REPOSITORY).as_posix(): page.read_text(encoding="utf-8") for page in (*PAGES, CARD)}
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
SOURCE = PROJECT["project"]["urls"]["Source"]
LOCAL = "http://127.0.0.1:8765"  # the address that the pages show
STARTS = tuple(f"{SOURCE}/{kind}/main/" for kind in ("blob", "tree"))


def blocks(language, pages=TEXTS):
    for name in pages:
        for block in re.findall(rf"^```{language}\n(.*?)^```$", TEXTS[name], flags=re.M | re.S):
            yield name, block


def sessions():
    for name, block in blocks("console"):
        for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, flags=re.M):
            yield pytest.param(name, command, output, id=f"{name}: {command[:50]}")


@pytest.fixture(scope="module")
def examples():
    """A `Vision` over the folder that the pages name."""
    with Vision.load(model="demo", allowed_dirs=[REPOSITORY / "examples"], threads=1) as eyes:
        yield eyes


@pytest.fixture(scope="module")
def server(examples):
    running = HttpThread(examples)
    yield running
    running.end()


@pytest.fixture
def at_home(monkeypatch):
    """In the repository, with the variables of a person who chose the demo."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("BLIP2TOOLS_MODEL", "demo")


# ---- blocks ----


def test_every_block_is_of_a_kind_that_is_tested():
    assert [name for name, _ in blocks("text")] == ["CONTRIBUTING.md", "CONTRIBUTING.md", "docs/troubleshooting.md"]
    for name, text in TEXTS.items():
        assert text.count("\n```") % 2 == 0, name
        kinds = re.findall(r"^```(\S*)$", text, flags=re.M)[::2]
        assert set(kinds) <= {"sh", "console", "python", "json", "text"}, name


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("name", "command", "output"), list(sessions()))
def test_the_session_prints_what_it_shows(name, command, output, at_home, capsys, request):
    if name == "README.md" or not command.startswith("blip2tools"):
        # As a person would, in a shell; the other pages run the same commands in this process, which costs less. The model has
        # been tested before: the first time takes seconds, and the library that it is compared with.
        request.getfixturevalue("examples")
        if "curl" in command:
            command = command.replace(LOCAL, request.getfixturevalue("server").url)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    else:
        assert main(shlex.split(command)[1:]) == 0
        printed = capsys.readouterr().out
    assert printed.rstrip("\n") == output.rstrip("\n")


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("name", "code"),
    [
        pytest.param(*each, id=each[0]) for each in blocks("python") if "import ray" not in each[1]
    ],  # `engine/test_replicas`
)
def test_the_python_runs(name, code, at_home, capsys):
    scope = {"__name__": "__main__"}
    exec(compile(code, name, "exec"), scope)
    printed = " ".join(capsys.readouterr().out.split())
    for expected in re.findall(r"^ *print\(.*\)  # (.*)$", code, flags=re.M):
        pieces = (re.escape(piece) for piece in expected.split("..."))
        assert re.search(".*".join(pieces), printed), f"{expected!r} was not printed, but {printed!r}"
    for tools in scope.get("tools", [])[:1]:
        assert tools.name == TOOLS[0].name


def test_the_configurations_start_a_server():
    found = [json.loads(block) for _, block in blocks("json")]
    assert len(found) == 3
    for configuration in found:
        ((_, servers),) = configuration.items()
        server = servers["blip2tools"]
        words = server["args"]
        if server["command"] == "uvx":
            assert words[:3] == ["--from", "blip2tools[mcp]", "blip2tools"]
            words = words[3:]
        assert build_parser().parse_args(words).allowed_dirs


def test_the_doctor_says_what_is_shown_of_damaged_weights(tmp_path, monkeypatch, capsys):
    ((_, shown),) = blocks("text", ["docs/troubleshooting.md"])
    copy = tmp_path / "my-captioner"
    shutil.copytree(demo_folder("captioner"), copy)
    with (copy / "model.safetensors").open("r+b") as weights:
        weights.truncate(3_200_000)
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--model", "my-captioner", "--offline"]) == 1
    assert shown in capsys.readouterr().out


# ---- commands ----


def lines(block):
    """The commands of a shell block, as words."""
    for line in block.replace("\\\n", " ").splitlines():
        for command in line.split(" && "):
            if words := shlex.split(command, comments=True):
                yield words


def in_prose():
    """Commands that stand in a sentence."""
    for name, text in TEXTS.items():
        if name == "CHANGELOG.md":  # names commands that were
            continue
        prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
        for command in re.findall(r"`((?:blip2tools|make|python -m|pytest) [^`]+)`", prose):
            words = shlex.split(command.replace("\n", " "))
            yield pytest.param(words, id=f"{name}: {command[:50]}")


class ParsedError(Exception):
    """A program has understood its arguments."""


def understand(module, words, monkeypatch):
    """Let a module's own parser judge the words, and stop there."""
    parse = argparse.ArgumentParser.parse_args

    def and_stop(self, *arguments, **options):
        parse(self, *arguments, **options)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", and_stop)
    monkeypatch.setattr(sys, "argv", [module, *words])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the module has been imported before
        with pytest.raises(ParsedError):
            runpy.run_module(module, run_name="__main__")


PLACES = {"CLIENT": "cursor", "NAME": "opt-2.7b", "DATASET": "coco", "COMMAND": "caption"}


def check(words, monkeypatch):
    """Whether the program exists and takes these words; what it does is for other tests."""
    program, *rest = (PLACES.get(word, word) for word in words)
    if program == "blip2tools":
        build_parser().parse_args(rest)
    elif program == "make":
        done = subprocess.run(["make", "-n", *rest], cwd=REPOSITORY, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif program in ("python", "pytest"):
        if program == "python":
            assert rest.pop(0) == "-m"
        module = rest.pop(0) if program == "python" else "pytest"
        if module == "pytest":
            markers = [line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]]
            assert rest[0] == "-m"
            assert rest[1] in markers
            assert all((REPOSITORY / path).exists() for path in rest[2:])
        elif rest:
            understand(module, rest, monkeypatch)
        else:
            assert importlib.util.find_spec(module)
    elif program == "pip":
        extras = {extra for found in re.findall(r"\[(.*?)\]", " ".join(rest)) for extra in found.split(",")}
        assert extras <= set(PROJECT["project"]["optional-dependencies"])
    elif program == "git":
        assert rest == ["clone", SOURCE]
    elif program == "ray":
        assert rest[0] == "start"
        assert rest[1] in ("--head", "--address")
    elif program == "find":
        assert rest
    elif program in ("cd", ".", "export", "python3"):
        assert rest in (["blip2tools"], [".venv/bin/activate"], ["-m", "venv", ".venv"]) or rest[0].startswith(
            "BLIP2TOOLS_"
        )
    else:
        assert program in ("docker", "curl")  # `test_packaging`, and below


@pytest.mark.parametrize(("name", "block"), [pytest.param(*each, id=each[0]) for each in blocks("sh")])
def test_the_commands_of_a_block_are_understood(name, block, monkeypatch):
    for words in lines(block):
        with monkeypatch.context() as patch:
            check(words, patch)


@pytest.mark.parametrize("words", list(in_prose()))
def test_a_command_in_a_sentence_is_understood(words, monkeypatch, capsys):
    """A sentence may name the beginning of a command: `blip2tools caption`."""
    status, complaint = 0, ""
    try:
        check(words, monkeypatch)
    except SystemExit as end:
        status, complaint = end.code, capsys.readouterr().err
    assert status == 0 or re.search(r"arguments are required|expected one argument", complaint), complaint


def test_a_client_with_the_token_sends_a_picture():
    (command,) = (line for _, block in blocks("sh") for line in block.splitlines() if line.startswith("curl"))
    with Vision.load(model="demo", matcher="none", token=TOKEN, threads=1, self_test=False) as eyes:
        server = HttpThread(eyes)
        for token, answer in ((TOKEN, '"handle":"img_'), ("another", '"not_allowed"')):
            done = subprocess.run(
                command.replace(LOCAL, server.url), shell=True, cwd=REPOSITORY, capture_output=True, text=True,
                env={**os.environ, "BLIP2TOOLS_TOKEN": token},
            )  # fmt: skip
            assert answer in done.stdout, done
        server.end()


# ---- tables ----


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_are_those_of_the_code(page):
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, f"{page.name}: run `make readme`"


def table(page, mark):
    """The cells of a table between two marks, without its head."""
    text = re.search(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", TEXTS[page], flags=re.S)[1]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in text.splitlines()[2:]]


def test_every_tool_has_its_row():
    assert re.findall(r"^\| `(\w+_\w+)` \|", TEXTS["docs/mcp.md"], flags=re.M)[: len(TOOLS)] == [
        spec.name for spec in TOOLS
    ]


CALLS = [call for row in table("docs/python.md", "lavis") for call in re.findall(r"`(.*?\))`", row[1])]


@pytest.mark.parametrize("call", CALLS)
def test_every_call_of_the_table_works(call, examples):
    given = {"image": "shapes.png", "images": ["shapes.png"], "question": "how many crosses are there?"}
    assert eval(f"vision.{call}", {"vision": examples, "texts": ["an orange ring", "a purple ring"], **given})


def test_every_route_answers(server):
    routes = [route for row in table("docs/http.md", "routes") for route in re.findall(r"`(.+?)`", row[0])]
    assert {route.rpartition("/")[2] for route in routes if "/api/" in route} == set(VERBS)
    with server.client() as client:
        for route in routes:
            method, _, path = route.rpartition(" ")
            assert client.request(method or "POST", path).status_code not in (404, 405), route


def test_what_moved_is_where_the_changelog_says():
    rows = table("CHANGELOG.md", "moved")
    assert len(rows) > 10
    for old, new in rows:
        for module in re.findall(r"`([\w.]+)`", new):
            assert importlib.util.find_spec(module), module
        for command in re.findall(r"`blip2tools (bench \w+)`", old):
            with pytest.raises(SystemExit):
                build_parser().parse_args(command.split())


# ---- links and pictures ----


def links(text):
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)$", text, flags=re.M)


def headings(text):
    lines = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^a-z0-9_ -]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    for target in links(TEXTS[name]):
        path, _, anchor = target.partition("#")
        if path.startswith("http"):
            if not path.startswith(SOURCE):
                continue
            start = next(filter(path.startswith, STARTS), None)
            assert start, target
            file = REPOSITORY / path.removeprefix(start)
        else:
            file = (REPOSITORY / name).parent / path if path else REPOSITORY / name
        assert file.exists(), target
        if anchor:
            assert anchor in headings(file.read_text(encoding="utf-8")), target


def test_every_reference_of_the_readme_is_given_and_used():
    text = TEXTS["README.md"]
    given = re.findall(r"^\[([a-z-]+)\]: ", text, flags=re.M)
    assert sorted(given) == sorted(set(re.findall(r"\]\[([a-z-]+)\]", text)))


def test_the_readme_begins_with_pictures_and_is_short():
    rows = TEXTS["README.md"].splitlines()
    assert len(rows) <= 150
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", "\n".join(rows[:40]))
    assert len(pictures) >= 2
    for picture in pictures:
        with Image.open(REPOSITORY / picture) as opened:
            opened.load()
        assert (REPOSITORY / picture).stat().st_size < 120_000


def test_links_of_the_readme_also_work_away_from_the_repository():
    """On a package's page a relative link leads nowhere; pictures get their addresses when the package is built."""
    text = TEXTS["README.md"]
    for target in links(re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)):
        assert target.startswith("https://"), target


def test_every_page_is_in_the_index():
    listed = links(TEXTS["docs/README.md"])
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= set(listed)
    for page in DOCS.glob("*.md"):
        linked = f"{STARTS[0]}docs/{page.name}" in TEXTS["README.md"]
        assert linked or page.name == "README.md", f"the README does not lead to {page.name}"


def test_the_drawing_stands_beside_what_the_commands_print():
    """Those sessions are run above."""
    printed = "".join(block for _, block in blocks("console", ["docs/command-line.md"]))
    assert words_of(DOCS / "look.png").strip()
    for part in re.split(r"^(?=\$ )", words_of(DOCS / "look.png"), flags=re.M):
        assert part in printed


def parameters(kind):
    """Counted by another library than the page does."""
    from safetensors import safe_open

    with safe_open(demo_folder(kind) / "model.safetensors", "np") as file:
        names = [name for name in file.keys() if name != "language_model.lm_head.weight"]  # noqa: SIM118
        return sum(file.get_tensor(name).size for name in names)


def test_sizes_of_the_demo_are_those_of_its_files():
    shown = words_of(DOCS / "report.png")
    for kind in ("captioner", "matcher"):
        assert f"{parameters(kind):,}" in TEXTS["blip2tools/demo/CARD.md"]
        assert f"{parameters(kind) / 1e6:.2f} million" in shown


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_pictures_show_what_is_there_today(tmp_path):
    pytest.importorskip("playwright.sync_api", reason="the browser tests need: pip install playwright")
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip("no Chromium: install it")
    from docs.pictures import main as make

    make(tmp_path)
    for name in ("look.png", "page.png", "report.png"):
        assert words_of(tmp_path / name) == words_of(DOCS / name), f"{name}: run `make pictures`"


# ---- the house ----


def test_the_house_is_drawn_as_it_is():
    (_, way), (_, drawing) = blocks("text", ["CONTRIBUTING.md"])
    for room in re.findall(r"\w+", way.splitlines()[1]):
        assert importlib.util.find_spec(f"blip2tools.{room}") or room == "over", room
    rooms, folder = set(), ""
    for indent, path in re.findall(r"^( *)(\S+)  ", drawing, flags=re.M):
        folder = "" if not indent else folder
        assert (REPOSITORY / folder / path).exists(), path
        rooms.add(f"{folder}{path}")
        folder = path if not indent else folder
    package = REPOSITORY / "blip2tools"
    for path in package.iterdir():
        if (path / "__init__.py").exists():
            assert f"blip2tools/{path.name}/" in rooms, f"{path.name} is not drawn"


def test_the_readme_is_the_packages_description():
    assert README.name == "README.md"
    assert PROJECT["project"]["dynamic"] == ["readme"]
