"""The description at /openapi.json is that of the routes; schemathesis holds a real server to it (`pytest -m clients`)."""

import json
import os
import re
import subprocess
import venv
from pathlib import Path

import jsonschema
import pytest

from blip2tools import Vision
from blip2tools.errors import ERROR_CODES
from blip2tools.schemas import parse
from blip2tools.schemas.arguments import EMPTY, as_written
from blip2tools.schemas.wire import input_schema
from blip2tools.server.chat.forms import ChatRequest
from blip2tools.server.http.app import VERBS, build_app
from blip2tools.server.http.failures import STATUS
from blip2tools.toolset import BY_NAME, TOOLS
from tests.conftest import REPOSITORY
from tests.support.http_process import TOKEN, HttpProcess, HttpThread

PATH = "/openapi.json"
TOOLS_OF_SCHEMATHESIS = Path(__file__).parent / "schemathesis"
EXAMPLES = REPOSITORY / "examples"


@pytest.fixture(scope="module")
def examples(vision):
    """The same eyes over the folder that the examples of the document name."""
    with Vision.load(model="demo", allowed_dirs=[EXAMPLES], threads=1, num_beams=1) as eyes:
        yield eyes


@pytest.fixture(scope="module")
def http(examples):
    server = HttpThread(examples)
    with server.client() as client:
        yield client
    server.end()


@pytest.fixture(scope="module")
def document(http):
    got = http.get(PATH)
    assert (got.status_code, got.headers["content-type"]) == (200, "application/json")
    return got.json()


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method != "parameters":
                yield path, method, operation


def schema_of(document, part):
    """A part's schema, with the components that it refers to."""
    return {**part, "components": document["components"]}


def validate(document, part, value):
    jsonschema.Draft202012Validator(schema_of(document, part)).validate(value)


def bodies(document):
    for path, _, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {})
        for name, example in content.get("application/json", {}).get("examples", {}).items():
            yield path, name, content["application/json"]["schema"], example["value"]


def test_every_route_is_in_it_with_its_methods(document, examples):
    app = build_app(examples)._app._app._app
    real = {
        (re.sub(r"\{name:path\}", "{model}", route.path), method.lower())
        for route in app.routes
        for method in route.methods or ()
        if route.path not in ("/mcp", "/") and not route.path.startswith("/page/") and method != "HEAD"
    }
    assert {(path, method) for path, method, _ in operations(document)} == real
    assert len(real) > 15
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    assert {spec.name for spec in TOOLS} <= set(names), "a tool has no route"


def test_it_is_made_of_the_models_that_judge(document):
    schemas = document["components"]["schemas"]
    for verb, tool in VERBS.items():
        spec = BY_NAME[tool]
        method = "get" if verb == "status" else "post"
        operation = document["paths"][f"/api/{verb}"][method]
        said = json.dumps(operation["responses"]["200"])
        for kind in filter(None, (spec.result, spec.several)):
            assert f"/{kind.__name__}" in said
            assert set(schemas[kind.__name__]["properties"]) == set(kind.model_fields)
        if method == "post":
            assert operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith(
                f"/{spec.arguments.__name__}"
            )
            assert set(schemas[spec.arguments.__name__]["properties"]) == set(spec.arguments.model_fields)
    # What agents are not told, to save their context, programs are.
    assert schemas["Failure"]["properties"]["code"]["enum"] == list(ERROR_CODES)
    assert schemas["Problem"]["properties"]["code"]["enum"] == list(ERROR_CODES)
    assert schemas["AnswersResult"]["properties"]["images"]["items"]["$ref"].endswith("/ImageInfo")
    assert schemas["BriefStatus"]["properties"]["limits"]["$ref"].endswith("/Limits")


def test_every_reference_leads_somewhere_and_every_component_is_used(document):
    text = json.dumps(document)
    used = set(re.findall(r'"\$ref": "#/components/(\w+)/(\w+)"', text))
    there = {(kind, name) for kind in ("schemas", "responses") for name in document["components"][kind]}
    assert used == there
    assert text.count('"$ref"') == len(re.findall(r'"\$ref": "#/components/', text))


def test_every_example_is_valid_and_gets_the_described_answer(document, http):
    seen = 0
    for path, name, schema, value in bodies(document):
        validate(document, schema, value)
        if path.startswith("/api/"):
            model = BY_NAME[VERBS[path.removeprefix("/api/")]].arguments
            parse(model, as_written(value, input_schema(model)))
        else:
            parse(ChatRequest, value)
        got = http.post(path, json=value)
        assert got.status_code == 200, (path, name, got.text)
        validate(
            document,
            document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"],
            got.json(),
        )
        seen += 1
    assert seen >= len(VERBS)
    for path, method, operation in operations(document):
        if method == "get" and "{" not in path and "application/json" in operation["responses"]["200"]["content"]:
            validate(
                document, operation["responses"]["200"]["content"]["application/json"]["schema"], http.get(path).json()
            )


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "status"])
def test_what_is_forgiven_is_said(document, verb):
    """The schema and the models agree on empty values, and on arguments that exclude each other."""
    model = BY_NAME[VERBS[verb]].arguments
    schema = document["paths"][f"/api/{verb}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    valid = next(value for path, _, _, value in bodies(document) if path == f"/api/{verb}")
    tried = [
        {**valid, name: value}
        for name in model.model_fields
        for value in (None, *EMPTY, 5, 2.0, True, "x", ["x", "y"], [0, 0, 1, 1], {"a": 1})
    ]
    validator = jsonschema.Draft202012Validator(schema_of(document, schema))
    for body in [*tried, {**valid, "more": 1}, {}]:
        try:
            parse(model, as_written(body, input_schema(model)))
            taken = True
        except Exception:  # noqa: BLE001 - any refusal
            taken = False
        assert validator.is_valid(body) == taken, body


def test_errors_are_described_with_their_status_and_codes(document, http):
    def described(path, method, status):
        ref = document["paths"][path][method]["responses"][str(status)]["$ref"]
        return document["components"]["responses"][ref.rsplit("/", 1)[-1]]["content"]["application/json"]["schema"]

    for code, status in STATUS.items():
        if code != "fetch_failed":
            validate(document, described("/api/caption", "post", status), {"code": code, "message": "x"})
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    json_type = {"content-type": "application/json"}
    for path, sent, status in (
        ("/api/caption", {"json": {}}, 400),
        ("/api/caption", {"json": {"image": "/etc/passwd"}}, 403),
        ("/api/caption", {"json": {"image": "none.png"}}, 404),
        ("/api/caption", {"json": {"image": "shapes.png"}, "headers": {"host": "evil.example"}}, 421),
        ("/api/list", {"content": b"x" * 20_000_000, "headers": json_type}, 413),
        ("/images", {"content": b"no picture"}, 415),
        ("/images", {"content": (EXAMPLES / "shapes.png").read_bytes()[:300]}, 422),
        ("/v1/chat/completions", {"json": chat}, 400),
        ("/v1/chat/completions", {"json": {**chat, "n": 2}}, 400),
        ("/v1/chat/completions", {"json": {**chat, "stream": "yes"}}, 400),
        ("/v1/chat/completions", {"json": chat, "headers": {"origin": "https://evil.example"}}, 403),
    ):
        got = http.post(path, **sent)
        assert got.status_code == status, (path, got.text)
        validate(document, described(path, "post", status), got.json())
    got = http.get("/v1/models/gpt")
    validate(document, described("/v1/models/{model}", "get", got.status_code), got.json())
    wrong = http.post("/v1/models")
    assert (wrong.status_code, set(wrong.json())) == (
        405,
        {"error"},
    )  # also what the router refuses, in the form of /v1


def test_it_is_behind_the_guard_and_says_so(folder):
    with Vision.load(model="demo", allowed_dirs=(folder,), preload=False, token=TOKEN, rate_limit=0) as eyes:
        server = HttpThread(eyes)
        try:
            with server.client() as client:
                document = client.get(PATH).json()
                assert client.get(PATH, headers={"authorization": ""}).status_code == 401
                assert client.get(PATH, headers={"host": "evil.example"}).status_code == 421
        finally:
            server.end()
    assert document["security"] == [{"token": []}]
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert {"key": []} in document["paths"]["/v1/models"]["get"]["security"]
    caption = document["paths"]["/api/caption"]["post"]
    assert "401" in caption["responses"]
    assert "429" not in caption["responses"], "no rate is limited"
    assert TOKEN not in json.dumps(document)


@pytest.mark.slow
@pytest.mark.clients
@pytest.mark.timeout(900)
@pytest.mark.parametrize("token", ["", TOKEN], ids=["open", "token"])
def test_schemathesis_finds_nothing(token, tmp_path):
    """In an environment of its own. `positive_data_acceptance` takes no 400 for an answer; `hooks.py` has what replaces it."""
    home = Path(os.environ.get("CLIENT_ENVIRONMENTS", tmp_path)) / "schemathesis"
    if not (home / "complete").exists():
        venv.create(home, with_pip=True)
        needs = TOOLS_OF_SCHEMATHESIS / "requirements.txt"
        subprocess.run([home / "bin" / "python", "-m", "pip", "install", "-q", "-r", needs], check=True, timeout=600)
        (home / "complete").touch()
    server = HttpProcess(
        *("--model", "demo", "--allow-dir", str(EXAMPLES), "--num-beams", "1", "--rate-limit", "0"),
        env={"BLIP2TOOLS_TOKEN": token} if token else {},
    )
    command = [
        *(home / "bin" / "schemathesis", "run", f"{server.url}{PATH}", "--no-color", "--continue-on-failure"),
        *("--phases", "examples,coverage,fuzzing", "--max-time", "90", "--request-timeout", "60"),
        *("--exclude-checks", "positive_data_acceptance"),
        *(("-H", f"Authorization: Bearer {token}") if token else ()),
    ]
    there = {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(TOOLS_OF_SCHEMATHESIS), "NO_PROXY": "127.0.0.1"}
    try:
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **there}, capture_output=True, text=True, timeout=600, check=False
        )
    finally:
        server.end()
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout.rpartition("Test cases")[2])[1]) > 300, done.stdout
    assert "Traceback" not in server.log
