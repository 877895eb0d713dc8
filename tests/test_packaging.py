"""The published package: one name and one version everywhere, and files that do what they claim.

No container engine is needed: the Dockerfile is read, not built.
"""

import fnmatch
import hashlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import dataclass

import pytest

import blip2tools
from blip2tools.cli.command_line import build_parser
from blip2tools.settings import Settings, variable
from blip2tools.toolset import TOOLS
from tests.conftest import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REGISTRY = json.loads((REPOSITORY / "server.json").read_text(encoding="utf-8"))
MANIFEST = json.loads((REPOSITORY / "packaging/mcpb/manifest.json").read_text(encoding="utf-8"))
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
MCP_PAGE = (REPOSITORY / "docs" / "mcp.md").read_text(encoding="utf-8")


# ---- a Dockerfile, read ----


@dataclass
class Step:
    word: str
    rest: str

    @property
    def value(self):
        """The rest as an exec form or as words."""
        return json.loads(self.rest) if self.rest.startswith("[") else shlex.split(self.rest)

    @property
    def pairs(self):
        return dict(part.split("=", 1) for part in shlex.split(self.rest))


def dockerfile():
    """The stages of the Dockerfile, each a list of steps; the arguments before the first are stage 0."""
    text = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    stages = [[]]
    for line in joined.splitlines():
        word, rest = line.split(None, 1)
        if word == "FROM":
            stages.append([])
        stages[-1].append(Step(word, rest.strip()))
    return stages


def steps(stage, word):
    return [step for step in stage if step.word == word]


WORDS = {"FROM", "ARG", "ENV", "RUN", "WORKDIR", "COPY", "LABEL", "USER", "VOLUME", "EXPOSE", "ENTRYPOINT", "CMD"}


def test_the_dockerfile_has_known_steps_in_two_stages():
    before, build, final = dockerfile()
    assert [step.word for step in before] == ["ARG"]
    assert {step.word for stage in (build, final) for step in stage} <= WORDS
    python = before[0].pairs["PYTHON"]
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    assert build[0].rest == "python:${PYTHON}-slim AS build"
    assert final[0].rest == "python:${PYTHON}-slim"
    for word in ("USER", "ENTRYPOINT", "CMD"):
        assert len(steps(final, word)) == 1


def test_the_image_is_for_a_cpu_unless_a_gpu_is_asked_for():
    _, build, _ = dockerfile()
    (device,) = steps(build, "ARG")
    assert device.pairs == {"DEVICE": "cpu"}
    choose = next(step.rest for step in steps(build, "RUN") if "DEVICE" in step.rest)
    for device, status, installs in [("cpu", 0, True), ("gpu", 0, False), ("tpu", 2, False)]:
        program = choose.replace("/opt/blip2tools/bin/pip", "echo pip")
        done = subprocess.run(
            ["sh", "-c", program], capture_output=True, text=True, cwd=REPOSITORY, env={**os.environ, "DEVICE": device}
        )
        assert done.returncode == status
        assert bool(re.search(r"^pip install --no-deps .*/cpu torch==[\d.]+$", done.stdout, flags=re.M)) == installs


def test_every_shell_line_of_the_image_parses():
    for stage in dockerfile():
        for step in steps(stage, "RUN"):
            done = subprocess.run(["sh", "-n", "-c", step.rest], capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "")


def test_the_image_runs_as_nobody_in_particular():
    _, _, final = dockerfile()
    (user,) = steps(final, "USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user.rest)
    words = [step.word for step in final]
    after = words[words.index("USER") :]
    assert not {"RUN", "COPY"} & set(after)
    owner = user.rest.split(":")[0]
    cache = final[words.index("ENV")].pairs["HF_HOME"]
    assert steps(final, "VOLUME")[0].value == [cache]
    assert any(f"install -d -o {owner} -g {owner} {cache}" in step.rest for step in steps(final, "RUN"))


def test_the_image_starts_our_server_over_the_mounted_pictures():
    _, _, final = dockerfile()
    assert steps(final, "ENTRYPOINT")[0].value == ["blip2tools"]
    parsed = build_parser().parse_args(steps(final, "CMD")[0].value)
    assert parsed.allowed_dirs == ["/pictures"]
    assert parsed.http is False
    assert steps(final, "WORKDIR")[0].rest == "/pictures"
    from blip2tools.server.http.serve import DEFAULT_PORT

    assert steps(final, "EXPOSE")[0].rest == str(DEFAULT_PORT)


def test_the_documented_container_commands_fit_the_image():
    _, _, final = dockerfile()
    cache = steps(final, "VOLUME")[0].rest
    allowed = build_parser().parse_args(steps(final, "CMD")[0].value).allowed_dirs
    lines = re.findall(r"^docker run (.*)$", MCP_PAGE.replace("\\\n", ""), flags=re.M)
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line, comments=True)
        at = words.index("blip2tools")
        assert f"blip2tools-models:{cache}" in words[:at]
        if words[at + 1 : at + 2] == ["pull"]:
            build_parser().parse_args(words[at + 1 :])
            continue
        parsed = build_parser().parse_args(words[at + 1 :] or steps(final, "CMD")[0].value)
        assert parsed.allowed_dirs == allowed
        (pictures,) = [word for word in words[:at] if word.endswith(":ro")]
        assert pictures.split(":")[1:-1] == allowed
        port = f":{steps(final, 'EXPOSE')[0].rest}"
        assert any(word.endswith(port) for word in words[:at]) == parsed.http


def ignored(path):
    """Whether the builder never sees a path: the last rule that matches decides."""
    verdict = False
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        rule = line.strip().removeprefix("!")
        if not rule or rule.startswith("#"):
            continue
        parts = path.split("/")
        heads = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        fits = (
            any(part == rule[3:] for part in parts)
            if rule.startswith("**/")
            else any(fnmatch.fnmatch(head, rule) for head in heads if head.count("/") == rule.count("/"))
        )
        if fits:
            verdict = not line.startswith("!")
    return verdict


def test_the_builder_sees_what_it_copies_and_nothing_else():
    _, build, _ = dockerfile()
    copied = {source for step in steps(build, "COPY") for source in step.value[:-1]}
    for source in copied:
        assert (REPOSITORY / source).exists()
        assert not ignored(source)
    assert not ignored("blip2tools/demo/captioner/config.json")
    for path in (".git/config", "tests/conftest.py", ".env", "blip2tools/__pycache__/cli.pyc", "shared/notes"):
        assert ignored(path)
    # What the build backend reads must be there: the readme with its hook, the licence and the package.
    assert {
        *("README.md", "packaging/readme.py", *PROJECT["license-files"]),
        *("blip2tools", "pyproject.toml", "constraints.txt"),
    } == copied


# ---- one name, one version ----


def labels():
    return next(step.pairs for step in dockerfile()[-1] if step.word == "LABEL")


VERSIONS = {
    "package": lambda: blip2tools.__version__,
    "server.json": lambda: REGISTRY["version"],
    "server.json, package": lambda: REGISTRY["packages"][0]["version"],
    "bundle": lambda: MANIFEST["version"],
    "Dockerfile": lambda: labels()["org.opencontainers.image.version"],
    "CHANGELOG": lambda: re.search(
        r"^## \[(\d[^\]]*)\]", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M
    )[1],
}
NAMES = {
    "server.json, title": lambda: REGISTRY["title"],
    "server.json, package": lambda: REGISTRY["packages"][0]["identifier"],
    "server.json, name": lambda: REGISTRY["name"].split("/")[1],
    "bundle": lambda: MANIFEST["name"],
    "Dockerfile": lambda: labels()["org.opencontainers.image.title"],
    "command": lambda: next(iter(PROJECT["scripts"])),
}


@pytest.mark.parametrize("place", VERSIONS)
def test_the_version_is_the_same(place):
    assert VERSIONS[place]() == PROJECT["version"]


@pytest.mark.parametrize("place", NAMES)
def test_the_name_is_the_same(place):
    assert NAMES[place]() == PROJECT["name"]


def test_the_registry_name_is_the_same():
    assert labels()["io.modelcontextprotocol.server.name"] == REGISTRY["name"]
    # The registry looks for this line in the published description as proof of ownership.
    assert f"<!-- mcp-name: {REGISTRY['name']} -->" in README.splitlines()


def test_the_repositorys_address_is_the_same():
    """The registry's name is a namespace of GitHub, so the repository must be there."""
    owner, name = REGISTRY["name"].removeprefix("io.github.").split("/")
    for address in PROJECT["urls"].values():
        assert re.match(rf"https://github\.com/{owner}/{name}(/|$)", address)
    files = [address.partition("/main/")[2] for address in PROJECT["urls"].values() if "/main/" in address]
    assert files
    for file in files:
        assert (REPOSITORY / file).exists()


# ---- the page on the package index ----


def test_the_packages_description_is_the_readme_with_pictures_by_address():
    """The build backend's own reading of `pyproject.toml`."""
    metadata = pytest.importorskip("hatchling.metadata.core", reason="the build backend is not installed")
    from hatchling.plugin.manager import PluginManager

    core = metadata.ProjectMetadata(str(REPOSITORY), PluginManager()).core
    assert core.readme_content_type == "text/markdown"
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", core.readme)
    assert len(pictures) >= 2
    start = PROJECT["urls"]["Source"].replace("https://github.com", "https://raw.githubusercontent.com") + "/main/"
    for picture in pictures:
        assert (REPOSITORY / picture.removeprefix(start)).is_file()
        assert picture.startswith(start)
    assert core.readme.replace(start, "") == README.replace(start, "")


# ---- the registry's entry ----


def test_the_registry_entry_keeps_the_registrys_rules():
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", REGISTRY["name"])
    assert 1 <= len(REGISTRY["description"]) <= 100
    assert re.search(r"/schemas/\d{4}-\d\d-\d\d/server\.schema\.json$", REGISTRY["$schema"])
    (package,) = REGISTRY["packages"]
    assert package["registryType"] == "pypi"
    assert package["transport"] == {"type": "stdio"}
    for given in package["environmentVariables"]:
        assert given["name"] in {"HF_HOME", *map(variable, Settings.model_fields)}


def test_the_registry_entry_starts_our_server(tmp_path):
    (package,) = REGISTRY["packages"]
    runtime = [f"{word['name']}={word['value']}" for word in package["runtimeArguments"]]
    assert runtime == [f"--with={need}" for need in PROJECT["optional-dependencies"]["mcp"]]
    words = [
        word["value"] if word["type"] == "positional" else f"{word['name']}={tmp_path}"
        for word in package["packageArguments"]
    ]
    assert build_parser().parse_args(words).allowed_dirs == [str(tmp_path)]


# ---- the bundle ----


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("build_mcpb", REPOSITORY / "packaging/mcpb/build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundle(builder, tmp_path_factory):
    return builder.main(tmp_path_factory.mktemp("dist"))


def test_the_manifest_tells_the_truth():
    assert MANIFEST["manifest_version"] == "0.4"
    assert [tool["name"] for tool in MANIFEST["tools"]] == [spec.name for spec in TOOLS]
    assert [tool["description"] for tool in MANIFEST["tools"]] == [spec.title for spec in TOOLS]
    assert MANIFEST["compatibility"]["runtimes"]["python"] == PROJECT["requires-python"]
    assert MANIFEST["license"] == PROJECT["license"]
    folders = MANIFEST["user_config"]["allowed_directories"]
    assert (folders["type"], folders["multiple"], folders["required"]) == ("directory", True, True)
    used = re.findall(r"\$\{user_config\.(\w+)\}", json.dumps(MANIFEST["server"]))
    assert sorted(used) == sorted(MANIFEST["user_config"])
    for option in MANIFEST["user_config"].values():
        assert {"type", "title", "description"} <= set(option)
        assert option["required"] or "default" in option


def test_the_bundle_is_whole_and_always_the_same(builder, bundle, tmp_path):
    assert bundle.name == f"{PROJECT['name']}-{PROJECT['version']}.mcpb"
    with zipfile.ZipFile(bundle) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        project = tomllib.loads(archive.read("pyproject.toml").decode())
    assert {"manifest.json", "server.py", "LICENSE", "blip2tools/demo/captioner/model.safetensors"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.startswith(("/", "..", "tests"))]
    needs = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["mcp"]]
    assert sorted(project["project"]["dependencies"]) == sorted(needs)
    assert project["project"]["version"] == PROJECT["version"]
    assert project["tool"]["uv"]["package"] is False
    again = builder.main(tmp_path)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(bundle.read_bytes()).digest()


@pytest.mark.slow
def test_the_unpacked_bundle_serves(bundle, tmp_path, picture, folder):
    """Started as a host would, but with this environment instead of the one that uv makes."""
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path)
    chosen = {"allowed_directories": [str(folder), str(tmp_path)], "model": ["demo"]}
    words = []
    for word in MANIFEST["server"]["mcp_config"]["args"]:
        if found := re.fullmatch(r"(.*)\$\{user_config\.(\w+)\}", word):
            words += [found[1] + value for value in chosen[found[2]]]
        else:
            words.append(word.replace("${__dirname}", str(tmp_path)))
    assert MANIFEST["server"]["mcp_config"]["command"] == "uv"
    assert words[:3] == ["run", "--directory", str(tmp_path)]
    assert words[3] == MANIFEST["server"]["entry_point"]
    start = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}
    look = {"name": "caption_image", "arguments": {"image": picture.path.name}}
    with subprocess.Popen(
        [sys.executable, *words[3:]],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as server:

        def ask(method, **params):
            message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            server.stdin.write(json.dumps(message).encode() + b"\n")
            server.stdin.flush()
            for line in server.stdout:
                if (answer := json.loads(line)).get("id") == 1:
                    return answer["result"]
            return None

        begun = ask("initialize", **start)
        server.stdin.write(b'{"jsonrpc": "2.0", "method": "notifications/initialized"}\n')
        seen = ask("tools/call", **look)
        while "not ready yet" in str(seen):
            seen = ask("tools/call", **look)
        server.stdin.close()
        assert server.wait(200) == 0
        server.stdin = None
    assert begun["serverInfo"]["version"] == PROJECT["version"]
    assert seen["structuredContent"]["text"] == picture.caption


def test_the_audit_fails_for_a_finding_and_says_when_it_could_not_ask(capsys, monkeypatch):
    spec = importlib.util.spec_from_file_location("audit", REPOSITORY / "packaging" / "audit.py")
    audit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(audit)
    good = {"name": "a", "version": "1", "vulns": []}
    bad = {"name": "b", "version": "2", "vulns": [{"id": "X-1", "aliases": ["CVE-1"], "fix_versions": ["3"]}]}
    skipped = {"name": "c", "skip_reason": "not found"}
    assert audit.report([good, skipped]) == 0
    assert "1 of 2 packages audited, 0 findings" in capsys.readouterr().out
    assert audit.report([good, bad]) == 1
    assert "b 2: X-1, fixed by 3" in capsys.readouterr().out
    assert audit.report([skipped]) == 0
    assert "not reachable: none of 1" in capsys.readouterr().out
    monkeypatch.setitem(audit.ACCEPTED, "CVE-1", "the code is never reached")
    assert audit.report([bad]) == 0
