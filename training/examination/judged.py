"""Statements that are true or an edit away from it, and the search for a caption's picture."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import torch
from PIL import Image

from blip2tools.demo.draw import draw
from blip2tools.demo.statements import Edit, Statement, edits_of, falsify, true_statement
from blip2tools.demo.words import caption
from blip2tools.demo.world import STUDY, Scene, World, sample_scene
from training.examination.figures import Figure, Miss, counted, mean
from training.examination.judge import Judge

AMONG: Final = 100  # pictures and captions to search in
_TOP: Final = 10
_GRAYS: Final = (0, 64, 128, 192, 255)
_ACCEPTED: Final = 0.5


def statements(judge: Judge, world: World, number: int, rng: random.Random) -> list[Figure]:
    """True and false statements by the edit; and, as a control, which of the two a blank picture is said to fit better."""
    section, study = f"{world.name} statements", world.name == STUDY.name
    figures, preferred = [], []
    for edit in edits_of(world):
        scenes, pairs = _pairs(world, edit, number, rng)
        pictures = [draw(scene) for scene in scenes]
        true = judge.matches(pictures, [truth.text for truth, _ in pairs])
        false = judge.matches(pictures, [lie.text for _, lie in pairs])
        right = [share > _ACCEPTED for share in true] + [share <= _ACCEPTED for share in false]
        figures.append(
            counted(
                section, edit, right, bar=0.95 if study else None, misses=iter(_misses(pictures, pairs, true, false))
            )
        )
        preferred += _blank(judge, pairs, rng)
    bars = (0.45, 0.55) if study else (None, None)
    return [
        *figures,
        mean(section, "mean", figures, bar=0.98 if study else None),
        counted(section, "blank picture: true preferred", preferred, bar=bars[0], at_most=bars[1]),
    ]


def retrieval(judge: Judge, world: World, rounds: int, rng: random.Random) -> list[Figure]:
    """The own caption among 100, the own picture among 100, by ITC; and the best ten captions ordered by ITM.

    Without any round there are no figures: fewer than 100 are another task.
    """
    if not rounds:
        return []
    to_text: list[bool] = []
    to_picture: list[bool] = []
    ordered: list[bool] = []
    for _ in range(rounds):
        scenes = _different(world, rng)
        pictures, texts = [draw(scene) for scene in scenes], [caption(scene) for scene in scenes]
        similarity = judge.similarity(pictures, texts)
        own = torch.arange(AMONG)
        to_text += (similarity.argmax(1) == own).tolist()
        to_picture += (similarity.argmax(0) == own).tolist()
        best = similarity.topk(_TOP, 1).indices
        chosen = [texts[place] for row in best.tolist() for place in row]
        scores = torch.tensor(judge.matches([one for one in pictures for _ in range(_TOP)], chosen)).view(AMONG, _TOP)
        # Probabilities tie where they are saturated; the order of ITC then stays.
        ordered += (best[own, scores.argmax(1)] == own).tolist()
    section, bar = f"{world.name} retrieval", 0.98 if world.name == STUDY.name else None
    found = counted(section, "picture to text, ITC", to_text, bar=bar)
    return [
        found,
        counted(section, "text to picture, ITC", to_picture, bar=bar),
        counted(section, "picture to text, best ten by ITM", ordered, bar=found.value),
    ]


def _pairs(
    world: World, edit: Edit, number: int, rng: random.Random
) -> tuple[list[Scene], list[tuple[Statement, Statement]]]:
    scenes: list[Scene] = []
    pairs: list[tuple[Statement, Statement]] = []
    while len(pairs) < number:
        scene = sample_scene(rng, world=world)
        truth = true_statement(scene, rng)
        found = falsify(truth, scene, rng, edit)
        if found and truth.truth(scene) is True:
            scenes.append(scene)
            pairs.append((truth, found[0]))
    return scenes, pairs


def _blank(judge: Judge, pairs: Sequence[tuple[Statement, Statement]], rng: random.Random) -> list[bool]:
    pictures = [Image.new("RGB", (224, 224), (rng.choice(_GRAYS),) * 3) for _ in pairs]
    true = judge.matches(pictures, [truth.text for truth, _ in pairs])
    false = judge.matches(pictures, [lie.text for _, lie in pairs])
    return [one > two for one, two in zip(true, false, strict=True)]


def _misses(
    pictures: Sequence[Image.Image],
    pairs: Sequence[tuple[Statement, Statement]],
    true: Sequence[float],
    false: Sequence[float],
) -> Sequence[Miss]:
    found = []
    for picture, (truth, lie), yes, no in zip(pictures, pairs, true, false, strict=True):
        if yes <= _ACCEPTED:
            found.append((yes, Miss(picture, truth.text, f"refused ({yes:.2f})", "true")))
        if no > _ACCEPTED:
            found.append((1 - no, Miss(picture, lie.text, f"accepted ({no:.2f})", "false")))
    return [miss for _, miss in sorted(found, key=lambda pair: pair[0])]


def _different(world: World, rng: random.Random) -> list[Scene]:
    """Scenes with different captions."""
    scenes: dict[str, Scene] = {}
    while len(scenes) < AMONG:
        scene = sample_scene(rng, world=world)
        scenes.setdefault(caption(scene), scene)
    return list(scenes.values())
