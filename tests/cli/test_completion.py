"""`blip2tools completion`: scripts that the shells accept, and what bash offers with its own."""

import shutil
import subprocess

import pytest

from tests.conftest import run_cli

ASK = """
source {script}
offer() {{
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${{#COMP_LINE}}; COMPREPLY=()
    "$(complete -p blip2tools | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
    printf '%s\\n' "${{COMPREPLY[@]}}"
}}
offer {words}
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        done = run_cli("completion", shell, fresh=shell == "bash")
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        (folder / shell).write_text(done.stdout)
    return folder


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_accepts_its_script(scripts, shell):
    text = (scripts / shell).read_text()
    for word in ("caption", "install", "doctor", "claude-desktop", "allow-dir"):
        assert word in text
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    checked = subprocess.run([shell, "-n", str(scripts / shell)], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("words", "offers"),
    [
        ("blip2tools ''", {"caption", "serve", "install", "completion"}),
        ("blip2tools ser", {"serve"}),
        ("blip2tools install cu", {"cursor"}),
        ("blip2tools install cursor --dry", {"--dry-run"}),
        ("blip2tools serve --allow-dir {folder}/pic", {"{folder}/pictures"}),
        ("blip2tools caption {folder}/pic", {"{folder}/pictures", "{folder}/picture.png"}),
    ],
)
def test_what_bash_offers(scripts, tmp_path, words, offers):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "picture.png").touch()
    program = ASK.format(script=scripts / "bash", words=words.format(folder=tmp_path))
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    wanted = {offer.format(folder=tmp_path) for offer in offers}
    assert wanted <= {line.rstrip("/") for line in done.stdout.splitlines()}
