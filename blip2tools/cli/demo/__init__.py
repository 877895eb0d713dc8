"""`blip2tools demo`: a text-only client learns from a real server what is in fresh pictures.

show.py     the demonstration itself
quiz.py     pictures with all that is asked about them
report.py   what was asked and answered
page.py     the report as one HTML page
"""

from __future__ import annotations
