"""The official Inspector, a client in another language, lists and calls everything over both transports."""

import json
import shlex
import sys

import pytest

from blip2tools.toolset import TOOLS
from tests.support.official import INSPECTOR, SERVE, http_server, needs_tools, node

pytestmark = [pytest.mark.interop, pytest.mark.timeout(400), needs_tools]

TRANSPORTS = ("stdio", "http")


@pytest.fixture(scope="module")
def url(folder):
    with http_server(folder) as address:
        yield address


@pytest.fixture(params=TRANSPORTS)
def inspect(request, folder, tmp_path):
    """Runs one method against the server and returns its answer. What a server of its own logs is shown where that is wrong."""
    log = tmp_path / "server.log"
    if request.param == "http":
        target = [request.getfixturevalue("url")]
    else:
        serve = [sys.executable, "-m", "blip2tools", "serve", "--allow-dir", str(folder), *SERVE]
        target = ["sh", "-c", f"exec {shlex.join(serve)} 2> {shlex.quote(str(log))}"]

    def run(*words, era="legacy", status=0):
        done = node(INSPECTOR, "--cli", *target, *words, "--protocol-era", era)
        logged = log.read_text()[-4000:] if log.exists() else ""
        assert done.returncode == status, done.stdout[-2000:] + done.stderr[-2000:] + logged
        return json.loads(done.stdout), done.stderr

    return run


def test_the_strict_lint_has_nothing_to_say(inspect):
    for era in ("legacy", "modern"):
        answer, complaints = inspect("--method", "tools/list", "--strict", era=era)
        assert [tool["name"] for tool in answer["tools"]] == [spec.name for spec in TOOLS]
        assert not [line for line in complaints.splitlines() if "schema" in line.lower()], complaints


def test_every_tool_is_called(inspect, pictures):
    image = pictures[0].path.name
    calls = {
        "caption_image": {"image": image, "num_captions": 2},
        "ask_image": {"image": image, "question": "how many objects are there?", "choices": ["one", "two"]},
        "match_image_text": {"image": image, "texts": [pictures[0].caption], "region": [0, 0, 1, 1]},
        "survey_image": {"image": image, "rows": 1},
        "compare_images": {"images": [image, pictures[1].path.name]},
        "list_images": {"limit": 3},
        "read_text": {"image": image},
        "search_images": {"query": pictures[0].caption, "limit": 2},
        "vision_status": {},
    }
    assert list(calls) == [spec.name for spec in TOOLS]
    for number, (name, arguments) in enumerate(calls.items()):
        era = ("legacy", "modern")[number % 2]
        words = ("--method", "tools/call", "--tool-name", name, "--tool-args-json", json.dumps(arguments))
        answer, _ = inspect(*words, era=era)
        assert not answer.get("isError")
        assert set(answer["structuredContent"]) == set(TOOLS[number].result.model_fields)
        assert answer["content"][0]["text"]


def test_a_refusal_is_an_error_of_the_tool(inspect):
    words = ("--method", "tools/call", "--tool-name", "caption_image", "--tool-args-json", '{"img": "x"}')
    answer, _ = inspect(*words, status=5)
    assert answer["isError"]
    assert answer["content"][0]["text"].startswith("invalid_input: There is no argument 'img'")


def test_prompts_and_resources(inspect):
    answer, _ = inspect("--method", "prompts/list", era="modern")
    assert [one["name"] for one in answer["prompts"]] == ["look_closely", "verify_claim", "verify"]
    answer, _ = inspect("--method", "prompts/get", "--prompt-name", "look_closely", "--prompt-args", "image=a.png")
    assert '"a.png"' in answer["messages"][0]["content"]["text"]
    answer, _ = inspect("--method", "resources/templates/list")
    assert answer["resourceTemplates"][0]["uriTemplate"] == "blip2://images/{handle}"
    answer, _ = inspect("--method", "resources/read", "--uri", "blip2://status", era="modern")
    assert answer["contents"][0]["text"].startswith("model: demo")
