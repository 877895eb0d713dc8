"""What a question takes for granted, read from its words alone: no model, no dictionary to download.

words.py       English words by what they are there for
tokens.py      a question as tagged words
phrases.py     its noun phrases and the words between them
statements.py  what is presupposed, as captions that a matcher can judge, and their near alternatives
reading.py     which of the phrases are presupposed, and which are asked about
topic.py       whether it is about a picture at all
judging.py     from a matcher's log-odds to a verdict
"""

from __future__ import annotations

from blip2tools.vision.premises.reading import Reading, named, read, related
from blip2tools.vision.premises.statements import Statement
from blip2tools.vision.premises.topic import is_about_no_picture

__all__ = ["Reading", "Statement", "is_about_no_picture", "named", "read", "related"]
