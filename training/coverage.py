"""The contents of a world, in plain words, for the card and for reports."""

from __future__ import annotations

import random

from blip2tools.demo.questions import kinds_of, sample_questions
from blip2tools.demo.statements import edits_of
from blip2tools.demo.words import caption
from blip2tools.demo.world import CHARACTERS, COLORS, SIZES, World, sample_scene

_SEED = 3  # of the examples


def covers(world: World) -> str:
    """A list in Markdown of all that there can be in a world's pictures, with a few of its captions and questions."""
    numbers = [number for number, _ in world.numbers]
    lines = [
        f"- {min(numbers)} to {max(numbers)} things: {', '.join(world.shapes)}",
        f"- colours: {', '.join(COLORS)}; sizes: {', '.join(SIZES)}",
        f"- backgrounds: {', '.join(world.backgrounds)}",
        f"- drawn: {', '.join(world.styles)}",
    ]
    if world.signs:
        lines.append(f"- a sign says one of {' '.join(CHARACTERS)}")
    if world.crowded:
        lines.append("- things may cover a few per cent of each other")
    if world.max_turn:
        lines.append(f"- the picture may be turned by up to {world.max_turn:g} degrees")
    lines.append(f"- {len(kinds_of(world))} kinds of questions: {', '.join(kinds_of(world))}")
    lines.append(f"- {len(edits_of(world))} kinds of wrong statements: {', '.join(edits_of(world))}")
    rng = random.Random(_SEED)
    lines += ["", "For example:", ""]
    for number in numbers:
        scene = sample_scene(rng, number, world)
        lines.append(f"    {caption(scene)}")
        lines += [f"        {question.text}  {question.answer}" for question in sample_questions(scene, 2, rng)]
    return "\n".join(lines)
