"""Eyes for Python: `Vision` and its verbs, over any engine.

vision.py     the verbs, synchronous and asynchronous
verbs.py      one call: admit it, look, ask the engine, build the result
looking.py    from any kind of image to pixels
asking.py     questions, with or without choices
doubts.py     reasons to doubt an answer
premises/     what a question takes for granted, read from its words
search.py     features, retrieval and extraction
surveying.py  whether tiles show what their captions name
together.py   verbs made of several looks
keywords.py   arguments of the verbs
styles.py     prompts with the options that belong to them
results.py    what an engine answered as typed results, with warnings
status.py     what `vision_status` tells
bulk/         one verb over as many pictures as there are, into one file
loop.py       an event loop for synchronous callers
"""

from __future__ import annotations

from blip2tools.vision.vision import Vision

__all__ = ["Vision"]
