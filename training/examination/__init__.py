"""The abilities of the demo's weights, counted on scenes that were never used to train or to choose.

figures.py   a figure, its bar, and what was wrong
judge.py     the weights, asked in batches
spoken.py    captions and answers
judged.py    statements and retrieval
outside.py   drawings that share no code with the world
strange.py   pictures of nothing that is in any world
unknown.py   whether the weights notice that
sheet.py     the outcome as lines and as one HTML page
"""

from __future__ import annotations
