"""Pictures inside the arguments, and the size of a message, through a real server."""

from __future__ import annotations

import base64
import json
import shutil

import pytest

from tests.support.face import MIB

PNG = "data:image/png;base64,"

REFUSED = [
    ("D2-no-comma", "data:image/png;base64", "invalid_input"),
    ("D2-nothing", "data:", "invalid_input"),
    ("D2-percent", "data:image/png,%89PNG", "invalid_input"),
    ("D2-url-safe", PNG + "a" * 300 + "-_==", "unsupported_image"),
    ("D2-space", PNG + "iVBO Rw0K", "invalid_input"),
    ("D2-newline", PNG + "iVBO\nRw0K", "corrupt_image"),
    ("D2-padding", PNG + "iVBORw0KG", "invalid_input"),
    ("D2-padding-inside", PNG + "iVB=ORw0K", "invalid_input"),
    ("D2-padding-endless", PNG + "iVBORw0=====", "invalid_input"),
    ("D2-non-ascii", PNG + "iVBOé", "invalid_input"),
    ("D2-nul", PNG + "iVBO\0", "invalid_input"),
    ("D2-surrogate", PNG + "iVBO\ud800", "invalid_input"),
    ("D2-empty", PNG, "corrupt_image"),
    ("D4-html", "data:text/html;base64,PGI+", "unsupported_image"),
    ("D4-svg", "data:image/svg+xml;base64,PHN2Zy8+", "unsupported_image"),
    ("D4-plain", "data:text/plain,x", "unsupported_image"),
    ("D5-nested", "data:data:image/png;base64,iVBO", "invalid_input"),
    ("D5-path", "data:/etc/passwd", "invalid_input"),
    ("D5-file", "data:image/png,x", "invalid_input"),
    ("D6-bare", base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(60)).decode(), "invalid_input"),
    ("D6-bare-long", "A" * 4000, "invalid_input"),
]


@pytest.mark.parametrize(("image", "code"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused(face, jail, image, code):
    named = jail / "data:image"
    named.mkdir()
    (named / "png,x").write_bytes((jail / "good.png").read_bytes())
    try:
        face.refused(code, image=image)
    finally:  # other tests list what is in the jail
        shutil.rmtree(named)


@pytest.mark.parametrize(
    "header",
    [
        "data:image/png;base64,",
        "data:image/jpeg;charset=x;base64,",
        "DATA:;BASE64,",
        "data:application/octet-stream;base64,",
    ],
)
def test_D1_works(face, jail, header):
    found = face.works(image=header + base64.b64encode((jail / "good.png").read_bytes()).decode())
    assert found["image"]["width"] == 224
    assert len(found["image"]["source"]) < 200


@pytest.mark.parametrize(
    ("size", "code"),
    [
        pytest.param(4 * MIB, "unsupported_image", id="D3-within"),
        pytest.param(10.6 * MIB, "unsupported_image", id="D3-just-within"),
        pytest.param(11.5 * MIB, "too_large", id="D3-above-the-picture"),
        pytest.param(13 * MIB, "too_large", id="D3-above-the-message"),
        pytest.param(120 * MIB, "too_large", id="D3-far-above"),
    ],
)
def test_D3_megabytes(face, size, code):
    """Whatever its size, junk costs less than 50 MB, and what is longer than a message may be is not even kept."""
    face.refused(code, image=PNG + "A" * (int(size) // 4 * 4), within=30)


def raw(face, line: bytes, *, answers: bool = True) -> dict | None:
    """Send one line as it is; return its answer, which must come before that of a good call."""
    face.server.process.stdin.write(line + b"\n")
    face.server.process.stdin.flush()
    found = json.loads(face.server.lines.get(timeout=200)) if answers else None
    face.healthy()
    return found


CALL = b'{"jsonrpc":"2.0","id":"%s","method":"tools/call","params":{"name":"caption_image","arguments":{"image":%s}}}'
LAST = b'{"method":"tools/call","params":{"name":"caption_image","arguments":{"image":%s}},"jsonrpc":"2.0","id":"%s"}'


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b'"\\ud800"', id="Q2-surrogate"),
        pytest.param(b"[" * 10_000 + b"]" * 10_000, id="Q6-deep"),
        pytest.param(b'{"id":7,"x":' * 5_000 + b"1" + b"}" * 5_000, id="Q6-deep-with-ids"),
        pytest.param(b"9" * 5000, id="Q4-digits"),
        pytest.param(b'"\xff\xfe"', id="Q2-not-utf8"),
        pytest.param(b'{"id":7,"y":"\\ud800"}', id="S2-id-inside"),
        pytest.param(b'"\\"id\\":7,\\ud800"', id="S2-id-in-a-string"),
        pytest.param(b"nonsense", id="S2-broken"),
    ],
)
def test_what_cannot_be_parsed_is_answered_under_its_own_id(face, value):
    """Without an answer a client waits until it gives up; under another id it would be another call's answer."""
    for template, order in ((CALL, (b"mine", value)), (LAST, (value, b"mine"))):
        answer = raw(face, template % order)
        assert answer["id"] in ("mine", None)
        assert answer["id"] == "mine" or template is LAST
        assert answer["error"]["message"].startswith("invalid_input: ")


@pytest.mark.parametrize("template", [CALL, LAST])
def test_S2_a_line_of_100_megabytes(face, template):
    text = b'"%s \\"id\\": 7 %s"' % (b"x" * (50 * MIB), b"y" * (50 * MIB))
    before = face.processes.resident()
    face.processes.begin_peak()
    answer = raw(face, template % ((b"mine", text) if template is CALL else (text, b"mine")))
    assert answer["id"] == "mine"
    assert answer["error"]["message"].startswith("too_large: ")
    assert face.processes.peak() - before < 50 * MIB
    raw(face, b"z" * (100 * MIB))
    assert face.processes.peak() - before < 50 * MIB


@pytest.mark.parametrize("part", [b"[],", b"{},", b'"t",', b"0,", b"[" * 9 + b"]" * 9 + b","])
def test_Q7_small_parts_that_grow_when_they_are_parsed(face, part):
    """A few bytes of JSON can become an object of 60: eleven megabytes would take hundreds."""
    before = face.processes.resident()
    face.processes.begin_peak()
    answer = raw(face, CALL % (b"mine", b"[" + part * (11 * MIB // len(part)) + b"0]"))
    assert answer["id"] == "mine"
    assert answer["error"]["message"] == "invalid_input: The message holds too many values."
    assert face.processes.peak() - before < 50 * MIB


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"garbage", -32700),
        (b"{", -32700),
        (b"[]", -32600),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600),
        (b"5", -32600),
        (b'{"jsonrpc":"1.0","id":5,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":"q","method":"no/such"}', -32601),
        (b'{"jsonrpc":"2.0","id":"q","method":"tools/call"}', -32602),
        (b'{"jsonrpc":"2.0","id":"q","method":"tools/call","params":{"name":5}}', -32602),
        (b'{"jsonrpc":"2.0","id":"q","method":"resources/read","params":{"uri":"file:///etc/passwd"}}', -32602),
    ],
)
def test_S2_lines_that_are_no_request(face, line, code):
    answer = raw(face, line)
    assert answer["error"]["code"] == code
    assert "Traceback" not in answer["error"]["message"]


def test_S2_lines_that_want_no_answer(face):
    for line in (
        b"",
        b"   ",
        b'{"jsonrpc":"2.0","method":"notifications/whatever"}',
        b'{"jsonrpc":"2.0","id":5,"result":{}}',
    ):
        raw(face, line, answers=False)


def test_S2_calls_with_the_same_id_and_before_the_handshake(start_server, jail):
    server = start_server("--model", "demo", "--allow-dir", str(jail), "--threads", "1")
    server.send(
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "vision_status", "arguments": {}}}
    )
    assert server.response(1)
    server.initialize()
    for _ in range(2):
        server.send({"jsonrpc": "2.0", "id": 9, "method": "tools/list"})
    assert server.response(9)
    assert server.request("ping")["result"] == {}
