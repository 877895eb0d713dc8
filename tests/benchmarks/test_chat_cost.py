"""The measurement of the chat endpoint and the proxy runs, section by section, and ends by itself whatever happens."""

import re
import shutil
import sys

import pytest

from benchmarks import chat_cost


def test_a_server_that_does_not_start_ends_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert chat_cost.main(["--only", "latency", "--only", "throughput"]) == 1
    said = capsys.readouterr().out
    assert said.count("RuntimeError: the server was not ready") == 2
    assert re.search(r"^\d{4}-\d\d-\d\d, \d+ cores, load", said, re.M)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_section_gives_its_figures(capsys):
    assert chat_cost.main(["--times", "5", "--rounds", "1", "--minutes", "0.1"]) == 0
    said = capsys.readouterr().out
    figures = {name.strip(): float(value) for name, value in re.findall(r"^(.+): ([\d.e+-]+)$", said, re.M)}
    assert {name.partition(",")[0] for name in figures} == set(chat_cost.SECTIONS)
    assert figures["mixing, mixed"] == figures["mixing, failed"] == figures["mixing, with a picture"] == 0
    assert figures["mixing, turns"] > 32
    assert figures["mixing, captions that differ"] > 30
    assert figures["throughput, openai, captions a second"] > 0
