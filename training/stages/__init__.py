"""How the demo's weights are made: BLIP-2 from scratch, on pictures that the world draws itself.

architecture.py  how large the models are, and untrained ones
tokenizers.py    their tokenizers and processors
labels.py        scene → what the throw-away heads must find
samples.py       scene → training picture
heads.py         the throw-away heads
loop.py          steps, progress, log, and resuming after a kill
muon.py          the optimizer of all that is inside layers
beginning.py     the vision tower's first weights: it sees edges, and patches look at their neighbours
vision.py        stage 1: vision tower and Q-Former learn to see, by the heads alone
bank.py          what the trunk, which stages 2 and 3 leave as it is, sees
language.py      stage 2: captions and answers; Q-Former and language model
matching.py      stage 3, in parallel with stage 2: the matcher's own Q-Former on the same trunk
rows.py          captions and questions → tokens
speaking.py      the loss of what is said
claims.py        true and false statements → tokens
qformer.py       the matcher's Q-Former for many texts about a few pictures
card.py          the card of what came out
plan.py          the whole in order, in two rounds, and the checkpoints that come out
further.py       stage 2 alone, from weights that are there already
"""

from __future__ import annotations
