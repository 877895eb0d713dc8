"""A small genuine BLIP-2 that comes with the package, and the worlds of drawn shapes that such a model knows.

world.py         what there can be in a picture: things, backgrounds, scenes
draw.py          scene → picture
glyphs.py        what signs say
words.py         scene → caption, and the phrases that everything below shares
questions.py     scene → questions with their answers
statements.py    scene → true statements, and false ones that are one edit away
captioner/       the weights: captions and questions (Blip2ForConditionalGeneration)
matcher/         the weights: image-text matching (Blip2ForImageTextRetrieval)
CARD.md          what the weights can do, measured

How the weights were made and examined is in `training/` of the repository; `blip2tools demo` is in `cli/demo/`.
"""

from __future__ import annotations
