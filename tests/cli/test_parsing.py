"""What people see of a parser: short help, the error first, and what was probably meant."""

import argparse

import pytest

from blip2tools.cli.command_line import GROUPS, build_parser, main, named

LOOKING = ("caption", "ask", "match", "survey", "serve")


def said(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    return end.value.code, capsys.readouterr()


@pytest.mark.parametrize("command", LOOKING)
def test_help_is_one_screen_and_the_rest_is_there(command, capsys):
    status, told = said([command, "--help"], capsys)
    lines = told.out.splitlines()
    assert status == 0
    assert 10 <= len(lines) <= 20
    assert max(map(len, lines)) <= 120
    assert "--model MODEL" in told.out
    assert "--spill-mb" not in told.out
    status, told = said([command, "--help-all"], capsys)
    assert status == 0
    assert "--spill-mb N" in told.out
    assert "(default 1024) [BLIP2TOOLS_SPILL_MB]" in " ".join(told.out.split())
    assert "--dtype {auto,float32,float16,bfloat16}" in " ".join(told.out.split())


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["capton", "x.png"], "blip2tools: error: invalid choice: 'capton' is no command; did you mean 'caption'?"),
        (["xyzzy"], "blip2tools: error: invalid choice: 'xyzzy' is no command; choose one of caption, ask,"),
        (["caption"], "blip2tools caption: error: the following arguments are required: IMAGE"),
        (["caption", "x.png", "--modl", "demo"], "there is no option --modl; did you mean --model?"),
        (["caption", "x.png", "--num-beam=3"], "there is no option --num-beam; did you mean --num-beams?"),
        (["caption", "x.png", "--style", "plan"], "invalid choice: 'plan'; did you mean 'plain'?"),
        (["install", "curser"], "did you mean 'cursor'?"),
        (["bench", "egine"], "did you mean 'engine'?"),
        (["models", "more"], "blip2tools models: error: unrecognized arguments: 'more' is one word too many"),
        (["caption", "x.png", "--num-captions", "two"], "argument --num-captions: invalid int value: 'two'"),
    ],
)
def test_an_error_is_the_first_line(words, first, capsys):
    status, told = said(words, capsys)
    assert (status, told.out) == (2, "")
    lines = told.err.splitlines()
    assert first in lines[0]
    assert len(lines) == 2
    assert "--help" in lines[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["caption", "x.png", "--device", "gpu"], "an NVIDIA or AMD GPU is cuda"),
        (["caption", "x.png", "--model", "opt-2.7"], "did you mean opt-2.7b?"),
        (["pull", "flan-t5-x"], "did you mean flan-t5-xl?"),
        (["ask", "x.png"], "What is the question?"),
        (["ask", "x.png", "other.png"], "What is the question?"),
        (["ask", "what is there?"], "What is the question?"),
        (["remove", "demo"], "The demo is a part of the package"),
        (["remove", "opt-2.7"], "did you mean opt-2.7b?"),
        (["remove", "opt-2.7b", "--yes"], "is not in the cache of this computer"),
    ],
)
def test_values_are_refused_in_a_sentence(words, says, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert main(words) in (2, 3)
    told = capsys.readouterr()
    assert says in told.err
    assert len(told.err.splitlines()) == 1


def test_each_group_adds_its_commands():
    for names, _ in GROUPS:
        (commands,) = (one for one in build_parser(names[0])._actions if isinstance(one, argparse._SubParsersAction))
        assert tuple(commands.choices) == names


def test_only_the_named_command_is_built():
    assert named(["-v", "caption", "x"]) == "caption"
    assert named(["--help"]) is named(["capton"]) is named([]) is named(["completion", "bash"]) is None
    assert named(["--help", "caption"]) is None
    with pytest.raises(SystemExit):
        build_parser("caption").parse_args(["serve"])


class TestRemove:
    @pytest.fixture
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("BLIP2TOOLS_CACHE_DIR", str(tmp_path / "ours"))
        for name in ("models--Salesforce--blip2-opt-2.7b", "models--Salesforce--blip2-flan-t5-xl"):
            blobs = tmp_path / "hub" / name / "blobs"
            blobs.mkdir(parents=True)
            (blobs / "a").write_bytes(b"x" * 1_500_000)
            (tmp_path / "hub" / ".locks" / name).mkdir(parents=True)
        tests = tmp_path / "ours" / "self-test"
        tests.mkdir(parents=True)
        (tests / "1.json").write_text('{"model": "opt-2.7b + itm-vit-g"}')
        (tests / "2.json").write_text('{"model": "flan-t5-xl"}')
        (tests / "3.json").write_text("no JSON")
        return tmp_path

    def test_its_copy_and_its_verdicts_go(self, cache, capsys):
        assert main(["remove", "opt-2.7b", "--yes"]) == 0
        told = capsys.readouterr()
        assert told.err.startswith("Removed: opt-2.7b, 1.5 MB, in ")
        assert sorted(path.name for path in cache.glob("hub/models--*")) == ["models--Salesforce--blip2-flan-t5-xl"]
        assert len(list(cache.glob("hub/.locks/*"))) == 1
        assert sorted(path.name for path in cache.glob("ours/self-test/*")) == ["2.json", "3.json"]

    def test_nobody_to_ask(self, cache, capsys):
        assert main(["remove", "opt-2.7b"]) == 2
        assert "add --yes" in capsys.readouterr().err
        assert len(list(cache.glob("hub/models--*"))) == 2

    def test_one_that_is_not_there_keeps_the_others(self, cache):
        assert main(["remove", "opt-2.7b", "opt-6.7b", "--yes"]) == 3
        assert len(list(cache.glob("hub/models--*"))) == 2

    @pytest.mark.parametrize("name", ["../../x", "", "auto"])
    def test_what_is_no_model_is_none_to_remove(self, cache, capsys, name):
        assert main(["remove", name, "--yes"]) == 3
        told = capsys.readouterr().err
        assert "remove" in told
        assert "download" not in told
        assert len(list(cache.glob("hub/models--*"))) == 2

    def test_a_folder_of_the_users_own(self, cache, capsys):
        assert main(["remove", str(cache), "--yes"]) == 2
        assert "yours to delete" in capsys.readouterr().err
        assert cache.is_dir()

    def test_without_a_trace(self, cache, capsys):
        (cache / "ours" / "handles").write_text("img_1\t/a\n")
        (cache / "ours" / "mine.txt").write_text("not ours")
        assert main(["remove", "--all", "--yes"]) == 0
        assert "Nothing is left" in capsys.readouterr().err
        assert not list(cache.glob("hub/models--*"))
        assert [path.name for path in (cache / "ours").iterdir()] == ["mine.txt"]
        (cache / "ours" / "mine.txt").unlink()
        assert main(["remove", "--all", "--yes"]) == 0
        assert not (cache / "ours").exists()
        assert main(["remove"]) == 2
