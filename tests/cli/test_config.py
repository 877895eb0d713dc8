"""`blip2tools config` and the user's file: rank, refusals, comments, and what is never shown."""

import json
import os
import stat

import pytest

from blip2tools.checkpoints import confidence
from blip2tools.cli.command_line import main
from blip2tools.errors import InvalidInputError, ModelUnavailableError
from blip2tools.settings import Settings, file, strays, told_strays

TOKEN = "tokentokentokentoken"


@pytest.fixture
def config(tmp_path, monkeypatch):
    path = tmp_path / "place" / "config.toml"
    monkeypatch.setenv("BLIP2TOOLS_CONFIG", str(path))

    def write(text):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode())
        return path

    return write


class TestRank:
    def test_file_below_variables_below_arguments(self, config, monkeypatch):
        config('num_beams = 2\nmax_queue = 3\ntop_p = 0.5\nallow_urls = true\nallowed_dirs = ["/a", "/b c"]\n')
        monkeypatch.setenv("BLIP2TOOLS_MAX_QUEUE", "4")
        settings = Settings.load(top_p=0.25)
        assert (settings.num_beams, settings.max_queue, settings.top_p, settings.allow_urls) == (2, 4, 0.25, True)
        assert [str(folder) for folder in settings.allowed_dirs] == ["/a", "/b c"]

    def test_lists_also_as_text_and_an_empty_text_is_absent(self, config):
        config('formats = "png, tiff"\nallowed_dirs = "/one"\nmodel = ""\n')
        settings = Settings.load()
        assert (settings.formats, [str(one) for one in settings.allowed_dirs]) == (("PNG", "TIFF"), ["/one"])
        assert settings.model == "auto"

    def test_the_platforms_place(self, tmp_path, monkeypatch):
        monkeypatch.delenv("BLIP2TOOLS_CONFIG")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        monkeypatch.setattr(file, "user_config_path", lambda name, appauthor: tmp_path / name)
        assert Settings.load().num_beams == 5
        (tmp_path / "blip2tools").mkdir()
        (tmp_path / "blip2tools" / "config.toml").write_text("num_beams = 3")
        assert Settings.load().num_beams == 3
        assert Settings.load({}).num_beams == 5  # an environment that is given has no user


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes of POSIX")
class TestPipes:
    """A pipe that nobody writes to would be waited for without end."""

    def test_as_the_settings_file(self, config):
        path = config("")
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(InvalidInputError, match=r"cannot be read .*pipe"):
            Settings.load()

    def test_as_a_calibration(self, tmp_path):
        os.mkfifo(tmp_path / "fit.json")
        with pytest.raises(ModelUnavailableError, match=r"The calibration in 'fit\.json' cannot be read"):
            confidence.find(str(tmp_path / "fit.json"), tmp_path)


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("modle = 'demo'", "'modle' in the settings file .*; did you mean 'model'?"),
            ("[server]\nport = 3", "'server' in the settings file"),
            ("num_beams = 30", "'num_beams' of the settings file .*: it must be at most 8"),
            ("num_beams = true", "is no truth value"),
            ("num_beams", "is no TOML"),
            ("device = 'gpu'", "'gpu' is none of auto, cpu"),
            ("model = '\udcff'", "is not in UTF-8"),
        ],
    )
    def test_a_sentence_that_names_the_file(self, config, text, says, capsys):
        path = config("")
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(InvalidInputError, match=says):
            Settings.load()
        assert main(["models"]) == 0  # what needs no settings works
        assert main(["config", "show"]) == 2
        assert "Traceback" not in capsys.readouterr().err

    def test_one_that_is_named_must_be_there(self, monkeypatch, tmp_path):
        monkeypatch.setenv("BLIP2TOOLS_CONFIG", str(tmp_path / "none.toml"))
        with pytest.raises(InvalidInputError, match="BLIP2TOOLS_CONFIG names"):
            Settings.load()

    def test_a_keyword_and_a_variable(self, monkeypatch, capsys):
        with pytest.raises(InvalidInputError, match=r"did you mean 'num_beams'\?"):
            Settings.load(num_beam=3)
        monkeypatch.setenv("BLIP2TOOLS_MODLE", "demo")
        assert strays() == ["BLIP2TOOLS_MODLE"]
        assert told_strays() == ["no setting reads the variable BLIP2TOOLS_MODLE; did you mean 'BLIP2TOOLS_MODEL'?"]
        assert main(["models"]) == 0
        assert "warning: no setting reads the variable BLIP2TOOLS_MODLE" in capsys.readouterr().err


class TestShow:
    def test_where_each_value_comes_from(self, config, monkeypatch, capsys):
        path = config(f'num_beams = 2\ntoken = "{TOKEN}"\n')
        monkeypatch.setenv("BLIP2TOOLS_MAX_QUEUE", "4")
        assert main(["config", "show"]) == 0
        told = capsys.readouterr()
        assert TOKEN not in told.out + told.err
        lines = told.out.splitlines()
        assert f"num_beams = 2  # {path}" in lines
        assert "max_queue = 4  # BLIP2TOOLS_MAX_QUEUE" in lines
        assert "top_p = 0.9  # default" in lines
        assert f"# token = ********  # {path}" in lines
        assert len(lines) == len(Settings.model_fields)
        assert file.parsed(told.out, path)["num_beams"] == 2  # it is TOML itself

    def test_as_json(self, config, capsys):
        config(f'token = "{TOKEN}"\n')
        assert main(["config", "show", "--json", "token", "allow-dir"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["name"] for row in rows] == ["token", "allowed_dirs"]
        assert rows[0]["value"] == "********"
        assert rows[1] == {"name": "allowed_dirs", "value": None, "from": "default"}

    def test_an_unknown_name(self, config, capsys):
        config("")
        assert main(["config", "show", "num_bems"]) == 2
        assert "did you mean 'num_beams'?" in capsys.readouterr().err

    def test_path(self, config, capsys):
        path = config("")
        assert main(["config", "path"]) == 0
        assert capsys.readouterr().out == f"{path}\n"
        assert main(["config", "path", "--all"]) == 0
        assert capsys.readouterr().out.splitlines()[:2] == [str(path), os.environ["BLIP2TOOLS_CACHE_DIR"]]


class TestSet:
    def test_a_new_file_is_its_users_alone(self, tmp_path, monkeypatch):
        path = tmp_path / "new" / "config.toml"
        monkeypatch.setenv("BLIP2TOOLS_CONFIG", str(path))
        assert main(["config", "set", "--", "model", "opt-2.7b"]) == 0
        assert main(["config", "set", "token", TOKEN]) == 0
        assert path.read_text() == f'model = "opt-2.7b"\ntoken = "{TOKEN}"\n'
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 or os.name == "nt"
        assert Settings.load().token.get_secret_value() == TOKEN

    @pytest.mark.parametrize("ending", ["\n", "\r\n"])
    def test_comments_and_order_stay(self, config, ending):
        before = [
            "# of mine",
            "num_beams = 2  # quick # enough",
            "",
            '"top_p" = 0.5',
            "formats = [",
            '  "PNG", # one',
            "]",
        ]
        before += ["# end", ""]
        path = config(ending.join(before))
        assert main(["config", "set", "num-beams", "3"]) == 0
        assert main(["config", "set", "formats", "jpeg", "png"]) == 0
        assert main(["config", "set", "top_p", "0.25"]) == 0
        after = [
            "# of mine",
            "num_beams = 3  # quick # enough",
            "",
            "top_p = 0.25",
            'formats = ["JPEG", "PNG"]',
            "# end",
            "",
        ]
        assert path.read_bytes().decode() == ending.join(after)
        assert main(["config", "set", "num_beams"]) == 0
        assert path.read_bytes().decode() == ending.join(after[:1] + after[2:])

    def test_kinds(self, config, monkeypatch, tmp_path):
        path = config("")
        monkeypatch.chdir(tmp_path)
        for words in (
            ["allow_urls", "1"],
            ["deadline_s", "30"],
            ["vqa_template", 'Q: "{question}"'],
            ["allow-dir", "pictures", "~/more, and more"],
            ["url_hosts", "a.org,B.org"],
            ["offload_dir", "/tmp/x"],
        ):
            assert main(["config", "set", *words]) == 0
        assert path.read_text().splitlines() == [
            "allow_urls = true",
            "deadline_s = 30.0",
            'vqa_template = "Q: \\"{question}\\""',
            f'allowed_dirs = ["{tmp_path / "pictures"}", "~/more, and more"]',
            'url_hosts = ["a.org", "b.org"]',
            'offload_dir = "/tmp/x"',
        ]
        Settings.load()

    def test_what_is_refused_changes_nothing(self, config, capsys):
        path = config("num_beams = 2\n")
        for words in (["num_beams", "9"], ["modle", "x"], ["model", "a", "b"], ["token", "short"]):
            assert main(["config", "set", *words]) == 2
        assert path.read_text() == "num_beams = 2\n"
        told = capsys.readouterr().err
        assert "at most 8" in told
        assert "did you mean 'model'?" in told
        assert "short" not in told

    def test_nothing_to_take_out_and_a_variable_that_counts_more(self, config, monkeypatch, capsys):
        path = config("num_beams = 2\n")
        assert main(["config", "set", "top_p"]) == 0
        assert path.read_text() == "num_beams = 2\n"
        monkeypatch.setenv("BLIP2TOOLS_NUM_BEAMS", "4")
        assert main(["config", "set", "num_beams", "3"]) == 0
        assert "BLIP2TOOLS_NUM_BEAMS is set and counts more" in capsys.readouterr().err
