"""The examples run as printed."""

import re
import runpy

import pytest

from tests.conftest import REPOSITORY

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))
EXPECTED = {
    "langchain_agent": r"    ai  It shows an? .* on a (?P<ground>\w+) background\. And the background.* is (?P=ground)\.",
    "langchain_middleware": r"agent: answer: three\n(.*\n)*base64 in the checkpoints: False",
    "langgraph_verify": r"0\.0\d \(cosine \S+\) an? \w+ star\n(.*\n)*after 2 rounds: an orange heart, an orange ring",
    "sort_pictures": r"black +(\d+) pictures, \1 of them right\n",
}


def test_each_has_a_test():
    assert [path.stem for path in EXAMPLES] == sorted(EXPECTED)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs_as_printed(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(EXPECTED[path.stem], printed), printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_real_model_is_one_line_away(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("model = ") for line in lines) == 1
    assert any(line.startswith("# A real one: model = init_chat_model(") for line in lines)
    assert len(lines) <= 80
