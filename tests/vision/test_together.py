"""Verbs made of several looks: a map in words, pictures side by side, and listings of folders."""

import os
import random
from datetime import UTC, datetime

import pytest
from PIL import Image

from blip2tools import Vision
from blip2tools.call import heard_by
from blip2tools.errors import InvalidInputError, NotAllowedError, NotFoundError
from blip2tools.toolset import call
from blip2tools.vision import together


@pytest.fixture(scope="module")
def montage(pictures, tmp_path_factory):
    """Four drawn scenes, two by two, a little larger than the model's input."""
    whole = Image.new("RGB", (600, 600))
    for number, drawn in enumerate(pictures[:4]):
        scene = Image.open(drawn.path).resize((300, 300), Image.Resampling.LANCZOS)
        whole.paste(scene, (300 * (number % 2), 300 * (number // 2)))
    path = tmp_path_factory.mktemp("montage") / "montage.png"
    whole.save(path)
    return path


@pytest.fixture(scope="module")
def plain_eyes(folder):
    """The demo checkpoint without its matcher."""
    with Vision.load(model="demo", matcher="none", allowed_dirs=(folder,), threads=1) as eyes:
        yield eyes


def test_a_survey_names_what_is_in_each_tile(vision, pictures, montage):
    found = vision.survey(montage.read_bytes())
    assert [tile.caption for tile in found.tiles] == [drawn.caption for drawn in pictures[:4]]
    assert [tile.box for tile in found.tiles] == [
        [0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1],
    ]  # fmt: skip
    assert all(tile.confidence > 0.5 and tile.match.probability > 0.5 for tile in found.tiles)
    assert (found.image.width, found.image.height) == (600, 600)
    text = found.text_block()
    for tile in found.tiles:
        assert f"{[round(edge, 3) for edge in tile.box]}: {tile.caption} (confidence: " in text
    assert text.startswith(f"overall: {found.overall}\n")
    assert found.image.handle in text


def test_a_tile_is_the_region_that_the_other_tools_see(vision, montage):
    found = vision.survey(montage.read_bytes(), rows=1, columns=3)
    assert [tile.box[0] for tile in found.tiles] == pytest.approx([0, 1 / 3, 2 / 3])
    for tile in found.tiles:
        alone = vision.caption(found.image.handle, region=tile.box)
        assert (alone.text, alone.confidence, alone.match) == (tile.caption, pytest.approx(tile.confidence), tile.match)
    whole = vision.caption(found.image.handle)
    assert (whole.text, whole.match) == (found.overall, found.match)
    assert whole.confidence == pytest.approx(found.confidence)


def test_a_survey_decodes_once(vision, montage, monkeypatch):
    from blip2tools.pictures.decoder import Decoder

    decoded = []
    real = Decoder.decode
    monkeypatch.setattr(Decoder, "decode", lambda *given, **named: decoded.append(1) or real(*given, **named))
    vision.survey(montage.read_bytes(), rows=2, columns=1)
    assert len(decoded) == 1


def test_doubts_about_tiles_are_told_with_their_boxes(vision):
    found = vision.survey(Image.frombytes("RGB", (200, 200), random.Random(0).randbytes(120_000)))
    doubtful = [tile.box for tile in found.tiles if tile.match.probability < 0.5]
    assert doubtful, "the demo model should not believe what it says about noise"
    warning = next(line for line in found.warnings if line.startswith("the matcher doubts the caption: tiles"))
    for box in doubtful:
        assert str(box) in warning
    assert sum("tiles" in line for line in found.warnings) <= 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rows": 0}, "'rows' must be at least 1"),
        ({"columns": 5}, "'columns' must be at most 4"),
        ({"grid": 2}, "no argument 'grid'"),
        ({"rows": 2.0}, "'rows' must be an integer"),
    ],
)
def test_a_survey_refuses_by_name(vision, picture, options, sentence):
    with pytest.raises(InvalidInputError, match=sentence.replace("'", ".")):
        vision.survey(picture.path, **options)


async def test_a_listener_hears_every_caption_of_a_survey(vision, picture):
    heard = []

    async def listen(what, done, total):
        heard.append((what, done, total))

    with heard_by(listen):
        await vision.asurvey(picture.path, rows=2, columns=1)
    assert heard == [(f"captions: {done} of 3", done, 3) for done in (1, 2, 3)]
    await vision.asurvey(picture.path, rows=2, columns=1)
    assert len(heard) == 3


async def test_a_listener_hears_the_loading(picture, folder):
    heard = []

    async def listen(what, done, total):
        heard.append((what, done, total))

    with Vision.load(model="demo", allowed_dirs=(folder,), threads=1, preload=False) as eyes, heard_by(listen):
        await eyes.acaption(picture.path)
    assert heard
    assert all(done < 1 and total is None for _, done, total in heard)
    assert [done for _, done, _ in heard] == sorted(done for _, done, _ in heard)


def test_without_a_matcher_a_survey_says_so(plain_eyes, picture):
    found = plain_eyes.survey(picture.path, rows=1, columns=1)
    assert found.overall == picture.caption
    assert found.match is None
    assert found.tiles[0].match is None
    assert sum("no image-text matcher" in warning for warning in found.warnings) == 1


def test_without_a_matcher_nothing_is_guessed(plain_eyes, picture):
    result = plain_eyes.ask(picture.path, "what color is the mermaid?")
    assert (result.premise.text, result.premise.probability, result.premise.holds) == ("a mermaid", None, None)


def test_pictures_side_by_side(vision, pictures):
    found = vision.compare([pictures[0].path, pictures[1].path, pictures[0].path.name])
    assert found.captions == [pictures[index].caption for index in (0, 1, 0)]
    assert found.images[0].handle == found.images[2].handle != found.images[1].handle
    for row in range(3):
        for column in range(3):
            assert found.similarity[row][column] == pytest.approx(found.similarity[column][row])
            assert -1 <= found.similarity[row][column] <= 1
    assert found.similarity[0][0] == found.similarity[0][2] == pytest.approx(1, abs=1e-5)
    assert found.similarity[0][1] < 0.9
    assert "the same picture was given more than once" in found.warnings
    for row, caption in enumerate(found.captions):
        for column in range(3):
            alone = vision.match(pictures[(0, 1, 0)[column]].path, [caption]).matches[0]
            assert found.cross_match[row][column] == pytest.approx(alone.probability, abs=1e-4)
    assert found.cross_match[0][0] > 0.5 > found.cross_match[0][1]
    text = found.text_block()
    assert f"picture 2: {pictures[1].caption} (confidence: " in text
    assert "similarity: 1-2 " in text
    assert "1-3 1.00" in text


def test_the_similarity_is_the_mean_of_the_queries_cosines(vision, pictures):
    one, other = (vision.features(drawn.path).vectors for drawn in pictures[:2])
    cosines = [sum(a * b for a, b in zip(left, right, strict=True)) for left, right in zip(one, other, strict=True)]
    found = vision.compare([drawn.path for drawn in pictures[:2]])
    assert found.similarity[0][1] == pytest.approx(sum(cosines) / len(cosines), abs=1e-5)
    assert together.similarity([[1.0, 0.0]], [[-1.0, 0.0]]) == -1


def test_what_looks_alike_is_more_similar(vision):
    """The same things on another background against other things: nearly always told apart."""
    import dataclasses

    from blip2tools.demo.draw import draw
    from blip2tools.demo.world import sample_scene

    chance = random.Random(11)
    scenes = [sample_scene(chance, things=1 + number % 3) for number in range(8)]
    moved = [dataclasses.replace(scene, background=sample_scene(chance).background) for scene in scenes]
    seen = [vision.features(draw(scene)).vectors for scene in scenes]
    again = [vision.features(draw(scene)).vectors for scene in moved]
    same = [together.similarity(one, other) for one, other in zip(seen, again, strict=True)]
    different = [together.similarity(seen[i], seen[j]) for i in range(8) for j in range(i)]
    right = sum(high > low for high in same for low in different)
    assert right > 0.9 * len(same) * len(different)


def test_without_a_matcher_captions_are_still_compared(plain_eyes, pictures):
    found = plain_eyes.compare([drawn.path for drawn in pictures[:2]])
    assert found.captions == [drawn.caption for drawn in pictures[:2]]
    assert found.similarity is None
    assert found.cross_match is None
    assert sum("no image-text matcher" in warning for warning in found.warnings) == 1
    assert "similarity" not in found.text_block()


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (["a.png"], "'images' must have at least 2 entries"),
        (["a.png"] * 5, "'images' must have at most 4 entries"),
        ("a.png", "'images' must be an array"),
    ],
)
def test_a_comparison_wants_two_to_four(vision, images, sentence):
    with pytest.raises(InvalidInputError, match=sentence.replace("'", ".")):
        vision.compare(images)


def test_one_bad_picture_fails_a_comparison_and_the_next_works(vision, pictures):
    with pytest.raises(NotFoundError):
        vision.compare([pictures[0].path.name, "missing.png"])
    assert vision.compare([pictures[0].path.name, pictures[1].path.name]).captions[0] == pictures[0].caption
    queue = vision.status().queue
    assert queue.waiting == queue.running == 0


async def test_the_tool_lists_the_newest_first(vision, pictures, folder):
    for age, drawn in enumerate(pictures):
        os.utime(drawn.path, (1_800_000_000 - 60 * age,) * 2)
    eyes = vision.for_tools()
    found = await call(eyes, "list_images", {"limit": 4})
    assert [one.path for one in found.images] == [str(drawn.path) for drawn in pictures[:4]]
    assert found.truncated
    assert found.images[0].modified == datetime.fromtimestamp(1_800_000_000, UTC)
    assert found.images[0].bytes == pictures[0].path.stat().st_size
    assert (found.images[0].width, found.images[0].height) == (224, 224)
    assert found.text_block().startswith("4 pictures, more were left out; newest first:\n")
    again = await call(eyes, "caption_image", {"image": found.images[2].path})
    assert again.text == pictures[2].caption
    everything = await call(eyes, "list_images", {"folder": str(folder)})
    assert len(everything.images) == len(pictures)
    assert not everything.truncated


async def test_listing_keeps_to_the_allowed_folders(vision, tmp_path):
    eyes = vision.for_tools()
    with pytest.raises(NotAllowedError):
        await call(eyes, "list_images", {"folder": str(tmp_path)})
    with pytest.raises(NotAllowedError):
        await call(eyes, "list_images", {"folder": ".."})
    with pytest.raises(InvalidInputError, match="not a folder"):
        await call(eyes, "list_images", {"folder": "picture-0.png"})
    with pytest.raises(InvalidInputError, match="limit"):
        await call(eyes, "list_images", {"limit": 101})


def test_an_empty_folder_says_what_to_do(tmp_path):
    with Vision.load(model="demo", allowed_dirs=(tmp_path,), preload=False) as eyes:
        found = eyes.list_images()
    assert found.images == []
    assert "vision_status" in found.text_block()


async def test_a_cancelled_survey_leaves_nothing_behind(vision, montage):
    import asyncio

    before = vision.status().queue
    options = {"rows": 4, "columns": 4, "min_new_tokens": 60, "max_new_tokens": 60}
    task = asyncio.ensure_future(vision.asurvey(montage.read_bytes(), **options))
    while vision.status().queue.running == 0:
        assert not task.done(), task
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while (after := vision.status().queue).running or after.waiting:
        await asyncio.sleep(0.005)
    assert after.completed - before.completed < 17
    assert after.cancelled > before.cancelled
    assert after.failed == before.failed
