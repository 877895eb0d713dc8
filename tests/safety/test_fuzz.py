"""Whatever a caller sends, the real server answers: with a result, or with one clear error. By hypothesis, from the schemas."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from blip2tools.errors import ERROR_CODES
from blip2tools.toolset import TOOLS, ToolSpec
from tests.conftest import StdioServer
from tests.safety.test_data import REFUSED as DATA
from tests.safety.test_paths import REFUSED as PATHS
from tests.safety.test_text import STRANGE
from tests.safety.test_urls import BEFORE_ANY_QUESTION
from tests.support.face import Face

LONG_RUN = 10_000
WARM_UP = 1_000  # until caches are full and allocators have what they need

GOOD = ["good.png", "latest", "@good.png", "deep/inner.png", "inside.png", "file:good.png"]
HOSTILE = [
    *(reference for _, reference, _ in [*PATHS, *DATA, *BEFORE_ANY_QUESTION]),
    *(words for _, words in STRANGE),
    *("img_0000000000000000", "blip2://images/img_0000000000000000", "latest\0", "q" * 600, "x" * 10_000),
]
ODD = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        5.0,
        -0.0,
        1e-320,
        1e308,
        float("nan"),
        float("inf"),
        -float("inf"),
        10**30,
        -(10**30),
    ),
    *("", " ", "5", "null", [], {}, [[]], [None], {"": None}, ["a"] * 100, [0] * 4, [0, 0, 1, 1], {"text": "q"}),
]

references = st.one_of(st.sampled_from(GOOD), st.sampled_from(GOOD), st.sampled_from(HOSTILE), st.text(max_size=60))
words = st.one_of(
    st.sampled_from(["what is it?", "how many objects are there?", "a red circle", "a photo of"]),
    st.sampled_from(HOSTILE),
    st.text(min_size=1, max_size=80),
    st.text(alphabet=st.characters(categories=["Cc", "Cf", "Cs", "Co", "Mn", "Zs"]), max_size=40),
)
junk = st.one_of(
    st.sampled_from(ODD),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
        max_leaves=12,
    ),
)


def lawful(name: str, schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a property's schema allows, among them those at its bounds."""
    if "anyOf" in schema:
        return st.one_of(*(lawful(name, part) for part in schema["anyOf"]))
    match schema.get("type"):
        case "string" if name in ("image", "images", "folder"):
            return references
        case "string":
            return st.sampled_from(schema["enum"]) if "enum" in schema else words
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "number":
            return st.floats(schema.get("minimum", 0), schema.get("maximum", 1))
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "array" if name == "region":
            edge = st.floats(0, 1)
            return st.tuples(edge, edge, edge, edge).map(
                lambda edges: [min(edges[0], edges[2]), min(edges[1], edges[3]), max(edges[0::2]), max(edges[1::2])]
            )
        case "array":
            return st.lists(
                lawful(name, schema["items"]),
                min_size=schema.get("minItems", 0),
                max_size=min(schema.get("maxItems", 4), 5),
            )
        case "object":
            return st.fixed_dictionaries({key: lawful(key, value) for key, value in schema["properties"].items()})
    raise AssertionError(f"no strategy for {name}: {schema}")


def arguments_of(spec: ToolSpec) -> st.SearchStrategy[Any]:
    schema = spec.input_schema()
    required = set(schema.get("required", ()))
    properties = {name: lawful(name, part) for name, part in schema["properties"].items()}
    kept = {name: part for name, part in properties.items() if name in required}
    extra = {name: part for name, part in properties.items() if name not in required}
    good = st.fixed_dictionaries(kept, optional=extra)
    spoilt = st.fixed_dictionaries({}, optional={name: st.one_of(part, junk) for name, part in properties.items()})
    strange = st.tuples(good, st.dictionaries(st.text(max_size=20), junk, max_size=2)).map(
        lambda two: {**two[0], **two[1]}
    )
    return st.one_of(good, good, spoilt, strange, junk)


calls = st.one_of(
    *(st.tuples(st.just(spec.name), arguments_of(spec)) for spec in TOOLS),
    st.tuples(st.text(max_size=40), junk),
)


@pytest.fixture(scope="module")
def small(jail, picture):
    """A server with small caches, so that they are full before memory is measured."""
    server = StdioServer(
        *("--model", "demo", "--allow-dir", str(jail), "--threads", "1", "--preload"),
        *("--cache-mb", "4", "--store-mb", "4", "--keep-answers", "16", "--num-beams", "1", "--max-new-tokens", "8"),
    )
    server.initialize()
    yield FuzzedFace(server, jail)
    assert server.end() == 0
    assert "Traceback" not in server.log


class FuzzedFace(Face):
    """Counts outcomes; any caption of the good picture will do, as long as it stays the same."""

    def __init__(self, server: StdioServer, jail: Any) -> None:
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0
        self._said: str | None = None
        super().__init__(server, "good.png", "", [jail])

    def healthy(self) -> None:
        said = self.works(image="good.png")["text"]
        assert said == (self._said or said)
        self._said = said

    def fuzz(self, tool: str, arguments: Any) -> None:
        """One call, whose answer must be valid and quick."""
        answer = self.judge(tool, arguments)
        if answer.content is not None:
            json.dumps(answer.content, allow_nan=False)
        assert answer.seconds < 20
        self.outcomes[answer.code or "result"] += 1
        self.slowest = max(self.slowest, answer.seconds)

    def figures(self) -> tuple[int, int, int]:
        """Descriptors, threads and resident bytes, at rest."""
        self.healthy()
        time.sleep(0.5)
        return self.processes.descriptors(), self.processes.threads(), self.processes.resident()

    def fill(self, jail: Any) -> None:
        """Many calls at once, until every possible thread exists: calls one by one start them only by chance."""
        large, threads = jail / "large.png", [-5, -4, -3, -2, -1]
        large.write_bytes((jail / "good.png").read_bytes() + bytes(15 * 2**20))
        while threads[-1] > threads[-5]:
            asked = set(range(10_000 * len(threads), 10_000 * len(threads) + 48))
            for number in asked:
                looks = {"image": "large.png", "region": [0, 0, 1, 0.5 + number % 48 / 100]}
                tool, arguments = ("caption_image", looks) if number % 2 else ("list_images", {})
                call = {"name": tool, "arguments": arguments}
                self.server.send({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": call})
            while asked:
                asked.discard(json.loads(self.server.lines.get(timeout=200)).get("id"))
            threads.append(self.processes.threads())
        large.unlink()


def fuzzer(face: FuzzedFace, examples: int, number: int) -> Any:
    """A function that makes so many calls, the same ones for the same number."""

    @seed(number)
    @hypothesis_settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(call=calls)
    def run(call: tuple[str, Any]) -> None:
        face.fuzz(*call)

    return run


def test_calls_of_every_kind(small):
    """The same 150 every time; thousands of others where they are asked for."""
    fuzzer(small, 150, 20261123)()
    small.healthy()
    assert {"result", "invalid_input", "not_allowed"} <= set(small.outcomes)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_10_000_calls_leave_nothing_behind(small, jail):
    small.fill(jail)
    fuzzer(small, WARM_UP, 1)()
    descriptors, threads, resident = small.figures()
    began = time.monotonic()
    done = 0
    while done < LONG_RUN:
        fuzzer(small, 1000, 100 + done)()
        done += 1000
        now = small.figures()
        line = (
            f"{done} calls, {time.monotonic() - began:.0f} s: {dict(small.outcomes)}, slowest {small.slowest:.1f} s, "
        )
        sys.stderr.write(
            line + f"descriptors {now[0]} ({descriptors}), threads {now[1]} ({threads}), "
            f"resident {now[2] / 2**20:.0f} MiB ({resident / 2**20:.0f})\n"
        )
    after = small.figures()
    assert after[0] <= descriptors
    assert after[1] <= threads
    assert after[2] < 1.05 * resident
    assert set(small.outcomes) <= {"result", *ERROR_CODES} - {"internal"}
