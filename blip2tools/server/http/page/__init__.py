"""The page at `/`, for a person with a picture and no program.

page.html, *.css, *.js   its source: the modules are written as ES modules, and served as one
document.py              puts them together, with the policy that keeps everything else out
pictures.py              the pictures that it shows: samples, and thumbnails of what a search found
"""
