"""How well text is read: `python -m benchmarks.reading`.

words.py         sentences, code, names and numbers from a seed
pages.py         pages of them in a headless Chromium, with the truth from its DOM
photographs.py   what a phone makes of such a page
figures.py       errors by character, rows, order
"""
