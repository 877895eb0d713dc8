"""The table of traps: it names guards and tests that exist, and tests fail when a guard is removed."""

import ast
from functools import cache

import pytest

from tests.safety import traps
from tests.safety.traps import REPOSITORY, TRAPS

IDS = [trap.what for trap in TRAPS]


@cache
def functions(file):
    """Names of the tests of a file, with their classes."""
    names = set()
    for node in ast.parse((REPOSITORY / file).read_text(encoding="utf-8")).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        names |= {prefix + each.name for each in inner if isinstance(each, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("trap", TRAPS, ids=IDS)
def test_guard_and_tests_exist(trap):
    text = (REPOSITORY / "blip2tools" / trap.file).read_text(encoding="utf-8")
    assert text.count(trap.guard) == 1
    ast.parse(text.replace(trap.guard, trap.without))
    for test in trap.tests:
        file, _, name = test.partition("::")
        assert name.partition("[")[0] in functions(file), test


@pytest.mark.long
@pytest.mark.parametrize("trap", TRAPS, ids=IDS)
def test_without_its_guard_it_is_noticed(trap):
    failed, printed = traps.run(trap)
    assert failed, printed


@pytest.mark.long
def test_with_their_guards_nothing_fails():
    """Of one trap: or a copy that cannot run at all would count as noticed."""
    failed, printed = traps.run(TRAPS[0], without_guard=False)
    assert not failed
    assert " passed" in printed
