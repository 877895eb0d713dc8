"""The official conformance suite against the product, and against a server with the suite's fixtures on the same code.

The files beside the fixture server name each check that is expected to fail, with its reason. The suite itself fails the run
for any other, and for one that passes but is listed.
"""

import re

import pytest

from tests.conftest import REPOSITORY
from tests.support.official import CONFORMANCE, http_server, needs_tools, node

EXPECTED = REPOSITORY / "tests" / "server" / "conformance"
SERVERS = {"product": "blip2tools", "fixture": "tests.server.conformance.fixture_server"}

pytestmark = [pytest.mark.interop, pytest.mark.timeout(400), needs_tools]


@pytest.fixture(scope="module", params=SERVERS)
def server(request, folder):
    with http_server(folder, SERVERS[request.param]) as url:
        yield request.param, url


@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25"])
def test_requirements(server, revision, tmp_path):
    name, url = server
    expected = EXPECTED / f"{name}-{revision}.yml"
    baseline = ["--expected-failures", str(expected)] if expected.exists() else []
    done = node(CONFORMANCE, "server", "--url", url, "--requirements", revision, "-o", str(tmp_path), *baseline)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"Total: (\d+) passed", done.stdout)
    assert passed, done.stdout[-2000:]
    assert int(passed[1]) >= {"2026-07-28": 110, "2025-11-25": 40}[revision]


def test_what_is_expected_to_fail_is_what_needs_a_fixture():
    """The product may fail nothing that the fixture server does not pass, and of the newest revision that one fails nothing."""
    assert not (EXPECTED / "fixture-2026-07-28.yml").exists()
    listed = {
        name: set(re.findall(r"^  - (\S+)", (EXPECTED / f"{name}-2025-11-25.yml").read_text(), flags=re.M))
        for name in SERVERS
    }
    assert listed["fixture"] < listed["product"]
