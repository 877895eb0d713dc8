"""No case without a test that is really run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.safety.cases import CASES

pytestmark = pytest.mark.timeout(600)  # to collect takes imports, and a busy machine takes long for them

GROUPS = {"P": 17, "U": 18, "D": 6, "I": 22, "Q": 8, "E": 16, "S": 13}
OF_A_CASE = re.compile(r"\[([PUDIQES]\d+)-")


def files() -> set[str]:
    return {file_of(name) for _, names in CASES.values() for name in names}


def file_of(name: str) -> str:
    path = Path("tests", name.partition("::")[0])
    return f"{path.with_name(f'test_{path.name}')}.py"


@pytest.fixture(scope="module")
def collected(request) -> set[str]:
    """The tests that pytest would run by default: collected again, unless this run is of everything."""
    everything = {item.nodeid for item in request.session.items}
    option = request.config.option
    if not option.keyword and option.markexpr in ("", "not clients and not long"):
        missing = files() - {name.partition("::")[0] for name in everything}
        if not missing and len({name.partition("::")[0] for name in everything}) > len(files()):
            return everything
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *sorted(files())]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-2000:]
    return set(done.stdout.splitlines())


def test_every_case_is_in_the_table():
    assert set(CASES) == {f"{group}{number}" for group, count in GROUPS.items() for number in range(1, count + 1)}
    assert len(CASES) == 100
    assert all(words and tests for words, tests in CASES.values())


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_tested(collected, case):
    for name in CASES[case][1]:
        node = f"{file_of(name)}::{name.partition('::')[2]}"
        found = [one for one in collected if one == node or one.startswith(node + "[")]
        assert found, f"{case}: {node} is not run"
        named = [OF_A_CASE.search(one) for one in found]
        if any(named) and f"_{case}_" not in node:
            assert any(match and match[1] == case for match in named), f"{case}: no row of {node} is about it"


def test_no_row_is_about_a_case_that_is_not_there(collected):
    named = {match[1] for one in collected if "tests/safety/" in one and (match := OF_A_CASE.search(one))}
    assert named <= set(CASES)
