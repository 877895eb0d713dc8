"""How the demo's weights are made: BLIP-2 from scratch, on pictures that the world draws itself.

architecture.py  how large the models are, and untrained ones
tokenizers.py    their tokenizers and processors
labels.py        scene → what the throw-away heads must find
pictures.py      scene → training picture
heads.py         the throw-away heads
loop.py          steps, progress, log, and going on after a kill
vision.py        stage 1: vision tower and Q-Former learn to see, by the heads alone
joint.py         stage 2: with the language model, captions and answers
bank.py          what the trunk, from here on frozen, sees
language.py      stage 3: many more questions for Q-Former and language model
matching.py      stage 4, beside stage 3: the matcher's own Q-Former on the same trunk
rows.py          captions and questions → tokens
speaking.py      the loss of what is said
claims.py        true and false statements → tokens
qformer.py       the matcher's Q-Former for many texts about a few pictures
card.py          the card of what came out
plan.py          the whole in order, and the checkpoints that come out
further.py       stage 3 alone, from weights that are there already
"""

from __future__ import annotations
