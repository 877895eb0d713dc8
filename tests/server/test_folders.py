"""Allowed folders that do not exist, or that are written with variables, in the server."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from blip2tools.errors import InvalidInputError
from blip2tools.pictures.folders import Folders
from blip2tools.settings import Settings


def test_the_server_starts_with_the_folder_that_is_there(start_server, picture, tmp_path):
    (tmp_path / "Pictures").mkdir()
    shutil.copy(picture.path, tmp_path / "Pictures" / "a.png")
    missing = tmp_path / "not mounted"
    server = start_server(
        *("--model", "demo", "--allow-dir", str(missing), "--allow-dir", "$HOME/Pictures"), env={"HOME": str(tmp_path)}
    )
    server.initialize()
    status = server.call("vision_status")["structuredContent"]
    assert status["limits"]["allowed_folders"] == [str(tmp_path / "Pictures")]
    assert any("not mounted" in warning for warning in status["warnings"])
    listed = server.call("list_images")
    assert [Path(one["path"]).name for one in listed["structuredContent"]["images"]] == ["a.png"]
    assert "not mounted" in listed["content"][0]["text"]
    assert server.end() == 0
    assert "not mounted" in server.log


def folders(*paths: str) -> Folders:
    return Folders(Settings(allowed_dirs=paths), trusted=False, reveal=True)


@pytest.mark.parametrize(
    "written", ["$HOME/x", "${HOME}/x", "${env:HOME}/x", "$env:HOME/x", "%HOME%/x", "${userHome}/x", "~/x"]
)
def test_variables_are_written_out(written, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "x").mkdir()
    assert folders(written).roots == (tmp_path / "x",)


def test_a_folder_that_is_called_like_a_variable(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$HOME").mkdir()
    assert folders("$HOME").roots == (tmp_path / "$HOME",)


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("$NOT_SET_ANYWHERE/x", "names $NOT_SET_ANYWHERE, which is not set"),
        ("${workspaceFolder}", "names ${workspaceFolder}"),
        ("%NOT_SET_ANYWHERE%\\x", "names %NOT_SET_ANYWHERE%"),
        ("file.txt", "is a file"),
        ("nothing", "does not exist"),
    ],
)
def test_what_is_wrong_is_named(written, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").touch()
    (tmp_path / "good").mkdir()
    with pytest.raises(InvalidInputError, match=wanted.replace("$", r"\$").replace("{", r"\{")):
        folders(written)
    beside = folders(written, "good")
    assert beside.roots == (tmp_path / "good",)
    (warning,) = beside.warnings
    assert wanted in warning


@pytest.mark.skipif(os.name == "nt", reason="folders of POSIX")
def test_a_folder_that_may_never_be_opened_is_no_mere_warning(tmp_path):
    with pytest.raises(InvalidInputError, match="cannot be opened"):
        folders(str(tmp_path), "/proc")
