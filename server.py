"""`python server.py ...` is `blip2tools serve ...`, for clients that are pointed at a file of a checkout."""

import sys

from blip2tools.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
