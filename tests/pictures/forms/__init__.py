"""Forms that a picture file can take, built byte by byte, each held against what Chromium draws.

`python -m tests.pictures.forms` builds them all, draws each in a headless Chromium, decodes each with this package and prints
where the two differ.
"""
