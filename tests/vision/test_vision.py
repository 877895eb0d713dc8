"""The verbs from Python: every kind of image, one or many, and the same answers as on every other interface."""

import asyncio
import io
import json
import threading
import time

import pytest
from PIL import Image

from blip2tools import Vision
from blip2tools.checkpoints import DEMO_WARNING
from blip2tools.errors import (
    CancelledError,
    CorruptImageError,
    FetchFailedError,
    InvalidInputError,
    ModelUnavailableError,
    NotAllowedError,
    NotFoundError,
    TooLargeError,
)
from tests.conftest import StdioServer, run_cli


def test_caption(vision, pictures):
    for drawn in pictures:
        result = vision.caption(drawn.path)
        assert result.text == drawn.caption
        assert result.confidence > 0.9
        assert result.match.probability > 0.5
        assert result.model == "demo"
        assert result.alternatives == []


def test_every_kind_of_image_is_the_same_picture(vision, picture):
    data = picture.path.read_bytes()
    image = Image.open(picture.path)
    results = [vision.caption(one) for one in (str(picture.path), picture.path, picture.path.name, data, image)]
    results.append(vision.caption(results[0].image.handle))
    assert {result.text for result in results} == {picture.caption}
    assert {result.confidence for result in results} == {results[0].confidence}
    assert {result.image.handle for result in results[:4]} == {results[0].image.handle}
    assert [result.image.source for result in results[:5]] == [
        str(picture.path), str(picture.path), picture.path.name, "bytes", "PIL.Image",
    ]  # fmt: skip


def test_a_file_named_like_a_reference_is_a_file_as_a_path(tmp_path, picture, monkeypatch):
    from pathlib import Path

    (tmp_path / "latest").write_bytes(picture.path.read_bytes())
    monkeypatch.chdir(tmp_path)
    with Vision.load(model="demo", allowed_dirs=(tmp_path,), preload=False) as eyes:
        assert eyes.caption(Path("latest")).text == picture.caption


def test_a_list_keeps_its_order(vision, pictures):
    results = vision.caption([drawn.path for drawn in reversed(pictures)])
    assert [result.text for result in results] == [drawn.caption for drawn in reversed(pictures)]


def test_a_list_raises_its_first_error_or_returns_it(vision, pictures):
    images = [pictures[0].path.name, "missing.png", "/etc/passwd", pictures[1].path.name]
    with pytest.raises(NotFoundError):
        vision.caption(images)
    results = vision.caption(images, return_errors=True)
    assert [type(result).__name__ for result in results] == [
        "CaptionResult",
        "NotFoundError",
        "NotAllowedError",
        "CaptionResult",
    ]
    assert results[3].text == pictures[1].caption


def test_a_list_may_be_longer_than_the_queue(picture):
    with Vision.load(model="demo", max_queue=3) as eyes:
        assert {result.text for result in eyes.caption([picture.path] * 20)} == {picture.caption}


@pytest.mark.parametrize("image", [None, 5, [[0]], object()], ids=["none", "number", "rows", "object"])
def test_what_is_no_image_is_told_by_its_type(vision, image):
    with pytest.raises(InvalidInputError, match=f"and not {type(image).__name__}"):
        vision.keep(image)


def test_one_text_is_no_list_of_letters(vision, picture):
    for look in (vision.text_features, lambda text: vision.retrieve([picture.path], text)):
        with pytest.raises(InvalidInputError, match="texts"):
            look("dog")


def test_several_captions(vision, picture):
    result = vision.caption(picture.path, num_captions=3)
    texts = [result.text, *(other.text for other in result.alternatives)]
    assert texts[0] == picture.caption
    assert len(set(texts)) == 3
    assert all(other.match is not None for other in result.alternatives)
    assert result.alternatives[0].confidence < result.confidence


def test_a_prompt_is_continued_and_not_repeated(vision, picture):
    words = picture.caption.split()
    assert vision.caption(picture.path, prompt=" ".join(words[:3])).text == " ".join(words[3:])
    assert vision.caption(picture.path, prompt="a photo of").text == picture.caption


def test_a_region_is_looked_at(vision, tmp_path, pictures):
    both = Image.new("RGB", (448, 224))
    both.paste(Image.open(pictures[0].path), (0, 0))
    both.paste(Image.open(pictures[3].path), (224, 0))
    result = vision.caption(both, region=(0, 0, 0.5, 1))
    assert result.text == pictures[0].caption
    assert result.region == [0, 0, 0.5, 1]
    assert (result.image.width, result.image.height) == (448, 224)
    assert vision.caption(both, region=[0.5, 0, 1, 1]).text == pictures[3].caption


def test_ask_with_choices(vision, picture):
    thing = picture.scene.things[0]
    result = vision.ask(
        picture.path, f"what color is the {thing.shape}?", choices=["red", "blue", thing.color, "green"]
    )
    assert result.answer == thing.color
    assert sum(choice.probability for choice in result.choices) == pytest.approx(1)
    assert result.confidence == result.choices[0].probability


def test_ask_with_history_and_without(vision, picture):
    thing = picture.scene.things[0]
    question = f"what color is the {thing.shape}?"
    assert vision.ask(picture.path, question).answer == thing.color
    # The dialogue form is another prompt: it must arrive, and be answered.
    result = vision.ask(picture.path, question, history=[("how many objects are there?", "one")])
    assert result.answer
    with pytest.raises(InvalidInputError, match="history"):
        vision.ask(picture.path, question, history=[("only a question",)])


def test_match(vision, picture):
    wrong = "a small star to the left of a large heart on a black background"
    result = vision.match(picture.path, [wrong, picture.caption])
    assert [match.text for match in result.matches] == [picture.caption, wrong]
    assert result.matches[0].probability > 0.9 > 0.1 > result.matches[1].probability
    assert result.matches[0].cosine > result.matches[1].cosine
    assert not any("only the first words" in warning for warning in result.warnings)


def test_a_text_too_long_for_the_matcher_is_named(vision, picture):
    result = vision.match(picture.path, ["a red circle and " * 20])
    assert any("only the first words were read of: a red circle" in warning for warning in result.warnings)


def test_words_that_were_left_out_are_told(vision, picture):
    history = [(f"is there a {'very ' * 40}red thing?", "no")] * 8
    for options in ({}, {"choices": ["one", "two"]}):
        result = vision.ask(picture.path, "how many objects are there?", history=history, **options)
        assert any("left out" in warning for warning in result.warnings)
        assert not any("left out" in warning for warning in vision.ask(picture.path, "what is it?", **options).warnings)


def test_the_status_tells_how_work_was_done(vision, picture):
    vision.caption(picture.path)
    status = vision.status()
    assert sum(batch.times for batch in status.queue.batches) > 0
    assert {"see", "speak", "match"} <= {stage.stage for stage in status.queue.stages}
    assert "so far: " in status.text_block()
    assert "speak" in status.text_block()


def test_features_are_those_behind_the_match(vision, picture):
    texts = [picture.caption, "two purple stars"]
    seen, vectors = vision.features(picture.path), vision.text_features(texts)
    for row in (*seen.vectors, *vectors):
        assert sum(value * value for value in row) == pytest.approx(1, abs=1e-5)
    matched = {match.text: match.cosine for match in vision.match(picture.path, texts).matches}
    for text, vector in zip(texts, vectors, strict=True):
        products = [sum(a * b for a, b in zip(row, vector, strict=True)) for row in seen.vectors]
        assert max(products) == pytest.approx(matched[text], abs=1e-5)
    with pytest.raises(InvalidInputError, match="texts"):
        vision.text_features([])


def test_generation_options(vision, picture):
    cut = vision.caption(picture.path, max_new_tokens=3, num_beams=1)
    assert picture.caption.startswith(cut.text)
    assert any("cut at the length limit" in warning for warning in cut.warnings)
    sampled = [
        vision.caption(picture.path, do_sample=True, temperature=2.0, top_p=1.0, seed=seed).text for seed in (1, 1, 2)
    ]
    assert sampled[0] == sampled[1]
    for bad in ({"num_beams": 0}, {"temperature": float("nan")}, {"max_new_tokens": 10**9}, {"top_k": 3}):
        with pytest.raises(InvalidInputError, match=next(iter(bad))):
            vision.caption(picture.path, **bad)
    assert vision.caption(picture.path).text == picture.caption


async def test_async_twins_and_many_at_once(vision, pictures):
    one, answer, match = await asyncio.gather(
        vision.acaption(pictures[0].path),
        vision.aask(pictures[0].path, "how many objects are there?"),
        vision.amatch(pictures[0].path, [pictures[0].caption]),
    )
    assert (one.text, answer.answer) == (pictures[0].caption, "one")
    assert match.matches[0].probability == pytest.approx(one.match.probability, abs=1e-6)
    many = await vision.acaption([drawn.path for drawn in pictures])
    assert [result.text for result in many] == [drawn.caption for drawn in pictures]


async def test_a_sync_verb_inside_a_running_loop(vision, picture):
    assert vision.caption(picture.path).text == picture.caption


def test_a_sync_verb_inside_its_own_loop_is_refused_instead_of_hanging(vision, picture):
    async def inside():
        vision.caption(picture.path)

    with pytest.raises(RuntimeError, match="await its"):
        vision.run(inside())


def test_from_many_threads(vision, pictures):
    answers = {}

    def look(number):
        answers[number] = vision.caption(pictures[number % 6].path).text

    threads = [threading.Thread(target=look, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[number] for number in range(12)] == [pictures[number % 6].caption for number in range(12)]


async def test_a_cancelled_call_leaves_nothing_behind(vision, picture):
    task = asyncio.ensure_future(vision.acaption(picture.path, min_new_tokens=90, max_new_tokens=90))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await vision.acaption(picture.path)).text == picture.caption
    assert vision.status().queue.waiting == 0


def test_the_demo_says_so_in_every_result(vision, picture):
    results = [
        vision.caption(picture.path),
        vision.ask(picture.path, "how many objects are there?"),
        vision.match(picture.path, ["a red circle"]),
        vision.status(),
    ]
    for result in results:
        assert any("only knows drawn shapes" in warning and "pull" in warning for warning in result.warnings)


def test_auto_without_weights_is_the_demo(picture, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    done = run_cli("caption", str(picture.path), "--json", env={"HF_HOME": str(tmp_path)})
    assert done.returncode == 0
    said = json.loads(done.stdout)
    assert said["model"] == "demo"
    assert any("pull" in warning for warning in said["warnings"])
    assert list(tmp_path.iterdir()) == []  # nothing was downloaded, nothing written


@pytest.fixture
def roomy(monkeypatch):
    """A machine with room for every model, however full this one is."""
    monkeypatch.setattr("blip2tools.checkpoints.devices.free_memory", lambda: 2**37)


def test_a_named_model_that_is_not_here(roomy):
    with pytest.raises(ModelUnavailableError, match=r"blip2tools pull opt-2\.7b"):
        Vision.load(model="opt-2.7b")
    with pytest.raises(ModelUnavailableError, match="no captioner named"):
        Vision.load(model="no such model", preload=False)


def test_a_call_fails_clearly_while_the_model_is_not_here_and_the_next_one_too(roomy, picture):
    with Vision.load(model="opt-2.7b", preload=False) as eyes:
        for _ in range(2):
            with pytest.raises(ModelUnavailableError, match=r"blip2tools pull opt-2\.7b"):
                eyes.caption(picture.path)
        assert not eyes.status().loaded


def test_while_the_model_is_loading_a_call_says_how_far_it_is(picture, monkeypatch):
    from blip2tools import checkpoints
    from blip2tools.vision import verbs

    go_on, load = threading.Event(), checkpoints.load

    def slow(settings, progress, *, download):
        progress("downloading flan-t5-xl", 0.43)
        assert go_on.wait(100)
        return load(settings, progress, download=download)

    monkeypatch.setattr(checkpoints, "load", slow)
    monkeypatch.setattr(verbs, "LOAD_PATIENCE_S", 0.2)
    with Vision.load(model="demo", preload=False) as eyes:
        loading = threading.Thread(target=eyes.preload)
        loading.start()
        while "43%" not in eyes.status().state:
            time.sleep(0.01)
        with pytest.raises(ModelUnavailableError, match=r"not ready yet: downloading flan-t5-xl \(43%\)"):
            eyes.caption(picture.path)
        monkeypatch.setattr(verbs, "LOAD_PATIENCE_S", 20)
        go_on.set()
        loading.join()
        assert eyes.caption(picture.path).text == picture.caption


def test_without_a_matcher(picture):
    with Vision.load(model="demo", matcher="none") as eyes:
        result = eyes.caption(picture.path)
        assert result.text == picture.caption
        assert result.match is None
        with pytest.raises(ModelUnavailableError, match="choices"):
            eyes.match(picture.path, ["a red circle"])
        assert eyes.status().matcher is None


def test_closing(picture):
    eyes = Vision.load(model="demo")
    eyes.close()
    eyes.close()
    with pytest.raises(CancelledError, match="closed"):
        eyes.caption(picture.path)


async def test_closing_ends_calls_under_way_with_an_error_of_ours(picture, monkeypatch):
    """However the call was made: in a thread, or awaited; at the decoder, or still in its queue."""
    from blip2tools.vision.looking import Looking

    inside, go_on, decode = threading.Semaphore(0), threading.Event(), Looking._decode

    def slow(*given):
        inside.release()
        go_on.wait(100)
        return decode(*given)

    monkeypatch.setattr(Looking, "_decode", slow)
    eyes = Vision.load(model="demo")
    calls = [asyncio.ensure_future(eyes.acaption(picture.path)) for _ in range(3)]
    calls += [asyncio.ensure_future(asyncio.to_thread(eyes.caption, picture.path)) for _ in range(3)]
    await asyncio.to_thread(inside.acquire)
    await asyncio.sleep(0.1)  # the others are in line by then; if not, they meet what is closed
    closing = asyncio.ensure_future(asyncio.to_thread(eyes.close))
    await asyncio.wait(calls, timeout=2)
    go_on.set()
    await closing
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, CancelledError), repr(outcome)


def test_a_call_on_what_is_closed_starts_no_thread(picture):
    eyes = Vision.load(model="demo")
    eyes.close()
    before = threading.active_count()
    with pytest.raises(CancelledError, match="closed"):
        eyes.caption(picture.path)
    assert threading.active_count() == before


def test_closing_ends_its_threads(picture):
    before = set(threading.enumerate())
    with Vision.load(model="demo") as eyes:
        eyes.caption(picture.path)
        ours = set(threading.enumerate()) - before
        assert {thread.name.split("_")[0] for thread in ours} >= {"blip2tools-engine", "blip2tools-loop"}
    for thread in ours:
        thread.join(5)
    assert not [thread.name for thread in ours if thread.is_alive() and thread.name.startswith("blip2tools")]


def test_the_callers_own_paths_are_trusted_only_without_allowed_dirs(vision, tmp_path, picture):
    outside = tmp_path / "outside.png"
    outside.write_bytes(picture.path.read_bytes())
    with pytest.raises(NotAllowedError):
        vision.caption(outside)
    assert vision.caption(outside.read_bytes()).text == picture.caption


def test_an_animation_says_that_its_first_frame_was_seen(vision, picture, pictures):
    frames = [Image.open(drawn.path) for drawn in pictures[:2]]
    data = io.BytesIO()
    frames[0].save(data, "WEBP", lossless=True, save_all=True, append_images=frames[1:])
    result = vision.caption(data.getvalue())
    assert result.text == picture.caption
    assert "this is the first frame of an animation" in result.warnings


def alike(one, other):
    """Whether the numbers are the same but for the last bits, in which a row that was computed in a batch differs."""
    if isinstance(one, float):
        return one == pytest.approx(other, abs=1e-5)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


def unwarned(results):
    return [{**one, "warnings": [said for said in one["warnings"] if said != DEMO_WARNING]} for one in results]


@pytest.mark.timeout(400)
def test_every_face_says_the_same(vision, pictures, folder):
    """A caption, a question and a match: the same words and numbers in Python, over MCP, in LangChain, on the command line."""
    from blip2tools.langchain_tools import Blip2Toolkit

    drawn = pictures[4]
    name, texts = drawn.path.name, [drawn.caption, "two red circles"]
    python = [
        vision.caption(name),
        vision.ask(name, "what is the background?"),
        vision.match(name, texts),
    ]
    python = [result.model_dump(mode="json") for result in python]

    arguments = {
        "caption_image": {"image": name},
        "ask_image": {"image": name, "question": "what is the background?"},
        "match_image_text": {"image": name, "texts": texts},
    }
    tools = {tool.name: tool for tool in Blip2Toolkit(vision).get_tools()}
    langchain = [
        tools[tool].invoke({"type": "tool_call", "id": "1", "name": tool, "args": given}).artifact
        for tool, given in arguments.items()
    ]
    assert alike(langchain, python)

    server = StdioServer("--model", "demo", "--allow-dir", str(folder), "--threads", "1")
    server.initialize()
    mcp = [server.call(tool, **given)["structuredContent"] for tool, given in arguments.items()]
    server.end()
    # A client is told once that this is the demo model.
    assert [DEMO_WARNING in said["warnings"] for said in mcp] == [True, False, False]
    assert alike(unwarned(mcp), unwarned(python))

    options = ["--json", "--model", "demo", "--threads", "1"]
    commands = [
        ["caption", name],
        ["ask", name, "-q", "what is the background?"],
        ["match", name, "-t", texts[0], "-t", texts[1]],
    ]
    command_line = []
    for words in commands:
        said = json.loads(run_cli(*words, *options, cwd=folder).stdout)
        assert said.pop("source") == name
        command_line.append(said)
    assert alike(command_line, python)


def test_a_photo_whose_png_is_too_large_is_kept_as_jpeg(folder):
    """12 megapixels of a camera are more than 20 MiB as PNG: the limit is on what comes in, not on what we make of it."""
    photo = Image.effect_noise((300, 200), 60).convert("RGB")
    with Vision.load(model="demo", allowed_dirs=(folder,), threads=1, max_image_bytes=100_000) as eyes:
        info = eyes.keep(photo)
        assert (info.width, info.height) == photo.size
        assert eyes.caption(info.handle, region=[0, 0, 0.5, 1]).image.handle == info.handle
        with pytest.raises(TooLargeError):
            eyes.keep(Image.effect_noise((3000, 2000), 60).convert("RGB"))


def test_U18_one_sentence_for_all_that_is_no_sound_picture_behind_an_address(picture, monkeypatch):
    """A damaged picture, whether its header or its end shows it."""
    data = picture.path.read_bytes()
    with Vision.load(model="demo", preload=False, threads=1, allow_urls=True) as eyes:
        messages = set()
        for body in (b"<html>", data[:30], data[:-40], data[:-40] + bytes(20)):
            monkeypatch.setattr("blip2tools.pictures.fetch.fetch", lambda url, settings, body=body: body)
            for _ in range(2):  # while the model loads, and after
                with pytest.raises(FetchFailedError) as refused:
                    eyes.caption("https://example.com/x.png")
                messages.add(refused.value.message)
                eyes.caption(picture.path)
        assert len(messages) == 1
        with pytest.raises(CorruptImageError):
            eyes.caption(data[:-40])


def test_views_of_other_things_than_bytes(vision, picture):
    """Their length counts items, or rows: taken as bytes, the rest of a picture became the decoder's next request."""
    data = picture.path.read_bytes()
    padded = data + bytes(-len(data) % 4)
    views = [
        memoryview(padded).cast("I"),
        memoryview(padded).cast("B", (len(padded) // 4, 4)),
        memoryview(bytes(byte for byte in data for _ in range(2)))[::2],
        memoryview(bytearray(data)),
    ]
    assert {vision.caption(view).text for view in views} == {picture.caption}
    assert vision.caption(data).text == picture.caption


def test_an_answer_that_is_offered_twice_counts_once(vision, picture):
    once = vision.ask(picture.path, "is there a circle?", choices=["yes", "no"])
    twice = vision.ask(picture.path, "is there a circle?", choices=["yes", "no", "yes"])
    assert alike(once.model_dump()["choices"], twice.model_dump()["choices"])
    with pytest.raises(InvalidInputError, match="2 different"):
        vision.ask(picture.path, "is there a circle?", choices=["yes", "yes"])


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("survey", {"abstain_below": 0.5}),
        ("survey", {"best_of": 2}),
        ("ask", {"question": "a?", "best_of": 2}),
        ("caption", {"vqa_template": "{question}"}),
        ("match", {"texts": ["a"], "num_beams": 2}),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(vision, picture, verb, options):
    name = list(options)[-1]
    with pytest.raises(InvalidInputError, match=name):
        getattr(vision, verb)(picture.path, **options)


def test_nothing_large_waits_decoded_for_the_model(vision, picture, monkeypatch):
    """While the model loads, a picture is kept without it, and a large one waits for the sizes that the model needs."""
    monkeypatch.setattr("blip2tools.vision.looking.WHOLE_PIXELS", 100)
    with Image.open(picture.path) as opened:
        image = opened.convert("RGB")
    with Vision.load(model="demo", preload=False, threads=1) as eyes:
        info = eyes.keep(picture.path)
        assert (info.handle in eyes.handles(), info.width) == (True, image.width)
        assert not eyes.status().loaded
        with pytest.raises(InvalidInputError):
            eyes.caption(picture.path, region=[0.5, 0, 0.5, 1])
        assert not eyes.status().loaded
        assert eyes.caption(image, region=[0, 0, 0.5, 1]).text == vision.caption(image, region=[0, 0, 0.5, 1]).text
        assert eyes.keep(picture.path) == info
