"""Facts about pictures seen, as text, and completion of their names."""

import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp.types import INVALID_PARAMS, PromptReference, ResourceTemplateReference
from PIL import Image

from blip2tools import Vision
from blip2tools.schemas import ImageInfo, MatchResult, TextMatch
from blip2tools.server.mcp import build_server
from blip2tools.server.resources import MAX_FINDING, MAX_FINDINGS, MAX_PICTURES, STATUS, TEMPLATE, Findings

LOOK = PromptReference(name="look_closely")
CLAIM = PromptReference(name="verify_claim")
IMAGE = ResourceTemplateReference(uri=TEMPLATE)


@pytest.fixture
def gallery(pictures, tmp_path):
    """Two folders: pictures with telling names, one of them in both."""
    first, second = tmp_path / "first", tmp_path / "second"
    (first / "sea").mkdir(parents=True)
    second.mkdir()
    data = pictures[0].path.read_bytes()
    for path in (first / "Harbour.png", first / "sea" / "waves.png", first / "both.png", second / "both.png"):
        path.write_bytes(data)
    (second / "notes.txt").write_text("no picture")
    return first, second


@pytest.fixture
def eyes(gallery):
    with Vision.load(model="demo", allowed_dirs=gallery, threads=1, preload=False) as vision:
        yield vision


def text_of(result):
    (content,) = result.contents
    assert content.mime_type == "text/plain"
    return content.text


async def test_a_picture_that_was_seen_is_a_resource(vision, picture):
    async with Client(build_server(vision)) as client:
        (template,) = (await client.list_resource_templates()).resource_templates
        assert template.uri_template == TEMPLATE
        said = (await client.call_tool("caption_image", {"image": picture.path.name})).structured_content
        await client.call_tool(
            "ask_image",
            {"image": picture.path.name, "question": "how many objects are there?", "region": [0, 0, 1, 0.5]},
        )
        uri = TEMPLATE.format(handle=said["image"]["handle"])
        listed = {one.uri: one for one in (await client.list_resources()).resources}
        assert listed[uri].name == said["image"]["handle"]
        assert listed[uri].mime_type == "text/plain"
        text = text_of(await client.read_resource(uri))
        assert f"PNG, 224 x 224 px, {picture.path.stat().st_size:,} bytes" in text
        assert f"caption_image: caption: {said['text']}" in text
        assert "ask_image of [0.0, 0.0, 1.0, 0.5]: answer: " in text
        assert "data, not instructions" in text


async def test_the_status_is_a_resource(vision):
    async with Client(build_server(vision), mode="legacy") as client:
        assert (await client.list_resources()).resources[0].uri == STATUS
        assert "model: demo" in text_of(await client.read_resource(STATUS))


@pytest.mark.parametrize(
    "uri",
    [
        TEMPLATE.format(handle="img_0000000000000000"),
        TEMPLATE.format(handle="..%2f..%2fetc%2fpasswd"),
        TEMPLATE.format(handle="img_0000000000000000/x"),
        "blip2://images/",
        "file:///etc/passwd",
    ],
)
async def test_nothing_else_is_read(vision, uri):
    for mode in ("legacy", "2026-07-28"):
        async with Client(build_server(vision), mode=mode) as client:
            with pytest.raises(MCPError) as refused:
                await client.read_resource(uri)
            assert refused.value.code == INVALID_PARAMS
            assert refused.value.data == {"uri": uri}


async def test_where_clients_share_a_server_nobody_learns_what_others_saw(vision, picture):
    async with Client(build_server(vision, shared=True)) as client:
        said = (await client.call_tool("caption_image", {"image": picture.path.name})).structured_content
        handle = said["image"]["handle"]
        assert [one.uri for one in (await client.list_resources()).resources] == [STATUS]
        assert (await client.complete(IMAGE, {"name": "handle", "value": ""})).completion.values == []
        text = text_of(await client.read_resource(TEMPLATE.format(handle=handle)))
        assert "224 x 224 px" in text
        assert said["text"] not in text


async def test_completion_of_names(eyes, gallery):
    async with Client(build_server(eyes)) as client:

        async def complete(reference, name, value):
            return (await client.complete(reference, {"name": name, "value": value})).completion.values

        everything = await complete(LOOK, "image", "")
        assert everything[0] == "latest"
        assert set(everything[1:]) == {
            "Harbour.png", "sea/waves.png", str(gallery[0] / "both.png"), str(gallery[1] / "both.png"),
        }  # fmt: skip
        assert await complete(CLAIM, "image", "har") == ["Harbour.png"]
        assert await complete(LOOK, "image", "@har") == ["Harbour.png"]
        assert await complete(LOOK, "image", "wav") == ["sea/waves.png"]
        assert await complete(LOOK, "image", "sea/") == ["sea/waves.png"]
        assert await complete(LOOK, "image", str(gallery[0] / "Har")) == [str(gallery[0] / "Harbour.png")]
        assert await complete(LOOK, "image", "LAT") == ["latest"]
        assert await complete(LOOK, "image", "/etc/pass") == []
        assert await complete(CLAIM, "claim", "a") == []
        assert await complete(LOOK, "no such", "a") == []
        assert await complete(PromptReference(name="no such"), "image", "") == []
        for name in everything:
            seen = await client.call_tool("match_image_text", {"image": name, "texts": ["a ring"]})
            assert not seen.is_error
        (handle,) = await complete(IMAGE, "handle", "img_")
        assert handle in await complete(LOOK, "image", handle[:6])
        assert await complete(IMAGE, "handle", "img_zz") == []


async def test_completion_is_bounded(pictures, tmp_path):
    data = pictures[0].path.read_bytes()
    for number in range(130):
        (tmp_path / f"p{number}.png").write_bytes(data)
    with Vision.load(model="demo", allowed_dirs=(tmp_path,), preload=False) as vision:
        async with Client(build_server(vision)) as client:
            found = (await client.complete(LOOK, {"name": "image", "value": "p"})).completion
    assert len(found.values) == 100
    assert found.has_more


def result_about(handle, text):
    return MatchResult(
        image=ImageInfo(handle=handle, width=1, height=1, source="x"),
        region=None,
        model="demo",
        warnings=["not kept"],
        matches=[TextMatch(text=text, probability=1, cosine=1)],
    )


def test_findings_are_bounded():
    findings = Findings()
    for number in range(MAX_PICTURES + 10):
        findings.add("match_image_text", result_about(f"img_{number:016x}", "x" * 500))
    assert findings.about(f"img_{9:016x}") == []
    (kept,) = findings.about(f"img_{10:016x}")
    assert len(kept) == MAX_FINDING
    last = f"img_{MAX_PICTURES + 9:016x}"
    for number in range(MAX_FINDINGS + 2):
        findings.add("match_image_text", result_about(last, f"text {number}"))
    findings.add("match_image_text", result_about(last, "text 3"))
    kept = findings.about(last)
    assert len(kept) == MAX_FINDINGS
    assert kept[-1].endswith("text 3")
    assert len(set(kept)) == len(kept)
    assert not any("not kept" in one for one in kept)


async def test_a_picture_that_is_no_longer_kept(tmp_path):
    path = tmp_path / "big.png"
    Image.effect_noise((1100, 1100), 80).save(path)
    with Vision.load(model="demo", allowed_dirs=(tmp_path,), store_mb=1, threads=1) as vision:
        async with Client(build_server(vision)) as client:
            said = (await client.call_tool("caption_image", {"image": "big.png"})).structured_content
            path.unlink()  # else it would be found again by its handle
            with pytest.raises(MCPError, match="no longer kept"):
                await client.read_resource(TEMPLATE.format(handle=said["image"]["handle"]))


async def test_foreign_text_stays_here(eyes, monkeypatch):
    async def break_down(begun, limit):
        raise RuntimeError("/secret/path of a foreign library")

    monkeypatch.setattr(type(eyes), "asuggest", lambda self, begun, limit: break_down(begun, limit))
    for mode in ("legacy", "2026-07-28"):
        async with Client(build_server(eyes), mode=mode) as client:
            with pytest.raises(MCPError, match=r"^internal: ") as refused:
                await client.complete(LOOK, {"name": "image", "value": "a"})
            assert "secret" not in str(refused.value)
            assert refused.value.code == -32603
            assert (await client.list_resources()).resources
