"""A small genuine BLIP-2 that travels with the package, and the worlds of drawn shapes that such a model knows.

world.py         what there can be in a picture: things, backgrounds, scenes
draw.py          scene → picture
glyphs.py        what signs say
words.py         scene → caption, and the phrases that everything below shares
questions.py     scene → questions with their answers
wording.py       the same question as other people would put it
coverage.py      what a world covers, in words
statements.py    scene → true statements, and false ones that are one edit away
quiz.py          pictures with all that is asked about them
show.py          `blip2tools demo`: the quiz, put to a real server
page.py          its outcome as one HTML page
games.py         games about pictures that only looking wins
player.py        a text-only player of the games
scripted.py      a chat model that cannot see and follows a script
sight.py         the sight test: the games with tools, with captions, and with the pictures exchanged
train.py         weights from scratch: `python -m blip2tools.demo.train`
training/        how that goes, stage by stage
evaluate.py      what weights can do, counted: `python -m blip2tools.demo.evaluate`
examination/     its parts
captioner/       the weights: captions and questions (Blip2ForConditionalGeneration)
matcher/         the weights: image-text matching (Blip2ForImageTextRetrieval)
CARD.md          what the weights can do, measured
"""

from __future__ import annotations
