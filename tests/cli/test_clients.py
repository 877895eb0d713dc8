"""`blip2tools install`: the place of each client's file, and the changes to it."""

import json
import os
import re
import stat
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from blip2tools.cli import clients
from blip2tools.cli.clients import CLIENTS, Machine, config_folder, config_path, launcher, platform_of, server_entry
from blip2tools.cli.command_line import build_parser, main
from blip2tools.cli.jsonfile import plan_member, plan_removal
from blip2tools.cli.textfile import write
from blip2tools.cli.tomlfile import plan_table
from blip2tools.cli.yamlfile import plan_entry
from blip2tools.errors import InvalidInputError
from tests.conftest import run_cli

HOME = Path("/home/ada")
MAC = Path("/Users/ada")
WINDOWS = Path("C:/Users/ada")


def machine(platform, home, **more):
    config = config_folder(platform, home, more.pop("appdata", None), more.pop("xdg", None))
    return Machine(platform, home, Path("project"), config, **more)


LINUX, MACOS, WIN = machine("linux", HOME), machine("macos", MAC), machine("windows", WINDOWS)

PLACES = [
    ("claude-desktop", "user", LINUX, HOME / ".config/Claude/claude_desktop_config.json"),
    ("claude-desktop", "user", MACOS, MAC / "Library/Application Support/Claude/claude_desktop_config.json"),
    ("claude-desktop", "user", WIN, WINDOWS / "AppData/Roaming/Claude/claude_desktop_config.json"),
    (
        "claude-desktop",
        "user",
        machine("windows", WINDOWS, appdata="D:/Roaming"),
        Path("D:/Roaming/Claude/claude_desktop_config.json"),
    ),
    (
        "claude-desktop",
        "user",
        machine("linux", HOME, xdg="/etc/ada"),
        Path("/etc/ada/Claude/claude_desktop_config.json"),
    ),
    (
        "claude-desktop",
        "user",
        machine("linux", HOME, xdg="not/absolute"),
        HOME / ".config/Claude/claude_desktop_config.json",
    ),
    ("claude-code", "project", LINUX, Path("project/.mcp.json")),
    ("cursor", "project", WIN, Path("project/.cursor/mcp.json")),
    ("cursor", "user", MACOS, MAC / ".cursor/mcp.json"),
    ("cursor", "user", WIN, WINDOWS / ".cursor/mcp.json"),
    ("vscode", "project", LINUX, Path("project/.vscode/mcp.json")),
    ("vscode", "user", LINUX, HOME / ".config/Code/User/mcp.json"),
    ("vscode", "user", MACOS, MAC / "Library/Application Support/Code/User/mcp.json"),
    ("vscode", "user", WIN, WINDOWS / "AppData/Roaming/Code/User/mcp.json"),
    ("windsurf", "user", WIN, WINDOWS / ".codeium/windsurf/mcp_config.json"),
    ("lm-studio", "user", LINUX, HOME / ".lmstudio/mcp.json"),
    ("zed", "user", LINUX, HOME / ".config/zed/settings.json"),
    ("zed", "user", MACOS, MAC / ".config/zed/settings.json"),
    ("zed", "user", WIN, WINDOWS / "AppData/Roaming/Zed/settings.json"),
    ("gemini-cli", "project", LINUX, Path("project/.gemini/settings.json")),
    ("gemini-cli", "user", MACOS, MAC / ".gemini/settings.json"),
    ("codex", "user", LINUX, HOME / ".codex/config.toml"),
    ("codex", "user", machine("linux", HOME, codex=Path("/srv/codex")), Path("/srv/codex/config.toml")),
    ("opencode", "project", LINUX, Path("project/opencode.json")),
    ("opencode", "user", machine("linux", HOME, xdg="/etc/ada"), Path("/etc/ada/opencode/opencode.json")),
    ("opencode", "user", MACOS, MAC / ".config/opencode/opencode.json"),
    ("goose", "user", LINUX, HOME / ".config/goose/config.yaml"),
    ("goose", "user", WIN, WINDOWS / "AppData/Roaming/Block/goose/config/config.yaml"),
    ("jan", "user", LINUX, HOME / ".local/share/Jan/data/mcp_config.json"),
    ("jan", "user", MACOS, MAC / "Library/Application Support/Jan/data/mcp_config.json"),
]


@pytest.mark.parametrize(("name", "scope", "where", "path"), PLACES)
def test_where_the_files_lie(name, scope, where, path):
    assert config_path(CLIENTS[name], scope, where) == path


def test_every_client_has_a_place_on_every_platform():
    for client in CLIENTS.values():
        assert client.project or client.user
        if client.user:
            assert set(client.user) == {"linux", "macos", "windows"}
    assert [platform_of(name) for name in ("linux", "darwin", "win32")] == ["linux", "macos", "windows"]


def test_the_packaged_claude_desktop_reads_its_private_copy(tmp_path):
    here = machine("windows", tmp_path, local_data=tmp_path / "Local")
    packages = tmp_path / "Local" / "Packages"
    (packages / "Claude_one" / "LocalCache" / "Roaming").mkdir(parents=True)
    private = packages / "Claude_one/LocalCache/Roaming/Claude/claude_desktop_config.json"
    assert config_path(CLIENTS["claude-desktop"], "user", here) == private
    (packages / "Claude_two" / "LocalCache" / "Roaming").mkdir(parents=True)
    with pytest.raises(InvalidInputError, match="several"):
        config_path(CLIENTS["claude-desktop"], "user", here)
    private.parent.mkdir()
    private.write_text("{}")
    assert config_path(CLIENTS["claude-desktop"], "user", here) == private


def test_lm_studio_may_live_elsewhere(tmp_path):
    here = machine("linux", tmp_path)
    (tmp_path / ".cache" / "lm-studio").mkdir(parents=True)
    assert config_path(CLIENTS["lm-studio"], "user", here) == tmp_path / ".cache/lm-studio/mcp.json"
    (tmp_path / ".lmstudio-home-pointer").write_text(f"{tmp_path / 'models'}\n")
    assert config_path(CLIENTS["lm-studio"], "user", here) == tmp_path / "models/mcp.json"


# ---- the entry ----


@pytest.mark.parametrize("client", CLIENTS.values(), ids=lambda client: client.name)
@pytest.mark.parametrize("uvx", [False, True])
def test_the_entry_starts_our_server(client, uvx, tmp_path):
    entry = server_entry(client, "user", [str(tmp_path), "."], model="demo", uvx=uvx, project=tmp_path)
    words = entry["command"] if client.style == "opencode" else [entry.get("command") or entry["cmd"], *entry["args"]]
    start = launcher(uvx=uvx)
    assert words[: len(start)] == start
    parsed = build_parser().parse_args(words[len(start) :])
    assert parsed.allowed_dirs == [str(tmp_path), str(tmp_path)]
    assert parsed.model == "demo"
    types = {"vscode": "stdio", "claude-code": "stdio", "goose": "stdio", "opencode": "local"}
    assert entry.get("type") == types.get(client.name)


def test_the_command_is_this_environments_own():
    (command,) = launcher(uvx=False)
    assert Path(command).is_absolute()
    assert Path(command).parent == Path(sys.executable).parent
    assert launcher(uvx=True) == ["uvx", "--from", "blip2tools[mcp]", "blip2tools"]


def test_an_environment_of_uvx_is_not_written_down(monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/home/ada/.cache/uv/archive-v0/abc")
    assert launcher(uvx=False)[0] == "uvx"


def test_without_an_installed_script_the_interpreter_runs_the_module(monkeypatch, tmp_path):
    monkeypatch.setattr(clients.sysconfig, "get_path", lambda name: str(tmp_path))
    assert launcher(uvx=False) == [sys.executable, "-m", "blip2tools"]


def test_the_project_is_the_default_folder_and_elsewhere_one_must_be_named(tmp_path):
    assert server_entry(CLIENTS["cursor"], "project", [], project=tmp_path)["args"][-1] == str(tmp_path)
    assert server_entry(CLIENTS["vscode"], "project", [])["args"][-1] == "${workspaceFolder}"
    assert server_entry(CLIENTS["vscode"], "user", ["${workspaceFolder}/a"])["args"][-1] == "${workspaceFolder}/a"
    with pytest.raises(InvalidInputError, match="--allow-dir"):
        server_entry(CLIENTS["windsurf"], "user", [])
    with pytest.raises(InvalidInputError, match="no folder"):
        server_entry(CLIENTS["cursor"], "project", ["missing"], project=tmp_path)


def test_the_model_cache_is_handed_on_and_no_secret_is(monkeypatch, tmp_path):
    for name, value in (("HF_HOME", "/models"), ("HF_TOKEN", "secret"), ("HF_HUB_CACHE", "")):
        monkeypatch.setenv(name, value)
    assert server_entry(CLIENTS["cursor"], "project", [], project=tmp_path)["env"] == {"HF_HOME": "/models"}


def test_a_models_folder_is_made_absolute(tmp_path):
    (tmp_path / "mine").mkdir()
    entry = server_entry(CLIENTS["cursor"], "project", [], model="mine", project=tmp_path)
    assert entry["args"][-1] == str(tmp_path / "mine")


# ---- the file ----

ENTRY = {"command": "new", "args": ["serve"]}
KEYS = ("mcpServers", "blip2tools")
FILES = {
    "no other server": '{\n  "mcpServers": {}\n}\n',
    "others, four spaces, no last newline": (
        '{\n    "z": 1,\n    "mcpServers": {\n        "x": {"args": ["a",  "b"]}\n    },\n    "a": [1,  2]\n}'
    ),
    "tabs and Windows newlines": '{\r\n\t"mcpServers": {\r\n\t\t"x": {}\r\n\t}\r\n}\r\n',
    "one line": '{"theme": "dark", "mcpServers": {"x": {"command": "y"}}}',
    "no servers yet": '{\n  "theme": "dark"\n}\n',
    "an empty object": "{}",
    "a byte order mark": '\ufeff{\n  "theme": "dark"\n}\n',
    "an older entry in the middle": (
        '{\n  "mcpServers": {\n    "blip2tools": {\n      "command": "old"\n    },\n    "x": {}\n  }\n}\n'
    ),
    "escapes and non-ASCII": '{\n  "é\\u00e9 {": "// no comment, [}",\n  "mcpServers": {"a/*": "*/"}\n}\n',
    "the same key twice": '{"mcpServers": {"x": 1}, "mcpServers": {"y": 2}}',
}


def in_order(text):
    return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=list)


@pytest.mark.parametrize("before", FILES.values(), ids=FILES.keys())
def test_the_rest_of_the_file_stays(before, tmp_path):
    file = tmp_path / "config.json"
    file.write_bytes(before.encode())
    edit = plan_member(file, KEYS, ENTRY)
    assert edit.before == before
    wanted = json.loads(before.removeprefix("\ufeff"))
    wanted.setdefault("mcpServers", {})["blip2tools"] = ENTRY
    assert json.loads(edit.after) == wanted, "also where there was a byte order mark"
    assert ("\r\n" in before) == ("\r\n" in edit.after)
    assert edit.after.count("\r\n") in (0, edit.after.count("\n"))
    old = [pair for pair in in_order(before) if pair[0] != "mcpServers"]
    assert [pair for pair in in_order(edit.after) if pair[0] != "mcpServers"] == old
    # Every line that was there is still there, but for a comma after the last of its object and the old entry itself.
    lines = [line for line in before.removeprefix("\ufeff").splitlines() if '"old"' not in line]
    if len(lines) > 1:
        assert (
            not {line.rstrip(",") for line in lines}
            - {line.rstrip(",") for line in edit.after.splitlines()}
            - {
                '  "mcpServers": {}',
                '  "mcpServers": {"a/*": "*/"}',
            }
        )
    write(edit)
    again = plan_member(file, KEYS, ENTRY)
    assert not again.changes
    assert again.diff() == ""


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("before", ['{\r\n  "theme": "dark é"\r\n}\r\n', "", None])
def test_no_byte_order_mark_is_left(before, coding, tmp_path, monkeypatch, capsys):
    """Claude Code, say, refuses such a file; also where the entry is there already and nothing else changes."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / ".mcp.json"
    install = ["install", "claude-code", "--yes"]
    if before is None:
        assert main(install) == 0
        before = file.read_text(encoding="utf-8")
    file.write_bytes(before.encode(coding))
    assert main(install) == 0
    assert "byte order mark" in capsys.readouterr().err
    written = json.loads(file.read_bytes().decode("utf-8"))
    assert "blip2tools" in written["mcpServers"]
    assert written.get("theme", "dark é") == "dark é"
    (backup,) = tmp_path.glob(".mcp.json.*.bak")
    assert backup.read_bytes() == before.encode(coding)
    assert main(install) == 0
    assert "already has this entry" in capsys.readouterr().err


def test_a_folder_with_a_variable(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "Pictures").mkdir()
    for written in ("$HOME/Pictures", "${HOME}/Pictures", "${env:HOME}/Pictures", "%HOME%/Pictures", "~/Pictures"):
        assert main(["install", "claude-desktop", "--allow-dir", written, "--print"]) == 0
        assert str(tmp_path / "Pictures") in capsys.readouterr().out, written
    assert main(["install", "claude-desktop", "--allow-dir", "$NOT_SET_ANYWHERE/x", "--print"]) == 2
    assert "$NOT_SET_ANYWHERE is not set" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_new_file(content, tmp_path):
    file = tmp_path / "deep" / "er" / "config.json"
    if content is not None:
        file.parent.mkdir(parents=True)
        file.write_text(content)
    edit = plan_member(file, KEYS, ENTRY)
    assert edit.diff().splitlines()[0] == ("--- /dev/null" if content is None else f"--- {file}")
    backup = write(edit)
    assert json.loads(file.read_text()) == {"mcpServers": {"blip2tools": ENTRY}}
    assert (backup is None) == (content is None)


def test_a_backup_of_each_moment_and_the_modes_of_the_old_file(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"key": "secret"}')
    file.chmod(0o640)
    now = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    first = write(plan_member(file, KEYS, ENTRY), now)
    second = write(plan_member(file, KEYS, {"command": "newer"}), now)
    assert [first.name, second.name] == [
        "config.json.20261123T120000Z.bak",
        "config.json.20261123T120000Z-1.bak",
    ]
    assert first.read_text() == '{"key": "secret"}'
    assert json.loads(second.read_text())["mcpServers"]["blip2tools"] == ENTRY
    assert {stat.S_IMODE(path.stat().st_mode) for path in (file, first, second)} == {0o640}
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name, second.name, first.name]


def test_a_link_stays_a_link(tmp_path):
    real = tmp_path / "dotfiles.json"
    real.write_text("{}")
    link = tmp_path / "config.json"
    link.symlink_to(real)
    write(plan_member(link, KEYS, ENTRY))
    assert link.is_symlink()
    assert json.loads(real.read_text())["mcpServers"]["blip2tools"] == ENTRY


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.text(max_size=6) | st.just("mcpServers"), VALUES, max_size=4)


@given(
    DOCUMENTS, st.dictionaries(st.text(max_size=6) | st.just("blip2tools"), VALUES), st.integers(0, 4), st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_any_document_keeps_all_else_in_its_order(tmp_path_factory, document, servers, indent, plain):
    document["mcpServers"] = servers
    file = tmp_path_factory.mktemp("any") / "config.json"
    text = json.dumps(document, indent=indent or None, ensure_ascii=plain)
    file.write_bytes(text.encode())
    after = plan_member(file, KEYS, ENTRY).after
    servers["blip2tools"] = ENTRY
    assert json.dumps(json.loads(after)) == json.dumps(document)


COMMENTED = [
    '{\n  // mine\n  "servers": {}\n}',
    '{"servers": {/* none */}}',
    '{"servers": {"x": {},},}',
    '// "{\n{"a": "// not one", "b": [1,]}',
]


def comments(text):
    found = re.findall(r'"(?:[^"\\\n]|\\.)*"|(//[^\n]*|/\*.*?\*/)', text, flags=re.S)
    return [one for one in found if one]


@pytest.mark.parametrize("text", COMMENTED)
def test_comments_and_trailing_commas_stay(text, tmp_path):
    file = tmp_path / "mcp.json"
    file.write_text(text)
    write(plan_member(file, KEYS, ENTRY))
    after = file.read_text()
    assert comments(after) == comments(text)
    assert not plan_member(file, KEYS, ENTRY).changes
    assert plan_member(file, KEYS, {"command": "other"}).changes
    write(plan_removal(file, KEYS))
    again = file.read_text()
    assert "blip2tools" not in again
    assert comments(again) == comments(text)
    assert not plan_removal(file, KEYS).changes


def test_a_comment_stays_with_its_member(tmp_path):
    file = tmp_path / "opencode.jsonc"
    file.write_text('{\n  "mcp": {\n    "x": {}, // mine\n    // not yet: "y"\n  },\n}\n')
    write(plan_member(file, ("mcp", "blip2tools"), ENTRY))
    entry = '    "blip2tools": {\n      "command": "new",\n      "args": [\n        "serve"\n      ]\n    }\n'
    assert file.read_text() == '{\n  "mcp": {\n    "x": {}, // mine\n    // not yet: "y"\n' + entry + "  },\n}\n"
    write(plan_removal(file, ("mcp", "blip2tools")))
    assert file.read_text() == '{\n  "mcp": {\n    "x": {} // mine\n    // not yet: "y"\n  },\n}\n'


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"mcpServers": ', "line 1, column 16"),
        (b'{"a": 1 /* never closed', "not valid JSON"),
        (b"[]", "does not hold a JSON object"),
        (b'{"mcpServers": []}', '"mcpServers" in .* is not an object'),
        (b'{"mcpServers": null}', "is not an object"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply|not valid JSON"),
    ],
)
def test_a_broken_file_is_refused_untouched(content, sentence, tmp_path):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(InvalidInputError, match=sentence):
        plan_member(file, KEYS, ENTRY)
    assert file.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_file_that_changed_meanwhile_is_left_alone(tmp_path):
    file = tmp_path / "config.json"
    file.write_text("{}")
    edit = plan_member(file, KEYS, ENTRY)
    file.write_text('{"new": 1}')
    with pytest.raises(InvalidInputError, match="in the meantime"):
        write(edit)
    assert file.read_text() == '{"new": 1}'


def test_a_folder_in_the_files_place(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(InvalidInputError, match="cannot be read"):
        plan_member(tmp_path / "config.json", KEYS, ENTRY)


def test_a_failed_write_leaves_the_file_and_no_litter(tmp_path, monkeypatch):
    file = tmp_path / "config.json"
    file.write_text("{}")
    edit = plan_member(file, KEYS, ENTRY)

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InvalidInputError, match="No space left"):
        write(edit)
    assert file.read_text() == "{}"
    assert [path.suffix for path in tmp_path.iterdir() if path != file] == [".bak"]


# ---- the command ----


def install(home, *words, fresh=False):
    environment = {"HOME": str(home), "USERPROFILE": str(home), "XDG_CONFIG_HOME": ""}
    return run_cli("install", *words, cwd=home, env=environment, fresh=fresh)


def test_the_command_shows_asks_and_writes(tmp_path):
    file = tmp_path / ".cursor" / "mcp.json"
    file.parent.mkdir()
    file.write_text('{\n  "mcpServers": {\n    "x": {}\n  }\n}\n')
    shown = install(tmp_path, "cursor", "--dry-run")
    assert shown.returncode == 0
    assert '+    "blip2tools": {' in shown.stdout
    nobody = install(tmp_path, "cursor")
    assert nobody.returncode == 2
    assert "--yes" in nobody.stderr
    assert "blip2tools" not in file.read_text()
    done = install(tmp_path, "cursor", "--yes", "--model", "demo")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"--- {file}\n+++ {file}\n")
    entry = json.loads(file.read_text())["mcpServers"]["blip2tools"]
    assert entry["args"] == ["serve", "--allow-dir", str(tmp_path), "--model", "demo"]
    again = install(tmp_path, "cursor", "--yes", "--model", "demo")
    assert again.returncode == 0
    assert "nothing was changed" in again.stderr
    assert len(list(file.parent.iterdir())) == 2


def test_the_command_with_comments_or_for_pasting(tmp_path):
    file = tmp_path / ".vscode" / "mcp.json"
    file.parent.mkdir()
    file.write_text('{\n  "servers": {} // none yet\n}\n')
    printed = install(tmp_path, "vscode", "--print")
    assert printed.returncode == 0
    snippet = json.loads(printed.stdout)
    assert snippet["servers"]["blip2tools"]["type"] == "stdio"
    assert file.read_text() == '{\n  "servers": {} // none yet\n}\n'
    assert install(tmp_path, "vscode", "--yes").returncode == 0
    assert json.loads(file.read_text().replace("// none yet", "")) == snippet


def test_in_and_out_again_with_the_skill(tmp_path):
    """Clients with files of three kinds, in one process: what was there is there again, byte for byte."""
    files = {
        "codex": (".codex/config.toml", '# mine\nmodel = "x"  # local\n\n[mcp_servers.other]\ncommand = "y"\n'),
        "goose": (
            ".config/goose/config.yaml",
            "# mine\nGOOSE_MODEL: x  # local\nextensions:\n  other:\n    enabled: true\n",
        ),
        "opencode": (".config/opencode/opencode.json", '{\n  // mine\n  "mcp": {\n    "other": {}\n  }\n}\n'),
        "hermes": (".hermes/config.yaml", "model: x\n"),
    }
    for name, (path, before) in files.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True)
        file.write_text(before)
        done = install(tmp_path, name, "--user", "--yes", "--allow-dir", str(tmp_path), "--skill")
        assert done.returncode == 0, done.stderr
        after = file.read_text()
        assert "blip2tools" in after
        assert all(line in after.splitlines() for line in before.splitlines() if "other" not in line)
        skill = tmp_path / ".agents/skills/look-at-pictures/SKILL.md"
        assert skill.read_text().startswith("---\nname: look-at-pictures\n")
        gone = uninstall(tmp_path, name, "--user", "--yes")
        assert gone.returncode == 0, gone.stderr
        assert file.read_text().removesuffix("mcp_servers:\n") == before
        assert not skill.parent.exists()
        nothing = uninstall(tmp_path, name, "--user", "--yes")
        assert nothing.returncode == 0
        assert "nothing was changed" in nothing.stderr


def uninstall(home, *words):
    environment = {"HOME": str(home), "USERPROFILE": str(home), "XDG_CONFIG_HOME": ""}
    return run_cli("uninstall", *words, cwd=home, env=environment)


@pytest.mark.parametrize(
    ("name", "meant"), [("opt-2.8b", "opt-2.7b"), ("flan-t5-xk", "flan-t5-xl"), ("nothing-like-it", None)]
)
def test_a_model_that_does_not_exist_is_refused(name, meant, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["install", "cursor", "--yes", "--model", name]) == 2
    said = capsys.readouterr().err
    assert f"There is no captioner named '{name}'" in said
    assert (f"Did you mean {meant}?" in said) if meant else ("Did you mean" not in said)
    assert not (tmp_path / ".cursor").exists()


TOML = {
    "empty": "",
    "no last newline": 'model = "x"',
    "comments everywhere": '# top\nmodel = "x" # here\n\n# before\n[mcp_servers.a] # there\ncommand = "y"\n\n# end\n',
    "Windows newlines": 'model = "x"\r\n\r\n[mcp_servers.a]\r\ncommand = "y"\r\n',
    "an older entry in the middle": (
        '[mcp_servers.blip2tools]\ncommand = "old"\n\n[mcp_servers.blip2tools.env]\nA = "b"\n\n# theirs\n[tui]\ntheme = "x"\n'
    ),
    "a quoted name": '[mcp_servers."blip2tools"]\ncommand = "old"\n',
    "a look-alike in a string": 'text = """\n[other]\n"""\n[mcp_servers.a]\nargs = [\n  "[b]",\n]\n',
}
TABLE = {"command": 'C:\\a "b"', "args": ["serve", "é"], "env": {"HF_HOME": "/x"}}


@pytest.mark.parametrize("before", TOML.values(), ids=TOML.keys())
def test_a_toml_file_keeps_all_else(before, tmp_path):
    file = tmp_path / "config.toml"
    file.write_bytes(before.encode())
    keys = ("mcp_servers", "blip2tools")
    write(plan_table(file, keys, TABLE))
    after = file.read_bytes().decode()
    old, new = tomllib.loads(before), tomllib.loads(after)
    assert new.pop("mcp_servers") == {**old.pop("mcp_servers", {}), "blip2tools": TABLE}
    assert new == old
    assert re.findall("#.*", after) == re.findall("#.*", before)
    assert ("\r\n" in before) == ("\r\n" in after)
    assert not plan_table(file, keys, TABLE).changes
    write(plan_table(file, keys, None))
    assert "blip2tools" not in file.read_text()
    assert re.findall("#.*", file.read_bytes().decode()) == re.findall("#.*", before)


YAML = {
    "empty": "",
    "only comments": "# nothing\n",
    "no last newline": "a: 1",
    "others, four spaces": "a: 1 # x\nextensions: # y\n    other: # z\n        cmd: b\n    # last\nb: [1, 2]\n",
    "an empty map": "extensions: {} # none\nb: 2\n",
    "nothing in it": "extensions:\nb: 2\n",
    "an older entry": "extensions:\n  blip2tools:\n    cmd: old\n    args:\n    - a\n  # theirs\n  other:\n    cmd: b\n",
    "Windows newlines": "a: 1\r\nextensions:\r\n  other:\r\n    cmd: b\r\n",
}


@pytest.mark.parametrize("before", YAML.values(), ids=YAML.keys())
def test_a_yaml_file_keeps_all_else(before, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_bytes(before.encode())
    keys, value = (
        ("extensions", "blip2tools"),
        {"cmd": 'C:\\a "b": #', "args": ["serve", "é"], "enabled": True, "envs": {}},
    )
    write(plan_entry(file, keys, value))
    after = file.read_bytes().decode()
    old, new = yaml.safe_load(before) or {}, yaml.safe_load(after)
    assert new.pop("extensions") == {**(old.pop("extensions", None) or {}), "blip2tools": value}
    assert new == old
    assert [line for line in re.findall("#.*", after) if '"' not in line] == re.findall("#.*", before)
    assert ("\r\n" in before) == ("\r\n" in after)
    assert not plan_entry(file, keys, value).changes
    write(plan_entry(file, keys, None))
    assert "blip2tools" not in file.read_text()
    assert re.findall("#.*", file.read_bytes().decode()) == re.findall("#.*", before)


@pytest.mark.parametrize(
    ("plan", "name", "content"),
    [
        (plan_table, "a.toml", "mcp_servers = { blip2tools = { command = 'x' } }\n"),
        (plan_table, "a.toml", "broken ="),
        (plan_table, "a.toml", "mcp_servers = 3\n"),
        (plan_entry, "a.yaml", "extensions: {other: {cmd: b}}\n"),
        (plan_entry, "a.yaml", "extensions: [other]\n"),
        (plan_entry, "a.yaml", "- a\n"),
        (plan_entry, "a.yaml", "a: [\n"),
    ],
)
def test_a_form_that_cannot_be_changed_is_refused_untouched(plan, name, content, tmp_path):
    file = tmp_path / name
    file.write_text(content)
    keys = ("mcp_servers", "blip2tools") if plan is plan_table else ("extensions", "blip2tools")
    with pytest.raises(InvalidInputError, match="left alone"):
        plan(file, keys, {"command": "new"})
    assert file.read_text() == content


def test_the_command_for_a_user(tmp_path):
    for name in ("windsurf", "lm-studio", "zed"):
        done = install(tmp_path, name, "--yes", "--allow-dir", str(tmp_path), "--uvx")
        assert done.returncode == 0, done.stderr
        assert "not published yet" in done.stderr
    assert json.loads((tmp_path / ".codeium/windsurf/mcp_config.json").read_text())["mcpServers"]
    assert json.loads((tmp_path / ".lmstudio/mcp.json").read_text())["mcpServers"]
    elsewhere = install(tmp_path, "claude-code", "--user", "--yes", "--allow-dir", str(tmp_path))
    assert elsewhere.returncode == 2
    assert "claude mcp add --scope user" in elsewhere.stderr
    command = install(tmp_path, "claude-code", "--user", "--print", "--allow-dir", str(tmp_path))
    assert command.stdout.startswith("claude mcp add --scope user blip2tools -- ")
    wrong = install(tmp_path, "notepad")
    assert wrong.returncode == 2
    assert "claude-desktop" in wrong.stderr


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals")
@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("n", 1), ("", 1)])
def test_a_person_is_asked(answer, status, tmp_path):
    import pty
    import subprocess

    parent, child = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "blip2tools", "install", "claude-code"],
        stdin=child,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    ) as process:
        os.write(parent, f"{answer}\n".encode())
        _, said = process.communicate(timeout=200)
    os.close(parent)
    os.close(child)
    assert process.returncode == status
    assert b"[y/N]" in said
    assert (tmp_path / ".mcp.json").exists() == (status == 0)


def test_an_installed_entry_serves(tmp_path, start_server, picture, folder):
    """The entry in a client's file starts the server that the client expects."""
    done = install(tmp_path, "claude-code", "--yes", "--allow-dir", str(folder), "--model", "demo", fresh=True)
    assert done.returncode == 0, done.stderr
    entry = json.loads((tmp_path / ".mcp.json").read_text())["mcpServers"]["blip2tools"]
    assert Path(entry["command"]).is_file()
    server = start_server(*entry["args"][1:], cwd=tmp_path)
    server.initialize()
    listed = server.call("list_images")["structuredContent"]["images"]
    assert str(picture.path) in [image["path"] for image in listed]
