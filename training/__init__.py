"""How the weights of the demo are made and examined; not part of the installed package.

train.py      weights from scratch: `python -m training.train`
stages/       how that goes, stage by stage
examine.py    what weights can do, counted: `python -m training.examine`
examination/  its parts
wording.py    the same question as other people would put it
coverage.py   what a world covers, in words
"""

from __future__ import annotations
