"""Entry point of the bundle: every argument that is not an option is a folder that the tools may read."""

from __future__ import annotations

import sys

from blip2tools.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *(word if word.startswith("--") else f"--allow-dir={word}" for word in sys.argv[1:])]))
